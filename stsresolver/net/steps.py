"""Network code in steps: it names what it waits for, in place of waiting.

A function that would block is a generator. It yields a `Wait` for each time that it cannot go on
without the network, and is resumed with whether the event came in time. `run` waits as an ordinary
thread does, for callers of the library. The resolver process has thousands of such generators under
way on one thread (`lookup.loop`). Both run the same code.
"""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# Seconds that poll(2) can wait, three weeks.
_LONGEST = (2**31 - 1) / 1000


class Wait(NamedTuple):
    """What a step waits for.

    `descriptor`: of a socket that stays open meanwhile, and that no other step waits for.
    `event`: of poll(2).
    `until`: monotonic seconds.
    """

    descriptor: int
    event: int
    until: float


# Resumed with whether the event came before `until`.
Steps: TypeAlias = Generator[Wait, bool, T]


def run(steps: Steps[T]) -> T:
    """Take all steps on this thread, and return their result. Raises what they raise."""
    try:
        wait = next(steps)
        while True:
            poll = select.poll()
            poll.register(wait.descriptor, wait.event)
            # Less than nothing would be for ever.
            seconds = min(max(0.0, wait.until - time.monotonic()), _LONGEST)
            wait = steps.send(bool(poll.poll(seconds * 1000)))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
