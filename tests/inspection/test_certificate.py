"""Certificates: both ways to read one agree, and names match as Postfix matches them."""

from __future__ import annotations

import builtins
import datetime
import ipaddress
import ssl

import pytest
from cryptography import x509

from stsresolver.inspection.certificate import from_der, from_fields, is_named
from tests.support.authority import Authority

NAMES = [
    ("mail.example.com", "mail.example.com", True, "the name"),
    ("MAIL.Example.com", "mail.example.com", True, "whatever the case"),
    ("mail.example.com", "mx.example.com", False, "another name"),
    ("*.example.com", "mail.example.com", True, "a wildcard"),
    ("*.example.com", "a.mail.example.com", False, "of one label"),
    ("*.example.com", "example.com", False, "and not of none"),
    ("*.com", "example.com", True, "Postfix takes a wildcard of two labels"),
    ("mail.example.com", ".example.com", True, "below a domain"),
    ("a.b.example.com", ".example.com", True, "at any depth"),
    ("*.example.com", ".example.com", True, "a wildcard below it"),
    ("example.com", ".example.com", False, "the domain itself"),
    ("mailexample.com", ".example.com", False, "another domain"),
]


@pytest.mark.parametrize(
    ("name", "wanted", "matches"), [pytest.param(*case, id=why) for *case, why in NAMES]
)
def test_name_that_postfix_takes_for_right(name, wanted, matches):
    assert is_named(["other.example", name], ["elsewhere.example", wanted]) is matches


def certificates(tmp_path) -> list[bytes]:
    """Return the certificates of an authority's server, as they are sent."""
    authority = Authority(tmp_path)
    names = ("mail.example.com", x509.IPAddress(ipaddress.ip_address("192.0.2.1")))
    authority.server(*names, days=(-1, 30))
    text = sorted(tmp_path.glob("server-*.pem"))[0].read_text()
    pem = text[text.index("-----BEGIN CERTIFICATE") :]
    return [ssl.PEM_cert_to_DER_cert(pem)]


def test_what_is_read_of_one(tmp_path):
    (der,) = certificates(tmp_path)
    read = from_der(der)
    assert read.names == ("mail.example.com", "192.0.2.1")
    assert read.issuer.startswith("CN=stsresolver test authority ")
    now = datetime.datetime.now(datetime.UTC).timestamp()
    assert read.days_left(now) == 29
    assert read.days_left(now + 31 * 86_400) == -2


def test_both_ways_to_read_one_agree(tmp_path):
    (der,) = certificates(tmp_path)
    file = tmp_path / "one.pem"
    file.write_text(ssl.DER_cert_to_PEM_cert(der))
    assert from_fields(ssl._ssl._test_decode_cert(str(file))) == from_der(der)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\xff" * 100])
def test_what_is_no_certificate(data):
    assert from_der(data) is None
    assert from_fields({}) is None


def test_without_cryptography_nothing_is_known(tmp_path, monkeypatch):
    (der,) = certificates(tmp_path)
    whole = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "cryptography":
            raise ImportError(name)
        return whole(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert from_der(der) is None
