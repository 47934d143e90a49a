"""The process's own memory in front of a store on disk or in the network.

An entry whose record was checked less than `grace` seconds ago is answered from memory. Otherwise
the store is read too, because another process may have renewed the policy meanwhile, and the later
entry wins. While the store fails, memory answers alone: the log says so once, and the store is
tried again after a pause. The pause is short where it cannot be read, because it may hold the
policy that mail waits for. Reading and writing fail apart: a full disk can still be read.

Mail alone fills the memory; a renewal changes what it has. A policy that could not be written is
kept until it is, or the older one in the store would follow it: as many of them as the memory has
room for. A warning says when there are more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

import cachetools

from ..counters import Tally
from .clock import Clock
from .entry import KEPT, Entry
from .memory import MemoryStore, weight
from .store import Store, StoreError

log = logging.getLogger(__name__)

# Seconds in which a store that could not be written is not tried again; one that could not be read.
PAUSE = 30.0
READ_PAUSE = 3.0
# Domains of which the store misses times that memory has; of more, it misses them for good.
_MAX_UNTOUCHED = 100_000

T = TypeVar("T")


class _Way:
    """One way to the store, reading or writing: since when it fails, and when it is tried again."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.failed_since: float | None = None
        self.again = 0.0

    @property
    def fails(self) -> bool:
        return self.failed_since is not None


class LayeredStore:
    """`memory` in front of `store`, as one `Cache`.

    What could not be written is written when its domain is next needed, or by `catch_up`.
    `reads`: what came of asking the store for an entry, "hit", "miss" or "failed".
    """

    def __init__(
        self, memory: MemoryStore, store: Store, *, grace: float, clock: Clock = time
    ) -> None:
        self.memory = memory
        self.reads = Tally(("hit", "miss", "failed"))
        self._store = store
        self.grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = _Way(READ_PAUSE)
        self._writing = _Way(PAUSE)
        self._closed = False
        # When it failed last, and whether the log has a warning that is not taken back yet.
        self._failed = -math.inf
        self._told = False
        # Entries that are not in the store, oldest first, and as how many they count.
        self._unwritten: dict[str, Entry] = {}
        self._weight = 0
        self._overflowed = False
        # Domains whose times are newer in memory than in the store.
        self._untouched: MutableMapping[str, None] = cachetools.LRUCache(_MAX_UNTOUCHED)

    # Its store does.
    blocks = True

    @property
    def unread_since(self) -> float | None:
        """Since when the store cannot be read (monotonic seconds), None while it can."""
        return self._reading.failed_since

    @property
    def readable(self) -> bool:
        """Whether reading the store did not fail when it was last tried."""
        return not self._reading.fails

    @property
    def writable(self) -> bool:
        """Whether writing to it did not."""
        return not self._writing.fails

    def peek(self, domain: str) -> Entry | None:
        """Return what memory has."""
        return self._kept(domain) or self.memory.peek(domain)

    def get(self, domain: str, *, asked: bool = True) -> Entry | None:
        """Return the entry of `domain`, the later of memory's and the store's."""
        known = self.memory.get(domain, asked=asked)
        now = self._clock.time()
        if not self._write_again(domain, now):
            return self._kept(domain) or known
        if known is not None and now < known.checked + self.grace:
            return known
        return self._try(self._reading, lambda: self._later(domain, known, now, asked), known)

    def look(self, domain: str) -> Entry | None:
        """Return what the store has, for somebody who only looks. Raise `StoreError`."""
        return self._store.get(domain)

    def put(self, entry: Entry, now: float, *, asked: bool = True) -> None:
        """Keep `entry` in both; in memory only in the place of another, if mail did not ask."""
        if asked:
            self.memory.put(entry, now)
        else:
            self.memory.replace(entry, now)
        self._store_put(entry, now)

    def touch(self, entry: Entry) -> None:
        """Update an entry in both."""
        self.memory.touch(entry)
        kept = self._kept(entry.domain)
        if kept is not None and kept.fetched == entry.fetched:
            self._store_put(entry, self._clock.time())
            return

        def write() -> bool:
            self._store.touch(entry)
            return True

        if not self._change(write, otherwise=False):
            with self._lock:
                self._untouched[entry.domain] = None

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield what is in the store, and what is newer in memory; memory alone if it fails."""
        with self._lock:
            newer = dict.fromkeys(self._untouched) | self._unwritten
        for domain, kept in newer.items():
            newer[domain] = kept or self.memory.get(domain, asked=False)
        try:
            for entries in self._store.scan(some):
                yield [entry for entry in entries if newer.get(entry.domain) is None]
        except StoreError as error:
            log.debug("%s", error)
            yield from self.memory.scan(some)
            return
        yield [entry for entry in newer.values() if entry is not None]

    def revoke(self, domain: str, until: float) -> None:
        """Revoke in both. Raise `StoreError` if the store does not take it."""
        self.memory.revoke(domain, until)
        with self._lock:
            kept = self._unwritten.get(domain)
            if kept is not None and kept.fetched <= until:
                self._drop(domain)
        self._store.revoke(domain, until)

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return what was revoked in the store; nothing while it cannot be read."""
        return self._try(self._reading, lambda: self._store.revoked(since), [])

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return what is due in the store; in memory, while the store cannot be read."""
        found = self._try(self._reading, lambda: self._store.due(now, limit), None)
        return self.memory.due(now, limit) if found is None else found

    def make_due(self, now: float) -> None:
        """Let every entry be due, in memory and in the store."""
        self.memory.make_due(now)
        self._change(lambda: self._store.make_due(now), None)

    def catch_up(self) -> None:
        """Write to the store what could not be written."""
        with self._lock:
            domains = [*self._unwritten, *self._untouched]
        for domain in domains:
            if not self._write_again(domain, self._clock.time()):
                break

    def purge(self, now: float, limit: int) -> int:
        """Remove what is past its end, from both; return how many were removed at most."""
        removed = self.memory.purge(now, limit)
        return max(removed, self._change(lambda: self._store.purge(now, limit), 0))

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take the store's lease. While it cannot be written everybody has it."""
        return self._change(lambda: self._store.lease(holder, seconds, now), True)

    def close(self) -> None:
        """Close the store."""
        self._closed = True
        try:
            self._store.close()
        except StoreError as error:
            log.warning("%s", error)

    def _later(self, domain: str, known: Entry | None, now: float, asked: bool) -> Entry | None:
        try:
            stored = self._store.get(domain)
        except StoreError:
            self.reads.add("failed")
            raise
        self.reads.add("miss" if stored is None else "hit")
        if known is None:
            if stored is not None and asked:
                self.memory.put(stored, now)
            return stored
        if stored is None and domain in dict(self._store.revoked(known.fetched)):
            self.memory.remove(known)
            return None
        if stored is None and now >= known.checked + KEPT:
            # The store may have forgotten what had replaced it.
            return known
        if stored is None or not known.yields_to(stored, now):
            # The store has lost it.
            self._store_put(known, now)
            return known
        if stored.fetched == known.fetched and stored.checked <= known.checked:
            return known
        self.memory.put(stored, now)
        return stored

    def _store_put(self, entry: Entry, now: float) -> bool:
        """Write an entry to the store, or note that it has not been; return which."""

        def write() -> bool:
            self._store.put(entry, now)
            return True

        done = self._try(self._writing, write, otherwise=False)
        if done:
            self._written(entry)
        else:
            self._keep(entry, now)
        return done

    def _write_again(self, domain: str, now: float) -> bool:
        """Write what the store misses of a domain; return whether it misses nothing any more."""
        with self._lock:
            kept, untouched = self._unwritten.get(domain), domain in self._untouched
        if kept is None and untouched:
            kept = self.memory.get(domain, asked=False)
            if kept is None:
                with self._lock:
                    self._untouched.pop(domain, None)
        return kept is None or self._store_put(kept, now)

    def _kept(self, domain: str) -> Entry | None:
        """Return the entry of `domain` that the store misses."""
        with self._lock:
            return self._unwritten.get(domain)

    def _keep(self, entry: Entry, now: float) -> None:
        """Keep an entry that the store misses until it can be written."""
        held = self.memory.get(entry.domain, asked=False)
        with self._lock:
            for known in (held, self._unwritten.get(entry.domain)):
                if known is not None and not known.yields_to(entry, now):
                    return
            self._drop(entry.domain)
            self._unwritten[entry.domain] = entry
            self._weight += weight(entry)
            full = self._weight > self.memory.size
            while self._weight > self.memory.size and len(self._unwritten) > 1:
                self._drop(next(iter(self._unwritten)))
            tell = full and not self._overflowed
            self._overflowed = self._overflowed or full
        if tell:
            log.warning(
                "more than %d policies could not be written to the policy cache, and the oldest of"
                " them may be forgotten; make the policy cache writable, or raise cache_size",
                self.memory.size,
            )

    def _written(self, entry: Entry) -> None:
        """Note that the store has the entry, and all its times."""
        with self._lock:
            self._untouched.pop(entry.domain, None)
            kept = self._unwritten.get(entry.domain)
            if kept is not None and kept.fetched <= entry.fetched:
                self._drop(entry.domain)

    def _drop(self, domain: str) -> None:
        entry = self._unwritten.pop(domain, None)
        self._weight -= weight(entry) if entry is not None else 0

    def _change(self, call: Callable[[], T], otherwise: T) -> T:
        """Write what may be nothing to write: a full disk bears that, so it shows no recovery."""
        return self._try(self._writing, call, otherwise, shows=False)

    def _try(self, way: _Way, call: Callable[[], T], otherwise: T, *, shows: bool = True) -> T:
        """Return what the store says, or `otherwise` while this way to it fails."""
        now = self._clock.monotonic()
        with self._lock:
            if way.fails or self._reading.fails:
                if now < way.again:
                    return otherwise
                # One call tries; the others do not wait for it.
                way.again = now + way.pause
        try:
            result = call()
        except StoreError as error:
            now = self._clock.monotonic()
            with self._lock:
                # A nearly full disk takes some writes and refuses others: that is told once.
                tell = now > self._failed + 2 * PAUSE and not self._told
                self._failed = now
                self._told = self._told or tell
                if way.failed_since is None:
                    way.failed_since = now
                way.again = now + way.pause
                if way is self._reading:
                    # What cannot be read is away, and cannot be written either.
                    self._writing.again = now + self._writing.pause
            if tell and not self._closed:
                log.warning("%s; going on from memory and with live lookups", error)
            return otherwise
        if self._reading.fails or self._writing.fails:
            self._worked(way, shows, now)
        return result

    def _worked(self, way: _Way, shows: bool, now: float) -> None:
        """Note that a call went well; say so if that ends the last failure."""
        with self._lock:
            way.again = now
            if self._reading.fails:
                # It is not away any more. But only a read that goes well shows that it can be read.
                self._reading.again = self._writing.again = now
            if shows:
                way.failed_since = None
            recovered = self._told and not self._reading.fails and not self._writing.fails
            self._told = self._told and not recovered
            self._overflowed = self._overflowed and not recovered
        if recovered:
            log.info("the policy cache can be used again")
