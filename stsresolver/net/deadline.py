"""A time limit that several steps share, as a total, and sockets that keep to it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

# Returns once a descriptor has an event of poll(2), or seconds have passed; says whether it has.
Wait = Callable[[int, int, float], bool]


# Seconds that poll(2) can wait, three weeks.
_LONGEST = (2**31 - 1) / 1000


def alone(descriptor: int, event: int, seconds: float) -> bool:
    """Wait as a thread that shares nothing with others."""
    poll = select.poll()
    poll.register(descriptor, event)
    # Less than nothing would be for ever.
    return bool(poll.poll(min(max(0.0, seconds), _LONGEST) * 1000))


class Deadline:
    """A point in monotonic time, `seconds` from now. `wait`: how to wait for the network."""

    __slots__ = ("_end", "wait")

    def __init__(self, seconds: float, wait: Wait = alone) -> None:
        self._end = time.monotonic() + seconds
        self.wait = wait

    def left(self) -> float:
        """Return the seconds left, more than 0. Raise `TimeoutError` when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time limit is used up")
        return seconds

    def within(self, seconds: float) -> Deadline:
        """Return the deadline of a step: `seconds` from now. Raise as `left` does."""
        return Deadline(min(seconds, self.left()), self.wait)


class BoundedSocket(socket.socket):
    """A socket whose every step ends by `deadline`, with `TimeoutError`.

    What is sent is tried first, for there is room as a rule. What is to come is waited for first,
    even if it is there: so who sends without end keeps no other thread waiting, nor the deadline.
    """

    def __init__(self, family: int, kind: int, deadline: Deadline) -> None:
        super().__init__(family, kind | socket.SOCK_NONBLOCK)
        self.deadline = deadline

    def connect(self, address: Any) -> None:
        """Connect, as `socket.socket` does."""
        try:
            super().connect(address)
        except BlockingIOError:
            self._until(select.POLLOUT, "no connection in time")
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive, as `socket.socket` does."""
        while True:
            self._until(select.POLLIN, "nothing came in time")
            # A datagram that is broken is no longer there.
            with contextlib.suppress(BlockingIOError):
                return super().recv(bufsize, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send, as `socket.socket` does."""
        while True:
            try:
                sent = self.send(data, flags)
            except BlockingIOError:
                self._until(select.POLLOUT, "not everything could be sent in time")
                continue
            if sent == len(data):
                return
            data = data[sent:]

    def _until(self, event: int, otherwise: str) -> None:
        deadline = self.deadline
        if not deadline.wait(self.fileno(), event, deadline.left()):
            raise TimeoutError(otherwise)


def connected(address: tuple[str, int], seconds: float, deadline: Deadline) -> BoundedSocket:
    """Return a TCP connection to an IP address and port, made within `seconds`.

    What comes after ends by `deadline`. Raise `TimeoutError`, or another `OSError`.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    connection = BoundedSocket(family, socket.SOCK_STREAM, deadline.within(seconds))
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    connection.deadline = deadline
    return connection
