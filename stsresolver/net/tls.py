"""TLS to a policy host in which every step ends by a deadline, and reads no more than its share.

OpenSSL works on memory and is handed what was read. If OpenSSL read the socket itself, a server
could hold it for ever by sending only session tickets.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from . import certificate_guard
from .deadline import BoundedSocket
from .steps import Steps

# Bytes that a read takes from the socket at most: what an honest policy host sends, and in a
# handshake its certificates. Others have to wait for a turn before we compute more.
_PART = 2_048
_HANDSHAKE_PART = 8192
# Bytes that are read for a handshake at most: `certificate_list` lets 50 kB of certificates pass.
_HANDSHAKE = 60_000
# Bytes that a read counts as at least. It costs us as much, however little a server sends at once.
_LEAST = 1024

T = TypeVar("T")


class TooMuch(OSError):
    """More was sent than is read; the text says how much that is."""


class RefusedCertificates(OSError):
    """The certificates were not read (`certificate_guard`); the text says why."""


class BoundedTls:
    """The client's end of TLS with `host` over a TCP connection, whose maker closes it.

    `host`: None sends no SNI; then `context` must not check names.
    `most`: bytes that are read, handshake and framing included.

    Every step raises `TooMuch`, `TimeoutError` and other `OSError` of the connection, and
    `ssl.SSLError` where TLS fails: the subclass `SSLCertVerificationError` for a certificate that
    is not valid, and `SSLEOFError` for an end of the connection that is not TLS's own, where Python
    3.11 raises a plain `SSLError`.
    """

    def __init__(
        self, connection: BoundedSocket, context: ssl.SSLContext, host: str | None, most: int
    ) -> None:
        self._connection = connection
        self._most = most
        self._limit = min(most, _HANDSHAKE)
        self._part = _HANDSHAKE_PART
        self._read = 0
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> Steps[None]:
        """Verify the certificate. Our last message of it goes out with the first `sendall`.

        Raise `RefusedCertificates`, too.
        """
        certificate_guard.refusal()
        try:
            yield from self._do(self._tls.do_handshake)
        except ssl.SSLError:
            # The alert tells the other side why.
            with contextlib.suppress(OSError):
                yield from self._flush()
            if why := certificate_guard.refusal():
                raise RefusedCertificates(why) from None
            raise
        self._limit, self._part = self._most, _PART

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
        data = yield from self._connection.recv(self._part)
        self._read += max(_LEAST, len(data))
        if self._read > self._limit:
            raise TooMuch(f"more than {self._limit} bytes with headers and framing")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
