"""Which TLSA records can be used with SMTP (RFC 6698 §2.1, RFC 7672 §3.1)."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from stsresolver.dane.tlsa import parse_tlsa
from tests.support.authority import Authority

SHA_256, SHA_512 = bytes(32), bytes(64)


def record(usage: int, selector: int, matching_type: int, data: bytes) -> bytes:
    return bytes([usage, selector, matching_type]) + data


RECORDS = [
    # reason, the record's data, what is wrong with it
    ("end entity, key, SHA-256", record(3, 1, 1, SHA_256), ""),
    ("end entity, certificate, SHA-512", record(3, 0, 2, SHA_512), ""),
    ("trust anchor, key, SHA-256", record(2, 1, 1, SHA_256), ""),
    ("RFC 7672 §3.1.3: a public CA", record(0, 1, 1, SHA_256), "usage 0"),
    ("RFC 7672 §3.1.3: a certificate of a public CA", record(1, 1, 1, SHA_256), "usage 1"),
    ("an unknown usage", record(4, 1, 1, SHA_256), "usage 4"),
    ("a private usage", record(255, 1, 1, SHA_256), "usage 255"),
    ("an unknown selector", record(3, 2, 1, SHA_256), "selector 2"),
    ("an unknown matching type", record(3, 1, 3, SHA_256), "matching type 3"),
    ("SHA-256, a byte short", record(3, 1, 1, SHA_256[1:]), "31 bytes in place of 32"),
    ("SHA-256, a byte long", record(3, 1, 1, SHA_256 + b"x"), "33 bytes in place of 32"),
    ("SHA-512 with the length of SHA-256", record(3, 1, 2, SHA_256), "32 bytes in place of 64"),
    ("no digest", record(3, 1, 1, b""), "0 bytes in place of 32"),
    ("no certificate", record(3, 0, 0, b"\x30\x00"), "no certificate"),
    ("no key", record(3, 1, 0, b""), "no key"),
    ("text in place of a key", record(3, 1, 0, b"-----BEGIN PUBLIC KEY-----"), "no key"),
    ("a length that is not there", record(3, 1, 0, b"\x30\x82"), "no key"),
    ("a length beyond the end", record(3, 1, 0, b"\x30\x82\xff\xff\x30\x00\x03\x00"), "no key"),
    ("a length without end", record(3, 1, 0, b"\x30\x80\x30\x00\x03\x00\x00\x00"), "no key"),
    ("64 kB of nothing", record(3, 0, 0, bytes(65_000)), "no certificate"),
    ("two bytes in all", b"\x03\x01", "matching type 255"),
    ("nothing at all", b"", "usage 255"),
]


@pytest.mark.requirement("DANE-6", "DANE-7")
@pytest.mark.parametrize(
    ("data", "wrong"), [pytest.param(*row, id=reason) for reason, *row in RECORDS]
)
def test_usable(data, wrong):
    unusable = parse_tlsa(data).unusable
    assert bool(unusable) == bool(wrong)
    assert wrong in unusable


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> bytes:
    bundle = Authority(tmp_path_factory.mktemp("authority")).bundle
    return ssl.PEM_cert_to_DER_cert(bundle.read_text())


@pytest.mark.requirement("DANE-6")
def test_a_whole_certificate_or_key(certificate):
    pem = ssl.DER_cert_to_PEM_cert(certificate).encode()
    key = load_pem_x509_certificate(pem).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    assert parse_tlsa(record(2, 0, 0, certificate)).unusable == ""
    assert parse_tlsa(record(3, 1, 0, der)).unusable == ""
    # The one in place of the other, and each with a byte too many or too few.
    wrong = [(0, der), (1, certificate)]
    wrong += [(0, certificate[:-1]), (0, certificate + b"\0"), (1, der[:-1]), (1, der + b"\0")]
    for selector, data in wrong:
        assert parse_tlsa(record(3, selector, 0, data)).unusable != ""


def test_as_text():
    assert str(parse_tlsa(record(3, 1, 1, b"\xab\xcd"))) == "3 1 1 abcd"
