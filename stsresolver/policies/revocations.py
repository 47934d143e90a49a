"""Which revocations in a shared store are news to this process. Pure.

Another process, or an administrator's tool, notes in the store that what was learnt of a domain
until some time is out of date (`Store.revoke`). Times are wall clock, of hosts that may differ by
`CLOCK_SKEW`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..cache.entry import CLOCK_SKEW

# A domain, and the time until which what was learnt of it is out of date.
Revocation = tuple[str, float]


class Revocations:
    """Remembers what was seen since `now`, the start of the process."""

    def __init__(self, now: float) -> None:
        self._latest = now
        self._seen: set[Revocation] = set()

    @property
    def since(self) -> float:
        """From when on to ask the store."""
        return self._latest - CLOCK_SKEW

    def news(self, found: Iterable[Revocation], now: float) -> list[Revocation]:
        """Return those of `found` that were not seen yet."""
        new = [one for one in found if one not in self._seen]
        self._seen.update(new)
        # One from the future must not hide those of the meantime.
        self._latest = max((self._latest, *(min(until, now) for _, until in new)))
        self._seen = {one for one in self._seen if one[1] >= self.since}
        return new
