"""A time limit that several steps share, as a total, and sockets that keep to it."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

# Where time is longer than a word, the options have other numbers and take longer fields.
_TIMEVAL = struct.Struct("@ll" if socket.SO_RCVTIMEO < 66 else "=qq")


class Deadline:
    """A point in monotonic time, `seconds` from now."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, more than 0. Raise `TimeoutError` when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time limit is used up")
        return seconds


class BoundedSocket(socket.socket):
    """A socket whose every step ends by `deadline`, with `TimeoutError`.

    The kernel keeps the time (SO_RCVTIMEO, socket(7)), so a step is one system call. With Python's
    own timeout it is three, each of which gives the GIL away and waits to have it back.
    """

    def __init__(self, family: int, kind: int, deadline: Deadline) -> None:
        super().__init__(family, kind)
        self.deadline = deadline

    def connect(self, address: Any) -> None:
        """Connect, as `socket.socket` does."""
        self._until(socket.SO_SNDTIMEO)
        try:
            super().connect(address)
        except BlockingIOError:
            raise TimeoutError("no connection in time") from None

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive, as `socket.socket` does."""
        self._until(socket.SO_RCVTIMEO)
        try:
            return super().recv(bufsize, flags)
        except BlockingIOError:
            raise TimeoutError("nothing came in time") from None

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send, as `socket.socket` does."""
        self._until(socket.SO_SNDTIMEO)
        try:
            super().sendall(data, flags)
        except BlockingIOError:
            raise TimeoutError("not everything could be sent in time") from None

    def _until(self, option: int) -> None:
        seconds = self.deadline.left()
        whole = int(seconds)
        # No time at all would mean for ever.
        microseconds = max(1, int((seconds - whole) * 1_000_000))
        self.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, microseconds))


def connected(address: tuple[str, int], seconds: float, deadline: Deadline) -> BoundedSocket:
    """Return a TCP connection to an IP address and port, made within `seconds`.

    What comes after ends by `deadline`. Raise `TimeoutError`, or another `OSError`.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    connection = BoundedSocket(family, socket.SOCK_STREAM, Deadline(min(seconds, deadline.left())))
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    connection.deadline = deadline
    return connection
