"""A time limit that several steps share, as a total, and sockets that keep to it.

A step that would pass the limit raises `TimeoutError`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from types import TracebackType
from typing import Any

from .steps import Steps, Wait, clock, now

# What the system says where this process or the host has no room for a socket. ENOSPC is
# epoll(7)'s word for it.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC)


def is_out_of_room(error: OSError) -> bool:
    """Say whether an error of a socket is one of this host: no descriptor or memory is left."""
    return error.errno in _NO_ROOM


class Deadline:
    """A point in the time of a lookup (`steps.now`), `seconds` from now."""

    __slots__ = ("end",)

    def __init__(self, seconds: float) -> None:
        self.end = now() + seconds

    def left(self) -> float:
        """Return the seconds left, more than 0. Raise `TimeoutError` when there are none."""
        seconds = self.end - now()
        if seconds <= 0:
            raise TimeoutError("the time limit is used up")
        return seconds

    def within(self, seconds: float) -> Deadline:
        """Return the deadline of a step: `seconds` from now. Raise as `left` does."""
        step = Deadline(seconds)
        if step.end > self.end:
            self.left()
            step.end = self.end
        return step


class BoundedSocket:
    """A socket whose every step ends by `deadline`, with `TimeoutError`.

    It sends before it polls, because there is room as a rule. It polls before every receive, so
    that a peer that sends without end starves no other lookup and cannot outlast the deadline.
    """

    __slots__ = ("_socket", "deadline")

    def __init__(self, family: int, kind: int, deadline: Deadline) -> None:
        self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        self.deadline = deadline

    def __enter__(self) -> BoundedSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def connect(self, address: Any) -> Steps[None]:
        """Connect, as `socket.socket` does."""
        try:
            self._socket.connect(address)
        except BlockingIOError:
            if not (yield self._wait(select.POLLOUT)):
                raise TimeoutError("no connection in time") from None
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None

    def recv(self, size: int) -> Steps[bytes]:
        """Receive, as `socket.socket` does."""
        while True:
            if not (yield self._wait(select.POLLIN)):
                raise TimeoutError("nothing came in time")
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                # The kernel drops a broken datagram after it has announced it.
                continue
            clock.received += len(data)
            return data

    def send(self, datagram: bytes) -> None:
        """Send a datagram."""
        try:
            self._socket.send(datagram)
        except BlockingIOError:
            # There is no room for it. It is lost, as it may be on its way.
            return

    def sendall(self, data: bytes) -> Steps[None]:
        """Send, as `socket.socket` does."""
        while True:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                if not (yield self._wait(select.POLLOUT)):
                    raise TimeoutError("not everything could be sent in time") from None
                continue
            if sent == len(data):
                return
            data = data[sent:]

    def _wait(self, event: int) -> Wait:
        self.deadline.left()
        return Wait(((self._socket.fileno(), event),), self.deadline.end)


def datagrams(address: tuple[str, int], deadline: Deadline) -> BoundedSocket:
    """Return a socket for datagrams to and from an IP address and port. Raise `OSError`."""
    one = BoundedSocket(_family(address), socket.SOCK_DGRAM, deadline)
    try:
        one._socket.connect(address)
    except BaseException:
        one.close()
        raise
    return one


def connected(address: tuple[str, int], deadline: Deadline) -> Steps[BoundedSocket]:
    """Return a TCP connection to an IP address and port; it and what follows end by `deadline`.

    Raise `TimeoutError`, or another `OSError`.
    """
    connection = BoundedSocket(_family(address), socket.SOCK_STREAM, deadline)
    try:
        yield from connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _family(address: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET
