"""Several questions about a name at once: each answer as it comes, whatever becomes of the others.

One question against name servers that misbehave is in tests/mta_sts/test_discovery.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import dns.name
import pytest
from dns.rdatatype import RdataType

from stsresolver.net.deadline import Deadline
from stsresolver.net.dns_messages import Answer
from stsresolver.net.nameservers import NameServerError, NameServers
from stsresolver.net.steps import run
from tests.support.hostile_dns import (
    Behaviour,
    NameServer,
    addresses,
    code,
    hang_up,
    nodata,
    silence,
    taking_turns,
    truncated,
)

HOST = "mta-sts.example.com"
GOOD = addresses("192.0.2.1", "2001:db8::1")
V4, V6, NONE = ["192.0.2.1"], ["2001:db8::1"], []
FAILED = "failed"
# Seconds for all.
TIMEOUT = 1.5


def zone(a: Behaviour, aaaa: Behaviour) -> dict[str, Behaviour]:
    return {f"{HOST} A": a, f"{HOST} AAAA": aaaa}


@contextlib.contextmanager
def serving(directory: Path, *zones) -> Iterator[tuple[list[NameServer], NameServers]]:
    """Run a name server for each zone, on one port, and what asks them in this order."""
    with contextlib.ExitStack() as stack:
        port = 0
        servers = []
        for number, one in enumerate(zones, 1):
            server = stack.enter_context(NameServer(one, None, f"127.0.0.{number}", port))
            port = server.port
            servers.append(server)
        resolv_conf = directory / "resolv.conf"
        lines = [f"nameserver 127.0.0.{number}\n" for number in range(1, 1 + len(zones))]
        resolv_conf.write_text("".join(lines))
        yield servers, NameServers(str(resolv_conf), port)


def asked(servers: NameServers, done=lambda rdtype, answer: None):
    """Ask for both addresses of the host; return what came for each."""
    found = {}

    def note(rdtype: RdataType, answer: Answer | NameServerError) -> None:
        assert rdtype not in found, "answered twice"
        failed = isinstance(answer, NameServerError)
        found[rdtype.name] = FAILED if failed else answer.records
        done(rdtype, answer)

    rdtypes = (RdataType.AAAA, RdataType.A)
    questions = [(dns.name.from_text(HOST), rdtype) for rdtype in rdtypes]
    run(servers.ask_each(questions, Deadline(TIMEOUT), note))
    return found["A"], found["AAAA"]


ONE = [
    pytest.param(GOOD, GOOD, (V4, V6), id="both"),
    pytest.param(GOOD, nodata(), (V4, NONE), id="one has none"),
    pytest.param(GOOD, silence, (V4, FAILED), id="one is dropped"),
    pytest.param(code("SERVFAIL"), GOOD, (FAILED, V6), id="one fails"),
    pytest.param(code("SERVFAIL"), silence, (FAILED, FAILED), id="one fails, one is dropped"),
    pytest.param(taking_turns(silence, GOOD), GOOD, (V4, V6), id="one is lost"),
    pytest.param(truncated(GOOD), GOOD, (V4, V6), id="one is truncated"),
    pytest.param(truncated(GOOD), truncated(GOOD), (V4, V6), id="both are truncated"),
    pytest.param(truncated(GOOD), silence, (V4, FAILED), id="one is truncated, one is dropped"),
    pytest.param(truncated(hang_up), GOOD, (FAILED, V6), id="one fails over TCP"),
    pytest.param(truncated(silence), GOOD, (FAILED, V6), id="one is silent over TCP"),
]


@pytest.mark.requirement("DNS-5", "DNS-8", "DNS-17")
@pytest.mark.parametrize(("a", "aaaa", "expected"), ONE)
def test_each_question_has_its_own_answer(tmp_path, a, aaaa, expected):
    with serving(tmp_path, zone(a, aaaa)) as (_, servers):
        assert asked(servers) == expected


TWO = [
    pytest.param(zone(GOOD, GOOD), zone(silence, silence), (V4, V6), id="the first has both"),
    pytest.param(zone(silence, silence), zone(GOOD, GOOD), (V4, V6), id="the second has both"),
    pytest.param(zone(code("SERVFAIL"), GOOD), zone(GOOD, silence), (V4, V6), id="one each"),
    pytest.param(
        zone(code("SERVFAIL"), silence), zone(GOOD, GOOD), (V4, V6), id="the first fails at both"
    ),
    pytest.param(
        zone(code("SERVFAIL"), GOOD), zone(code("REFUSED"), GOOD), (FAILED, V6), id="one at neither"
    ),
]


@pytest.mark.requirement("DNS-15")
@pytest.mark.parametrize(("first", "second", "expected"), TWO)
def test_two_name_servers(tmp_path, first, second, expected):
    with serving(tmp_path, first, second) as (_, servers):
        assert asked(servers) == expected


@pytest.mark.requirement("HTTPS-18")
def test_an_answer_comes_while_the_other_question_waits(tmp_path):
    times = []
    with serving(tmp_path, zone(silence, GOOD)) as ((server,), servers):
        assert asked(servers, lambda *_: times.append(server.asked(HOST, "A"))) == (FAILED, V6)
    first, last = times
    assert first <= 1
    assert last > 1, "the lost one was sent again meanwhile"


def test_both_go_out_together(tmp_path):
    with serving(tmp_path, zone(GOOD, GOOD)) as ((server,), servers):
        asked(servers)
    assert sorted(server.queries) == [(HOST, "A", "udp"), (HOST, "AAAA", "udp")]


def test_the_end_of_the_time_takes_no_answer_back(tmp_path):
    """One is answered, and then there is no time to ask for the other over TCP."""
    deadline = Deadline(TIMEOUT)
    found = []

    def done(rdtype: RdataType, _: Answer | NameServerError) -> None:
        found.append(rdtype.name)
        deadline.end = 0.0

    with serving(tmp_path, zone(truncated(GOOD), GOOD)) as (_, servers):
        questions = [(dns.name.from_text(HOST), one) for one in (RdataType.AAAA, RdataType.A)]
        run(servers.ask_each(questions, deadline, done))
    assert sorted(found) == ["A", "AAAA"]
