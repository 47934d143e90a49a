"""The process's own memory in front of a store on disk or in the network.

What was checked less than `grace` seconds ago is answered from memory. Otherwise the store is asked
too, because another process may have renewed the policy meanwhile, and the later entry wins. Memory
goes on alone while the store fails: the log says so once, the store is left alone for a while and
then tried again, and what it missed is written when its domain is asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..clock import Clock
from . import Entry, Store, StoreError
from .memory import MemoryStore

log = logging.getLogger(__name__)

# Seconds in which a store that failed is not tried again.
PAUSE = 30.0

T = TypeVar("T")


class LayeredStore:
    """`memory` in front of `store`, as one `Cache`."""

    def __init__(
        self, memory: MemoryStore, store: Store, *, grace: float, clock: Clock = time
    ) -> None:
        self._memory = memory
        self._store = store
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._again = 0.0
        self._failing = False

    def peek(self, domain: str) -> Entry | None:
        """Return what memory has."""
        return self._memory.peek(domain)

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, the later of memory's and the store's."""
        known = self._memory.get(domain)
        now = self._clock.time()
        if known is not None and now < known.checked + self._grace:
            return known
        return self._try(lambda: self._later(domain, known, now), known)

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry` in both."""
        self._memory.put(entry, now)
        self._try(lambda: self._store.put(entry, now), None)

    def touch(self, entry: Entry) -> None:
        """Update an entry in both."""
        self._memory.touch(entry)
        self._try(lambda: self._store.touch(entry), None)

    def remove(self, entry: Entry) -> None:
        """Forget `entry` in both."""
        self._memory.remove(entry)
        self._try(lambda: self._store.remove(entry), None)

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return what is due in the store; in memory, while the store fails."""
        found = self._try(lambda: self._store.due(now, limit), None)
        return self._memory.due(now, limit) if found is None else found

    def purge(self, now: float, limit: int) -> int:
        """Remove what is past its end from both; return the larger number."""
        removed = self._memory.purge(now, limit)
        return max(removed, self._try(lambda: self._store.purge(now, limit), 0))

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take the store's lease. While the store fails everybody has it."""
        return self._try(lambda: self._store.lease(holder, seconds, now), True)

    def close(self) -> None:
        """Close the store."""
        try:
            self._store.close()
        except StoreError as error:
            log.warning("%s", error)

    def _later(self, domain: str, known: Entry | None, now: float) -> Entry | None:
        stored = self._store.get(domain)
        if known is None:
            if stored is not None:
                self._memory.put(stored, now)
            return stored
        if stored is None or not known.yields_to(stored, now):
            # The store has lost it, or was away when it was put.
            self._store.put(known, now)
            return known
        if stored.fetched == known.fetched and stored.checked <= known.checked:
            return known
        self._memory.put(stored, now)
        return stored

    def _try(self, call: Callable[[], T], otherwise: T) -> T:
        """Return what the store says, or `otherwise` while it fails."""
        now = self._clock.monotonic()
        with self._lock:
            if self._failing:
                if now < self._again:
                    return otherwise
                # One call tries; the others do not wait for it.
                self._again = now + PAUSE
        try:
            result = call()
        except StoreError as error:
            with self._lock:
                first, self._failing = not self._failing, True
                self._again = self._clock.monotonic() + PAUSE
            if first:
                log.warning("%s; going on from memory and with live lookups", error)
            return otherwise
        if self._failing:
            with self._lock:
                recovered, self._failing = self._failing, False
            if recovered:
                log.info("the policy cache can be used again")
        return result
