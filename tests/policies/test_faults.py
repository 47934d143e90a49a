"""What ends in NOTFOUND and what in TEMP: the table of docs/security.rst, each row driven.

Each row goes through the real decision, with a world that answers the lookups and a clock that is
set by hand; `tests/daemon/test_own_faults.py` drives those that a real daemon can be brought to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stsresolver.config.settings import Zone
from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause, Failure, NoPolicy, NotChanged
from stsresolver.policies import faults
from stsresolver.policies.decision import FAULT_PAUSE
from stsresolver.policies.faults import HOUR, OF_CAUSE, PATIENCE, Fault
from stsresolver.socketmap.answer import Answers
from tests.policies.test_in_force import DNS_FAILS, DOMAIN, NO_RECORD, UNFETCHABLE, World
from tests.support.policies import policy

SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.rst"
FOR_AN_HOUR = "``TEMP`` for an hour, then ``NOTFOUND``"


def answers(*results: NoPolicy | Failure | str) -> Callable[[], list[World]]:
    """Return what makes a world for each result of a lookup."""

    def worlds() -> list[World]:
        return [
            World("1", one) if one in FETCHES or getattr(one, "id", "") else World(one)
            for one in results
        ]

    return worlds


# What a fetch may end in, by the policy host's fault.
OF_THE_HOST = [
    *(Cause.NO_ADDRESS, Cause.ADDRESS, Cause.CONNECT, Cause.CERTIFICATE, Cause.TLS, Cause.HTTP),
    *(Cause.STATUS, Cause.MEDIA_TYPE, Cause.SIZE, Cause.DEADLINE, Cause.SYNTAX),
]
FETCHES = [Failure(cause) for cause in (*OF_THE_HOST, Cause.PROXY)]


def store_away() -> list[World]:
    made = [World(DNS_FAILS), World("1", UNFETCHABLE)]
    for world in made:
        world.store.unread_since = world.ticks
    return made


def store_away_and_no_record() -> list[World]:
    world = World(NO_RECORD)
    world.store.unread_since = world.ticks
    return [world]


def ended_by_a_clock_that_jumped() -> list[World]:
    world = World("1", policy(max_age=1000))
    world.ask()
    world.now += 10 * 365 * 86_400
    world.record = DNS_FAILS
    return [world]


def error_of_ours() -> list[World]:
    world = World()
    world.policy_id = lambda domain: 1 / 0
    return [world]


def closing() -> list[World]:
    world = World(Failure(Cause.PROCESS, "no such process is running"))
    world.policies.close()
    return [world]


# What happened, as the page says it; the answer, as it says that; and a world where it does.
TABLE = [
    ("DNS says that there is no record, or the record is malformed", "``NOTFOUND``",
     answers(*(NoPolicy(cause) for cause in Cause if cause.by_record and cause is not Cause.DNS))),
    ("the policy host has no address, refuses, is silent, or has an invalid certificate; the policy"
     " is malformed", "``NOTFOUND``", answers(*FETCHES[:-1])),
    ("the domain's DNS fails", "``NOTFOUND``", answers(DNS_FAILS)),
    ("the proxy fails", "``NOTFOUND``", answers(FETCHES[-1])),
    ("the lookup was lost with the resolver process", "``TEMP``", answers(Failure(Cause.PROCESS))),
    ("no name server of this host answers: each is out of reach, silent, or refuses", FOR_AN_HOUR,
     answers(Failure(Cause.NAME_SERVERS), Failure(Cause.NAME_SERVERS, id="1"))),
    ("this host has no descriptors or memory left for the lookup", FOR_AN_HOUR,
     answers(Failure(Cause.NO_ROOM), Failure(Cause.NO_ROOM, id="1"))),
    ("this host has no CA certificates", FOR_AN_HOUR, answers(Failure(Cause.CA_STORE, id="1"))),
    ("the lookup failed, and the store cannot be read", FOR_AN_HOUR, store_away),
    ("DNS says that there is no record, and the store cannot be read", "``NOTFOUND``",
     store_away_and_no_record),
    ("the lookup failed, and a policy has ended by a clock that jumped within the last hour",
     FOR_AN_HOUR, ended_by_a_clock_that_jumped),
    ("internal error of the daemon", "``TEMP``", error_of_ours),
    ("the daemon is stopping", "``TEMP``", closing),
]  # fmt: skip


@dataclass
class Wire:
    """Answers requests about `DOMAIN` from a world, as bytes for Postfix."""

    world: World

    def ask(self) -> bytes:
        replies: list[bytes] = []
        wire = Answers(self.world.policies, Zone(), {})
        wire.look_up(b"zone " + DOMAIN.encode(), lambda reply: replies.append(self.kept(reply)))
        (reply,) = replies
        return reply

    def kept(self, reply) -> bytes:
        text = reply.data.partition(b":")[2]
        if text.startswith(b"TEMP "):
            assert reply.until <= self.world.ticks + FAULT_PAUSE, "never ready for longer"
            assert re.fullmatch(rb"TEMP [ -~]{10,100},", text), "a reason that Postfix logs whole"
        return text.partition(b" ")[0]


@pytest.mark.requirement("KEEP-4", "KEEP-5", "KEEP-15", "ANSWER-3", "WIRE-9")
@pytest.mark.parametrize(("happened", "says", "worlds"), TABLE, ids=[row[0] for row in TABLE])
def test_each_row(happened, says, worlds):
    then = [word.strip("`").encode() for word in re.findall("``[A-Z]+``", says)]
    for world in worlds():
        # At once, after most of an hour, and after all of it.
        found = [Wire(world).ask()]
        for seconds in (HOUR - 1, 1):
            found.append(Wire(world.later(seconds)).ask())
        assert found == [then[0], then[0], then[-1]], world.record


def test_the_page_has_these_rows_and_no_others():
    text = SECURITY.read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (.*(?:\n       .*)*)\n     - (.*)$", text, re.MULTILINE)
    on_the_page = [(" ".join(what.split()).lower(), answer) for what, answer in rows]
    assert on_the_page.pop(0)[1] == "Answer"
    assert on_the_page == [(what.lower(), answer) for what, answer, _ in TABLE]


@pytest.mark.parametrize("cause", list(Cause), ids=[cause.name for cause in Cause])
def test_each_cause_is_ours_or_the_domains(cause):
    """A new cause gets a row."""
    of_a_domain = {Cause.NO_RECORD, Cause.BAD_RECORD, Cause.SEVERAL_RECORDS, Cause.DNS}
    assert (cause in OF_CAUSE) is not (cause in {*of_a_domain, *OF_THE_HOST})


def test_each_fault_has_a_patience():
    assert set(PATIENCE) == set(Fault)
    assert set(OF_CAUSE.values()) <= set(faults._ENDED_BY)


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.TESTING, Mode.NONE])
@pytest.mark.parametrize("record", [Failure(Cause.PROCESS), DNS_FAILS])
def test_what_is_in_force_stays_whatever_fails(mode, record):
    world = World("1", policy(mode))
    world.ask()
    world.record = record
    world.store.unread_since = world.ticks
    for _ in range(48):
        assert world.later(HOUR).ask().policy.mode is mode
    assert world.ask().unknown is None


# What the faults are read from


@pytest.mark.parametrize("result", [NO_RECORD, DNS_FAILS, "1", policy()])
def test_a_lookup_that_ends_shows_that_the_process_works(result):
    assert Fault.PROCESS in faults.ended_by(result)
    assert faults.begun_by(result) is None


IN_TURN = (Fault.NAME_SERVERS, Fault.NO_ROOM, Fault.CA_STORE, Fault.PROXY)
ENDS = [
    # how a lookup ended, which of these faults that shows to be over
    (NO_RECORD, "yes yes no no"),
    (DNS_FAILS, "yes yes no no"),
    ("1", "yes yes no no"),
    (NotChanged("1"), "yes yes no no"),
    (Failure(Cause.ADDRESS), "yes yes yes no"),
    (Failure(Cause.CONNECT), "no yes yes no"),
    (Failure(Cause.PROXY), "no yes yes no"),
    (UNFETCHABLE, "no yes yes yes"),
    (policy(), "yes yes yes yes"),
    (Failure(Cause.CA_STORE), "no yes no no"),
    (Failure(Cause.NAME_SERVERS), "no yes no no"),
    (Failure(Cause.NO_ROOM), "no no no no"),
    (Failure(Cause.PROCESS), "no no no no"),
]


@pytest.mark.parametrize(("result", "over"), ENDS, ids=str)
def test_what_shows_that_a_fault_is_over(result, over):
    ended = faults.ended_by(result)
    assert " ".join("yes" if fault in ended else "no" for fault in IN_TURN) == over


def test_one_that_is_lost_shows_that_it_does_not():
    lost = Failure(Cause.PROCESS)
    assert faults.ended_by(lost) == frozenset()
    assert faults.begun_by(lost) is Fault.PROCESS
