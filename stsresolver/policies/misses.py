"""`Miss`, a lookup that gave no policy, and `Pause`, an id whose policy could not be fetched.

Plain data, no I/O. Times are monotonic seconds: neither outlives the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..mta_sts.results import Failure, NoPolicy

# After a failed fetch, seconds before the same policy id is tried again (RFC 8461 §3.3).
FETCH_PAUSE = 300.0

# Domain (A-labels) and timeout (seconds): a zone with a longer timeout may find more.
Key = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Miss:
    """A lookup that gave no policy.

    `at`: when it ended.
    `until`: it is not repeated before, while no policy is in force.
    """

    result: NoPolicy | Failure
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A policy id whose fetch failed; its policy is not fetched before `until`."""

    id: str
    failure: Failure
    until: float
