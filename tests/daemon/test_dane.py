"""Zones with `dane: true`: a real daemon, zones that are really signed, and what Postfix is told.

BIND serves the zones, and Unbound validates them. A policy host has a policy for each domain.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.authority import Authority
from tests.support.hostile_https import PolicyHost, page
from tests.support.signed_zones import Zone, validating_resolver
from tests.support.socketmap_client import Client, wait_for
from tests.support.whole_daemon import Daemon

DIGEST = "00" * 32
POLICY = '_mta-sts{0} TXT "v=STSv1; id=1"\nmta-sts{0} A 127.0.0.1\n'
# Two hosts, of which one has TLSA records.
HOSTS = f"mx A 192.0.2.1\n_25._tcp.mx TLSA 3 1 1 {DIGEST}\nplain A 192.0.2.1\n"
ZONES = {
    "good.example": Zone(
        HOSTS
        + "@ MX 10 mx\n"
        + "some MX 10 mx\nsome MX 20 plain\nnone MX 10 plain\nnull MX 0 .\n"
        + "broken MX 10 mx.bogus.example.\nbare MX 10 mx\n"
        + "".join(POLICY.format(f".{name}") for name in ("some", "none", "null", "broken"))
        + POLICY.format("")
    ),
    # A policy that can be had, though the MX records are forged.
    "unsigned.example": Zone("@ MX 10 mx.good.example.\n" + POLICY.format(""), "no"),
    "bogus.example": Zone("@ MX 10 mx66\nmx A 192.0.2.66\n", "bogus"),
}
DNS = "dns: {nameservers: [DNS]}\n"
DANE = b"OK dane-only"
UNKNOWN = b"TEMP DNS does not say whether DANE applies to this next hop"
NOT_FOUND = b"NOTFOUND "


def secure(domain: str) -> bytes:
    return f"OK secure match=mx.{domain} servername=hostname".encode()


TABLE = [
    ("good.example", DANE, "signed MX records, and every host has TLSA records"),
    ("some.good.example", DANE, "one of two hosts is enough"),
    ("none.good.example", secure("none.good.example"), "no host has TLSA records"),
    ("null.good.example", secure("null.good.example"), "a null MX"),
    ("unsigned.example", secure("unsigned.example"), "a forged MX record wins nothing"),
    ("broken.good.example", UNKNOWN, "a host that cannot be looked up"),
    ("bare.good.example", NOT_FOUND, "DANE without a policy is Postfix's own business"),
    ("[good.example]", secure("good.example"), "a host in brackets without TLSA records"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[SimpleNamespace]:
    directory = tmp_path_factory.mktemp("dane")
    authority = Authority(directory)
    names = ("good.example", "unsigned.example")
    below = [f"{name}.good.example" for name in ("some", "none", "null", "broken")]
    certificate = authority.server(*(f"mta-sts.{name}" for name in (*names, *below)))

    def reply(request: bytes):
        domain = re.search(rb"Host: mta-sts\.(.*)\r\n", request)[1]
        return page(b"version: STSv1\nmode: enforce\nmx: mx.%s\nmax_age: 604800\n" % domain)(
            request
        )

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SSL_CERT_FILE", str(authority.bundle))
        patch.setenv("SSL_CERT_DIR", str(directory / "no-directory"))
        patch.setattr("tests.support.hostile_https._PATIENCE", 300.0)
        host = stack.enter_context(PolicyHost(reply, certificate))
        zones = tmp_path_factory.mktemp("zones")
        port = stack.enter_context(validating_resolver(zones, ZONES))
        yield SimpleNamespace(settings={"https_port": host.port}, dns=f"127.0.0.1:{port}")


@pytest.fixture
def daemon(world, tmp_path):
    """Return what starts a daemon with these lines in its configuration."""
    with contextlib.ExitStack() as stack:

        def begin(text: str) -> Daemon:
            one = Daemon(tmp_path, world, "port: 0\n" + text.replace("DNS", f'"{world.dns}"'))
            stack.callback(one.kill)
            return one

        yield begin


def asked(client: Client, next_hop: str, zone: str = "postfix") -> bytes:
    return client.ask(f"{zone} {next_hop}".encode())


@pytest.mark.requirement("APPLY-1", "DANE-19", "DANE-20")
def test_what_postfix_is_told(daemon):
    one = daemon(
        f"{DNS}default_zone: {{dane: true, timeout: 10}}\nzones: {{off: {{timeout: 10}}}}\n"
    )
    with Client(one.address()) as client:
        for next_hop, expected, why in TABLE:
            assert asked(client, next_hop) == expected, why
            assert asked(client, next_hop) == expected, f"{why}, again"
        assert asked(client, "good.example", "off") == secure("good.example")
    assert one.stop() == 0
    assert "some.good.example: verified by DANE, so mail goes to none of these hosts: " in one.text
    assert "plain.good.example has no TLSA records" in one.text
    assert one.text.count("broken.good.example: not known whether DANE applies, mail waits") == 1


def test_a_reload_switches_it(daemon, tmp_path):
    one = daemon(f"{DNS}default_zone: {{timeout: 10}}\n")
    config = tmp_path / "config.yml"
    with Client(one.address()) as client:
        assert asked(client, "good.example") == secure("good.example")
        before = config.read_text()
        for number, (now, expected) in enumerate(
            [("dane: true, ", DANE), ("", secure("good.example"))], 1
        ):
            config.write_text(before.replace("{timeout", f"{{{now}timeout"))
            one.process.send_signal(signal.SIGHUP)
            wait_for(one.says("reloaded, configuration", number), "a reload")
            assert asked(client, "good.example") == expected
    assert one.stop() == 0


def test_after_a_reload_the_name_servers_are_asked_anew(daemon, tmp_path):
    """What is known of a domain may come from those that it replaces."""
    zone = "default_zone: {dane: true, timeout: 10}\n"
    one = daemon(f"{DNS}{zone}")
    config = tmp_path / "config.yml"
    with Client(one.address()) as client:
        assert asked(client, "good.example") == DANE
        before = config.read_text()
        config.write_text(before.replace("]}", "], trust_ad: no}"))
        one.process.send_signal(signal.SIGHUP)
        wait_for(one.says("reloaded, configuration", 1), "a reload")
        assert asked(client, "good.example") == secure("good.example")
    assert one.stop() == 0


def test_off_where_nobody_validates(daemon):
    one = daemon(
        "dns: {nameservers: [DNS], trust_ad: no}\ndefault_zone: {dane: true, timeout: 10}\n"
    )
    with Client(one.address()) as client:
        for next_hop in "good.example", "broken.good.example":
            assert asked(client, next_hop) == secure(next_hop)
    assert one.stop() == 0
    assert one.text.count("dane: off, because no name server is believed to validate") == 1
