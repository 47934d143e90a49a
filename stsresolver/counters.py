"""Counters of the daemon's own work: plain numbers that `monitoring.metrics` reads.

Adding is cheap and may be done on any thread. Nothing here does I/O, and nothing raises.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

# Upper ends of the buckets of `Durations` (seconds). Postfix waits 100 s, and a lookup takes 40 s
# for DNS and as long for HTTPS.
BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0),
)

Kind = TypeVar("Kind", bound=Hashable)


class Tally(Generic[Kind]):
    """How often things happened, by kind. `kinds`: those that may happen; each begins at 0."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._counts = dict.fromkeys(kinds, 0)
        self._lock = threading.Lock()

    def add(self, kind: Kind) -> None:
        """Count one more of a kind, also of one that nobody had thought of."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1

    def read(self) -> dict[Kind, int]:
        """Return the number of each kind so far."""
        with self._lock:
            return dict(self._counts)


class Durations:
    """How long things took: a number for each bucket of `BOUNDS` and one for what lies beyond."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Count one that took so long. A bucket's end belongs to it."""
        bucket = bisect.bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    def read(self) -> tuple[list[int], float]:
        """Return the numbers, one bucket each, and the sum of all in seconds."""
        with self._lock:
            return self._counts.copy(), self._sum
