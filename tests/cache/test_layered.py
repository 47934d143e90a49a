"""Memory in front of a store: asked seldom, missed never, gone on without while it fails."""

import logging

import pytest

from stsresolver.cache.layered import PAUSE, READ_PAUSE, LayeredStore
from stsresolver.cache.memory import MemoryStore
from stsresolver.cache.store import StoreError
from tests.cache.test_store import NOW, StoreContract, entry
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
            if self.fails or (self.full and name in ("put", "touch", "remove", "lease", "purge")):
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
    behind.store.remove(entry())
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
