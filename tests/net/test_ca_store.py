"""The TLS context: which CAs it trusts, and what it offers."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from stsresolver.net import file_changes
from stsresolver.net.ca_store import CaStore
from tests.net.conftest import HOST
from tests.support.authority import Authority, only_tls_1_1
from tests.support.hostile_https import PolicyHost, page

ROOT = Path(__file__).parent.parent.parent
NOT_VALID = ssl.SSLCertVerificationError


@pytest.fixture
def server(authority):
    with PolicyHost(page(), authority.server(HOST)) as one:
        yield one


# WHICH CAS ARE TRUSTED


@pytest.mark.requirement("HTTP-1")
def test_change_of_ssl_cert_file_is_noticed(handshake, server, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    store = CaStore()
    handshake(server, store.context())
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).bundle))
    with pytest.raises(NOT_VALID):
        handshake(server, store.context())
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    handshake(server, store.context())


@pytest.mark.requirement("HTTP-1")
def test_change_of_the_bundle_is_noticed(handshake, server, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Authority(tmp_path).bundle.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    store = CaStore()
    with pytest.raises(NOT_VALID):
        handshake(server, store.context())
    shutil.copy(authority.bundle, tmp_path / "new")
    os.replace(tmp_path / "new", bundle)
    handshake(server, store.context())


def test_without_a_change_the_context_is_the_same(authority, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    store = CaStore()
    assert store.context() is store.context()


@pytest.mark.requirement("HTTPS-5")
@pytest.mark.parametrize("content", [None, b"", b"not a certificate\n"])
def test_without_usable_bundle_nothing_is_trusted(
    handshake, server, tmp_path, monkeypatch, content
):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with pytest.raises(NOT_VALID):
        handshake(server)


@pytest.mark.requirement("HTTP-2")
@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to name files of SSL_CERT_DIR")
def test_ssl_cert_dir_counts_too(handshake, server, authority, tmp_path, monkeypatch):
    directory = tmp_path / "certs"
    directory.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-file"))
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    context = CaStore().context()
    with pytest.raises(NOT_VALID):
        handshake(server, context)
    command = ["openssl", "x509", "-noout", "-hash", "-in", authority.bundle]
    digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(authority.bundle, directory / f"{digest}.0")
    handshake(server, context)


@pytest.mark.requirement("HTTP-2")
def test_bundle_of_requests_is_no_ca_store(handshake, server, authority, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.bundle))
    with pytest.raises(NOT_VALID):
        handshake(server)


@pytest.mark.requirement("HTTP-5")
def test_certificates_without_key_identifiers_pass_on_every_python(
    handshake, tmp_path, monkeypatch
):
    """Python 3.13 refuses them by default; earlier ones and other TLS clients do not."""
    plain = Authority(tmp_path, identifiers=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(plain.bundle))
    with PolicyHost(page(), plain.server(HOST)) as host:
        handshake(host)


# WHAT IT OFFERS


@pytest.mark.requirement("HTTP-20")
def test_no_key_exchange_in_a_group_that_the_policy_host_makes_up():
    ciphers = CaStore().context().get_ciphers()
    assert {cipher["kea"] for cipher in ciphers} == {"kx-any", "kx-ecdhe"}


@pytest.mark.requirement("HTTPS-8")
def test_tls_1_1_is_refused(handshake, authority):
    with PolicyHost(page(), only_tls_1_1(authority.server(HOST))) as host:
        try:
            handshake(host, only_tls_1_1(ssl.create_default_context(cafile=authority.bundle)))
        except ssl.SSLError as error:
            pytest.skip(f"this OpenSSL does not speak TLS 1.1 at all: {error}")
        with pytest.raises(ssl.SSLError):
            handshake(host)


# Shows what a ClientHello offers. A process of its own, as OpenSSL reads its configuration once.
OFFERED = """
import ssl
from stsresolver.net.ca_store import CaStore
from stsresolver.net.client_hello import extensions, groups
hello = ssl.MemoryBIO()
try:
    CaStore().context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a").do_handshake()
except ssl.SSLWantReadError:
    record = hello.read()
    print(*(f"{group:#x}" for group in groups(record)))
    print(*extensions(record))
"""
CONFIGURATIONS = [
    pytest.param("", "0x17", id="none: P-256"),
    pytest.param("Groups = X25519:P-256:P-384", "0x1d 0x17 0x18", id="the resolver process has"),
    pytest.param("Groups = P-384", "0x18", id="one of them"),
    pytest.param("Groups = P-384:ffdhe8192", "0x17", id="a finite field"),
    pytest.param("Groups = P-521:X25519", "0x17", id="another curve"),
]


@pytest.mark.requirement("HTTP-20")
@pytest.mark.parametrize(("groups", "offered"), CONFIGURATIONS)
def test_key_exchange_on_elliptic_curves_alone(tmp_path, groups, offered):
    file = tmp_path / "openssl.cnf"
    sections = "openssl_conf = a", "[a]", "ssl_conf = b", "[b]", "system_default = c", "[c]"
    file.write_text("\n".join((*sections, groups, "")))
    environment = os.environ | {"OPENSSL_CONF": str(file), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OFFERED]
    seen = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    curves, extensions = seen.stdout.splitlines()
    assert curves == offered
    assert "27" not in extensions.split(), "compressed certificates (RFC 8879)"
