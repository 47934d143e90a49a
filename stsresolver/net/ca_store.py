"""The CA certificates that policy hosts are verified against: the system's, through OpenSSL.

SSL_CERT_FILE and SSL_CERT_DIR move the store, as for every program that uses OpenSSL. The context
takes tens of milliseconds to build. It is built once, shared by all threads, and built anew when
the store has changed on disk.
"""

from __future__ import annotations

import ssl
import threading

from .file_changes import Watch

# For TLS 1.2: Python's own without DHE, in which the other side makes up the group, and we compute
# up to a second. Who has that has elliptic curves as well. In the largest group of TLS 1.3 it is a
# seventh of a second.
_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"


class CaStore:
    """Gives the TLS context for connections to policy hosts (RFC 8461 §3.3)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watch = Watch(_places)
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context over the CA certificates as they are on disk now."""
        with self._lock:
            if self._watch.changed() or self._context is None:
                self._context = self._build()
            return self._context

    def _build(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_default_verify_paths()
        # RFC 8461 §3.3: a name in the certificate's SAN; the common name is ignored.
        context.hostname_checks_common_name = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.set_ciphers(_CIPHERS)
        # One handshake, not as many as the other side likes.
        context.options |= ssl.OP_NO_RENEGOTIATION
        # With OpenSSL 3, Python would take a connection that was cut for one that was closed.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        # The same on every Python: 3.13 made X.509 checks stricter than CAs in use are.
        context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
        return context


def _places() -> list[str]:
    paths = ssl.get_default_verify_paths()
    return [path for path in (paths.cafile, paths.capath) if path]
