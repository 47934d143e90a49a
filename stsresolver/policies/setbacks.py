"""Which domains' policies got weaker, or ended with none to follow, since the daemon's start.

They are remembered until the domain has as strong a policy again, and a thousand at most, the
newest ones. The log says them once (`event_log`); this is for whoever looks later.
"""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from dataclasses import dataclass

import cachetools

from ..mta_sts.policy import Mode

_MOST = 1000
_STRENGTH = {None: 0, Mode.NONE: 0, Mode.TESTING: 1, Mode.ENFORCE: 2}


@dataclass(frozen=True, slots=True)
class Setback:
    """A policy that got weaker.

    `at`: when that was noticed (wall clock).
    `before`, `after`: the modes; None where no policy followed.
    `why`: why there is none, "" where another has followed.
    """

    domain: str
    at: float
    before: Mode
    after: Mode | None
    why: str = ""


class Setbacks:
    """Notes setbacks; may be used by many threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: MutableMapping[str, Setback] = cachetools.LRUCache(_MOST)

    def note(
        self, domain: str, at: float, before: Mode | None, after: Mode | None, why: str = ""
    ) -> None:
        """Note that one policy has followed another, or that one has ended."""
        with self._lock:
            known = self._found.get(domain)
            if known is not None:
                # What counts is the strongest of them.
                before = known.before
            if before is not None and _STRENGTH[after] < _STRENGTH[before]:
                self._found[domain] = Setback(domain, at, before, after, why)
            else:
                self._found.pop(domain, None)

    def forget(self, domain: str) -> None:
        """Forget what was noted of a domain."""
        with self._lock:
            self._found.pop(domain, None)

    def read(self) -> list[Setback]:
        """Return all setbacks, the newest first."""
        with self._lock:
            found = list(self._found.values())
        return sorted(found, key=lambda one: (-one.at, one.domain))
