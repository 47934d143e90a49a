"""Which revocations in the store are news."""

from __future__ import annotations

from stsresolver.cache.entry import CLOCK_SKEW
from stsresolver.policies.revocations import Revocations

NOW = 1_800_000_000.0


def test_each_is_news_once():
    revocations = Revocations(NOW)
    first, second = ("a.org", NOW + 1), ("b.org", NOW + 2)
    assert revocations.since == NOW - CLOCK_SKEW, "clocks of hosts differ"
    assert revocations.news([first], NOW + 3) == [first]
    assert revocations.news([first, second], NOW + 3) == [second]
    assert revocations.news([first, second], NOW + 3) == []
    assert revocations.news([("a.org", NOW + 9)], NOW + 9) == [("a.org", NOW + 9)], "again"


def test_one_from_the_future_hides_none_of_the_meantime():
    revocations = Revocations(NOW)
    revocations.news([("a.org", NOW + 1e9)], NOW + 5)
    assert revocations.since == NOW + 5 - CLOCK_SKEW
    assert revocations.news([("a.org", NOW + 1e9)], NOW + 6) == []


def test_little_is_remembered():
    revocations = Revocations(NOW)
    for number in range(1000):
        revocations.news([("a.org", NOW + number)], NOW + number)
    assert len(revocations._seen) <= CLOCK_SKEW + 1
