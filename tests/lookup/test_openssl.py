"""OpenSSL in the resolver process: what it offers, and what it does not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stsresolver.mta_sts.results import Cause, Failure
from stsresolver.net.client_hello import groups
from tests.lookup.processes import TIMEOUT, ready
from tests.support.hostile_certificates import chain, key_on_own_curve
from tests.support.hostile_handshakes import shows
from tests.support.hostile_https import Listener
from tests.support.waited import Waited

X25519, P_256, P_384 = 0x001D, 0x0017, 0x0018
OWN = """\
openssl_conf = openssl_init
[openssl_init]
providers = own_providers
ssl_conf = own_ssl
[own_providers]
default = own_default
[own_default]
activate = 1
[own_ssl]
system_default = own_tls
[own_tls]
Groups = P-521:ffdhe8192
"""


def fetch(process, served, script):
    with Listener(script) as listener:
        one = process({**served.settings, "https_port": listener.port})
        return Waited(one, TIMEOUT).fetch("example.com")


@pytest.mark.requirement("HTTP-20")
@pytest.mark.parametrize("text", [None, "", OWN, "openssl_conf = another\n[another]\n"])
def test_it_offers_three_curves_whatever_the_administrators_file_says(
    process, served, tmp_path, monkeypatch, text
):
    if text is not None:
        (tmp_path / "own.cnf").write_text(text)
        monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "own.cnf"))
    hellos = []
    result = fetch(process, served, lambda peer, _stopped: hellos.append(peer.recv(65536)))
    assert result.cause is Cause.TLS
    assert [groups(hello) for hello in hellos] == [[X25519, P_256, P_384]]


@pytest.mark.parametrize("name", ["own.cnf", "missing.cnf"])
def test_its_configuration_includes_the_administrators(process, tmp_path, monkeypatch, name):
    (tmp_path / "own.cnf").write_text(OWN)
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / name))
    environment = Path(f"/proc/{ready(process())}/environ").read_bytes().split(b"\0")
    assert f"STSRESOLVER_OPENSSL_CONF={tmp_path / name}".encode() in environment
    assert os.environ["OPENSSL_CONF"] == str(tmp_path / name), "the daemon's stays"


@pytest.mark.requirement("HTTP-22")
def test_it_does_not_read_certificates_that_cost_much(process, served):
    result = fetch(process, served, shows(lambda: chain(1, key_on_own_curve())))
    refused = "a public key on a curve, or in a form, that web CAs do not sign"
    assert result == Failure(Cause.CERTIFICATE, refused)
