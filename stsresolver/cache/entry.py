"""What is remembered of a domain with a policy.

The times of an `Entry` are wall-clock seconds (`time.time()`), because a store may outlive the
process and be shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..mta_sts.policy import Policy

# A time further ahead than this comes from a clock that was wrong when it was stored (seconds).
CLOCK_SKEW = 300.0
# Seconds that a store keeps an entry past its end: another process may still remember the one that
# this one has replaced.
KEPT = 30 * 86_400.0
# RFC 8461 §10.2: senders should check for changes once a day, whatever max_age allows.
_RENEWAL = 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A domain's policy and its history.

    One that has ended, or was withdrawn with a `max_age` of 0 (RFC 8461 §8.3), stays for `KEPT`
    seconds: while it does, nothing that was fetched earlier comes back.

    `id`: of the TXT record last seen.
    `fetched`: when the policy was fetched; expiry counts from here alone.
    `checked`: when the record was last looked up, or the policy fetched.
    `asked`: when mail last asked for the domain, to the day.
    `due`: when to look at it again though no mail asks; past its end if it is only kept.
    `failed`: when the last attempt since the fetch failed, 0 if none did.
    `failure`: why it failed, empty if none did.
    """

    domain: str
    id: str
    policy: Policy
    fetched: float
    checked: float
    asked: float
    due: float
    failed: float = 0.0
    failure: str = ""

    @property
    def end(self) -> float:
        """When the policy ceases to be in force (RFC 8461 §3.2, max_age)."""
        return self.fetched + self.policy.max_age

    @property
    def is_over(self) -> bool:
        """Whether its end has been noticed: then it is only kept."""
        return self.due > self.end

    def over(self) -> Entry:
        """Return the entry after its end was noticed."""
        return replace(self, due=self.end + KEPT)

    @property
    def renewal(self) -> float:
        """When the policy is due to be fetched again, although it is in force (§3.3)."""
        return self.fetched + min(_RENEWAL, self.policy.max_age / 2)

    def yields_to(self, other: Entry, now: float) -> bool:
        """Say whether `other` may take this entry's place: one fetched earlier may not.

        An entry from the future gives way to any, or a clock that once was ahead would stop
        every later update.
        """
        return other.fetched >= self.fetched or self.fetched > now + CLOCK_SKEW
