"""Which messages of a handshake OpenSSL may read."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519

from stsresolver.net.certificate_list import TLS_1_3, Refused, check
from tests.support.authority import Authority
from tests.support.hostile_certificates import (
    EC_KEY,
    P_224,
    P_256,
    SM2_KEY,
    bits,
    certificate,
    chain,
    element,
    key_on,
    key_on_own_curve,
    rsa_key,
    sequence,
)
from tests.support.hostile_handshakes import message, vector

P_384, P_521 = bytes.fromhex("06052b81040022"), bytes.fromhex("06052b81040023")
SECP256K1 = bytes.fromhex("06052b8104000a")
TLS_1_2 = 0x0303


def encoded(key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def listed(certificates: list[bytes], version: int) -> bytes:
    """Return a Certificate message (RFC 5246 §7.4.2, RFC 8446 §4.4.2)."""
    if version == TLS_1_2:
        return message(11, vector(3, b"".join(vector(3, one) for one in certificates)))
    entries = b"".join(vector(3, one) + vector(2, b"") for one in certificates)
    return message(11, vector(1, b"") + vector(3, entries))


each_version = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["TLS 1.2", "TLS 1.3"])

PASSES = [
    pytest.param(key_on(ec.SECP256R1(), P_256), id="P-256"),
    pytest.param(key_on(ec.SECP384R1(), P_384), id="P-384"),
    pytest.param(key_on(ec.SECP521R1(), P_521), id="P-521"),
    pytest.param(rsa_key(2048), id="RSA"),
    pytest.param(encoded(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
    pytest.param(encoded(ed448.Ed448PrivateKey.generate()), id="Ed448"),
    pytest.param(
        sequence(sequence(bytes.fromhex("0609608648016503040312")), bits(bytes(1952))),
        id="ML-DSA-65, of later web CAs",
    ),
]
WITHOUT_ITS_POINT = sequence(sequence(EC_KEY, P_256), element(0x03))
REFUSED = [
    pytest.param(key_on_own_curve(), id="a curve of its own"),
    pytest.param(key_on_own_curve(SM2_KEY), id="a curve of its own, under another algorithm"),
    pytest.param(key_on(ec.SECP224R1(), P_224), id="P-224"),
    pytest.param(key_on(ec.SECP256K1(), SECP256K1), id="a curve that web CAs do not sign"),
    pytest.param(key_on(ec.SECP256R1(), P_256, compressed=True), id="compressed"),
    pytest.param(encoded(dsa.generate_private_key(1024)), id="DSA"),
    pytest.param(WITHOUT_ITS_POINT, id="P-256 without a point"),
    pytest.param(sequence(sequence(EC_KEY, P_256, b"\x05\0"), bits(b"\4")), id="one too many"),
    pytest.param(b"\x30\x80\x30\x80\0\0\0\0", id="BER of indefinite length"),
    pytest.param(sequence(), id="empty"),
    pytest.param(element(0x04, sequence(EC_KEY, P_256)), id="no sequence"),
]


@each_version
@pytest.mark.parametrize("key", PASSES)
def test_keys_that_pass(key, version):
    check(listed([certificate(key)] * 10, version), version)


@pytest.mark.requirement("HTTP-22")
@each_version
@pytest.mark.parametrize("key", REFUSED)
def test_keys_that_are_refused(key, version):
    honest = certificate(rsa_key(2048))
    for certificates in [certificate(key)], [honest, honest, certificate(key), honest]:
        with pytest.raises(Refused):
            check(listed(certificates, version), version)


@each_version
def test_certificates_that_a_library_made_pass(tmp_path, version):
    made = ssl.PEM_cert_to_DER_cert(Authority(tmp_path).bundle.read_text())
    check(listed([made], version), version)


@pytest.mark.requirement("HTTP-22")
@each_version
def test_number_and_size(version):
    check(listed(chain(10, rsa_key(2048)), version), version)
    with pytest.raises(Refused, match="more than 10 certificates"):
        check(listed(chain(11, rsa_key(2048)), version), version)
    with pytest.raises(Refused, match="more than 50000 bytes"):
        check(listed([certificate(rsa_key(8 * 50_000))], version), version)


@pytest.mark.requirement("HTTP-22")
@each_version
def test_one_that_is_cut_short_is_refused_or_is_about_nothing(version):
    whole = listed([certificate(key_on_own_curve())], version)
    for end in range(12, len(whole)):
        with pytest.raises(Refused):
            check(whole[:end], version)
    for end in range(4, 12):
        # OpenSSL refuses a message whose list is longer than itself.
        try:
            check(whole[:end], version)
        except Refused:
            continue


def test_other_messages():
    for kind in {*range(256)} - {11, 25}:
        check(message(kind, bytes(100_000)), TLS_1_3)
    with pytest.raises(Refused, match="compressed"):
        check(message(25, bytes(100)), TLS_1_3)
