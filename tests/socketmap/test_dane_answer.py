"""DANE and a policy: which of them Postfix is told, and until when (RFC 8461 §2)."""

from __future__ import annotations

import math

import pytest

from stsresolver.config.settings import Zone
from stsresolver.dane.states import Verdict
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.policies.dane_states import DaneState
from stsresolver.policies.faults import Fault
from stsresolver.policies.in_force import InForce
from stsresolver.socketmap.answer import Answers, Outcome, ReplyCounts
from stsresolver.socketmap.netstring import cut

HEAD = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"
ENFORCE = parse_policy(HEAD.encode())
TESTING = parse_policy(HEAD.replace("enforce", "testing").encode())
SECURE = b"OK secure match=mail.example.com servername=hostname"
DANE = b"OK dane-only"
UNKNOWN = b"TEMP DNS does not say whether DANE applies to this next hop"
NOT_FOUND = b"NOTFOUND "


class Policies:
    changes = 0

    def __init__(self, policy, unknown=None):
        self.in_force = InForce(policy, 100.0, 0, unknown)

    def ask(self, domain, timeout, answer):
        answer(self.in_force)

    def cached(self, domain, timeout):
        return self.in_force


class States:
    def __init__(self, verdict, until=50.0):
        self.asked = []
        self._state = DaneState(NextHop("example.com"), verdict, "", until)

    def ask(self, next_hop, timeout, answer):
        self.asked.append((str(next_hop), timeout))
        answer(self._state)

    def cached(self, next_hop, timeout):
        return self._state if self._state.until else None


def replied(policies, states, zone, request=b"postfix example.com"):
    counts = ReplyCounts()
    answers = Answers(policies, zone, {}, counts, states)
    replies = []
    answers.look_up(request, replies.append)
    (reply,) = replies
    (outcome,) = [kind for kind, one in counts.of("default_zone").items() if one is reply.count]
    return cut(reply.data)[0], reply.until, outcome


ON = Zone(dane=True)
TABLE = [
    (ENFORCE, Verdict.DANE, ON, DANE, Outcome.DANE, 50.0, "DANE comes first"),
    (ENFORCE, Verdict.DANE, Zone(dane=True, tlsrpt=True), DANE, Outcome.DANE, 50.0, "as it is"),
    (ENFORCE, Verdict.POLICY, ON, SECURE, Outcome.POLICY, 50.0, "no DANE"),
    (ENFORCE, Verdict.UNKNOWN, ON, UNKNOWN, Outcome.TEMPORARY, 50.0, "no proof of absence"),
    (ENFORCE, Verdict.DANE, Zone(), SECURE, Outcome.POLICY, 100.0, "the option is off"),
    (TESTING, Verdict.DANE, ON, NOT_FOUND, Outcome.NONE, 100.0, "not enforced: Postfix's own"),
    (TESTING, Verdict.DANE, Zone(dane=True, strict_testing=True), DANE, Outcome.DANE, 50.0,
     "enforced by the zone"),
    (None, Verdict.DANE, ON, NOT_FOUND, Outcome.NONE, 100.0, "no policy: Postfix's own"),
]  # fmt: skip


@pytest.mark.requirement("DANE-19", "DANE-20")
@pytest.mark.parametrize(
    ("policy", "verdict", "zone", "reply", "outcome", "until", "why"),
    [pytest.param(*row, id=row[-1]) for row in TABLE],
)
def test_which_comes_first(policy, verdict, zone, reply, outcome, until, why):
    states = States(verdict)
    assert replied(Policies(policy), states, zone) == (reply, until, outcome), why
    # Asked for a policy to be enforced alone, and with the port.
    assert bool(states.asked) is (reply in (DANE, UNKNOWN) or (zone.dane and reply == SECURE))


@pytest.mark.requirement("DANE-21")
def test_the_earlier_end_counts():
    for policy_end, dane_end in ((100.0, 200.0), (200.0, 100.0)):
        policies = Policies(ENFORCE)
        policies.in_force = InForce(ENFORCE, policy_end, 0)
        for verdict in Verdict:
            _, until, _ = replied(policies, States(verdict, dane_end), ON)
            assert until == 100.0


def test_a_port_is_asked_for():
    states = States(Verdict.DANE)
    replied(Policies(ENFORCE), states, ON, b"postfix [mx.example.com]:587")
    assert set(states.asked) == {("[mx.example.com]:587", 4.0)}


def test_an_unknown_policy_is_not_overridden():
    reply, _, outcome = replied(Policies(None, Fault.STORE), States(Verdict.DANE), ON)
    assert (reply, outcome) == (b"TEMP the policy cache cannot be read", Outcome.TEMPORARY)


@pytest.mark.parametrize(
    ("verdict", "until", "expected"),
    [
        (Verdict.DANE, 50.0, DANE),
        (Verdict.POLICY, 50.0, SECURE),
        (Verdict.UNKNOWN, 50.0, UNKNOWN),
        (Verdict.DANE, 0.0, UNKNOWN),
    ],
    ids=["dane", "policy", "unknown", "not known in time"],
)
def test_what_is_said_in_time(verdict, until, expected):
    answers = Answers(Policies(ENFORCE), ON, {}, dane=States(verdict, until))
    assert cut(answers.cached(b"postfix example.com").data)[0] == expected


def test_without_states_mail_waits():
    reply, until, _ = replied(Policies(ENFORCE), None, Zone(dane=True))
    assert reply.startswith(b"TEMP ")
    assert until == -math.inf
