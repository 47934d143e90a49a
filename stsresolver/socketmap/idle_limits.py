"""How long a connection may be idle, and when it gives way to one that waits for its place.

Pure: the times are passed in. All are monotonic, in seconds. A connection that waits for a reply of
ours is not idle.
"""

from __future__ import annotations

import math

# Postfix may keep a connection idle for minutes.
IDLE_LIMIT = 300.0
# For one that waits for a reply: the server answers far sooner.
LOST_LIMIT = 300.0
# While others wait for its place. Postfix must not find it closed sooner (WIRE-11).
CROWDED_LIMIT = 120.0
# The same for one that has never sent a whole request: Postfix sends one at once.
SILENT_LIMIT = 2.0


def ends_at(last: float, *, waiting: bool) -> float:
    """Return when to close a connection. `last`: when it was used last."""
    return last + (LOST_LIMIT if waiting else IDLE_LIMIT)


def gives_way_at(opened: float, last: float, *, waiting: bool) -> float:
    """Return from when on a connection gives way.

    `opened`: when it was accepted.
    `last`: when its last whole request came or was answered; as `opened` before the first one.
    """
    if waiting:
        return math.inf
    return opened + SILENT_LIMIT if last == opened else last + CROWDED_LIMIT
