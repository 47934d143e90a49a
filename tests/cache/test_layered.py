"""Memory in front of a store: asked seldom, missed never, gone on without while it fails."""

import logging
from dataclasses import replace

import pytest

from stsresolver.cache.entry import KEPT
from stsresolver.cache.layered import PAUSE, READ_PAUSE, LayeredStore
from stsresolver.cache.memory import MemoryStore
from stsresolver.cache.store import StoreError
from tests.cache.test_store import NOW, POLICY, StoreContract, entry
from tests.support.clock import Clock

GRACE = 60.0


class Fragile:
    """A store that counts what it is asked, and can be made to fail."""

    def __init__(self, store):
        self.store = store
        self.asked = []
        self.fails = False
        self.full = False
        self.unreadable = False

    def __getattr__(self, name):
        def call(*arguments):
            self.asked.append(name)
            if self.unreadable and name in ("get", "due"):
                raise StoreError("redis at 127.0.0.1: loading")
            if self.fails or (self.full and name in ("put", "touch", "lease", "purge")):
                raise StoreError("redis at 127.0.0.1: connection refused")
            return getattr(self.store, name)(*arguments)

        return call


class TestLayeredStore(StoreContract):
    @pytest.fixture
    def store(self):
        return LayeredStore(MemoryStore(1000), MemoryStore(1000), grace=0.0)


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def behind():
    return Fragile(MemoryStore(1000))


@pytest.fixture
def layered(clock, behind):
    return LayeredStore(MemoryStore(1000), behind, grace=GRACE, clock=clock)


def test_within_grace_the_store_is_not_asked(layered, clock, behind):
    layered.put(entry(), NOW)
    behind.asked.clear()
    clock.later(GRACE - 1)
    assert layered.get("example.com") == entry()
    assert behind.asked == []
    clock.later(1)
    assert layered.get("example.com") == entry()
    assert behind.asked == ["get"]


def test_what_another_process_has_fetched_is_taken(layered, clock, behind):
    layered.put(entry(), NOW)
    clock.later(GRACE)
    later = entry(fetched=NOW + 30, id="2")
    behind.store.put(later, NOW + 30)
    assert layered.get("example.com") == later
    assert layered.peek("example.com") == later


def test_what_another_process_has_checked_is_taken(layered, clock, behind):
    layered.put(entry(), NOW)
    clock.later(GRACE)
    checked = entry(checked=NOW + 30)
    behind.store.touch(checked)
    assert layered.get("example.com") == checked


def test_a_restart_finds_what_was_stored(clock, behind):
    behind.store.put(entry(), NOW)
    fresh = LayeredStore(MemoryStore(10), behind, grace=GRACE, clock=clock)
    assert fresh.peek("example.com") is None
    assert fresh.get("example.com") == entry()
    assert fresh.peek("example.com") == entry()


def test_peek_never_asks_the_store(layered, clock, behind):
    behind.store.put(entry(), NOW)
    assert layered.peek("example.com") is None
    assert behind.asked == []


def test_what_the_store_lost_is_written_again(layered, clock, behind):
    layered.put(entry(), NOW)
    behind.store = MemoryStore(10)
    clock.later(GRACE)
    assert layered.get("example.com") == entry()
    assert behind.store.get("example.com") == entry()


@pytest.mark.requirement("KEEP-14")
def test_while_it_fails_memory_goes_on_and_the_log_says_so_once(layered, clock, behind, caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    layered.put(entry(), NOW)
    behind.fails = True
    clock.later(GRACE)
    behind.asked.clear()
    for number in range(20):
        assert layered.get("example.com") == entry()
        layered.put(entry(f"{number}.example"), clock.now)
        assert layered.get("example.org") is None
        assert layered.due(NOW, 10) == []
        layered.catch_up()
        assert layered.purge(NOW, 10) == 0
        assert layered.lease("a", 10.0, NOW)
        layered.touch(entry())
    assert behind.asked == ["get"], "one try, then it is left alone"
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert "connection refused" in caplog.text


def test_it_is_tried_again_and_gets_what_it_missed(layered, clock, behind, caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    behind.fails = True
    layered.put(entry(), NOW)
    first = clock.ticks + PAUSE
    for _ in range(3):
        clock.later(PAUSE)
        assert layered.get("example.org") is None
        assert layered.unread_since == first
    behind.fails = False
    clock.later(PAUSE)
    assert layered.get("example.org") is None
    assert layered.unread_since is None
    assert layered.get("example.com") == entry(), "and now it is written, grace or not"
    assert behind.store.get("example.com") == entry()
    assert [one.levelname for one in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.requirement("KEEP-15")
def test_it_is_read_again_within_seconds(layered, clock, behind):
    behind.store.put(entry(), NOW)
    behind.fails = True
    assert layered.get("example.com") is None
    since = clock.ticks
    behind.asked.clear()
    for _ in range(10):
        clock.later(READ_PAUSE)
        for domain in ("example.com", "example.org", "example.net"):
            assert layered.get(domain) is None
        assert layered.unread_since == since, "the first read that failed"
    assert behind.asked == ["get"] * 10, "one that asks tries"
    behind.fails = False
    clock.later(READ_PAUSE)
    assert layered.get("example.com") == entry()
    assert layered.unread_since is None


def test_only_a_read_shows_that_it_can_be_read(layered, clock, behind):
    behind.unreadable = True
    layered.get("example.com")
    since = clock.ticks
    clock.later(PAUSE)
    layered.put(entry(), NOW)
    assert behind.store.peek("example.com") == entry()
    assert layered.unread_since == since
    behind.unreadable = False
    assert layered.get("example.org") is None
    assert layered.unread_since is None, "it is tried at once after a write"


def test_what_it_missed_is_written_though_nobody_asks(layered, clock, behind):
    """Else nothing would renew it, and the store's older entry would stay due for ever."""
    older = entry(fetched=NOW - 100, due=NOW - 100)
    behind.store.put(older, NOW)
    behind.fails = True
    for number in range(3):
        layered.put(entry(f"{number}.example"), NOW)
    layered.put(entry(), NOW)
    behind.fails = False
    clock.later(PAUSE)
    layered.catch_up()
    assert behind.store.get("example.com") == entry()
    assert all(behind.store.get(f"{number}.example") for number in range(3))
    assert layered.due(clock.now, 10) == []


def test_what_is_not_written_yet_is_not_pushed_out(clock, behind):
    """Else the store's older policy would follow a newer one."""
    small = LayeredStore(MemoryStore(3), behind, grace=GRACE, clock=clock)
    small.put(entry(), NOW)
    behind.full = True
    small.put(entry(fetched=NOW + 1, id="2"), NOW + 1)
    small.touch(entry(fetched=NOW + 1, id="2", checked=NOW + 2))
    for number in range(10):
        behind.store.put(entry(f"{number}.example"), NOW)
        small.get(f"{number}.example")
    newer = entry(fetched=NOW + 1, id="2", checked=NOW + 2)
    assert small.memory.peek("example.com") is None, "memory itself has let it go"
    assert small.peek("example.com") == small.get("example.com") == newer
    behind.full = False
    clock.later(PAUSE)
    small.catch_up()
    assert behind.store.get("example.com") == newer


def test_more_than_memory_holds_is_not_kept_unwritten(clock, behind, caplog):
    small = LayeredStore(MemoryStore(3), behind, grace=GRACE, clock=clock)
    behind.full = True
    for number in range(10):
        small.put(entry(f"{number}.example"), NOW)
    told = [one.getMessage() for one in caplog.records if "more than" in one.getMessage()]
    assert len(told) == 1
    assert "more than 3 policies could not be written to the policy cache" in told[0]
    behind.full = False
    clock.later(PAUSE)
    small.catch_up()
    found = [number for number in range(10) if behind.store.get(f"{number}.example")]
    assert found == [7, 8, 9], "the last ones"


def test_times_alone_take_no_place_from_what_is_unwritten(clock, behind):
    small = LayeredStore(MemoryStore(3), behind, grace=GRACE, clock=clock)
    small.put(entry("a.example"), NOW)
    behind.full = True
    small.put(entry("changed.example"), NOW)
    for _ in range(10):
        small.touch(entry("a.example", checked=NOW + 1))
    behind.full = False
    clock.later(PAUSE)
    small.catch_up()
    assert behind.store.get("changed.example") is not None
    assert behind.store.get("a.example").checked == NOW + 1


def test_what_is_renewed_pushes_nothing_out_of_memory(clock, behind):
    """What mail needs stays, however many policies are renewed that no mail asks for."""
    small = LayeredStore(MemoryStore(3), behind, grace=GRACE, clock=clock)
    for name in "abc":
        small.put(entry(f"{name}.example"), NOW)
    clock.later(GRACE)
    for number in range(10):
        domain = f"{number}.example"
        behind.store.put(entry(domain), NOW)
        assert small.get(domain, asked=False) == entry(domain)
        small.put(entry(domain, fetched=NOW + 1), NOW + 1, asked=False)
        small.touch(entry(domain, fetched=NOW + 1, checked=NOW + 2))
        assert behind.store.get(domain).checked == NOW + 2
    small.get("a.example", asked=False)
    small.put(entry("a.example", fetched=NOW + 1), NOW + 1, asked=False)
    assert small.peek("a.example").fetched == NOW + 1, "but memory is not older than the store"
    assert {one.domain[0] for (one,) in small.memory.scan(1)} == set("abc")
    # The one that mail asked for first is still the first to go.
    behind.store.put(entry("d.example"), NOW)
    small.get("b.example")
    small.get("c.example")
    small.get("d.example")
    assert {one.domain[0] for (one,) in small.memory.scan(1)} == set("bcd")


@pytest.mark.requirement("KEEP-17")
def test_what_memory_has_held_for_a_month_is_not_written_back(layered, clock, behind):
    """The store may have forgotten by now what had replaced it."""
    long_lived = entry(policy=replace(POLICY, max_age=365 * 86_400))
    layered.put(long_lived, NOW)
    behind.store = MemoryStore(10)
    clock.later(KEPT)
    assert layered.get("example.com") == long_lived, "it is in force all the same"
    assert behind.store.get("example.com") is None


def test_what_cannot_be_written_can_still_be_read(layered, clock, behind):
    behind.store.put(entry(), NOW)
    behind.full = True
    layered.put(entry("example.net"), NOW)
    assert layered.get("example.com") == entry()
    assert layered.unread_since is None


def test_what_can_be_read_but_not_written_has_failed_once(layered, clock, behind, caplog):
    """A full disk: reading goes on well, and does not show that it is over."""
    caplog.set_level(logging.INFO, "stsresolver")
    behind.full = True
    for number in range(5):
        layered.get(f"{number}.example")
        layered.put(entry(f"{number}.example"), clock.now)
        clock.later(PAUSE)
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    behind.full = False
    layered.get("a.example")
    layered.put(entry("a.example"), clock.now)
    assert [one.levelname for one in caplog.records] == ["WARNING", "INFO"]


def test_due_comes_from_memory_while_the_store_fails(layered, behind):
    layered.put(entry(due=NOW), NOW)
    behind.fails = True
    assert layered.due(NOW, 10) == [entry(due=NOW)]


def test_close_that_fails_is_logged(layered, behind, caplog):
    behind.fails = True
    layered.close()
    assert "connection refused" in caplog.text
