"""Counts the policies in memory: how many of each mode, and which end when.

Counting all of them takes a while. The result is cached for `EVERY` seconds, and the next caller
recomputes it, in steps with pauses, so that no other thread waits long for the memory or the GIL.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..cache.clock import Clock
from ..cache.entry import Entry
from ..cache.memory import MemoryStore
from ..mta_sts.policy import Mode

# Seconds that one count holds.
EVERY = 60.0
# Entries in a step, and seconds between two steps: more at once shows in the answers to Postfix.
_STEP = 200
_PAUSE = 0.0005


def in_steps(memory: MemoryStore) -> Iterator[list[Entry]]:
    """Yield all entries, some at a time, with pauses in which other threads have the GIL."""
    for entries in memory.scan(_STEP):
        yield entries
        time.sleep(_PAUSE)


@dataclass(slots=True)
class Count:
    """What was counted. Policies past their end do not count.

    `policies`: by mode. `failing`: those of them whose record or policy could not be had when it
    was last tried. `end`: when the first of all ends, and `failing_end` of the failing ones, by
    mode (wall clock); inf where there are none.
    """

    policies: Counter[Mode] = field(default_factory=Counter)
    failing: Counter[Mode] = field(default_factory=Counter)
    end: float = math.inf
    failing_end: dict[Mode, float] = field(default_factory=lambda: dict.fromkeys(Mode, math.inf))


class Census:
    """Counts what `memory` holds. May be used by several threads; one counts for all of them."""

    def __init__(self, memory: MemoryStore, clock: Clock = time) -> None:
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()
        self._last = Count()
        self._again = -math.inf

    def read(self) -> Count:
        """Return a count that is at most `EVERY` seconds old."""
        with self._lock:
            if self._clock.monotonic() >= self._again:
                self._last = self._count()
                self._again = self._clock.monotonic() + EVERY
            return self._last

    def _count(self) -> Count:
        count = Count()
        now = self._clock.time()
        for entries in in_steps(self._memory):
            for entry in entries:
                if entry.end <= now:
                    continue
                mode = entry.policy.mode
                count.policies[mode] += 1
                count.end = min(count.end, entry.end)
                if entry.failed:
                    count.failing[mode] += 1
                    count.failing_end[mode] = min(count.failing_end[mode], entry.end)
        return count
