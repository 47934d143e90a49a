"""The internal cache: a cachetools LRU of policies, gone when the process ends."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace

import cachetools

from ..mta_sts.policy import MAX_MAX_AGE
from .entry import CLOCK_SKEW, Entry

# Entries read while the lock is held.
_SOME = 500


class MemoryStore:
    """Keeps the `size` entries last used, fewer if some are large. For the methods see `Store`.

    `hits`, `misses`: how often `get` found an entry and how often it did not.
    """

    def __init__(self, size: int) -> None:
        self._entries: cachetools.LRUCache[str, Entry]
        self._entries = cachetools.LRUCache(size, lambda entry: min(size, weight(entry)))
        self._revoked: dict[str, float] = {}
        # LRUCache reorders when it is read, so reading needs the lock too.
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    unread_since = None
    blocks = False

    @property
    def size(self) -> int:
        """How many entries of the usual size have room."""
        return int(self._entries.maxsize)

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)

    def get(self, domain: str, *, asked: bool = True) -> Entry | None:
        """Return the entry of `domain`; it counts as used if mail `asked` for it."""
        with self._lock:
            if not asked:
                return self._look_at(domain)
            entry = self._entries.get(domain)
            if entry is None:
                self.misses += 1
            else:
                self.hits += 1
            return entry

    def peek(self, domain: str) -> Entry | None:
        """Return the entry of `domain`."""
        with self._lock:
            return self._entries.get(domain)

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield all entries, at most `some` at a time; what changes meanwhile may be missing.

        The lock is held for `some` of them only, and none counts as used.
        """
        with self._lock:
            domains = list(self._entries)
        for start in range(0, len(domains), some):
            with self._lock:
                found = map(self._look_at, domains[start : start + some])
                entries = [entry for entry in found if entry is not None]
            yield entries

    def put(self, entry: Entry, now: float, *, asked: bool = True) -> None:
        """Keep `entry`, unless the one that is there was fetched later."""
        with self._lock:
            known = self._look_at(entry.domain)
            if known is None or known.yields_to(entry, now):
                self._set(entry, known)

    def replace(self, entry: Entry, now: float) -> None:
        """Keep `entry` as `put` does, but only in the place of another one of its domain."""
        with self._lock:
            known = self._look_at(entry.domain)
            if known is not None and known.yields_to(entry, now):
                self._set(entry, known)

    def touch(self, entry: Entry) -> None:
        """Update the times, id and failure of an entry."""
        with self._lock:
            known = self._look_at(entry.domain)
            if known is not None and known.fetched == entry.fetched:
                self._set(entry, known)

    def _look_at(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, which does not count as used by that."""
        if domain not in self._entries:
            return None
        # LRUCache's own way to read puts what it reads in front.
        return cachetools.Cache.__getitem__(self._entries, domain)

    def _set(self, entry: Entry, known: Entry | None) -> None:
        """Put an entry in the place of `known`. Only a new one, or a larger one, counts as used."""
        if known is None or weight(entry) > weight(known):
            self._entries[entry.domain] = entry
        else:
            cachetools.Cache.__setitem__(self._entries, entry.domain, entry)

    def _all(self) -> Iterator[Entry]:
        return itertools.chain.from_iterable(self.scan(_SOME))

    def remove(self, entry: Entry) -> None:
        """Forget `entry`, if no other has taken its place."""
        with self._lock:
            known = self._look_at(entry.domain)
            if known is not None and known.fetched == entry.fetched:
                del self._entries[entry.domain]

    def revoke(self, domain: str, until: float) -> None:
        """Remove the entry of `domain` if it was fetched by `until`, and note that."""
        with self._lock:
            known = self._look_at(domain)
            if known is not None and known.fetched <= until:
                del self._entries[domain]
            self._revoked[domain] = max(until, self._revoked.get(domain, until))
            # Nobody holds a policy for longer.
            oldest = until - MAX_MAX_AGE
            self._revoked = {one: when for one, when in self._revoked.items() if when >= oldest}

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return what was revoked."""
        with self._lock:
            found = [one for one in self._revoked.items() if one[1] >= since]
        return sorted(found, key=lambda one: one[1])

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return entries that are due."""
        ahead = now + CLOCK_SKEW
        due = (entry for entry in self._all() if entry.due <= now or entry.fetched > ahead)
        return heapq.nsmallest(limit, due, key=lambda entry: entry.due)

    def make_due(self, now: float) -> None:
        """Let every entry be due."""
        for entry in self._all():
            with self._lock:
                if self._look_at(entry.domain) is entry:
                    self._set(replace(entry, due=min(entry.due, now)), entry)

    def purge(self, now: float, limit: int) -> int:
        """Remove entries past their end."""
        over = [entry for entry in self._all() if entry.end <= now][:limit]
        for entry in over:
            self.remove(entry)
        return len(over)

    def catch_up(self) -> None:
        """Do nothing: what is put is there."""

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Return True: this store belongs to one process."""
        return True

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


def weight(entry: Entry) -> int:
    """Return as how many entries one counts: one for each 4 KiB of memory, about.

    Real policies are far below that. A hostile one can take half a megabyte.
    """
    policy = entry.policy
    return 1 + (len(policy.body) + 64 * len(policy.mx)) // 4096
