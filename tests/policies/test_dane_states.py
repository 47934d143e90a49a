"""DANE states: how long they hold, what follows a failure, who shares a lookup, what is logged."""

from __future__ import annotations

import logging

import pytest

from stsresolver.dane.states import Dane, DaneHost, HostState, MxState, Verdict
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.mta_sts.results import Cause, Failure
from stsresolver.policies.dane_states import DaneStates, following
from tests.support.clock import Clock

HOP = NextHop("example.com")
MX = DaneHost("mx.example.com", HostState.USABLE)
PLAIN = DaneHost("plain.example.com", HostState.NO_TLSA)
UNSEEN = DaneHost("unseen.example.com", HostState.NOT_AWAITED)
BY_DANE = Dane(MxState.SECURE, (MX,), ttl=300)
BY_POLICY = Dane(MxState.INSECURE, ttl=300)
UNKNOWN = Dane(MxState.FAILED, detail="SERVFAIL", ttl=300)
LOST = Failure(Cause.PROCESS)


class Lookups:
    """What is asked, and the way to answer it."""

    def __init__(self) -> None:
        self.asked = []

    def begin_dane(self, next_hop, done, *, whole=False):
        self.asked.append((next_hop, whole, done))

    def answer(self, result):
        _, _, done = self.asked.pop(0)
        done(result)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lookups():
    return Lookups()


@pytest.fixture
def states(lookups, clock):
    return DaneStates(lambda timeout: lookups, flush=lambda: None, clock=clock)


def known(states, hop=HOP):
    state = states.cached(hop, 4.0)
    return state and state.verdict


def learn(states, lookups, result, hop=HOP):
    answers = []
    states.ask(hop, 4.0, answers.append)
    lookups.answer(result)
    (state,) = answers
    return state


@pytest.mark.requirement("DANE-18", "DANE-20")
@pytest.mark.parametrize(
    ("results", "verdict", "seconds"),
    [
        ([BY_DANE], Verdict.DANE, 300),
        ([BY_POLICY], Verdict.POLICY, 300),
        ([UNKNOWN], Verdict.UNKNOWN, 5),
        ([UNKNOWN] * 2, Verdict.UNKNOWN, 10),
        ([UNKNOWN] * 4, Verdict.UNKNOWN, 40),
        ([UNKNOWN] * 5, Verdict.UNKNOWN, 60),
        ([UNKNOWN] * 2000, Verdict.UNKNOWN, 60),
        ([UNKNOWN, BY_DANE], Verdict.DANE, 300),
        ([LOST], Verdict.UNKNOWN, 1),
        ([UNKNOWN, LOST], Verdict.UNKNOWN, 1),
        ([UNKNOWN, LOST, UNKNOWN], Verdict.UNKNOWN, 10),
    ],
    ids=str,
)
def test_how_long_a_state_holds(results, verdict, seconds):
    state, now = None, 1000.0
    for result in results:
        now = state.until if state else now
        state = following(HOP, state, result, now)
    assert (state.verdict, state.until) == (verdict, now + seconds)


def test_what_is_known_outlives_a_failed_renewal_until_its_end():
    state = following(HOP, None, BY_DANE, 1000.0)
    assert following(HOP, state, UNKNOWN, 1299.0) is state
    assert following(HOP, state, LOST, 1299.0) is state
    assert following(HOP, state, UNKNOWN, 1300.0).verdict is Verdict.UNKNOWN


def test_one_lookup_for_all_that_wait(states, lookups):
    answers = []
    for _ in range(3):
        states.ask(HOP, 4.0, answers.append)
    assert len(lookups.asked) == 1
    lookups.answer(BY_DANE)
    assert [state.verdict for state in answers] == [Verdict.DANE] * 3
    states.ask(HOP, 4.0, answers.append)
    assert len(answers) == 4
    assert lookups.asked == []


def test_an_answer_that_fails_keeps_nobody_else_waiting(states, lookups, caplog):
    def fail(state):
        raise RuntimeError

    answers = []
    states.ask(HOP, 4.0, fail)
    states.ask(HOP, 4.0, answers.append)
    lookups.answer(BY_DANE)
    assert len(answers) == 1
    assert "internal error while giving an answer" in caplog.text


def test_a_state_ends_with_its_time(states, lookups, clock):
    learn(states, lookups, BY_DANE)
    assert known(states) is Verdict.DANE
    clock.later(299.9)
    assert known(states) is Verdict.DANE
    clock.later(0.1)
    assert known(states) is None
    assert learn(states, lookups, BY_POLICY).verdict is Verdict.POLICY


def test_port_brackets_and_timeout_tell_states_apart(states, lookups):
    learn(states, lookups, BY_DANE)
    for other in NextHop("example.com", port="587"), NextHop("example.com", is_host=True):
        assert states.cached(other, 4.0) is None
    assert states.cached(HOP, 9.0) is None


def test_forgotten_with_the_domain(states, lookups):
    submission = NextHop("example.com", port="587")
    other = NextHop("other.example")
    for hop in HOP, submission, other:
        learn(states, lookups, BY_POLICY, hop)
    states.forget("example.com")
    assert [known(states, hop) for hop in (HOP, submission, other)] == [None, None, Verdict.POLICY]
    assert len(states) == 1
    states.clear()
    assert len(states) == 0
    assert known(states, other) is None


def test_a_client_that_asks_for_all_ports_fills_no_memory(states, lookups):
    for port in range(1, 1000):
        learn(states, lookups, BY_POLICY, NextHop("example.com", port=str(port)))
    assert len(states) < 100
    learn(states, lookups, BY_DANE)
    assert known(states) is Verdict.DANE


def test_renewed_though_it_holds(states, lookups):
    submission = NextHop("example.com", port="587")
    states.renew("example.com")
    assert lookups.asked == []
    for hop in HOP, submission:
        learn(states, lookups, BY_DANE, hop)
        lookups.asked.clear()
    states.renew("example.com")
    assert [hop for hop, *_ in lookups.asked] == [HOP, submission]
    lookups.answer(BY_POLICY)
    lookups.answer(BY_DANE)
    assert [known(states, hop) for hop in (HOP, submission)] == [Verdict.POLICY, Verdict.DANE]


def test_no_state_holds_for_more_than_a_day(states, lookups, clock):
    learn(states, lookups, Dane(MxState.INSECURE, ttl=2**31))
    clock.later(86_399)
    assert known(states) is Verdict.POLICY
    clock.later(1)
    assert known(states) is None


def test_all_hosts_are_looked_at_once_a_day(states, lookups, clock, caplog):
    for _ in range(3):
        learn(states, lookups, Dane(MxState.SECURE, (MX, UNSEEN), ttl=300))
        if lookups.asked:
            assert lookups.asked[0][:2] == (HOP, True)
            lookups.answer(Dane(MxState.SECURE, (MX, PLAIN), ttl=300))
        clock.later(300)
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    (warning,) = warnings
    assert "plain.example.com has no TLSA records" in warning.getMessage()
    clock.later(86_400)
    learn(states, lookups, Dane(MxState.SECURE, (MX, PLAIN), ttl=300))
    assert lookups.asked == []
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 2


def test_changes_are_logged_once(states, lookups, clock, caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    for result in BY_POLICY, BY_DANE, BY_DANE, UNKNOWN, UNKNOWN, BY_DANE, BY_POLICY, BY_POLICY:
        learn(states, lookups, result)
        clock.later(300)
    said = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert said == [
        "example.com: verified by DANE from now on",
        "example.com: not known whether DANE applies, mail waits: the MX records could not be"
        " looked up: SERVFAIL",
        "example.com: no DANE: by policy",
    ]
