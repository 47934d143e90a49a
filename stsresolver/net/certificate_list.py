"""Which certificates of a stranger may be handed to OpenSSL: those that it reads in little time.

OpenSSL decodes every certificate that a server sends, its public key included, before it verifies
one. Most take a tenth of a millisecond. A key on a curve that its maker has made up (RFC 3279
§2.3.5, specifiedCurve), with a point that is compressed, takes a tenth of a second: OpenSSL draws a
square root modulo a prime of his choice. That of P-224 is slow as well. Web CAs sign neither
(CA/Browser Forum, Baseline Requirements §7.1.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator

# Types of handshake messages (RFC 8446 §4, RFC 8879).
CERTIFICATE = 11
COMPRESSED_CERTIFICATE = 25
TLS_1_3 = 0x0304

# Certificates at most, and bytes of the message. Chains in use have two to five, and 4 to 8 kB; the
# names of a thousand hosts take 30 kB more.
_MAX_CERTIFICATES = 10
_MAX_SIZE = 50_000

# Tags of DER (X.690).
_SEQUENCE, _BIT_STRING, _VERSION = b"\x30", b"\x03", b"\xa0"
_NULL = b"\x05\x00"
# P-256, P-384 and P-521, and the beginning of a point that is not compressed (RFC 5480 §2).
_CURVES = (
    bytes.fromhex("06082a8648ce3d030107"),
    bytes.fromhex("06052b81040022"),
    bytes.fromhex("06052b81040023"),
)
_POINT = b"\x00\x04"


class Refused(ValueError):
    """A message is not to be handed to OpenSSL; the text says why."""


def check(message: bytes, version: int) -> None:
    """Raise `Refused` unless OpenSSL decodes a message of a handshake in little time.

    `message`: with its header of four bytes. `version`: of TLS, as on the wire. A message that is
    about something else passes.
    """
    if message[0] == COMPRESSED_CERTIFICATE:
        raise Refused("the certificates are compressed")
    if message[0] != CERTIFICATE:
        return
    if len(message) > _MAX_SIZE:
        raise Refused(f"more than {_MAX_SIZE} bytes of certificates")
    for number, certificate in enumerate(_certificates(message, version)):
        if number == _MAX_CERTIFICATES:
            raise Refused(f"more than {_MAX_CERTIFICATES} certificates")
        _check_key(certificate)


def _certificates(message: bytes, version: int) -> Iterator[bytes]:
    """Yield each certificate (DER) of a Certificate message (RFC 5246 §7.4.2, RFC 8446 §4.4.2)."""
    at = 4
    if version == TLS_1_3:
        at += 1 + message[at] if at < len(message) else 1
    at += 3
    while at < len(message):
        size = int.from_bytes(message[at : at + 3])
        at += 3 + size
        yield message[at - size : at]
        if version == TLS_1_3:
            at += 2 + int.from_bytes(message[at : at + 2])


def _check_key(certificate: bytes) -> None:
    """Raise `Refused` unless the public key (RFC 5280 §4.1) has no parameters, or a known curve."""
    fields = _inside(_inside(certificate, _SEQUENCE)[0], _SEQUENCE)[0]
    if fields[:1] == _VERSION:
        fields = _after(fields)
    # serialNumber, signature, issuer, validity, subject
    for _ in range(5):
        fields = _after(fields)
    algorithm, key = _inside(_inside(fields, _SEQUENCE)[0], _SEQUENCE)
    parameters = _after(algorithm)
    if parameters not in (b"", _NULL):
        bits, _ = _inside(key, _BIT_STRING)
        if parameters not in _CURVES or not bits.startswith(_POINT):
            raise Refused("a public key on a curve, or in a form, that web CAs do not sign")


def _inside(data: bytes, tag: bytes) -> tuple[bytes, bytes]:
    """Return the contents of the first element of `data`, and what comes after it.

    Raise `Refused` for another tag, and for what is no DER.
    """
    length, at = data[1:2], 2
    size = int.from_bytes(length)
    if size > 0x80:
        at += size - 0x80
        size = int.from_bytes(data[2:at])
    elif size == 0x80 or not length:
        raise Refused("a certificate that is no DER")
    if data[:1] != tag or at + size > len(data):
        raise Refused("a certificate that is no DER")
    return data[at : at + size], data[at + size :]


def _after(data: bytes) -> bytes:
    """Return what comes after the first element of `data`. Raise `Refused` as `_inside` does."""
    return _inside(data, data[:1])[1]
