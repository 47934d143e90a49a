"""The clock, passed to whatever decides by time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """What the module `time` has: wall clock for stored times, monotonic inside the process."""

    def time(self) -> float:
        """Return seconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds that no change of the system's clock moves."""
