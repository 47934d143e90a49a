"""TLS to a policy host in which every step ends by a deadline, and reads no more than its share.

OpenSSL works on memory and is handed what was read. If it read the socket by itself, it would not
return while more arrives that is no data, such as session tickets without end.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from .deadline import BoundedSocket
from .steps import Steps

# Bytes that a read takes from the socket at most: a TLS record with its frame.
_PART = 17_408

T = TypeVar("T")


class TooMuch(OSError):
    """More was sent than is read; the text says how much that is."""


class BoundedTls:
    """The client's end of TLS with `host` over a TCP connection, whose maker closes it.

    `host`: None sends no SNI; then `context` must not check names.
    `most`: bytes that are read, handshake and framing included.

    Every step raises `TooMuch`, and what the connection and `ssl` raise: `TimeoutError`,
    `ssl.SSLEOFError` for an end that is not TLS's own, `ssl.SSLCertVerificationError`.
    """

    def __init__(
        self, connection: BoundedSocket, context: ssl.SSLContext, host: str | None, most: int
    ) -> None:
        self._connection = connection
        self._most = self._left = most
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> Steps[None]:
        """Verify the certificate. Our last message of it goes out with the first `sendall`."""
        try:
            yield from self._do(self._tls.do_handshake)
        except ssl.SSLError:
            # The alert tells the other side why.
            with contextlib.suppress(OSError):
                yield from self._flush()
            raise

    @property
    def version(self) -> str:
        """The version of the protocol that was agreed on, such as "TLSv1.3"."""
        return self._tls.version() or ""

    def certificate(self) -> bytes:
        """Return the other side's certificate (DER) after the handshake, b"" if it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    def certificate_fields(self) -> dict[str, Any]:
        """Return fields of a certificate that was verified (`ssl.SSLSocket.getpeercert`)."""
        return self._tls.getpeercert() or {}

    def sendall(self, data: bytes) -> Steps[None]:
        """Send `data`."""
        yield from self._do(self._tls.write, data)
        yield from self._flush()

    def recv(self, size: int) -> Steps[bytes]:
        """Receive at most `size` bytes; none at the end."""
        try:
            return (yield from self._do(self._tls.read, size))
        except ssl.SSLZeroReturnError:
            return b""

    def _do(self, step: Callable[..., T], *arguments: Any) -> Steps[T]:
        """Take a step of TLS, with as much reading and writing as it takes."""
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                yield from self._flush()
                yield from self._receive()

    def _flush(self) -> Steps[None]:
        if data := self._outgoing.read():
            yield from self._connection.sendall(data)

    def _receive(self) -> Steps[None]:
        data = yield from self._connection.recv(_PART)
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"more than {self._most} bytes with headers and framing")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
