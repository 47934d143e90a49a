"""The negative cache: paused policy ids, of each domain a few, and tables that stay bounded."""

from __future__ import annotations

import pytest

from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause, Failure
from stsresolver.policies import negative_cache
from stsresolver.policies.misses import FETCH_PAUSE, Miss, Pause
from stsresolver.policies.negative_cache import NegativeCache

KEY = "example.com", 4.0
FAILED = Failure(Cause.STATUS, "404")
NOW = 5_000.0


def pause(policy_id, failure=FAILED, at=NOW):
    return Pause(policy_id, failure, at + FETCH_PAUSE)


def pauses(cache, key=KEY, now=NOW):
    _, found, _ = cache.get(key, now)
    return found


def ids(cache, key=KEY, now=NOW):
    return [one.id for one in pauses(cache, key, now)]


@pytest.fixture
def cache():
    return NegativeCache()


def test_an_id_rests_until_the_pause_is_over(cache):
    cache.pause(KEY, pause("1"))
    cache.pause(KEY, pause("2", at=NOW + 1))
    assert ids(cache) == ["1", "2"]
    assert ids(cache, now=NOW + FETCH_PAUSE) == ["2"]
    assert ids(cache, now=NOW + FETCH_PAUSE + 1) == []


def test_an_id_that_fails_again_rests_once_with_its_last_failure(cache):
    again = Failure(Cause.CONNECT, "refused")
    for policy_id, failure in ("1", FAILED), ("2", FAILED), ("1", again):
        cache.pause(KEY, pause(policy_id, failure))
    assert pauses(cache) == (pause("2"), pause("1", again))


def test_what_rests_is_kept_by_domain_and_timeout(cache):
    cache.pause(KEY, pause("1"))
    for other in ("example.com", 8.0), ("example.net", 4.0):
        assert ids(cache, other) == []


def test_of_many_ids_the_last_rest(cache):
    for number in range(100):
        cache.pause(KEY, pause(str(number)))
    assert ids(cache) == [str(number) for number in range(92, 100)]


def test_of_many_domains_the_last_are_remembered(monkeypatch):
    monkeypatch.setattr(negative_cache, "_MAX_MISSES", 10)
    cache = NegativeCache()
    for number in range(100):
        cache.pause((f"{number}.example", 4.0), pause("1"))
    assert [n for n in range(100) if ids(cache, (f"{n}.example", 4.0))] == list(range(90, 100))


def test_a_mode_that_ended_is_known_in_every_zone_until_a_lookup_follows(cache):
    cache.lapse("example.com", Mode.ENFORCE)
    for timeout in 4.0, 8.0:
        assert cache.get(("example.com", timeout), NOW) == (None, (), Mode.ENFORCE)
    cache.lapse("example.com", None)
    assert cache.get(KEY, NOW) == (None, (), None)


def test_nothing_is_left_of_a_domain_that_is_forgotten(cache):
    cache.remember(KEY, Miss(FAILED, NOW, NOW + 60))
    cache.pause(KEY, pause("1"))
    cache.lapse("example.com", Mode.ENFORCE)
    cache.forget("example.com")
    assert cache.get(KEY, NOW) == (None, (), None)
