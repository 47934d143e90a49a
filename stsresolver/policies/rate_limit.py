"""Rate limit per key that counts what it suppresses.

Strangers may cause log lines as often as they like. Each key gets its share of lines, none fills
the log, and a count says how many were left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)


@dataclass(slots=True)
class _Window:
    end: float
    admitted: int = 0
    refused: int = 0
    level: int = 0


class RateLimiter(Generic[Kind]):
    """Admits `number` events of a kind within `seconds` of the first. For one thread at a time.

    `kinds`: how many kinds are remembered; beyond that the oldest is forgotten.
    `clock`: monotonic seconds.
    """

    def __init__(self, number: int, seconds: float, kinds: int, clock: Callable[[], float]) -> None:
        self._number = number
        self._seconds = seconds
        self._kinds = kinds
        self._clock = clock
        # The oldest first, since all windows are equally long.
        self._windows: OrderedDict[Kind, _Window] = OrderedDict()

    def admits(self, kind: Kind, level: int) -> tuple[bool, list[tuple[Kind, int, int]]]:
        """Return whether one more event of `kind` is admitted; a refused one is counted.

        With it comes each kind that is forgotten now, because its time is over or others need the
        room, as long as events of it were refused: the kind, their number and highest level.
        """
        now = self._clock()
        forgotten = list(self._forgotten(now))
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now + self._seconds)
        if window.admitted < self._number:
            window.admitted += 1
            return True, forgotten
        window.refused += 1
        window.level = max(window.level, level)
        return False, forgotten

    def _forgotten(self, now: float) -> Iterator[tuple[Kind, int, int]]:
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if now < window.end and len(self._windows) < self._kinds:
                return
            del self._windows[kind]
            if window.refused:
                yield kind, window.refused, window.level
