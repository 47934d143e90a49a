"""A time limit that several steps share, as a total."""

from __future__ import annotations

import time


class Deadline:
    """A point in monotonic time, `seconds` from now."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, more than 0. Raise `TimeoutError` when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time limit is used up")
        return seconds
