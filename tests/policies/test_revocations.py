"""Which revocations in the store are news, and how often the store is asked."""

from __future__ import annotations

import threading

import pytest

from stsresolver.cache.entry import CLOCK_SKEW
from stsresolver.policies.renewal_times import RenewalTimes
from stsresolver.policies.revocation_watch import LEAST, MOST, RevocationWatch
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


class Policies:
    """Counts how often it is to look; the first time fails."""

    def __init__(self, grace: float) -> None:
        self.times = RenewalTimes(grace)
        self.looks = 0
        self.third = threading.Event()

    def notice_revoked(self) -> None:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("a bug")
        if self.looks == 3:
            self.third.set()


@pytest.mark.parametrize(("grace", "pause"), [(60.0, MOST), (8.0, 4.0), (0.0, LEAST)])
def test_the_store_is_asked_within_grace(grace, pause):
    assert RevocationWatch(Policies(grace))._pause() == pause


def test_no_error_ends_the_watch(caplog):
    policies = Policies(grace=0.0)
    watch = RevocationWatch(policies)
    watch.start()
    assert policies.third.wait(10)
    watch.stop()
    assert "internal error while looking for what was revoked" in caplog.text
