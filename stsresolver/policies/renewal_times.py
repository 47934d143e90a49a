"""When a policy in force is looked at again. Pure: times come in and go out, in seconds.
What is done at that time, `decision` says.

RFC 8461 §3.3 and §10.2 ask senders to renew a policy before it ends and to look for changes about
once a day. That is done for a domain that mail asks for. One that no mail has asked for in a week
is not bothered daily: its policy is renewed as half of its `max_age` passes, which leaves the other
half for failures.

The stored times (`fetched`, `checked`, `end`, `due`) are seconds since the epoch. The times of a
`Miss` are monotonic seconds, as nothing of it is stored.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

from ..cache.entry import Entry
from .misses import FETCH_PAUSE, Miss

DAY = 86_400.0
# Seconds. Where no mail asks, no policy is fetched sooner after the last fetch, or after a failure.
UNASKED_PAUSE = 600.0
# Mail asked lately if it did within a week; `Entry.asked` is the beginning of a day.
_LATELY = 8 * DAY
# A domain is looked at between this share of its time and all of it, each domain at a share of its
# own, so that domains found together do not stay together.
_EARLIEST = 0.8


@dataclass(frozen=True, slots=True)
class RenewalTimes:
    """The times that the configuration asks for, in seconds.

    `grace`: how long the last look at the record is trusted.
    `interval`: a policy that mail asked for lately is looked at once in this time.
    `grace_ratio`: but no sooner than after `interval / grace_ratio`.
    """

    grace: float
    interval: float = DAY
    grace_ratio: float = 2.0

    @property
    def _earliest(self) -> float:
        return max(_EARLIEST, 1 / self.grace_ratio)

    def due(self, entry: Entry) -> float:
        """Return when an entry is to be looked at though no mail asks for it."""
        own = zlib.crc32(entry.domain.encode()) / 0xFFFFFFFF
        share = self._earliest + (1 - self._earliest) * own
        age = share * (entry.renewal - entry.fetched)
        look = entry.checked + share * self.interval
        if not _asked_lately(entry, entry.checked):
            age, look = share * entry.policy.max_age / 2, math.inf
        return min(entry.fetched + max(age, UNASKED_PAUSE), look, entry.end)

    def ends_unrenewed(self, entry: Entry) -> bool:
        """Say whether a policy is so short that it ends where no mail asks for it."""
        return entry.policy.max_age <= UNASKED_PAUSE

    def due_after_failure(self, entry: Entry, now: float) -> float:
        """Return when to look again at an entry that could not be checked or fetched just now.

        The pauses double. However long the failure lasts, some tries are left before the end.
        """
        pause = 2 * (now - entry.failed) if entry.failed else 0.0
        longest = self.interval if _asked_lately(entry, now) else math.inf
        pause = max(UNASKED_PAUSE, min(pause, longest, (entry.end - now) / 4))
        return min(now + pause, entry.end)

    def is_renewable(self, entry: Entry, now: float) -> bool:
        """Say whether an entry that is looked at now is fetched too, to save another look soon."""
        age = self._earliest * (entry.renewal - entry.fetched)
        return now >= entry.fetched + max(age, UNASKED_PAUSE)

    def repeatable(self, entry: Entry, now: float) -> float:
        """Return for how long an entry's policy may be answered again without a look at it.

        Until its record is to be checked, its renewal is due (or tried again), or it ends.
        """
        renewal = entry.renewal if now < entry.renewal else now + FETCH_PAUSE
        return max(0.0, min(entry.checked + self.grace, entry.end, renewal) - now)

    def end_of(self, miss: Miss, entry: Entry | None) -> float:
        """Return the monotonic time until which a miss is believed.

        While a policy is in force, its record is checked after `grace`, whatever the zone says.
        """
        return miss.until if entry is None else min(miss.until, miss.at + self.grace)


def _asked_lately(entry: Entry, now: float) -> bool:
    """Say whether mail asked for the domain within the last week."""
    return now < entry.asked + _LATELY
