"""Negative cache: lookups that gave no policy, and policies that ended, for a short time in memory.

Its tables are bounded and apart from the policies, so that a flood of domains without a policy
pushes no policy out. It may be used by many threads.
"""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from typing import TypeVar

import cachetools

from ..mta_sts.policy import Mode
from .misses import Key, Miss, Pause

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

# Entries of each table; the least recently used is dropped.
_MAX_MISSES = 50_000
# Domains whose policy has ended, until they are asked for again.
_MAX_LAPSED = 20_000
# Paused ids of each domain and timeout; the oldest is dropped.
_MAX_PAUSES = 8


class NegativeCache:
    """Misses and pauses by domain and timeout, and modes of policies that ended by domain."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._misses: cachetools.LRUCache[Key, Miss] = cachetools.LRUCache(_MAX_MISSES)
        # The oldest first.
        self._pauses: MutableMapping[Key, tuple[Pause, ...]] = cachetools.LRUCache(_MAX_MISSES)
        self._lapsed: MutableMapping[str, Mode] = cachetools.LRUCache(_MAX_LAPSED)

    def get(self, key: Key, now: float) -> tuple[Miss | None, tuple[Pause, ...], Mode | None]:
        """Return the last miss, the pauses, and the mode of a policy that has ended.

        Old misses are included, but only the pauses that last at the monotonic time `now`.
        """
        with self._lock:
            miss, lapsed = self._misses.get(key), self._lapsed.get(key[0])
            pauses = self._pauses.get(key, ())
        if pauses:
            pauses = tuple(one for one in pauses if now < one.until)
        return miss, pauses, lapsed

    def look_at(self, key: Key) -> Miss | None:
        """Return the last miss, which does not count as used by that."""
        with self._lock:
            # LRUCache's own way to read puts what it reads in front.
            known = key in self._misses
            return cachetools.Cache.__getitem__(self._misses, key) if known else None

    def remember(self, key: Key, miss: Miss | None) -> None:
        """Keep a miss in place of the last one; None forgets that, since a policy was found."""
        with self._lock:
            _keep(self._misses, key, miss)

    def scan(self) -> list[tuple[Key, Miss]]:
        """Return all misses, old ones included."""
        with self._lock:
            return list(self._misses.items())

    def forget(self, domain: str) -> None:
        """Forget all that is known of a domain."""
        with self._lock:
            self._lapsed.pop(domain, None)
            for table in (self._misses, self._pauses):
                for key in [key for key in table if key[0] == domain]:
                    del table[key]

    def lapse(self, domain: str, mode: Mode | None) -> None:
        """Keep the mode of a policy that has ended; None forgets it, since a lookup followed."""
        with self._lock:
            _keep(self._lapsed, domain, mode)

    def pause(self, key: Key, pause: Pause) -> None:
        """Keep a pause in place of an earlier one of the same id."""
        with self._lock:
            others = [one for one in self._pauses.get(key, ()) if one.id != pause.id]
            self._pauses[key] = (*others[1 - _MAX_PAUSES :], pause)


def _keep(table: MutableMapping[_Key, _Value], key: _Key, value: _Value | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
