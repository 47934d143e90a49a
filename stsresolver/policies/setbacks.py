"""Which domains' policies got weaker, ended with none to follow, or cannot be renewed.

That is since the daemon's start. A setback is remembered until the domain has as strong a policy
again; a thousand at most, the newest ones. The log says each once (`event_log`); this is for
whoever looks later.
"""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ..mta_sts.policy import Mode

_MOST = 1000
_MOST_FAILING = 20_000
Value = TypeVar("Value")

# How well a policy of each mode, or none, protects mail.
STRENGTH = {None: 0, Mode.NONE: 0, Mode.TESTING: 1, Mode.ENFORCE: 2}


@dataclass(frozen=True, slots=True)
class Setback:
    """A policy that got weaker.

    `at`: when that began (wall clock).
    `before`, `after`: the modes; None where no policy followed.
    `why`: why there is none, "" where another has followed.
    """

    domain: str
    at: float
    before: Mode
    after: Mode | None
    why: str = ""

    def is_over(self, mode: Mode) -> bool:
        """Say whether a policy of this mode is as strong as the one before."""
        return STRENGTH[mode] >= STRENGTH[self.before]


class Setbacks:
    """Notes setbacks; may be used by many threads at once. Reading changes nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Those that were noted last come last.
        self._found: dict[str, Setback] = {}
        # Since when, and whether the record failed, else the fetch.
        self._failing: dict[str, tuple[float, bool]] = {}

    def note(
        self, domain: str, at: float, before: Mode | None, after: Mode | None, why: str = ""
    ) -> None:
        """Note that one policy has followed another, or that one has ended."""
        with self._lock:
            known = self._found.pop(domain, None)
            if known is None and STRENGTH[after] < STRENGTH[before]:
                assert before is not None
                known = Setback(domain, at, before, after, why)
            elif known is not None and after is not None:
                # What counts is the strongest policy that the domain had.
                known = None if known.is_over(after) else replace(known, after=after, why="")
            elif known is not None and STRENGTH[before] >= STRENGTH[known.before]:
                known = replace(known, after=None, why=why)
            if known is not None:
                _keep(self._found, domain, known, _MOST)

    def note_failing(self, domain: str, at: float, *, by_record: bool) -> None:
        """Note that a policy in force could not be renewed, for its record or else its fetch."""
        with self._lock:
            since, _ = self._failing.get(domain, (at, by_record))
            _keep(self._failing, domain, (since, by_record), _MOST_FAILING)

    def note_working(self, domain: str, *, by_record: bool) -> None:
        """Note that the record could be looked up, or else the policy fetched."""
        with self._lock:
            _, failed_by_record = self._failing.get(domain, (0.0, False))
            if failed_by_record or not by_record:
                self._failing.pop(domain, None)

    def failing_since(self, domain: str) -> float | None:
        """Return since when a policy cannot be renewed (wall clock), None if that is not known."""
        with self._lock:
            found = self._failing.get(domain)
        return found and found[0]

    def forget(self, domain: str) -> None:
        """Forget what was noted of a domain."""
        with self._lock:
            self._found.pop(domain, None)
            self._failing.pop(domain, None)

    def read(self) -> list[Setback]:
        """Return all setbacks, the newest first."""
        with self._lock:
            found = list(self._found.values())
        return sorted(found, key=lambda one: (-one.at, one.domain))


def _keep(table: MutableMapping[str, Value], domain: str, value: Value, most: int) -> None:
    table[domain] = value
    while len(table) > most:
        del table[next(iter(table))]
