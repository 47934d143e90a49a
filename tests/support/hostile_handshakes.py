"""Servers of TLS that say what they like before their certificate is verified (RFC 8446, RFC 5246).

Each is a script (`hostile_https`), made of the messages of a handshake by hand: no library sends
them.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from stsresolver import Cause
from tests.support.hostile_certificates import (
    ALTERNATIVE_NAMES,
    P_224,
    P_256,
    PRIVATE_USE,
    SM2_KEY,
    certificate,
    chain,
    element,
    extension,
    integer,
    key_on,
    key_on_own_curve,
    rsa_key,
    sequence,
)
from tests.support.hostile_https import Script
from tests.support.hostile_place import row

# RFC 8446 §4.1.3: the random of a HelloRetryRequest.
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
P_384, FFDHE8192 = 0x0018, 0x0104
CHANGE_CIPHER_SPEC, HANDSHAKE, DATA = 20, 22, 23


def vector(size: int, content: bytes) -> bytes:
    """Return bytes with their number in front, `size` bytes of it."""
    return len(content).to_bytes(size) + content


def records(content: bytes, kind: int = HANDSHAKE) -> bytes:
    parts = [content[at : at + 16384] for at in range(0, len(content), 16384)]
    return b"".join(bytes([kind, 3, 3]) + vector(2, part) for part in parts)


def message(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + vector(3, content)


def client_hello(connection: socket.socket) -> bytes:
    """Read on to a ClientHello; return its session id."""
    with connection.makefile("rb", buffering=0) as file:

        def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                part = file.read(size - len(data))
                if not part:
                    raise ConnectionAbortedError
                data += part
            return data

        while True:
            header = read(5)
            content = read(int.from_bytes(header[3:]))
            if header[0] == HANDSHAKE:
                return content[39 : 39 + content[38]]


def retry(group: int, share: bytes) -> Script:
    """Return a script that asks for a key exchange in `group`, and gives its share in it."""

    def hello(session: bytes, random: bytes, key_share: bytes) -> bytes:
        extensions = b"\0\x2b" + vector(2, b"\3\4") + b"\0\x33" + vector(2, key_share)
        suite = b"\x13\1\0"
        content = b"\3\3" + random + vector(1, session) + suite + vector(2, extensions)
        return records(message(2, content))

    def script(connection: socket.socket, _stopped: threading.Event) -> None:
        number = group.to_bytes(2)
        connection.sendall(hello(client_hello(connection), RETRY, number))
        session = client_hello(connection)
        connection.sendall(hello(session, os.urandom(32), number + vector(2, share)))
        connection.sendall(records(b"\1", CHANGE_CIPHER_SPEC) + records(bytes(64), DATA))
        connection.recv(1)

    return script


def flight(*certificates: bytes) -> bytes:
    """Return the first flight of a server of TLS 1.2 (RFC 5246 §7.3), up to its certificates."""
    # An extension that OpenSSL asks for (RFC 5746).
    hello = b"\3\3" + os.urandom(32) + b"\0" + b"\xc0\x2b\0" + vector(2, b"\xff\1\0\1\0")
    listed = b"".join(vector(3, one) for one in certificates)
    return records(message(2, hello) + message(11, vector(3, listed)))


def shows(make: Callable[[], list[bytes]]) -> Script:
    """Return a script that shows certificates."""

    def script(connection: socket.socket, _stopped: threading.Event) -> None:
        client_hello(connection)
        connection.sendall(flight(*make()))
        connection.recv(1)

    return script


def in_small_pieces(connection: socket.socket, stopped: threading.Event) -> None:
    """Show a certificate byte by byte, without a pause."""
    client_hello(connection)
    for byte in flight(*chain(5, rsa_key(4096))):
        connection.sendall(bytes([byte]))
        # So that the client has read it before the next one comes.
        stopped.wait(0.0001)
    connection.recv(1)


def names(form: bytes, size: int) -> list[bytes]:
    """Return a certificate with so many bytes of names."""
    listed = extension(ALTERNATIVE_NAMES, sequence(form * (size // len(form))))
    return [certificate(key_on(ec.SECP256R1(), P_256), listed)]


def extensions(size: int) -> list[bytes]:
    """Return a certificate with so many bytes of extensions."""
    one = extension(PRIVATE_USE, b"")
    return [certificate(key_on(ec.SECP256R1(), P_256), *[one] * (size // len(one)))]


HANDSHAKES = [
    row("key exchange in ffdhe8192", retry(FFDHE8192, (1 << 8190).to_bytes(1024)), Cause.TLS),
    row("key exchange in P-384", retry(P_384, b"\4" + bytes(96)), Cause.TLS),
    row(
        "a key on a curve of its own",
        shows(lambda: chain(1, key_on_own_curve())),
        Cause.CERTIFICATE,
    ),
    row(
        "a key on a curve of its own, said to be of SM2",
        shows(lambda: chain(1, key_on_own_curve(SM2_KEY))),
        Cause.CERTIFICATE,
    ),
    row(
        "60 keys on P-224, compressed",
        shows(lambda: chain(60, key_on(ec.SECP224R1(), P_224, compressed=True))),
        Cause.CERTIFICATE,
    ),
    row(
        "400 small certificates",
        shows(lambda: chain(400, key_on(ec.SECP256R1(), P_256))),
        Cause.CERTIFICATE,
        Cause.TLS,
    ),
    row(
        "20 keys of RSA-16384",
        shows(lambda: chain(20, rsa_key(16384))),
        Cause.CERTIFICATE,
        Cause.TLS,
    ),
    row("10 keys of RSA-16384", shows(lambda: chain(10, rsa_key(16384))), Cause.CERTIFICATE),
    row(
        "90 kB of empty names",
        shows(lambda: names(element(0x82), 90_000)),
        Cause.CERTIFICATE,
        Cause.TLS,
    ),
    row("49 kB of empty names", shows(lambda: names(element(0x82), 49_000)), Cause.CERTIFICATE),
    row(
        "49 kB of empty directory names",
        shows(lambda: names(element(0xA4, sequence()), 49_000)),
        Cause.CERTIFICATE,
    ),
    row("49 kB of extensions", shows(lambda: extensions(49_000)), Cause.CERTIFICATE),
    row("a certificate that is none", shows(lambda: [integer(1)]), Cause.CERTIFICATE, Cause.TLS),
    row("certificates byte by byte", in_small_pieces, Cause.TLS, Cause.CERTIFICATE),
]
