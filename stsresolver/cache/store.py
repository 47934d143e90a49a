"""What a place for entries must do: `Store`, and `Cache`, which never fails.

Each method that depends on the time takes the present as an argument (wall-clock seconds). A store
that fails raises `StoreError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .entry import Entry


class Store(Protocol):
    """A place for entries, one a domain, used by any number of threads at once.

    A store that fails (disk, network) raises `StoreError`; one that only remembers less than it
    was given does not fail. An entry leaves it by `purge` and `revoke` alone: one that has ended or
    was withdrawn keeps what it has replaced from coming back, from any process on the store.
    """

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, expired ones included."""

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry`, unless the one that is there was fetched later (`Entry.yields_to`)."""

    def touch(self, entry: Entry) -> None:
        """Update times, id and failure of an entry whose policy is the stored one.

        Nothing happens if the store holds no entry of that domain fetched at the same time.
        """

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield all entries, about `some` at a time; what changes meanwhile may be missing."""

    def revoke(self, domain: str, until: float) -> None:
        """Remove the entry of `domain` if it was fetched by `until`, and note that in the store.

        Whatever a process on this store learnt of the domain by `until` is out of date.
        """

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return domains and `until` of what was revoked for a time from `since` on."""

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return at most `limit` entries that are due, those due for the longest first.

        Due is also what was fetched in the future: its times come from a clock that was wrong.
        """

    def make_due(self, now: float) -> None:
        """Let every entry be due."""

    def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` entries past their end; return how many were removed.

        Only by a clock that is believed: nothing else removes an entry because of the time.
        """

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take or prolong the right to do the proactive work of this store for some `seconds`.

        It saves work where several processes share a store: two holders at once do no harm.
        """

    def close(self) -> None:
        """Give back what the store holds open. It is not used again."""


class Cache(Store, Protocol):
    """A store that never fails, and that can be looked into without waiting.

    Part of it is memory, for what mail asks for: `asked` says whether mail did. What is only
    renewed pushes nothing out.
    """

    def get(self, domain: str, *, asked: bool = True) -> Entry | None:
        """Return the entry of `domain`, expired ones included."""

    def put(self, entry: Entry, now: float, *, asked: bool = True) -> None:
        """Keep `entry`, unless the one that is there was fetched later."""

    @property
    def unread_since(self) -> float | None:
        """Since when a part of it cannot be read (monotonic seconds), None while all of it can.

        Meanwhile it may hold entries that it does not return.
        """

    def catch_up(self) -> None:
        """Write to every part of it what could not be written before."""

    @property
    def blocks(self) -> bool:
        """Whether its methods may wait for a disk or the network."""

    def peek(self, domain: str) -> Entry | None:
        """Return the entry of `domain`, if neither disk nor network is needed for it."""


class StoreError(Exception):
    """A store could not be read or written; the text names it and says why."""
