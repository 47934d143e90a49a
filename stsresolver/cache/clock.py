"""The clock, passed to whatever decides by time."""

from __future__ import annotations

from typing import Protocol

# Seconds without a jump after which the wall clock counts as right, and what counts as a jump.
STEADY = 3600.0
_JUMP = 300.0


class Clock(Protocol):
    """What the module `time` has: wall clock for stored times, monotonic inside the process."""

    def time(self) -> float:
        """Return seconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds that no change of the system's clock moves."""


class SteadyClock:
    """Whether the wall clock can be believed where it contradicts a stored time.

    A host without a clock of its own starts years behind or ahead, and any clock may be set wrong
    and then right again. One that has not jumped for an hour is right, and what contradicts it is
    wrong: time servers correct a clock within minutes of its start, and a daemon that is restarted
    every night is still to remove what has ended.

    The arguments are the time by the wall clock and by the monotonic one.
    """

    def __init__(self, wall: float, monotonic: float) -> None:
        self._offset = wall - monotonic
        self._since = monotonic

    @property
    def since(self) -> float:
        """When the clock was first seen after its last jump, by itself (wall-clock seconds)."""
        return self._since + self._offset

    def is_steady(self, wall: float, monotonic: float) -> bool:
        """Say whether the wall clock has not jumped for an hour, as far as was seen here."""
        offset = wall - monotonic
        if abs(offset - self._offset) > _JUMP:
            self._offset, self._since = offset, monotonic
        return monotonic >= self._since + STEADY
