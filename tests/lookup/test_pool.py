"""Several resolver processes as one: when another is started, which one is asked."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from stsresolver.lookup import pool
from stsresolver.lookup.client import Ending
from stsresolver.lookup.messages import FETCH, POLICY_ID, RESOLVE
from stsresolver.lookup.pool import ResolverPool
from stsresolver.lookup.questions import Wanted
from stsresolver.lookup.supervisor import StartError
from stsresolver.mta_sts.policy import Mode, Policy
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from tests.support.waited import Waited


class Process:
    """A process that answers when it is told to. `all`: those of a test, in order."""

    all: list[Process]
    result = NoPolicy(Cause.NO_RECORD)
    computes = True
    refuses = False
    slow = False

    def __init__(self, resolver, died=None, tries=2, watch=None):
        self.settings = resolver
        self.ready = False
        self.pid = None
        self.losses = 0
        self.under_way = 0
        self.asked: list[str] = []
        self.closed = self.drains = self.ended = False
        self.last_ready = 0.0
        self.answers = False
        self._waiting = []
        Process.all.append(self)

    def start(self, persist=True):
        if Process.refuses and len(Process.all) > 1:
            Process.all.pop()
            raise StartError("it cannot be started: no room")
        self.ready, self.pid = not Process.slow, 1000 + len(Process.all)

    @property
    def cpu(self):
        """A core's whole time for ever, or none."""
        return time.monotonic() if self.computes else 0.0

    def drain(self):
        self.drains = True
        unsent, self._waiting = self._waiting, []
        self.under_way -= len(unsent)
        return unsent

    def close(self):
        self.closed = True
        self.answer()

    def ask(self, what, domain, timeout, known_ids, done):
        if self.drains:
            return False
        self.under_way += 1
        self.asked.append(domain)
        self._waiting.append(Wanted(what, domain, timeout, known_ids, done))
        return True

    def answer(self):
        self.answers = True
        self.flush()

    def flush(self):
        while self.answers and self._waiting:
            self.under_way -= 1
            self._waiting.pop().done(self.result)


@pytest.fixture
def several(monkeypatch):
    """Return what makes resolvers of at most so many processes."""
    monkeypatch.setattr(pool, "ResolverProcess", Process)
    monkeypatch.setattr(pool, "_LOOK", 0.0)
    monkeypatch.setattr(Process, "all", [], raising=False)
    monkeypatch.setattr(Process, "refuses", False)

    def make(most):
        monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: range(most))
        one = ResolverPool({"dns_port": 53})
        one.start()
        return one

    yield make
    for process in Process.all:
        process.answer()


def ask_many(one, number):
    for count in range(number):
        one.ask(POLICY_ID, f"{count}.example", 1.0, (), lambda result: None)


def test_few_lookups_need_one_process(several):
    one = several(4)
    ask_many(one, pool._MANY)
    assert one.running == len(Process.all) == 1
    one.close()
    assert Process.all[0].closed


def test_many_lookups_that_wait_need_one_process(several, monkeypatch):
    monkeypatch.setattr(Process, "computes", False)
    one = several(4)
    ask_many(one, 4 * pool._MANY)
    assert len(Process.all) == 1
    one.close()


def test_what_they_use_is_looked_at_over_some_time(several, monkeypatch):
    monkeypatch.setattr(pool, "_LOOK", 60.0)
    one = several(4)
    one._looked = time.monotonic()
    ask_many(one, 4 * pool._MANY)
    assert len(Process.all) == 1, "a moment tells nothing"
    one._looked -= 61.0
    ask_many(one, 1)
    assert len(Process.all) == 2
    one.close()


@pytest.mark.parametrize(
    ("seconds", "number", "why"),
    [
        (pool._BUSY - 0.1, 1, "it waits for much of the time"),
        (pool._BUSY + 0.1, 2, "it computes nearly all the time"),
    ],
)
def test_another_is_started_by_the_share_of_a_core(several, monkeypatch, seconds, number, why):
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: 1.0))
    monkeypatch.setattr(Process, "cpu", seconds)
    one = several(4)
    ask_many(one, pool._MANY + 1)
    assert len(Process.all) == number, why
    one.close()


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (2, 2), (3, 3), (64, 4)])
def test_many_lookups_start_others_one_for_each_core(several, cores, most):
    one = several(cores)
    ask_many(one, 64)
    assert one.running == len(Process.all) == most
    assert max(p.under_way for p in Process.all) <= 64 // most + pool._MANY
    one.close()
    assert all(process.closed for process in Process.all)


def test_one_that_is_not_ready_is_not_asked(several):
    one = several(2)
    ask_many(one, pool._MANY + 1)
    Process.all[1].ready = False
    ask_many(one, 4)
    assert Process.all[1].asked == []
    Process.all[1].ready = True
    ask_many(one, 4)
    assert len(Process.all[1].asked) == 4, "the one with the least to do"
    one.close()


def test_while_one_is_being_started_no_other_is(several, monkeypatch):
    monkeypatch.setattr(Process, "slow", True)
    one = several(4)
    ask_many(one, 2 * pool._MANY)
    assert len(Process.all) == 1
    Process.all[0].ready = True
    ask_many(one, 2 * pool._MANY)
    assert len(Process.all) == 2
    Process.all[1].ready = True
    ask_many(one, 4 * pool._MANY)
    assert len(Process.all) == 3
    one.close()


def test_one_that_cannot_be_started_is_tried_again_later(several, monkeypatch, caplog):
    one = several(4)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "refuses", True)
        ask_many(one, 3 * pool._MANY)
    assert one.running == len(Process.all) == 1
    (line,) = caplog.messages
    assert line == "it cannot be started: no room: not starting one more for a minute"
    ask_many(one, 1)
    assert one.running == 1, "not at once"
    one._not_before -= pool._AGAIN
    ask_many(one, 1)
    assert one.running == 2
    one.close()


def test_other_settings_are_for_those_to_come(several):
    one = several(3)
    ask_many(one, pool._MANY + 1)
    one.change({})
    assert [process.drains for process in Process.all] == [True, True, False]
    assert len(Process.all[2].asked) == pool._MANY + 1, "what the others had not sent"
    ask_many(one, pool._MANY)
    assert [process.settings for process in Process.all[2:]] == [{}] * 2
    one.close()
    assert all(process.closed for process in Process.all)


def test_the_same_settings_change_nothing(several):
    one = several(1)
    one.change({"dns_port": 53})
    assert len(Process.all) == 1
    one.close()


def test_other_settings_without_a_thread_for_them(several, monkeypatch, caplog):
    one = several(1)
    with monkeypatch.context() as patch:
        patch.setattr(Process, "refuses", True)
        one.change({})
    assert one.running == 1
    assert not Process.all[0].drains, "lookups go on"
    (line,) = caplog.messages
    assert line.endswith(": lookups go on by the old configuration: reload again")
    one.change({})
    assert Process.all[0].drains
    one.close()


def test_how_long_there_has_been_no_process(several, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = several(1)
    now[0] += 20.0
    assert one.absence == 20.0, "since the start, if none was ready yet"
    Process.all[0].last_ready = now[0]
    assert one.absence == 0.0
    now[0] += 30.0
    one.change({})
    assert one.absence == 30.0, "a reload is no help"
    Process.all[1].last_ready = now[0]
    assert one.absence == 0.0
    one.close()


def test_a_lookup_after_the_end_starts_nothing(several):
    one = several(2)
    one.close()
    Process.all[0].under_way = pool._MANY
    assert isinstance(Waited(one, 1.0).policy_id("a.example"), NoPolicy | Failure)
    assert len(Process.all) == 1


def test_what_is_counted_is_counted_once(several):
    one = several(1)
    Process.all[0].answers = True
    Process.all[0].losses = 3
    Waited(one, 1.0).policy_id("a.example")
    assert sum(one.endings.read().values()) == 1
    assert sum(sum(seconds.read()[0]) for seconds in one.seconds.values()) == 1
    assert one.losses == 3
    assert one.pid == 1001


POLICY = Policy(Mode.NONE, (), 1, "version: STSv1\nmode: none\nmax_age: 1")
AN_ID = Ending(POLICY_ID, "found", None)


@pytest.mark.parametrize(
    ("result", "ended"),
    [
        (Found(POLICY, "2"), [AN_ID, Ending(FETCH, "found", None)]),
        (NotChanged("1"), [AN_ID]),
        (Failure(Cause.TLS, id="2"), [AN_ID, Ending(FETCH, "failure", Cause.TLS)]),
        (Failure(Cause.DNS), [Ending(POLICY_ID, "failure", Cause.DNS)]),
        (Failure(Cause.PROCESS), [Ending(POLICY_ID, "failure", Cause.PROCESS)]),
        (NoPolicy(Cause.BAD_RECORD), [Ending(POLICY_ID, "none", Cause.BAD_RECORD)]),
    ],
    ids=repr,
)
def test_record_and_policy_are_counted_each_though_asked_for_at_once(several, result, ended):
    one = several(1)
    Process.all[0].answers = True
    Process.all[0].result = result
    assert Waited(one, 1.0).resolve("a.example", "1") == result
    assert {kind for kind, number in one.endings.read().items() if number} == set(ended)
    assert sum(one.endings.read().values()) == len(ended)
    counted = {what: sum(seconds.read()[0]) for what, seconds in one.seconds.items()}
    assert {what for what, number in counted.items() if number} == {RESOLVE}
    assert counted[RESOLVE] == 1
