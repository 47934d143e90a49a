"""What is remembered of lookups that failed: policy ids that rest, of each domain a few."""

from __future__ import annotations

import pytest

from stsresolver.mta_sts.results import Cause, Failure
from stsresolver.policies import negative_cache
from stsresolver.policies.negative_cache import FETCH_PAUSE, NegativeCache

KEY = "example.com", 4.0
FAILED = Failure(Cause.STATUS, "404")


class Clock:
    ticks = 5_000.0

    def time(self):
        return self.monotonic()

    def monotonic(self):
        return self.ticks


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def remembered(clock):
    return NegativeCache(clock)


def test_an_id_rests_until_the_pause_is_over(remembered, clock):
    remembered.pause(KEY, "1", FAILED)
    clock.ticks += 1
    remembered.pause(KEY, "2", FAILED)
    assert remembered.paused_ids(KEY) == ("1", "2")
    clock.ticks += FETCH_PAUSE - 1
    assert remembered.paused_ids(KEY) == ("2",)
    assert remembered.paused(KEY, "1") is None
    assert remembered.paused(KEY, "2") == FAILED
    clock.ticks += 1
    assert remembered.paused_ids(KEY) == ()
    assert remembered.paused(KEY, "2") is None


def test_an_id_that_fails_again_rests_once_with_its_last_failure(remembered):
    again = Failure(Cause.CONNECT, "refused")
    for policy_id, failure in ("1", FAILED), ("2", FAILED), ("1", again):
        remembered.pause(KEY, policy_id, failure)
    assert remembered.paused_ids(KEY) == ("2", "1")
    assert remembered.paused(KEY, "1") == again


def test_what_rests_is_kept_by_domain_and_timeout(remembered):
    remembered.pause(KEY, "1", FAILED)
    for other in ("example.com", 8.0), ("example.net", 4.0):
        assert remembered.paused_ids(other) == ()
        assert remembered.paused(other, "1") is None


def test_of_many_ids_the_last_rest(remembered):
    for number in range(100):
        remembered.pause(KEY, str(number), FAILED)
    assert remembered.paused_ids(KEY) == tuple(map(str, range(92, 100)))


def test_of_many_domains_the_last_are_remembered(monkeypatch, clock):
    monkeypatch.setattr(negative_cache, "_MAX_MISSES", 10)
    remembered = NegativeCache(clock)
    for number in range(100):
        remembered.pause((f"{number}.example", 4.0), "1", FAILED)
    kept = [n for n in range(100) if remembered.paused_ids((f"{n}.example", 4.0))]
    assert kept == list(range(90, 100))
