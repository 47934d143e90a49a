"""What is remembered of lookups that gave no policy, in memory and for a short time.

Bounded tables of their own, so that a flood of domains without a policy pushes no policy out. Times
are monotonic. Everything is kept by (domain, timeout): with a longer timeout more is found.
"""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from dataclasses import dataclass

import cachetools

from ..cache.clock import Clock
from ..mta_sts.results import Failure, NoPolicy

# After a failed fetch, seconds before the same policy id is tried again (RFC 8461 §3.3).
FETCH_PAUSE = 300.0
# Entries of each table, the least recently used dropped.
_MAX_MISSES = 50_000
# Ids that rest at once, of each domain and timeout; the oldest dropped.
_MAX_PAUSES = 8

Key = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Miss:
    """A lookup that gave no policy.

    `at`: when it was. `until`: it is not repeated before, while no policy is in force.
    """

    result: NoPolicy | Failure
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class _Pause:
    """A policy id whose fetch failed, to be left alone until a monotonic time."""

    id: str
    failure: Failure
    until: float


class NegativeCache:
    """Used by any number of threads at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._misses: MutableMapping[Key, Miss] = cachetools.LRUCache(_MAX_MISSES)
        # The oldest first.
        self._pauses: MutableMapping[Key, tuple[_Pause, ...]] = cachetools.LRUCache(_MAX_MISSES)

    def get(self, key: Key) -> Miss | None:
        """Return the last miss, old ones included."""
        with self._lock:
            return self._misses.get(key)

    def remember(self, key: Key, result: NoPolicy | Failure, seconds: float) -> Miss:
        """Remember a miss, not to be repeated for so many seconds."""
        now = self._clock.monotonic()
        miss = Miss(result, now, now + seconds)
        with self._lock:
            self._misses[key] = miss
        return miss

    def forget(self, key: Key) -> None:
        """Forget the miss: a policy was found."""
        with self._lock:
            self._misses.pop(key, None)

    def pause(self, key: Key, policy_id: str, failure: Failure) -> None:
        """Note that the policy announced by this id could not be fetched."""
        pause = _Pause(policy_id, failure, self._clock.monotonic() + FETCH_PAUSE)
        with self._lock:
            others = [one for one in self._pauses.get(key, ()) if one.id != policy_id]
            self._pauses[key] = (*others[1 - _MAX_PAUSES :], pause)

    def paused(self, key: Key, policy_id: str) -> Failure | None:
        """Return the failure for which the policy of this id is not fetched for now."""
        return next((one.failure for one in self._resting(key) if one.id == policy_id), None)

    def paused_ids(self, key: Key) -> tuple[str, ...]:
        """Return the ids whose policies are not fetched for now, at most eight."""
        return tuple(one.id for one in self._resting(key))

    def _resting(self, key: Key) -> list[_Pause]:
        with self._lock:
            pauses = self._pauses.get(key, ())
        now = self._clock.monotonic()
        return [one for one in pauses if now < one.until]
