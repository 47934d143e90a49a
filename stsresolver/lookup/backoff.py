"""How long to wait before a resolver process is started again. Pure: seconds in, seconds out."""

from __future__ import annotations

from dataclasses import dataclass

# The first pause, and the longest (seconds).
FIRST = 0.25
LONGEST = 30.0
# A process that lived for this long (seconds) was well: its end begins no series of pauses.
WELL = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double while processes end soon after their start.

    `pause`: seconds to wait before the next start.
    """

    pause: float = 0.0

    def after(self, lived: float) -> Backoff:
        """Return the back-off after a process that lived for `lived` seconds."""
        if lived > WELL:
            return Backoff()
        return Backoff(min(max(FIRST, 2 * self.pause), LONGEST))
