"""Network code in steps: it names what it waits for, in place of waiting.

A function that would block is a generator. It yields a `Wait` for each time that it cannot go on
without the network, and is resumed with the descriptors whose event came in time. `run` waits as an
ordinary thread does, for callers of the library. The resolver process has thousands of such
generators under way on one thread (`lookup.loop`). Both run the same code.

There a lookup may have to wait for its turn. Its clock (`now`) stands still meanwhile, so that what
others compute is not charged to the domain.

`SideBySide` takes several generators as one, for code that waits for one of several things.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Collection, Generator, Hashable
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# Seconds that poll(2) can wait, three weeks.
_LONGEST = (2**31 - 1) / 1000


class NoTurn(BaseException):
    """A lookup waited too long for its turn. No step takes this for an error of the network."""


class Clock(threading.local):
    """The clock of the lookup that runs on this thread.

    `late`: seconds for which it has waited for its turn so far.
    `received`: bytes from the network since it was resumed.
    """

    late = 0.0
    received = 0


clock = Clock()


def now() -> float:
    """Return the time of the running lookup: monotonic, less what it waited for its turn."""
    return time.monotonic() - clock.late


class Wait(NamedTuple):
    """What a step waits for: the first of its events, or the end of its time.

    `events`: descriptors, each with an event of poll(2). A descriptor is that of a socket that
    stays open meanwhile, and that no other step waits for.
    `until`: when the time is over, as `now` tells it.
    """

    events: tuple[tuple[int, int], ...]
    until: float


# Resumed with the descriptors whose event came before `until`: none if the time is over.
Steps: TypeAlias = Generator[Wait, Collection[int], T]


def run(steps: Steps[T]) -> T:
    """Take all steps on this thread, and return their result. Raises what they raise."""
    try:
        wait = next(steps)
        while True:
            poll = select.poll()
            for descriptor, event in wait.events:
                poll.register(descriptor, event)
            # Less than nothing would be for ever.
            seconds = min(max(0.0, wait.until - now()), _LONGEST)
            wait = steps.send([descriptor for descriptor, _ in poll.poll(seconds * 1000)])
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


class SideBySide:
    """Several steps under way within one step, each with a key.

    A context manager: what is still under way at its end is closed.
    """

    def __init__(self) -> None:
        # What each waits for, None if it has not begun.
        self._under_way: dict[Hashable, tuple[Steps[Any], Wait | None]] = {}

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for steps, _ in self._under_way.values():
            steps.close()

    def start(self, key: Hashable, steps: Steps[Any]) -> None:
        """Have these steps taken too; `key` names them in `first`."""
        self._under_way[key] = steps, None

    def first(self, until: Callable[[], float] = lambda: math.inf) -> Steps[tuple[Any, Any] | None]:
        """Return the key and the result of the first that is done, and forget it.

        Return None if none is done by `until()`, in the time of `now`, which is asked after each
        step. Raises what they raise.
        """
        came: Collection[int] = ()
        failed: OSError | None = None
        while True:
            time_is = now()
            for key, (steps, wait) in list(self._under_way.items()):
                resume: Callable[[Any], Wait] = steps.send
                # A generator that was not started takes only None.
                value: object = None
                if wait is not None and failed is not None:
                    resume, value = steps.throw, failed
                elif wait is not None:
                    value = [descriptor for descriptor, _ in wait.events if descriptor in came]
                    if not value and time_is < wait.until:
                        continue
                try:
                    self._under_way[key] = steps, resume(value)
                except StopIteration as end:
                    del self._under_way[key]
                    return key, end.value
            limit = until()
            if time_is >= limit:
                return None
            came, failed = (), None
            try:
                came = yield _merged([wait for _, wait in self._under_way.values() if wait], limit)
            except OSError as error:
                # It could not be waited for, which each step takes as its own failure.
                failed = error


def _merged(waits: list[Wait], until: float) -> Wait:
    """Return what several steps wait for as one, which ends at `until` or before."""
    if len(waits) == 1 and waits[0].until <= until:
        return waits[0]
    events = tuple(event for wait in waits for event in wait.events)
    return Wait(events, min((until, *(wait.until for wait in waits))))
