"""Happy Eyeballs: in which order the addresses of a host are tried, and when (RFC 8305).

Addresses of both families are looked up side by side. The first attempt begins as soon as there is
an address of the preferred family; the others follow one by one while no attempt has succeeded. So
a family that is broken costs a fraction of a second, and not the connection.

Pure: the clock is passed in, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice

# Seconds that an address of another family waits for the preferred one to be looked up (§3, §8).
RESOLUTION_DELAY = 0.05
# Seconds between one attempt and the next, unless one fails before (§5, §8).
CONNECTION_ATTEMPT_DELAY = 0.25
# Addresses tried of each family, and attempts under way at once. A host with more is not better
# reached, and each attempt holds a socket.
MAX_ADDRESSES = 4
MAX_ATTEMPTS = 4


class HappyEyeballs:
    """Says which address to try next.

    `families`: of the addresses, the preferred one first.
    """

    def __init__(self, *families: str) -> None:
        self._families = families
        self._unknown = set(families)
        self._untried: dict[str, deque[str]] = {family: deque() for family in families}
        self._attempts = 0
        # The family of the last attempt.
        self._last: str | None = None
        # When the next attempt may begin.
        self._begins = 0.0

    def found(self, family: str, addresses: Iterable[str], now: float) -> None:
        """Take what a lookup found: addresses, or none where there is none or the lookup failed."""
        self._unknown.discard(family)
        self._untried[family].extend(islice(addresses, MAX_ADDRESSES))
        if self._last is None:
            waits = self._families[0] in self._unknown
            self._begins = now + RESOLUTION_DELAY if waits else now

    def next(self, now: float) -> str | None:
        """Return the address to try now, None if none is due before `wakes`."""
        if now < self.wakes():
            return None
        # §4: the families take turns.
        turns = sorted(self._families, key=lambda family: family == self._last)
        family = next(family for family in turns if self._untried[family])
        self._last = family
        self._attempts += 1
        self._begins = now + CONNECTION_ATTEMPT_DELAY
        return self._untried[family].popleft()

    def failed(self, now: float) -> None:
        """Take that an attempt has failed: the next one may begin at once."""
        self._attempts -= 1
        self._begins = now

    def wakes(self) -> float:
        """When the next attempt may begin, infinity while there is none to begin."""
        if self._attempts < MAX_ATTEMPTS and any(self._untried.values()):
            return self._begins
        return math.inf

    @property
    def over(self) -> bool:
        """Whether all attempts have failed and no address is to come."""
        return not (self._unknown or self._attempts or any(self._untried.values()))
