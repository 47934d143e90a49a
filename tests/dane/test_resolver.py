"""What DNS says of DANE, by name servers on loopback that say and do anything.

`tests/dane/test_signed_zones.py` has real ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from stsresolver.dane.resolver import DaneResolver
from stsresolver.dane.states import Dane, HostState, MxState, Verdict
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.net.steps import run
from tests.support.hostile_dns import (
    Behaviour,
    NameServer,
    addresses,
    after,
    alias,
    code,
    mx,
    nodata,
    nxdomain,
    silence,
    taking_turns,
    tlsa,
    truncated,
    validated,
    with_ttl,
)

LIMIT, GRACE = 1.0, 0.5

RECORD = b"\x03\x01\x01" + bytes(32)
WRONG = b"\x03\x01\x01" + bytes(31)
MX = validated(mx("10 a.example.net."))
ADDRESS = validated(addresses("192.0.2.1"))
TLSA = validated(tlsa(RECORD))
NONE = validated(nodata(3600, 3600))
GONE = validated(nxdomain())
FAILS = code("SERVFAIL")
# Of a host's addresses and TLSA records: signed, and there.
A = {"a.example.net A": ADDRESS, "a.example.net AAAA": NONE, "_25._tcp.a.example.net TLSA": TLSA}
GOOD = {"example.com MX": MX, **A}


@pytest.fixture
def resolv_conf(tmp_path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\n")
    return path


def look_up(
    zone: Mapping[str, Behaviour],
    resolv_conf: Path,
    next_hop: str = "example.com",
    *,
    whole: bool = True,
    limit: float = LIMIT,
    **options,
) -> Dane:
    """Look at a next hop, within the time limit."""
    with NameServer(zone, otherwise=GONE) as server:
        resolver = DaneResolver(
            limit, resolv_conf=str(resolv_conf), dns_port=server.port, **options
        )
        began = time.monotonic()
        if whole:
            found = resolver.look_up(next_hop)
        else:
            found = run(resolver.steps_of_look_up(NextHop(next_hop, False, ""), whole=False))
        assert time.monotonic() - began < limit + GRACE
    assert found.ttl >= 5
    return found


def alias_to(target: str, then: Behaviour, *, whole: bool = True) -> Behaviour:
    """Answer with a signed alias; unless `whole`, what it leads to is not signed."""
    answered = alias(target, then=then)
    return validated(answered) if whole else answered


# The host is a.example.net; what is not said is as in GOOD.
HOSTS = [
    # reason, what DNS says, the host's state
    ("signed, with TLSA records", {}, HostState.USABLE),
    ("IPv6 alone", {"a.example.net A": NONE, "a.example.net AAAA": validated(addresses("::1"))},
     HostState.USABLE),
    ("A is there, AAAA fails", {"a.example.net AAAA": FAILS}, HostState.USABLE),
    ("A fails, AAAA is there",
     {"a.example.net A": FAILS, "a.example.net AAAA": validated(addresses("::1"))},
     HostState.USABLE),
    ("A is signed, AAAA is not", {"a.example.net AAAA": addresses("::1")}, HostState.USABLE),
    ("A is signed, AAAA is never answered", {"a.example.net AAAA": silence}, HostState.USABLE),
    ("a usable and a wrong record", {"_25._tcp.a.example.net TLSA": validated(tlsa(WRONG, RECORD))},
     HostState.USABLE),
    ("truncated, whole over TCP", {"_25._tcp.a.example.net TLSA": truncated(TLSA)},
     HostState.USABLE),
    ("a digest of the wrong length", {"_25._tcp.a.example.net TLSA": validated(tlsa(WRONG))},
     HostState.UNUSABLE),
    ("an empty record", {"_25._tcp.a.example.net TLSA": validated(tlsa(b""))}, HostState.UNUSABLE),
    ("a record of 60,000 bytes",
     {"_25._tcp.a.example.net TLSA": truncated(validated(tlsa(b"\x03\0\0" + bytes(60_000))))},
     HostState.UNUSABLE),
    ("no TLSA records", {"_25._tcp.a.example.net TLSA": NONE}, HostState.NO_TLSA),
    ("no such name", {"_25._tcp.a.example.net TLSA": GONE}, HostState.NO_TLSA),
    ("no such name, not signed", {"_25._tcp.a.example.net TLSA": nxdomain()}, HostState.NO_TLSA),
    ("TLSA records that are not signed", {"_25._tcp.a.example.net TLSA": tlsa(RECORD)},
     HostState.NOT_SIGNED),
    ("TLSA fails", {"_25._tcp.a.example.net TLSA": FAILS}, HostState.FAILED),
    ("TLSA is never answered", {"_25._tcp.a.example.net TLSA": silence}, HostState.FAILED),
    ("addresses that are not signed", {"a.example.net A": addresses("192.0.2.1")},
     HostState.INSECURE),
    ("not signed, and TLSA fails",
     {"a.example.net A": addresses("192.0.2.1"), "_25._tcp.a.example.net TLSA": FAILS},
     HostState.INSECURE),
    ("not signed, and AAAA fails",
     {"a.example.net A": addresses("192.0.2.1"), "a.example.net AAAA": FAILS},
     HostState.INSECURE),
    ("no address", {"a.example.net A": NONE}, HostState.NO_ADDRESS),
    ("no such host", {"a.example.net A": GONE, "a.example.net AAAA": GONE}, HostState.NO_ADDRESS),
    ("A fails, AAAA is not there", {"a.example.net A": FAILS}, HostState.FAILED),
    ("addresses fail", {"a.example.net A": FAILS, "a.example.net AAAA": FAILS}, HostState.FAILED),
    ("addresses are never answered", {"a.example.net A": silence, "a.example.net AAAA": silence},
     HostState.FAILED),
    ("RFC 7672 §2.2.2: an alias, records at its end",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.a.example.net TLSA": NONE, "_25._tcp.b.example.org TLSA": TLSA},
     HostState.USABLE),
    ("an alias, no records at its end, but at itself",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.b.example.org TLSA": NONE},
     HostState.USABLE),
    ("an alias, records at its end that are not signed",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.b.example.org TLSA": tlsa(WRONG)},
     HostState.USABLE),
    ("an alias, only unusable records at its end: itself is not tried",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.b.example.org TLSA": validated(tlsa(WRONG))},
     HostState.UNUSABLE),
    ("an alias, its end fails",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.b.example.org TLSA": FAILS},
     HostState.FAILED),
    ("an alias, nothing anywhere",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1")),
      "_25._tcp.a.example.net TLSA": NONE},
     HostState.NO_TLSA),
    ("an alias that is signed, to addresses that are not",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1"), whole=False),
      "a.example.net CNAME": validated(alias("b.example.org.", then=nodata())),
      "_25._tcp.b.example.org TLSA": validated(tlsa(WRONG))},
     HostState.USABLE),
    ("an alias that is not signed",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1"), whole=False),
      "a.example.net CNAME": alias("b.example.org.", then=nodata()),
      "_25._tcp.b.example.org TLSA": TLSA},
     HostState.INSECURE),
    ("an alias of which nobody says whether it is signed",
     {"a.example.net A": alias_to("b.example.org.", addresses("192.0.2.1"), whole=False),
      "a.example.net CNAME": FAILS},
     HostState.FAILED),
    ("an alias of no host",
     {"a.example.net A": alias_to("b.example.org.", nxdomain()),
      "a.example.net AAAA": alias_to("b.example.org.", nxdomain())},
     HostState.NO_ADDRESS),
]  # fmt: skip


@pytest.mark.requirement("DANE-5", "DANE-9", "DANE-10", "DANE-11", "DANE-12")
@pytest.mark.parametrize(
    ("said", "state"), [pytest.param(*row, id=reason) for reason, *row in HOSTS]
)
def test_a_host(resolv_conf, said, state):
    found = look_up(GOOD | said, resolv_conf)
    assert found.mx is MxState.SECURE
    (host,) = found.hosts
    assert (host.name, host.state) == ("a.example.net", state)
    assert (state in (HostState.FAILED, HostState.UNUSABLE)) <= bool(host.detail)
    assert str(host).isprintable()


MX_RECORDS = [
    # reason, what DNS says of the domain, its state, the hosts that were looked at
    ("two hosts, by preference", validated(mx("20 a.example.net.", "10 b.example.net.")),
     MxState.SECURE, ["b.example.net", "a.example.net"]),
    ("a host twice", validated(mx("20 a.example.net.", "10 A.example.NET.")),
     MxState.SECURE, ["a.example.net"]),
    ("RFC 5321 §5.1: no MX records", NONE, MxState.SECURE, ["example.com"]),
    ("RFC 7672 §2.2.1: through an alias", validated(alias("example.org.", then=MX)),
     MxState.SECURE, ["a.example.net"]),
    ("a name that is no host name", validated(mx("10 a\\.b_c.example.net.")),
     MxState.SECURE, ["a\\.b_c.example.net"]),
    ("not signed", mx("10 a.example.net."), MxState.INSECURE, []),
    ("no MX records, not signed", nodata(), MxState.INSECURE, []),
    ("through an alias that is not signed", alias("example.org.", then=MX), MxState.INSECURE, []),
    ("no such domain", GONE, MxState.NO_MAIL, []),
    ("no such domain, not signed", nxdomain(), MxState.NO_MAIL, []),
    ("RFC 7505: a null MX", validated(mx("0 .")), MxState.NO_MAIL, []),
    ("a null MX beside another", validated(mx("0 .", "10 a.example.net.")),
     MxState.SECURE, ["a.example.net"]),
    ("SERVFAIL, as for a bogus zone", FAILS, MxState.FAILED, []),
    ("never answered", silence, MxState.FAILED, []),
    ("lost once", taking_turns(silence, MX), MxState.SECURE, ["a.example.net"]),
    ("an answer that is too large",
     truncated(validated(mx(*(f"10 host{n}.example.net." for n in range(300))))),
     MxState.FAILED, []),
]  # fmt: skip


@pytest.mark.requirement("DANE-1", "DANE-3", "DANE-4", "DANE-13")
@pytest.mark.parametrize(
    ("said", "state", "hosts"), [pytest.param(*row, id=reason) for reason, *row in MX_RECORDS]
)
def test_mx_records(resolv_conf, said, state, hosts):
    found = look_up(GOOD | {"example.com MX": said}, resolv_conf)
    assert found.mx is state
    assert [host.name for host in found.hosts] == hosts
    assert (state is MxState.FAILED) == bool(found.detail)


NEXT_HOPS = [
    # next hop, where its TLSA records are
    ("example.com:587", "_587._tcp.a.example.net"),
    ("[a.example.net]", "_25._tcp.a.example.net"),
    ("[a.example.net]:587", "_587._tcp.a.example.net"),
    ("[a.example.net]:submission", "_587._tcp.a.example.net"),
    ("example.com:smtp", "_25._tcp.a.example.net"),
]


@pytest.mark.requirement("DANE-14")
@pytest.mark.parametrize(("next_hop", "name"), NEXT_HOPS)
def test_next_hop(resolv_conf, next_hop, name):
    zone = GOOD | {"_25._tcp.a.example.net TLSA": NONE, f"{name} TLSA": TLSA}
    found = look_up(zone, resolv_conf, next_hop)
    assert found.mx is (MxState.HOST if next_hop.startswith("[") else MxState.SECURE)
    (host,) = found.hosts
    assert (host.state, host.tlsa_name) == (HostState.USABLE, name)
    assert [str(one) for one in host.tlsa] == [f"3 1 1 {bytes(32).hex()}"]


def test_what_is_no_next_hop(resolv_conf):
    resolver = DaneResolver(resolv_conf=str(resolv_conf))
    for text in ("[192.0.2.1]", "com", "", "\udcff", "example.com:0"):
        with pytest.raises(ValueError, match="no next hop"):
            resolver.look_up(text)
    found = resolver.look_up("example.com:no-such-service")
    assert found.verdict is Verdict.UNKNOWN
    assert "no-such-service" in str(found)


# WHO IS BELIEVED


@pytest.mark.requirement("DANE-15")
@pytest.mark.parametrize(
    ("lines", "trust_ad", "believed"),
    [
        ("", None, True),
        ("", False, False),
        ("nameserver 192.0.2.1", None, False),
        ("nameserver 192.0.2.1\noptions timeout:1 trust-ad", None, True),
        ("nameserver 192.0.2.1", True, True),
        ("nameserver 192.0.2.1\noptions trust-ad", False, False),
        ("nameserver ::1", None, True),
        ("nameserver 2001:db8::1", None, False),
    ],
)
def test_who_is_believed(tmp_path, lines, trust_ad, believed):
    """Nobody is asked who is not believed; what nobody answers is a failure."""
    path = tmp_path / "resolv.conf"
    path.write_text(lines + "\n")
    resolver = DaneResolver(0.1, resolv_conf=str(path), dns_port=9, trust_ad=trust_ad)
    expected = MxState.FAILED if believed else MxState.NOT_BELIEVED
    assert resolver.look_up("example.com").mx is expected


@pytest.mark.requirement("DANE-15")
def test_a_name_server_that_is_not_believed_is_not_asked(resolv_conf):
    with NameServer(GOOD) as believed, NameServer(GOOD) as forger:
        servers = [f"127.0.0.1:{forger.port}", f"127.0.0.1:{believed.port}"]
        resolver = DaneResolver(LIMIT, nameservers=servers, trust_ad=False)
        assert resolver.look_up("example.com").mx is MxState.NOT_BELIEVED
        assert believed.queries == forger.queries == []
        resolver = DaneResolver(LIMIT, nameservers=servers[1:])
        assert resolver.look_up("example.com").verdict is Verdict.DANE
        assert forger.queries == []


# MANY HOSTS, AND TIME


def hosts(number: int, **said: Behaviour) -> dict[str, Behaviour]:
    """Return what DNS says of a domain with so many hosts; `said`: of each, by type."""
    zone = {
        "example.com MX": truncated(
            validated(mx(*(f"{n} h{n}.example.net." for n in range(number))))
        )
    }
    types = {"A": ADDRESS, "AAAA": NONE, "TLSA": NONE} | said
    for n in range(number):
        for rdtype, behaviour in types.items():
            prefix = "_25._tcp." if rdtype == "TLSA" else ""
            zone[f"{prefix}h{n}.example.net {rdtype}"] = behaviour
    return zone


@pytest.mark.requirement("DANE-16")
def test_200_hosts(resolv_conf):
    found = look_up(hosts(200), resolv_conf, limit=10.0)
    assert [host.state for host in found.hosts] == [HostState.NO_TLSA] * 200
    assert found.verdict is Verdict.POLICY


@pytest.mark.requirement("DANE-16")
def test_200_hosts_that_are_never_answered(resolv_conf):
    found = look_up(hosts(200, A=silence, AAAA=silence), resolv_conf)
    assert {host.state for host in found.hosts} == {HostState.FAILED}
    assert found.verdict is Verdict.UNKNOWN


@pytest.mark.requirement("DANE-16")
def test_the_first_host_that_can_be_used_ends_it(resolv_conf):
    zone = hosts(200, A=after(0.3, ADDRESS)) | {
        "h1.example.net A": ADDRESS,
        "_25._tcp.h1.example.net TLSA": TLSA,
    }
    found = look_up(zone, resolv_conf, whole=False, limit=10.0)
    states = [host.state for host in found.hosts]
    assert states[1] is HostState.USABLE
    assert states.count(HostState.NOT_AWAITED) == 199
    assert found.verdict is Verdict.DANE
    assert not found.is_whole


@pytest.mark.requirement("DANE-17")
def test_three_round_trips(resolv_conf):
    """Of a fifth of a second each: MX; addresses and TLSA; TLSA at the end of an alias."""
    late = {"example.com MX": validated(mx(*(f"10 h{n}.example.net." for n in range(4))))}
    for n in range(4):
        late[f"h{n}.example.net A"] = alias_to(f"e{n}.example.net.", addresses("192.0.2.1"))
        late[f"_25._tcp.e{n}.example.net TLSA"] = TLSA
    zone = {name: after(0.2, said) for name, said in late.items()}
    with NameServer(zone, otherwise=after(0.2, GONE)) as server:
        resolver = DaneResolver(3.0, resolv_conf=str(resolv_conf), dns_port=server.port)
        began = time.monotonic()
        found = resolver.look_up("example.com")
        assert time.monotonic() - began < 0.8
    assert {host.state for host in found.hosts} == {HostState.USABLE}


@pytest.mark.requirement("DANE-18")
@pytest.mark.parametrize(
    ("said", "ttl"),
    [
        ({}, 3600),
        ({"example.com MX": with_ttl(100, MX)}, 100),
        ({"a.example.net A": with_ttl(90, ADDRESS)}, 90),
        ({"_25._tcp.a.example.net TLSA": with_ttl(80, TLSA)}, 80),
        ({"_25._tcp.a.example.net TLSA": with_ttl(70, NONE)}, 70),
        ({"_25._tcp.a.example.net TLSA": with_ttl(0, TLSA)}, 5),
        (
            {name: with_ttl(10**6, said) for name, said in GOOD.items()}
            | {"a.example.net AAAA": validated(nodata(10**6, 10**6))},
            86_400,
        ),
    ],
)
def test_how_long_it_may_be_remembered(resolv_conf, said, ttl):
    assert look_up(GOOD | said, resolv_conf).ttl == ttl
