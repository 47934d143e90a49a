"""What is remembered of a domain with a policy, and what a place to keep it must do.

The times of an `Entry` are wall-clock seconds (`time.time()`), because a store may outlive the
process and be shared; each store takes the present as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..sts import Policy

# A time further ahead than this comes from a clock that was wrong when it was stored (seconds).
CLOCK_SKEW = 300.0
# RFC 8461 §10.2: senders should check for changes once a day, whatever max_age allows.
_RENEWAL = 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A domain's policy and its history.

    `id`: of the TXT record last seen. `fetched`: when the policy was fetched; expiry counts from
    here alone. `checked`: when the record was last looked up, or the policy fetched. `asked`: when
    mail last asked for the domain, to the day. `due`: when it is to be looked at again though
    nobody asks. `failed` and `failure`: when and why the last attempt since the fetch failed; 0
    and empty if none did.
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
    def renewal(self) -> float:
        """When the policy is due to be fetched again, although it is in force (§3.3)."""
        return self.fetched + min(_RENEWAL, self.policy.max_age / 2)

    def yields_to(self, other: Entry, now: float) -> bool:
        """Say whether `other` may take this entry's place: one fetched earlier may not.

        An entry from the future gives way to any, or a clock that once was ahead would stop
        every later update.
        """
        return other.fetched >= self.fetched or self.fetched > now + CLOCK_SKEW


class Store(Protocol):
    """A place for entries, one a domain, used by any number of threads at once.

    A store that fails (disk, network) raises `StoreError`; one that only remembers less than it
    was given does not fail.
    """

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, expired ones included."""

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry`, unless the one that is there was fetched later (`Entry.yields_to`)."""

    def touch(self, entry: Entry) -> None:
        """Update times, id and failure of an entry whose policy is the stored one.

        Nothing happens if the store holds no entry of that domain fetched at the same time.
        """

    def remove(self, entry: Entry) -> None:
        """Forget `entry`, if it is still what the store holds for its domain."""

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return at most `limit` entries that are due, those due for the longest first.

        Due is also what was fetched in the future: its times come from a clock that was wrong.
        """

    def make_due(self, now: float) -> None:
        """Let every entry be due."""

    def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` entries past their end; return how many were removed."""

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take or prolong the right to do the proactive work of this store for some `seconds`.

        It saves work where several processes share a store: two holders at once do no harm.
        """

    def close(self) -> None:
        """Give back what the store holds open. It is not used again."""


class Cache(Store, Protocol):
    """A store that never fails, and that can be looked into without waiting."""

    @property
    def whole(self) -> bool:
        """Whether what it does not know is not known at all: not while a part is out of reach."""

    def peek(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, if neither disk nor network is needed for it."""


class StoreError(Exception):
    """A store could not be read or written; the text names it and says why."""
