"""Domains with a policy whose DNS misbehaves where DANE is looked at: a safe answer, and in time.

A real daemon with `dane: true`; one name server on loopback, which is believed, says all of it. All
domains are asked for at once, and a healthy one meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import dns.rdatatype
import pytest

from tests.support.authority import Authority
from tests.support.hostile_dns import (
    Behaviour,
    NameServer,
    addresses,
    after,
    alias,
    code,
    mx,
    nodata,
    silence,
    tlsa,
    truncated,
    txt,
    validated,
)
from tests.support.hostile_https import PolicyHost, page
from tests.support.socketmap_client import Client
from tests.support.whole_daemon import Daemon, in_force

# Seconds: the zone's limit, and what an answer may take beyond the limits for record, policy, DANE.
LIMIT, GRACE = 4.0, 2.0
RECORD = b"\x03\x01\x01" + bytes(32)
ADDRESS = validated(addresses("127.0.0.1"))
TLSA = validated(tlsa(RECORD))
NONE = validated(nodata(300, 300))
DANE, TEMP, POLICY = b"OK dane-only", b"TEMP ", b"OK secure "


def many(number: int) -> Behaviour:
    """Answer with so many MX records, over TCP: h0 and so on below the name that was asked."""

    def behave(query):
        name = query.name.to_text(omit_final_dot=True)
        return mx(*(f"{n} h{n}.{name}." for n in range(number)))(query)

    return truncated(validated(behave))


# (name, what DNS says of the domain and of each host below it, by type; what Postfix is told)
CASES: list[tuple[str, Mapping[str, Behaviour], bytes]] = [
    ("honest", {}, DANE),
    ("no-tlsa", {"TLSA": NONE}, POLICY),
    ("forged-mx", {"MX": mx("10 h0.honest.example.")}, POLICY),
    ("half-signed", {"A": addresses("127.0.0.1"), "TLSA": TLSA}, POLICY),
    ("unsigned-tlsa", {"TLSA": tlsa(RECORD)}, POLICY),
    ("unsigned-and-dropped", {"A": addresses("127.0.0.1"), "TLSA": silence}, POLICY),
    ("dropped-tlsa", {"TLSA": silence}, TEMP),
    ("dropped-mx", {"MX": silence}, TEMP),
    ("failing-mx", {"MX": code("SERVFAIL")}, TEMP),
    ("failing-tlsa", {"TLSA": code("SERVFAIL")}, TEMP),
    ("silent-hosts", {"MX": many(200), "A": silence, "AAAA": silence, "TLSA": silence}, TEMP),
    ("200-hosts", {"MX": many(200), "TLSA": NONE}, POLICY),
    ("200-good-hosts", {"MX": many(200)}, DANE),
    ("600-hosts", {"MX": many(600)}, TEMP),
    ("large-tlsa", {"TLSA": truncated(validated(tlsa(b"\x03\0\0" + bytes(60_000))))}, POLICY),
    ("many-tlsa", {"TLSA": truncated(validated(tlsa(*(
        b"\x01\x01\x01" + n.to_bytes(32, "big") for n in range(280)))))}, POLICY),
    ("loop-of-aliases", {"A": alias("h0.loop-of-aliases.example.", then=nodata()),
                         "AAAA": alias("h0.loop-of-aliases.example.", then=nodata())}, TEMP),
    ("late-tlsa", {"TLSA": after(LIMIT / 4, TLSA)}, DANE),
]  # fmt: skip


class Said:
    """What DNS says: of a domain's policy the same for all, of DANE what its case says."""

    def __init__(self) -> None:
        self._cases = {f"{name}.example": said for name, said, _ in CASES}

    def __call__(self, query):
        name = query.name.to_text(omit_final_dot=True).lower()
        if name.startswith("_mta-sts."):
            return txt("v=STSv1; id=1")(query)
        if name.startswith("mta-sts."):
            return addresses("127.0.0.1")(query)
        domain = ".".join(name.split(".")[-2:])
        said = self._cases.get(domain, {})
        usual = {"MX": many(1), "A": ADDRESS, "AAAA": NONE, "TLSA": TLSA}
        return {**usual, **said}.get(dns.rdatatype.to_text(query.type), NONE)(query)


@pytest.fixture
def world(tmp_path) -> Iterator[SimpleNamespace]:
    authority = Authority(tmp_path)
    certificate = authority.server(*(f"mta-sts.{name}.example" for name, *_ in CASES))

    def reply(request: bytes):
        domain = re.search(rb"Host: mta-sts\.(.*)\r\n", request)[1]
        text = b"version: STSv1\nmode: enforce\nmx: mx.%s\nmax_age: 604800\n" % domain
        return page(text)(request)

    with (
        pytest.MonkeyPatch.context() as patch,
        NameServer(otherwise=Said()) as dns,
        PolicyHost(reply, certificate) as host,
    ):
        patch.setenv("SSL_CERT_FILE", str(authority.bundle))
        patch.setenv("SSL_CERT_DIR", str(tmp_path / "no-directory"))
        settings = {"https_port": host.port, "nameservers": [f"127.0.0.1:{dns.port}"]}
        yield SimpleNamespace(settings=settings)


@pytest.mark.requirement("DANE-1", "DANE-3", "DANE-12", "DANE-16", "DANE-20")
def test_each_gets_a_safe_answer_in_time(world, tmp_path):
    text = f"port: 0\ndefault_zone: {{dane: true, timeout: {LIMIT}}}\n"
    text += f"zones: {{off: {{timeout: {LIMIT}}}}}\n"
    daemon = Daemon(tmp_path, world, text)
    try:
        address = daemon.address()
        clients = {name: Client(address) for name, *_ in CASES}
        began = time.monotonic()
        for name, client in clients.items():
            request = f"postfix {name}.example".encode()
            client.send(b"%d:%b," % (len(request), request))
        with Client(address) as healthy:
            assert healthy.ask(b"off honest.example") == in_force("honest.example")
        answers = {name: client.reply() for name, client in clients.items()}
        seconds = time.monotonic() - began
        for client in clients.values():
            client.close()
    finally:
        daemon.stop()
        daemon.kill()
    for name, _, expected in CASES:
        # On a busy machine the time is over before all have answered. Then mail waits.
        assert answers[name].startswith((expected, TEMP)), (name, answers[name])
    assert answers["honest"] == DANE
    assert seconds < 3 * LIMIT + GRACE
    assert "Traceback" not in daemon.text
