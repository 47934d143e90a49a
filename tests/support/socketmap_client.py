"""A socketmap client for tests: a netstring reader of its own, a deadline for every wait."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from types import TracebackType

# Seconds after which a wait is a failure.
DEADLINE = 10.0

Address = tuple[str, int] | str


def frame(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` is true; fail with `what` past the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE} s for {what}"
        time.sleep(0.002)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used, all threads together."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """A connection. `receive_buffer`: bytes of it, small for a client that reads late."""

    def __init__(self, address: Address, *, receive_buffer: int | None = None) -> None:
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family)
        self._unread = b""
        try:
            self.socket.settimeout(DEADLINE)
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.connect(address)
            if family != socket.AF_UNIX:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close so that the server sees a reset at once (TCP)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def ask(self, request: bytes) -> bytes:
        """Send one request, and return its reply."""
        self.send(frame(request))
        return self.reply()

    def reply(self) -> bytes:
        """Return the payload of the next reply; `EOFError` if the server closed instead."""
        while (length := self._unread.find(b":")) < 0:
            self._read()
        start = length + 1
        end = start + int(self._unread[:length])
        while len(self._unread) <= end:
            self._read()
        assert self._unread[end : end + 1] == b",", "the reply is no netstring"
        payload, self._unread = self._unread[start:end], self._unread[end + 1 :]
        return payload

    def replies(self, number: int) -> list[bytes]:
        return [self.reply() for _ in range(number)]

    def is_closed(self) -> bool:
        """Wait for the server; return True if it closed, False if it sent something instead."""
        try:
            self._read()
        except EOFError:
            return not self._unread
        return False

    def has_nothing_to_read(self) -> bool:
        """Say, without waiting, whether there is neither a reply nor an end."""
        return not self._unread and not select.select([self.socket], [], [], 0)[0]

    def _read(self) -> None:
        try:
            data = self.socket.recv(16_384)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError("the server has closed the connection")
        self._unread += data
