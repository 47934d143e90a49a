"""What every store must do. A store is tested by a subclass of `StoreContract` that makes one."""

import logging
import threading
from dataclasses import replace

import pytest

from stsresolver.cache.clock import STEADY
from stsresolver.cache.entry import CLOCK_SKEW, KEPT, Entry
from stsresolver.cache.layered import LayeredStore
from stsresolver.cache.memory import MemoryStore
from stsresolver.config.settings import ProactiveSettings
from stsresolver.mta_sts.policy import Mode, Policy
from stsresolver.policies.proactive import Proactive
from tests.support.clock import Clock

NOW = 1_800_000_000.0
DAY = 86_400.0
TEXT = ("version: STSv1", "mode: enforce", "mx: mail.example.com", "max_age: 604800")
NEVER = "\n".join((*TEXT[:3], "max_age: 0"))
POLICY = Policy(Mode.ENFORCE, ("mail.example.com",), 604_800, "\n".join(TEXT))


def entry(domain="example.com", fetched=NOW, **changes):
    return replace(
        Entry(domain, "1", POLICY, fetched, fetched, fetched // DAY * DAY, fetched + DAY), **changes
    )


def proactive(store, clock):
    """Return what removes entries from the store by this clock."""
    return Proactive(
        LayeredStore(MemoryStore(10), store, grace=60.0, clock=clock),
        None,
        settings=ProactiveSettings(enabled=False),
        behind=None,
        timeout=4.0,
        clock=clock,
    )


def pass_time(clock, rounds, seconds):
    """Let time pass, with a round each ten minutes and at the end."""
    rounds.round()
    while seconds > 0:
        clock.later(min(seconds, 600))
        seconds -= 600
        rounds.round()


class StoreContract:
    """The tests that every store passes. `store` is a fixture of the subclass."""

    def test_what_is_put_is_there(self, store):
        one, other = entry(), entry("example.net", failed=NOW, failure="404")
        store.put(one, NOW)
        store.put(other, NOW)
        assert store.get("example.com") == one
        assert store.get("example.net") == other
        assert store.get("example.org") is None

    @pytest.mark.requirement("LIB-11")
    def test_a_later_fetch_takes_the_place(self, store):
        store.put(entry(), NOW)
        later = entry(fetched=NOW + 1, id="2")
        store.put(later, NOW + 1)
        assert store.get("example.com") == later

    @pytest.mark.requirement("LIB-11")
    def test_an_earlier_fetch_does_not(self, store):
        store.put(entry(), NOW)
        store.put(entry(fetched=NOW - 1, id="0"), NOW)
        assert store.get("example.com") == entry()

    @pytest.mark.requirement("LIB-11")
    def test_an_entry_from_the_future_gives_way(self, store):
        ahead = entry(fetched=NOW + CLOCK_SKEW + 1)
        store.put(ahead, NOW)
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()

    def test_a_little_ahead_is_not_the_future(self, store):
        ahead = entry(fetched=NOW + CLOCK_SKEW)
        store.put(ahead, NOW)
        store.put(entry(), NOW)
        assert store.get("example.com") == ahead

    def test_touch_changes_what_is_there(self, store):
        store.put(entry(), NOW)
        touched = entry(checked=NOW + 60, asked=NOW, failed=NOW + 60, failure="SERVFAIL")
        store.touch(touched)
        assert store.get("example.com") == touched

    def test_touch_of_a_replaced_entry_changes_nothing(self, store):
        store.put(entry(), NOW)
        later = entry(fetched=NOW + 1, id="2")
        store.put(later, NOW + 1)
        store.touch(entry(checked=NOW + 60))
        assert store.get("example.com") == later

    def test_touch_of_what_is_gone_brings_nothing_back(self, store):
        store.touch(entry())
        assert store.get("example.com") is None

    @pytest.mark.requirement("KEEP-17")
    @pytest.mark.parametrize("max_age", [0, 60])
    def test_what_was_withdrawn_is_not_put_back(self, store, max_age):
        """`max_age: 0`, or a policy of mode none that has ended since."""
        text = f"version: STSv1\nmode: none\nmax_age: {max_age}"
        store.put(entry(), NOW)
        none = entry(fetched=NOW + 10, policy=Policy(Mode.NONE, (), max_age, text)).over()
        store.put(none, NOW + 10)
        later = NOW + DAY
        assert store.purge(later - KEPT, 10) == 0
        store.put(entry(), later)
        store.touch(entry(checked=later))
        assert store.get("example.com") == none
        assert store.due(later, 10) == []
        store.put(entry(fetched=later), later)
        assert store.get("example.com") == entry(fetched=later), "a new policy may follow"

    @pytest.mark.requirement("KEEP-17")
    def test_another_process_does_not_put_it_back(self, store):
        clock = Clock(NOW)
        holds = LayeredStore(MemoryStore(10), store, grace=60.0, clock=clock)
        learns = LayeredStore(MemoryStore(10), store, grace=60.0, clock=clock)
        learns.put(entry(), NOW)
        assert holds.get("example.com") == entry()
        clock.later(30)
        gone = entry(fetched=clock.now, policy=replace(POLICY, max_age=0, body=NEVER)).over()
        learns.put(gone, clock.now)
        clock.later(30)
        assert holds.get("example.com") == gone, "within grace"
        holds.catch_up()
        assert store.get("example.com") == gone

    @pytest.mark.parametrize(
        ("changes", "due", "why"),
        [
            ({}, False, "a day from now"),
            ({"due": NOW + 0.5}, False, "a moment from now"),
            ({"due": NOW}, True, "now"),
            ({"due": 0.0}, True, "long ago"),
            ({"fetched": NOW + CLOCK_SKEW + 1, "due": NOW + 2 * DAY}, True, "from the future"),
            ({"fetched": NOW + CLOCK_SKEW, "due": NOW + 2 * DAY}, False, "a little ahead"),
        ],
    )
    def test_due(self, store, changes, due, why):
        one = entry(**changes)
        store.put(one, NOW)
        assert store.due(NOW, 10) == ([one] if due else []), why

    def test_due_moves_with_touch_and_with_a_later_fetch(self, store):
        store.put(entry(due=NOW), NOW)
        store.put(entry("example.net", due=NOW), NOW)
        store.touch(entry(due=NOW + 60))
        store.put(entry("example.net", fetched=NOW + 1, due=NOW + 90), NOW + 1)
        assert store.due(NOW, 10) == []
        assert [one.domain for one in store.due(NOW + 60, 10)] == ["example.com"]

    def test_the_longest_due_come_first(self, store):
        for number in (3, 1, 4, 0, 2):
            store.put(entry(f"{number}.example", due=NOW - 10 + number), NOW)
        assert [one.domain[0] for one in store.due(NOW, 3)] == ["0", "1", "2"]
        assert len(store.due(NOW, 100)) == 5

    def test_make_due_makes_every_entry_due_once(self, store):
        for number in range(5):
            store.put(entry(f"{number}.example", due=NOW + 10 + number), NOW)
        store.make_due(NOW)
        found = store.due(NOW, 10)
        assert sorted(one.domain[0] for one in found) == ["0", "1", "2", "3", "4"]
        store.touch(replace(found[0], due=NOW + 60))
        assert len(store.due(NOW, 10)) == 4
        assert store.get(found[1].domain).policy == found[1].policy

    def test_make_due_of_nothing(self, store):
        store.make_due(NOW)
        assert store.due(NOW, 10) == []

    def test_purge(self, store):
        for number in range(10):
            store.put(entry(f"{number}.example", fetched=NOW - 604_800 + number // 6), NOW)
        assert store.purge(NOW, 4) == 4
        assert store.purge(NOW, 4) == 2
        assert store.purge(NOW, 4) == 0
        assert [bool(store.get(f"{number}.example")) for number in range(10)].count(True) == 4

    @pytest.mark.requirement("KEEP-16")
    @pytest.mark.parametrize(
        ("steady", "ahead", "lasting"),
        [(0, 730 * DAY, STEADY - 60), (2 * STEADY, 8 * DAY + KEPT, 20), (STEADY, 100 * DAY, 1800)],
        ids=["at boot", "for some seconds", "for half an hour"],
    )
    def test_a_clock_that_is_ahead_removes_nothing(self, store, steady, ahead, lasting):
        clock = Clock(NOW)
        rounds = proactive(store, clock)
        for number in range(5):
            store.put(entry(f"{number}.example"), NOW)
        pass_time(clock, rounds, steady)
        clock.now += ahead
        pass_time(clock, rounds, lasting)
        clock.now -= ahead
        pass_time(clock, rounds, 2 * STEADY)
        assert all(store.get(f"{number}.example") for number in range(5))

    @pytest.mark.requirement("KEEP-16")
    def test_what_has_ended_is_removed_by_a_clock_that_is_believed(self, store, caplog):
        caplog.set_level(logging.INFO, "stsresolver")
        clock = Clock(NOW)
        rounds = proactive(store, clock)
        for number in range(5):
            store.put(entry(f"{number}.example", fetched=NOW - 8 * DAY - KEPT), NOW)
        store.put(entry(), NOW)
        pass_time(clock, rounds, STEADY - 60)
        assert store.get("0.example") is not None
        pass_time(clock, rounds, 60)
        assert not any(store.get(f"{number}.example") for number in range(5))
        assert store.get("example.com") is not None
        assert caplog.messages == ["removed 5 policies that ended more than a month ago"]

    def test_scan_gives_every_entry_once(self, store):
        assert [*store.scan(3)] in ([], [[]])
        for number in range(10):
            store.put(entry(f"{number}.example", fetched=NOW - number), NOW)
        batches = list(store.scan(3))
        assert all(len(batch) <= 10 for batch in batches)
        found = sorted((one for batch in batches for one in batch), key=lambda one: one.domain)
        assert found == [entry(f"{number}.example", fetched=NOW - number) for number in range(10)]

    @pytest.mark.parametrize(
        ("until", "left", "why"),
        [
            (NOW - 0.5, True, "it was fetched later"),
            (NOW, False, "then"),
            (NOW + 1, False, "it was fetched earlier"),
        ],
    )
    def test_revoke(self, store, until, left, why):
        store.put(entry(), NOW)
        store.put(entry("example.net"), NOW)
        store.revoke("example.com", until)
        assert bool(store.get("example.com")) is left, why
        assert store.get("example.net") is not None
        assert store.due(NOW + DAY, 10) == [*[entry()] * left, entry("example.net")]

    def test_revoke_of_what_is_not_there(self, store):
        store.revoke("example.com", NOW)
        store.put(entry(fetched=NOW + 1), NOW + 1)
        assert store.get("example.com") == entry(fetched=NOW + 1), "fetched since"

    def test_revoked(self, store):
        for domain, until in (("a.org", NOW), ("b.org", NOW + 10), ("a.org", NOW + 5)):
            store.revoke(domain, until)
        store.revoke("a.org", NOW)
        everything = [("a.org", NOW + 5), ("b.org", NOW + 10)]
        assert store.revoked(0.0) == everything
        assert store.revoked(NOW + 5) == everything
        assert store.revoked(NOW + 6) == [("b.org", NOW + 10)]
        store.revoke("c.org", NOW + 400 * DAY)
        assert store.revoked(0.0) == [("c.org", NOW + 400 * DAY)], "nobody has what is older"

    def test_lease(self, store):
        assert store.lease("a", 60.0, NOW)
        assert store.lease("a", 60.0, NOW + 30), "prolonged"

    @pytest.mark.requirement("LIB-7")
    def test_many_threads(self, store):
        """Each domain ends with the entry that was fetched last, whoever was first."""
        errors = []

        def work(number):
            try:
                for step in range(50):
                    one = entry(f"{step % 5}.example", fetched=NOW + (step * 7 + number) % 60)
                    store.put(one, NOW + 60)
                    found = store.get(one.domain)
                    assert found is not None
                    assert found.fetched >= one.fetched
                    store.touch(replace(found, checked=NOW + step))
                    store.due(NOW, 3)
            except BaseException as error:
                errors.append(error)
                raise

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        store = MemoryStore(1000)
        yield store
        store.close()

    def test_the_least_recently_used_goes_first(self):
        store = MemoryStore(2)
        store.put(entry("a.example"), NOW)
        store.put(entry("b.example"), NOW)
        store.get("a.example")
        store.put(entry("c.example"), NOW)
        assert store.get("b.example") is None
        assert store.get("a.example") is not None

    def test_a_large_policy_takes_the_place_of_several(self):
        store = MemoryStore(100)
        mx = tuple(f"{number:x}.bc" for number in range(6000))
        large = replace(POLICY, mx=mx, body="mx:0.bc\n" * 6000)
        for number in range(10):
            store.put(entry(f"{number}.example", policy=large), NOW)
        kept = [number for number in range(10) if store.get(f"{number}.example")]
        assert kept == [9]
        store.put(entry(), NOW)
        assert store.get("example.com") is not None

    def test_the_largest_policy_fits_the_smallest_cache(self):
        store = MemoryStore(1)
        store.put(entry(policy=replace(POLICY, body="x" * 65_536)), NOW)
        assert store.get("example.com") is not None


def test_looking_for_what_is_due_does_not_change_what_was_used_last():
    store = MemoryStore(3)
    for name in ("a", "b", "c"):
        store.put(entry(f"{name}.example"), NOW)
    store.get("a.example")
    assert store.due(NOW, 10) == []
    assert store.purge(NOW, 10) == 0
    store.put(entry("d.example"), NOW)
    assert store.get("a.example") is not None
    assert store.get("b.example") is None
