"""TLS to a policy host in which every step ends by a deadline, and reads no more than its share.

OpenSSL works on memory and is handed what was read. Reading a socket by itself, it would not come
back while there is more to read and nothing to return, such as session tickets without end.
"""

from __future__ import annotations

import contextlib
import io
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from .deadline import BoundedSocket

# Bytes that a read takes from the socket at most: a TLS record with its frame.
_PART = 17_408

T = TypeVar("T")


class TooMuch(OSError):
    """More was sent than is read; the text says how much that is."""


class BoundedTls:
    """The client's end of TLS with `host` over a TCP connection, with what http.client needs.

    The connection stays its maker's, who closes it. `most`: bytes that are read, handshake and
    framing included. Every method raises `TooMuch`, and what the connection and `ssl` raise:
    `TimeoutError`, `ssl.SSLEOFError` for an end that is not TLS's own,
    `ssl.SSLCertVerificationError` when it is made.
    """

    def __init__(
        self,
        connection: BoundedSocket,
        context: ssl.SSLContext,
        host: str,
        most: int,
    ) -> None:
        self._connection = connection
        self._most = self._left = most
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        try:
            # Its last words go out with the first that are written.
            self._do(self._tls.do_handshake)
        except ssl.SSLError:
            # The alert tells the other side why.
            with contextlib.suppress(OSError):
                self._flush()
            raise

    def sendall(self, data: bytes) -> None:
        """Write `data`."""
        self._do(self._tls.write, data)
        self._flush()

    def recv_into(self, buffer: Any) -> int:
        """Read into `buffer`; return the number of bytes, 0 at the end."""
        try:
            # With a buffer, read() returns a number.
            return int(self._do(self._tls.read, len(buffer), buffer))
        except ssl.SSLZeroReturnError:
            return 0

    def makefile(self, *_: object) -> io.BufferedReader:
        """Return a file to read from."""
        return io.BufferedReader(_Reading(self))

    def close(self) -> None:
        """Do nothing: a response may still be read."""

    def _do(self, step: Callable[..., T], *arguments: Any) -> T:
        """Take a step of TLS, with as much reading and writing as it takes."""
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._connection.sendall(data)

    def _receive(self) -> None:
        data = self._connection.recv(_PART)
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"more than {self._most} bytes with headers and framing")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


class _Reading(io.RawIOBase):
    """What is read of a connection, as a file."""

    def __init__(self, tls: BoundedTls) -> None:
        self._tls = tls

    def readinto(self, buffer: Any) -> int:
        return self._tls.recv_into(buffer)

    def readable(self) -> bool:
        return True
