"""Certificates that cost much to read, in DER (X.690, RFC 5280 §4.1), made by hand.

Nobody signs them, so only reading them costs anything. `cryptography` would refuse to make most.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Object identifiers (RFC 5480 §2.1.1, RFC 3279 §2.3, RFC 5280 §4.2).
EC_KEY = bytes.fromhex("06072a8648ce3d0201")
PRIME_FIELD = bytes.fromhex("06072a8648ce3d0101")
RSA_KEY = bytes.fromhex("06092a864886f70d010101")
SM2_KEY = bytes.fromhex("06082a811ccf5501822d")
P_224 = bytes.fromhex("06052b81040021")
P_256 = bytes.fromhex("06082a8648ce3d030107")
SIGNED = bytes.fromhex("06082a8648ce3d040302")
COMMON_NAME = bytes.fromhex("0603550403")
ALTERNATIVE_NAMES = bytes.fromhex("0603551d11")
PRIVATE_USE = bytes.fromhex("06032b0601")

# A prime of 661 bits, the most that OpenSSL takes, in which a square root is slow to draw: its
# predecessor is divisible by 2**600 (Tonelli and Shanks).
SLOW_PRIME = (1241566725393860611 << 600) + 1


def element(tag: int, *contents: bytes) -> bytes:
    """Return a DER element."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 + len(length)]) + length + content


def sequence(*contents: bytes) -> bytes:
    return element(0x30, *contents)


def integer(number: int) -> bytes:
    return element(0x02, number.to_bytes(number.bit_length() // 8 + 1))


def octets(content: bytes) -> bytes:
    return element(0x04, content)


def bits(content: bytes) -> bytes:
    return element(0x03, b"\0", content)


def name(common_name: str) -> bytes:
    text = element(0x0C, common_name.encode())
    return sequence(element(0x31, sequence(COMMON_NAME, text)))


def key_on(curve: ec.EllipticCurve, parameters: bytes, *, compressed: bool = False) -> bytes:
    """Return a public key on a curve with a name."""
    form = serialization.PublicFormat
    point = ec.generate_private_key(curve).public_key()
    data = point.public_bytes(
        serialization.Encoding.X962,
        form.CompressedPoint if compressed else form.UncompressedPoint,
    )
    return sequence(sequence(EC_KEY, parameters), bits(data))


def key_on_own_curve(algorithm: bytes = EC_KEY) -> bytes:
    """Return a public key on a curve of its own over `SLOW_PRIME`, its points compressed."""
    size = (SLOW_PRIME.bit_length() + 7) // 8
    # x = 1 is on it: y² = 1 + a + b.
    a, y = SLOW_PRIME // 3, SLOW_PRIME // 7
    b = (y * y - 1 - a) % SLOW_PRIME
    point = bytes([2 + y % 2]) + (1).to_bytes(size)
    parameters = sequence(
        integer(1),
        sequence(PRIME_FIELD, integer(SLOW_PRIME)),
        sequence(octets(a.to_bytes(size)), octets(b.to_bytes(size))),
        octets(point),
        integer(SLOW_PRIME // 2 | 1),
        integer(1),
    )
    return sequence(sequence(algorithm, parameters), bits(point))


def rsa_key(size: int) -> bytes:
    """Return an RSA key with so many bits."""
    modulus = (1 << size) - 1
    return sequence(sequence(RSA_KEY, b"\x05\0"), bits(sequence(integer(modulus), integer(65537))))


def extension(identifier: bytes, content: bytes) -> bytes:
    return sequence(identifier, octets(content))


def certificate(
    key: bytes, *extensions: bytes, subject: bytes | None = None, issuer: bytes | None = None
) -> bytes:
    """Return a certificate for a public key that was signed by nobody."""
    valid = element(0x17, b"250101000000Z"), element(0x17, b"491231000000Z")
    more = [element(0xA3, sequence(*extensions))] if extensions else []
    algorithm = sequence(SIGNED)
    signed = sequence(
        element(0xA0, integer(2)),
        integer(1),
        algorithm,
        issuer or name("nobody"),
        sequence(*valid),
        subject or name("somebody"),
        key,
        *more,
    )
    return sequence(signed, algorithm, bits(sequence(integer(1), integer(1))))


def chain(number: int, key: bytes) -> list[bytes]:
    """Return so many certificates, each of which names the next as its issuer."""
    return [certificate(key, subject=name(f"{n}"), issuer=name(f"{n + 1}")) for n in range(number)]
