"""A clock that is set by hand: wall clock and monotonic seconds, as the module `time` has them."""

from __future__ import annotations


class Clock:
    """`now`: seconds since the epoch. `ticks`: monotonic seconds."""

    def __init__(self, now: float = 1_800_000_000.0, ticks: float = 5_000.0) -> None:
        self.now = now
        self.ticks = ticks

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.ticks

    def later(self, seconds: float) -> Clock:
        self.now += seconds
        self.ticks += seconds
        return self
