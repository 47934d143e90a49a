"""Exempt domains, and zones that observe: `NOTFOUND `, and what the log and the counts say."""

from __future__ import annotations

import logging

import pytest

from stsresolver.config.settings import Zone
from stsresolver.dane.states import Verdict
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.policies.dane_states import DaneState
from stsresolver.policies.event_log import EventLog
from stsresolver.policies.faults import Fault
from stsresolver.policies.in_force import InForce
from stsresolver.socketmap.answer import Answers, Outcome, ReplyCounts
from stsresolver.socketmap.netstring import cut
from tests.support.clock import Clock

HEAD = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"
ENFORCE = parse_policy(HEAD.encode())
TESTING = parse_policy(HEAD.replace("enforce", "testing").encode())
SECURE = "OK secure match=mail.example.com servername=hostname"
NOT_FOUND = b"NOTFOUND "


class Policies:
    changes = 0

    def __init__(self, policy=ENFORCE, unknown=None):
        self.asked = []
        self._in_force = InForce(policy, 100.0, 0, unknown)

    def ask(self, domain, timeout, answer):
        self.asked.append(domain)
        answer(self._in_force)

    def cached(self, domain, timeout):
        return self._in_force


class States:
    """DANE, with this verdict."""

    def __init__(self, verdict):
        self._state = DaneState(NextHop("example.com"), verdict, "", 50.0)

    def ask(self, next_hop, timeout, answer):
        answer(self._state)

    def cached(self, next_hop, timeout):
        return self._state


def replied(answers, counts, request="postfix example.com"):
    replies = []
    answers.look_up(request.encode(), replies.append)
    (reply,) = replies
    (outcome,) = [kind for kind, one in counts.of("default_zone").items() if one is reply.count]
    return cut(reply.data)[0], outcome


OBSERVING = Zone(observe=True)


@pytest.mark.parametrize(
    ("policies", "zone", "verdict", "outcome", "would_be"),
    [
        (Policies(), OBSERVING, None, Outcome.WOULD_ENFORCE, SECURE),
        (Policies(), Zone(observe=True, dane=True), Verdict.DANE, Outcome.WOULD_ENFORCE,
         "OK dane-only"),
        (Policies(), Zone(observe=True, dane=True), Verdict.UNKNOWN, Outcome.WOULD_WAIT,
         "TEMP DNS does not say whether DANE applies to this next hop"),
        (Policies(None, Fault.PROCESS), OBSERVING, None, Outcome.WOULD_WAIT,
         "TEMP the resolver process failed"),
        (Policies(TESTING), OBSERVING, None, Outcome.NONE, None),
        (Policies(None), OBSERVING, None, Outcome.NONE, None),
    ],
)  # fmt: skip
def test_a_zone_that_observes(policies, zone, verdict, outcome, would_be, caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    counts = ReplyCounts()
    answers = Answers(policies, zone, {}, counts, verdict and States(verdict))
    for _ in range(3):
        assert replied(answers, counts) == (NOT_FOUND, outcome)
    assert cut(answers.cached(b"postfix example.com").data)[0] == NOT_FOUND
    said = [record.getMessage() for record in caplog.records]
    line = f"example.com: zone default_zone observes, would be: {would_be}"
    assert said == ([line] if would_be else [])


def test_what_a_zone_would_answer_is_logged_again_when_it_changes(caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    counts, events = ReplyCounts(), EventLog(Clock().monotonic)
    for policies in Policies(), Policies(), Policies(None, Fault.STORE), Policies():
        replied(Answers(policies, OBSERVING, {}, counts, None, events), counts)
    assert len(caplog.records) == 3


EXEMPT = Zone(exempt=("example.com", ".example.net"), exempt_file="file", dane=True)
FILES = {"file": frozenset({"example.org"}), "other": frozenset({"other.example"})}


@pytest.mark.parametrize(
    ("next_hop", "is_exempt"),
    [
        ("example.com", True),
        ("[Example.COM]:587", True),
        ("mail.example.com", False),
        ("mail.example.net", True),
        ("example.net", False),
        ("example.org", True),
        ("other.example", False),
    ],
)
def test_exempt_domains_are_not_looked_up(next_hop, is_exempt):
    counts, policies = ReplyCounts(), Policies()
    answers = Answers(policies, EXEMPT, {}, counts, States(Verdict.DANE), None, FILES)
    reply, outcome = replied(answers, counts, f"postfix {next_hop}")
    now = cut(answers.cached(f"postfix {next_hop}".encode()).data)[0]
    if is_exempt:
        assert (reply, outcome, now) == (NOT_FOUND, Outcome.EXEMPT, NOT_FOUND)
        assert policies.asked == []
    else:
        assert (reply, outcome, now) == (b"OK dane-only", Outcome.DANE, b"OK dane-only")


def test_another_zone_exempts_nothing():
    counts = ReplyCounts()
    answers = Answers(Policies(), EXEMPT, {"strict": Zone()}, counts, None, None, FILES)
    replies = []
    answers.look_up(b"strict example.com", replies.append)
    assert cut(replies[0].data)[0] == SECURE.encode()


def test_each_is_warned_of_once_a_day(caplog):
    clock = Clock()
    counts, events = ReplyCounts(), EventLog(clock.monotonic)
    answers = Answers(Policies(), EXEMPT, {}, counts, None, events, FILES)
    for hours in range(49):
        replied(answers, counts)
        if not hours:
            replied(answers, counts, "postfix a.example.net")
        clock.later(3600)
    assert [record.getMessage() for record in caplog.records] == [
        "example.com: exempt by example.com, so its mail is not protected",
        "a.example.net: exempt by .example.net, so its mail is not protected",
        "example.com: exempt by example.com, so its mail is not protected",
        "example.com: exempt by example.com, so its mail is not protected",
    ]
