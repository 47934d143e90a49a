"""The CA certificates that policy hosts are verified against: the system's, through OpenSSL.

SSL_CERT_FILE and SSL_CERT_DIR move the store, as for every program that uses OpenSSL. The context
takes tens of milliseconds to build. It is built once, shared by all threads, and built anew when
the store has changed on disk.

A server chooses the key exchange before it shows a certificate. Only elliptic curves are offered:
those that OpenSSL's configuration names (the resolver process has one, `lookup/openssl.cnf`), or
P-256, if that names others as well. Every server of TLS 1.3 has it (RFC 8446 §9.1), and Python can
set a single one.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import threading

from . import client_hello
from .file_changes import Watch

# X25519, P-256, P-384 (RFC 8446 §4.2.7): two milliseconds at most. The largest group of a finite
# field takes a tenth of a second.
_CURVES = {0x001D, 0x0017, 0x0018}
_P_256 = "prime256v1"
# SSL_OP_NO_RX_CERTIFICATE_COMPRESSION of OpenSSL 3.2, which Python has no name for: compressed
# certificates (RFC 8879) are larger than they look.
_NO_COMPRESSED_CERTIFICATES = 1 << 33
# For TLS 1.2: Python's own without DHE, in which the server makes up the group, and we compute up
# to a second. A server that has DHE has elliptic curves as well.
_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"


class CaStore:
    """Gives the TLS context for connections to policy hosts (RFC 8461 §3.3).

    `empty`: whether the last one has no certificate to verify by.
    """

    def __init__(self) -> None:
        self.empty = False
        self._lock = threading.Lock()
        self._watch = Watch(_places)
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context over the CA certificates as they are on disk now."""
        with self._lock:
            if self._watch.changed() or self._context is None:
                self._context = self._build()
                self.empty = _is_empty(self._context)
            return self._context

    def _build(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_default_verify_paths()
        # RFC 8461 §3.3: a name in the certificate's SAN; the common name is ignored.
        context.hostname_checks_common_name = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.set_ciphers(_CIPHERS)
        if not _CURVES.issuperset(_groups(context)):
            context.set_ecdh_curve(_P_256)
        # One handshake, not as many as the other side likes.
        context.options |= ssl.OP_NO_RENEGOTIATION
        # With OpenSSL 3, Python would take a connection that was cut for one that was closed.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        # After the others: what takes an option away takes those without a name away as well.
        if ssl.OPENSSL_VERSION_INFO >= (3, 2):
            context.options |= _NO_COMPRESSED_CERTIFICATES
        # The same on every Python: 3.13 made X.509 checks stricter than CAs in use are.
        context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
        return context


def _groups(context: ssl.SSLContext) -> list[int]:
    """Return the groups for the key exchange that a context offers."""
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    return client_hello.groups(hello.read())


def _is_empty(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509"]:
        return False
    # What is in the directory is loaded when it is needed.
    directory = ssl.get_default_verify_paths().capath
    return not directory or not hashed_certificates(directory)


def hashed_certificates(directory: str) -> int:
    """Return how many certificates OpenSSL finds in a directory (c_rehash(1)) and may read."""
    try:
        names = os.listdir(directory)
    except OSError:
        return 0
    hashed = (name for name in names if re.fullmatch(r"[0-9a-f]{8}\.\d+", name))
    return sum(os.access(os.path.join(directory, name), os.R_OK) for name in hashed)


def looked_at() -> str:
    """Return where OpenSSL looks for CA certificates, whether it is there or not."""
    paths = ssl.get_default_verify_paths()
    where = (paths.openssl_cafile, paths.openssl_capath)
    named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    return " and ".join(name or place for name, place in zip(named, where, strict=True))


def _places() -> list[str]:
    paths = ssl.get_default_verify_paths()
    return [path for path in (paths.cafile, paths.capath) if path]
