"""The lookup of the TXT record against nameservers that misbehave (RFC 8461 §3.1, RFC 2308).

Every case has a time limit, and must be over within it and half a second.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import pytest

from stsresolver import Cause, Failure, Resolver
from stsresolver.net import file_changes
from tests.support.hostile_dns import (
    Behaviour,
    NameServer,
    code,
    hang_up,
    in_turn,
    nxdomain,
    silence,
    taking_turns,
    truncated,
    txt,
    with_wrong_id,
)
from tests.support.hostile_dns_cases import (
    ANSWERS,
    EVIL,
    FAILED,
    FORGERIES,
    GOOD,
    GRACE,
    LATE,
    LIMIT,
    LOOPS,
    none,
    summary,
)
from tests.support.hostile_https import has_ipv6_loopback

RECORD = "_mta-sts.example.com TXT"


def write(resolv_conf: Path, *addresses: str) -> Path:
    resolv_conf.write_text("".join(f"nameserver {address}\n" for address in addresses))
    return resolv_conf


def ask(resolv_conf: Path, port: int, domain: str = "example.com", limit: float = LIMIT):
    """Look the policy id of `domain` up, within the time limit."""
    resolver = Resolver(timeout=limit, resolv_conf=str(resolv_conf), dns_port=port)
    started = time.monotonic()
    result = resolver.policy_id(domain)
    assert time.monotonic() - started < limit + GRACE
    return summary(result)


@pytest.fixture
def resolv_conf(tmp_path) -> Path:
    return write(tmp_path / "resolv.conf", "127.0.0.1")


@pytest.mark.requirement(
    {
        "not ASCII": "TXT-8",
        "records of other kinds": "TXT-9",
        "two records": "TXT-9",
        "one of two malformed": "TXT-9",
        "malformed": "TXT-11",
        "strings are joined without a space": "TXT-12",
        "255 strings": "TXT-12",
        "empty strings between": "TXT-12",
        "alias": "TXT-13",
        "eight aliases": "TXT-13",
        "no such name": "DNS-1",
        "no TXT at the name": "DNS-1",
        "alias of no such name": "DNS-1",
        "alias of a name without TXT": "DNS-1",
        "an alias, and a referral": "DNS-2",
        "SOA that lives shorter than its minimum": "DNS-3",
        "SOA whose minimum is shorter": "DNS-3",
        "no such name, no SOA": "DNS-3",
        "SERVFAIL": "DNS-5",
        "REFUSED": "DNS-5",
        "alias that fails": "DNS-5",
        "truncated, forged id over TCP": "DNS-6",
        "a record of another name does not count": "DNS-7",
        "nor beside ours": "DNS-7",
        "truncated, whole over TCP": "DNS-8",
        "truncated, nothing over TCP": "DNS-8",
        "over TCP byte by byte, in time": "DNS-8",
        "201 records: too many to be read": "DNS-9",
        "40 records, one of them ours": "DNS-9",
        "a datagram is lost": "DNS-17",
        "the same record twice in an answer": "DNS-18",
        "YXDOMAIN": "LIB-4",
        "no TXT, no SOA": "LIB-4",
    }
)
@pytest.mark.parametrize(("behaviour", "expected"), ANSWERS)
def test_answer(resolv_conf, behaviour, expected):
    with NameServer({RECORD: behaviour}) as server:
        assert ask(resolv_conf, server.port) == expected
    asked = {query[:2] for query in server.queries}
    assert asked - {(".", "SOA")} == {("_mta-sts.example.com", "TXT")}
    assert len(server.queries) < 10, "a nameserver is not to be hammered"


@pytest.mark.requirement("DNS-6")
@pytest.mark.parametrize("what", FORGERIES)
def test_forged_answer_is_passed_over(resolv_conf, what):
    with NameServer({RECORD: in_turn(FORGERIES[what], GOOD)}) as server:
        assert ask(resolv_conf, server.port) == "good"


@pytest.mark.requirement("DNS-5", "LIB-4")
@pytest.mark.parametrize("reason", LOOPS)
def test_alias_that_leads_nowhere_is_a_failure(resolv_conf, reason):
    with NameServer({RECORD: LOOPS[reason]}) as server:
        assert ask(resolv_conf, server.port) == FAILED


@pytest.fixture(scope="module")
def late_results(tmp_path_factory) -> dict[str, tuple[str | tuple, float]]:
    """The results of LATE with the seconds that each took, got side by side."""
    resolv_conf = write(tmp_path_factory.mktemp("late") / "resolv.conf", "127.0.0.1")

    def run(behaviour: Behaviour) -> tuple[str | tuple, float]:
        with NameServer({RECORD: behaviour}) as server:
            resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=server.port)
            started = time.monotonic()
            return summary(resolver.policy_id("example.com")), time.monotonic() - started

    with ThreadPoolExecutor(max_workers=len(LATE)) as pool:
        return dict(zip(LATE, pool.map(run, LATE.values()), strict=True))


@pytest.mark.requirement("DNS-17", "LIB-1")
@pytest.mark.requirement(
    {
        "silence": "DNS-5",
        "only a forged id": "DNS-6",
        "only another question": "DNS-6",
        "only from another port": "DNS-6",
    }
)
@pytest.mark.parametrize("reason", LATE)
def test_late_is_over_at_the_time_limit(late_results, reason):
    result, seconds = late_results[reason]
    assert result == FAILED
    assert seconds < LIMIT + GRACE


# Whose fault it is

OURS = (Failure, Cause.NAME_SERVERS)
REFUSED, SERVFAIL = code("REFUSED"), code("SERVFAIL")


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize(
    ("behaviour", "otherwise", "expected"),
    [
        pytest.param(silence, silence, OURS, id="silent, whatever it is asked"),
        pytest.param(REFUSED, REFUSED, OURS, id="it refuses everything"),
        pytest.param(silence, REFUSED, OURS, id="it refuses what it does not drop"),
        pytest.param(silence, nxdomain(), FAILED, id="silent to this question alone"),
        pytest.param(REFUSED, nxdomain(), FAILED, id="it refuses this question alone"),
        pytest.param(silence, SERVFAIL, FAILED, id="silent here, and SERVFAIL elsewhere"),
        pytest.param(SERVFAIL, silence, FAILED, id="SERVFAIL is an answer"),
        pytest.param(truncated(silence), silence, FAILED, id="silent over TCP alone"),
    ],
)
def test_name_servers_that_answer_nothing_are_no_fault_of_the_domain(
    resolv_conf, behaviour, otherwise, expected
):
    with NameServer({RECORD: behaviour}, otherwise) as server:
        assert ask(resolv_conf, server.port) == expected


@pytest.mark.requirement("KEEP-15")
def test_nobody_at_any_name_server(tmp_path):
    with nameservers(None, None) as _, NameServer(address="127.0.0.9") as gone:
        port = gone.port
    assert ask(write(tmp_path / "resolv.conf", "127.0.0.1", "127.0.0.2"), port) == OURS


@pytest.mark.requirement("KEEP-15")
def test_one_dead_and_one_that_fails(tmp_path):
    with nameservers(None, SERVFAIL) as servers:
        addresses = "127.0.0.1", "127.0.0.2"
        assert ask(write(tmp_path / "resolv.conf", *addresses), servers[1].port) == FAILED


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_no_room_for_a_question(resolv_conf, monkeypatch, number):
    def no_socket(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("stsresolver.net.deadline.socket.socket", no_socket)
    assert ask(resolv_conf, 53) == (Failure, Cause.NO_ROOM)


@pytest.mark.requirement("KEEP-15")
def test_name_servers_that_die_before_the_address_is_looked_up(resolv_conf):
    with NameServer({RECORD: GOOD}, silence) as server:
        resolver = Resolver(timeout=LIMIT, resolv_conf=str(resolv_conf), dns_port=server.port)
        result = resolver.resolve("example.com")
    assert (result.cause, result.id) == (Cause.NAME_SERVERS, "good")


# Several nameservers


@contextlib.contextmanager
def nameservers(*behaviours: Behaviour | None) -> Iterator[list[NameServer | None]]:
    """Run a nameserver on 127.0.0.1, 127.0.0.2 and so on, all on one port; None: nobody there."""
    for attempt in range(10):
        with contextlib.ExitStack() as stack:
            try:
                first = stack.enter_context(NameServer({RECORD: GOOD}, address="127.0.0.9"))
                running = [
                    behaviour
                    and stack.enter_context(
                        NameServer({RECORD: behaviour}, None, f"127.0.0.{number}", first.port)
                    )
                    for number, behaviour in enumerate(behaviours, 1)
                ]
            except OSError:
                # Somebody else has the port at one of the addresses.
                if attempt == 9:
                    raise
                continue
            yield running
            return


SEVERAL = [
    pytest.param([None, GOOD], "good", id="nobody at the first"),
    pytest.param([silence, GOOD], "good", id="the first is silent"),
    pytest.param([silence, silence, GOOD], "good", id="the first two are silent"),
    pytest.param([None, None, GOOD], "good", id="nobody at the first two"),
    pytest.param([code("SERVFAIL"), GOOD], "good", id="the first fails"),
    pytest.param([code("REFUSED"), GOOD], "good", id="the first is lame"),
    pytest.param([lambda _: [b"\xff" * 40], GOOD], "good", id="the first talks rubbish"),
    pytest.param([with_wrong_id(EVIL), GOOD], "good", id="the first forges"),
    pytest.param([truncated(silence), GOOD], "good", id="the first is silent over TCP"),
    pytest.param([truncated(hang_up), GOOD], "good", id="the first hangs up over TCP"),
    pytest.param([nxdomain(), GOOD], none(ttl=900), id="there is none, says the first"),
    pytest.param([GOOD, EVIL], "good", id="the first one is asked first"),
    pytest.param([silence, code("SERVFAIL"), code("REFUSED")], FAILED, id="each fails"),
    pytest.param([silence, None, silence], FAILED, id="all dead"),
]


@pytest.mark.requirement("DNS-15")
@pytest.mark.parametrize(("behaviours", "expected"), SEVERAL)
def test_several_nameservers(tmp_path, behaviours, expected):
    with nameservers(*behaviours) as servers:
        addresses = [f"127.0.0.{number}" for number in range(1, 1 + len(servers))]
        port = next(server.port for server in servers if server)
        assert ask(write(tmp_path / "resolv.conf", *addresses), port) == expected


@pytest.mark.requirement("DNS-15")
@pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 loopback (::1) here")
def test_nameserver_over_ipv6(tmp_path):
    with NameServer({RECORD: GOOD}, address="::1") as server:
        assert ask(write(tmp_path / "resolv.conf", "::1"), server.port) == "good"


# resolv.conf


@pytest.fixture
def two() -> Iterator[tuple[NameServer, NameServer]]:
    """Nameservers on 127.0.0.1 ("one") and 127.0.0.2 ("two"), both on one port."""
    one, other = txt("v=STSv1; id=one"), txt("v=STSv1; id=two")
    with nameservers(one, other) as servers:
        yield servers[0], servers[1]


def replaced(resolv_conf: Path, address: str) -> None:
    write(resolv_conf.with_name("new"), address)
    os.replace(resolv_conf.with_name("new"), resolv_conf)


def linked(resolv_conf: Path, address: str) -> None:
    write(resolv_conf.with_name(address), address)
    os.symlink(resolv_conf.with_name(address), resolv_conf.with_name("new"))
    os.replace(resolv_conf.with_name("new"), resolv_conf)


@pytest.mark.requirement("DNS-15", "LIB-2")
@pytest.mark.parametrize("change", [write, replaced, linked])
def test_change_of_resolv_conf_counts_from_the_next_look(tmp_path, two, change, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    resolv_conf = tmp_path / "resolv.conf"
    change(resolv_conf, "127.0.0.1")
    resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=two[0].port)
    assert resolver.policy_id("example.com") == "one"
    change(resolv_conf, "127.0.0.2")
    assert resolver.policy_id("example.com") == "two"
    change(resolv_conf, "127.0.0.1")
    assert resolver.policy_id("example.com") == "one"


@pytest.mark.requirement("DNS-15")
def test_resolv_conf_that_goes_and_comes(tmp_path, two, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    resolv_conf = write(tmp_path / "resolv.conf", "127.0.0.2")
    resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=two[0].port)
    assert resolver.policy_id("example.com") == "two"
    resolv_conf.unlink()
    assert resolver.policy_id("example.com") == "one"
    write(resolv_conf, "127.0.0.2")
    assert resolver.policy_id("example.com") == "two"


# resolv.conf(5): without a nameserver line, the one on this host.
CONTENTS = [
    pytest.param("", "one", id="empty"),
    pytest.param("search example.net\n", "one", id="no nameserver"),
    pytest.param("# nameserver 127.0.0.2\n; nameserver 127.0.0.2\n", "one", id="in comments"),
    pytest.param("nameserver\n", "one", id="a nameserver without address"),
    pytest.param("nameserver 127.0.0.2", "two", id="no end of line"),
    pytest.param("nameserver\t127.0.0.2  \n", "two", id="tab"),
    pytest.param("nameserver 127.0.0.2\r\n", "two", id="CRLF"),
    pytest.param(
        "options rotate timeout:30 attempts:9 ndots:15 edns0\nnameserver 127.0.0.2\n",
        "two",
        id="options",
    ),
    pytest.param("frobnicate 1\nnameserver 127.0.0.2\n", "two", id="an unknown keyword"),
    pytest.param("nameserver ns.example\nnameserver 127.0.0.2\n", "two", id="a name first"),
    pytest.param("nameserver https://127.0.0.1/\nnameserver 127.0.0.2\n", "two", id="a URL first"),
    pytest.param("nameserver 127.0.0.2\nnameserver 127.0.0.300\n", "two", id="a typing error"),
    pytest.param("# f\u00fcr uns\nnameserver 127.0.0.2\n", "two", id="Latin-1"),
]


@pytest.mark.requirement("DNS-15")
@pytest.mark.parametrize(("content", "expected"), CONTENTS)
def test_what_resolv_conf_says(tmp_path, two, content, expected):
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_bytes(content.encode("latin-1"))
    assert ask(resolv_conf, two[0].port) == expected


@pytest.mark.requirement("DNS-15")
@pytest.mark.parametrize("kind", ["missing", "a directory", "a missing directory"])
def test_without_resolv_conf_the_nameserver_on_this_host_is_asked(tmp_path, two, kind):
    path = {"missing": "no-file", "a directory": ".", "a missing directory": "none/resolv.conf"}
    assert ask(tmp_path / path[kind], two[0].port) == "one"


@pytest.mark.requirement("DNS-14")
@pytest.mark.parametrize("domain", ["example.com", "sub.example.com"])
def test_names_are_asked_as_they_are(tmp_path, domain):
    """No search list: another domain's policy is not ours."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(
        "domain example.net\nsearch example.net example.org\noptions ndots:9\n"
        "nameserver 127.0.0.1\n"
    )
    zone = {f"_mta-sts.{domain}.{suffix} TXT": EVIL for suffix in ("example.net", "example.org")}
    with NameServer(zone) as server:
        assert ask(resolv_conf, server.port, domain) == none(ttl=900)
    assert {name for name, _, _ in server.queries} == {f"_mta-sts.{domain}"}


# Which name is asked


NAMES = [
    ("example.com", "_mta-sts.example.com"),
    ("EXAMPLE.Com", "_mta-sts.example.com"),
    ("example.com.", "_mta-sts.example.com"),
    ("b\u00fccher.example", "_mta-sts.xn--bcher-kva.example"),
    ("xn--bcher-kva.example", "_mta-sts.xn--bcher-kva.example"),
    ("B\u00dcCHER.Example.", "_mta-sts.xn--bcher-kva.example"),
    ("stra\u00dfe.example", "_mta-sts.xn--strae-oqa.example"),
    ("\u2167.example", "_mta-sts.viii.example"),
    ("mail.example.com", "_mta-sts.mail.example.com"),
]


@pytest.mark.requirement("DNS-13", "LIB-5")
@pytest.mark.parametrize(("domain", "asked"), NAMES)
def test_name_that_is_asked(resolv_conf, domain, asked):
    with NameServer({f"{asked} TXT": GOOD}) as server:
        assert ask(resolv_conf, server.port, domain) == "good"
    assert server.queries == [(asked, "TXT", "udp")]


@pytest.mark.requirement("APPLY-2")
def test_sub_domain_does_not_inherit(resolv_conf):
    with NameServer({RECORD: GOOD}) as server:
        assert ask(resolv_conf, server.port, "mail.example.com") == none(ttl=900)
    assert server.queries == [("_mta-sts.mail.example.com", "TXT", "udp")]


@pytest.mark.requirement("DNS-10")
def test_domain_that_leaves_no_room_for_the_label_has_no_policy(resolv_conf):
    domain = ".".join(["a" * 49] * 5)  # 249 characters, and 253 is the most
    with NameServer(otherwise=GOOD) as server:
        assert ask(resolv_conf, server.port, domain) == none()
    assert server.queries == []


@pytest.mark.requirement("DNS-16")
def test_a_record_that_changes_is_seen_at_once(resolv_conf):
    """Nothing is remembered here, whatever TTL the records have."""
    with NameServer({RECORD: taking_turns(EVIL, GOOD, nxdomain(), GOOD)}) as server:
        resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=server.port)
        results = [summary(resolver.policy_id("example.com")) for _ in range(4)]
    assert results == ["evil", "good", none(ttl=900), "good"]


@pytest.mark.requirement("DNS-9")
def test_an_answer_of_thousands_of_records_is_refused_unread(resolv_conf, monkeypatch):
    """Reading it would take seconds of computing, which no time limit ends."""
    read = dns.message.from_wire
    monkeypatch.setattr(
        "dns.message.from_wire",
        lambda wire, **options: (
            pytest.fail("read") if len(wire) > 20_000 else read(wire, **options)
        ),
    )
    many = txt(*(f"v=STSv1; id={number}" for number in range(2000)))
    with NameServer({RECORD: many}) as server:
        resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=server.port)
        result = resolver.policy_id("example.com")
    assert isinstance(result, Failure)
    assert "records" in result.detail


@pytest.mark.requirement("DNS-17")
def test_garbage_for_ever_ends_at_the_limit(resolv_conf):
    garbage = lambda _: [b"\xff" * 40] * 5  # noqa: E731
    with NameServer({RECORD: garbage}) as server:
        resolver = Resolver(LIMIT, resolv_conf=str(resolv_conf), dns_port=server.port)
        began = time.monotonic()
        result = resolver.policy_id("example.com")
    assert isinstance(result, Failure)
    assert time.monotonic() - began < LIMIT + GRACE
