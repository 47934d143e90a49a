"""DANE in zones that are really signed, or not: BIND serves them, and Unbound validates them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stsresolver.dane.resolver import DaneResolver
from stsresolver.dane.states import HostState, MxState, Verdict
from tests.support.signed_zones import Zone, validating_resolver

DIGEST = "00" * 32
HOST = f"mx A 192.0.2.1\nmx AAAA 2001:db8::1\n_25._tcp.mx TLSA 3 1 1 {DIGEST}\n"
# A host elsewhere, with TLSA records of its own.
ELSEWHERE = "@ MX 10 mx.good.example.\n"
GOOD = "@ MX 10 mx\n" + HOST

ZONES = {
    "good.example": Zone(
        GOOD + "*.wild MX 10 mx\nnull MX 0 .\nalias CNAME good.example.\n"
        f"nomx A 192.0.2.1\n_25._tcp.nomx TLSA 3 1 1 {DIGEST}\n"
        "plain A 192.0.2.1\nold A 192.0.2.1\n_25._tcp.old TLSA 1 1 1 " + DIGEST + "\n"
        "same CNAME mx\nout CNAME mx.unsigned.example.\n_25._tcp.out TLSA 3 1 1 " + DIGEST + "\n"
        "some MX 10 mx\nsome MX 20 plain\nnone MX 10 plain\nnone MX 20 old\n"
        "viaalias MX 10 same\nviaout MX 10 out\nabroad MX 10 mx.unsigned.example.\n"
        "broken MX 10 mx.bogus.example.\nlate MX 10 mx.expired.example.\n"
        "both MX 10 mx.bogus.example.\nboth MX 20 mx\n"
    ),
    "nsec3.example": Zone(GOOD + "plain A 192.0.2.1\nnone MX 10 plain\n", "nsec3"),
    "unsigned.example": Zone(ELSEWHERE + HOST, "no"),
    "bogus.example": Zone("@ MX 10 mx66\nmx A 192.0.2.66\n", "bogus"),
    "expired.example": Zone(GOOD, "expired"),
}

TABLE = [
    # domain, MX records, hosts, what follows
    ("good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("nsec3.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("any.wild.good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("nomx.good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("alias.good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("viaalias.good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("viaout.good.example", MxState.SECURE, [HostState.USABLE], Verdict.DANE),
    ("[mx.good.example]", MxState.HOST, [HostState.USABLE], Verdict.DANE),
    ("some.good.example", MxState.SECURE, [HostState.USABLE, HostState.NO_TLSA], Verdict.DANE),
    ("both.good.example", MxState.SECURE, [HostState.FAILED, HostState.USABLE], Verdict.DANE),
    ("none.good.example", MxState.SECURE, [HostState.NO_TLSA, HostState.UNUSABLE], Verdict.POLICY),
    ("none.nsec3.example", MxState.SECURE, [HostState.NO_TLSA], Verdict.POLICY),
    ("abroad.good.example", MxState.SECURE, [HostState.INSECURE], Verdict.POLICY),
    ("unsigned.example", MxState.INSECURE, [], Verdict.POLICY),
    ("null.good.example", MxState.NO_MAIL, [], Verdict.POLICY),
    ("nobody.good.example", MxState.NO_MAIL, [], Verdict.POLICY),
    ("bogus.example", MxState.FAILED, [], Verdict.UNKNOWN),
    ("expired.example", MxState.FAILED, [], Verdict.UNKNOWN),
    ("broken.good.example", MxState.SECURE, [HostState.FAILED], Verdict.UNKNOWN),
    ("late.good.example", MxState.SECURE, [HostState.FAILED], Verdict.UNKNOWN),
    ("[mx.bogus.example]", MxState.HOST, [HostState.FAILED], Verdict.UNKNOWN),
]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory) -> Iterator[DaneResolver]:
    with validating_resolver(tmp_path_factory.mktemp("zones"), ZONES) as port:
        yield DaneResolver(5.0, nameservers=[f"127.0.0.1:{port}"])


@pytest.mark.requirement("DANE-1", "DANE-2", "DANE-3", "DANE-4", "DANE-5", "DANE-10")
@pytest.mark.parametrize(
    ("next_hop", "mx", "hosts", "expected"), [pytest.param(*row, id=row[0]) for row in TABLE]
)
def test_what_follows(resolver, next_hop, mx, hosts, expected):
    found = resolver.look_up(next_hop)
    assert (found.mx, [host.state for host in found.hosts]) == (mx, hosts), found
    assert found.verdict is expected
