"""Single flight: one lookup of a domain at a time, and one renewal.

Concurrent requests share the result of the first through callbacks: no thread waits for another.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .misses import Key

Result = TypeVar("Result")


class Flights(Generic[Result]):
    """Lookups under way, by domain and timeout, with the callbacks that wait for each.

    May be used by many threads. `joined`: requests so far that took part in another's lookup.
    """

    def __init__(self) -> None:
        self.joined = 0
        self._lock = threading.Lock()
        self._waiting: dict[Key, list[Callable[[Result], None]]] = {}

    def join(self, key: Key, answer: Callable[[Result], None]) -> bool:
        """Have `answer` called when the lookup ends; say whether the caller has to begin it."""
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = [answer]
                return True
            waiting.append(answer)
            self.joined += 1
            return False

    def land(self, key: Key) -> list[Callable[[Result], None]]:
        """End the lookup; return the callbacks that wait for its result."""
        with self._lock:
            return self._waiting.pop(key)

    def counts(self) -> tuple[int, int]:
        """Return how many lookups are under way, and how many requests joined them."""
        with self._lock:
            flights = len(self._waiting)
            return flights, sum(map(len, self._waiting.values())) - flights


class Renewals:
    """Domains whose policy is renewed just now. May be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._domains: set[str] = set()

    def begin(self, domain: str, most: float = math.inf) -> bool:
        """Begin a renewal of `domain`; return False if one is under way, or `most` are in all."""
        with self._lock:
            if domain in self._domains or len(self._domains) >= most:
                return False
            self._domains.add(domain)
            return True

    def end(self, domain: str) -> None:
        """Let another renewal of `domain` begin."""
        with self._lock:
            self._domains.discard(domain)
