"""The event loop of the resolver process: many lookups on one thread.

A lookup is work in steps (`net.steps`). The loop runs its steps until the lookup would wait for the
network, waits for all lookups at once with epoll(7), and goes on with those for which an event has
come or whose time is over.

                 start                    event, or time over
    question ------------> running <------------------------- waiting
                              |  \\____________________________/
                              |             would wait
                              v
                            done(result)

Running lookups continue before new questions are taken. While they compute for more than `QUICK`
seconds a turn, no question is taken. But none is put off for more than `PATIENCE` seconds, so that
a policy host that dribbles bytes does not keep all others waiting.
"""

from __future__ import annotations

import heapq
import itertools
import math
import select
import time
from collections.abc import Callable, Collection
from typing import Any

from ..net.steps import Steps, Wait

# Seconds of a turn after which questions are put off: the running lookups fill the core.
QUICK = 0.002
# Seconds for which a question is put off at most.
PATIENCE = 0.02


class _Lookup:
    """A lookup under way. `wait`: what it waits for."""

    __slots__ = ("done", "steps", "wait")

    def __init__(self, steps: Steps[Any], done: Callable[[Any], None]) -> None:
        self.steps = steps
        self.done = done
        self.wait: Wait | None = None


class Loop:
    """Runs lookups until they are done. One thread may use it.

    `questions`: the descriptor that can be read when a question is to be taken.
    `most`: lookups under way at most. Further questions stay unread in the socket.
    """

    def __init__(self, questions: int, most: int) -> None:
        self._questions = questions
        self._most = most
        self._poll = select.epoll()
        self._poll.register(questions, select.POLLIN)
        self._watching = True
        # The lookup that waits for a descriptor.
        self._waiting: dict[int, _Lookup] = {}
        self._under_way = 0
        # A heap by the time limit of each wait. Waits that are over stay in it until then.
        self._ends: list[tuple[float, int, _Lookup, Wait]] = []
        self._number = itertools.count()
        # Since when a question is put off (monotonic), inf while none is.
        self._asked = math.inf

    def start(self, steps: Steps[Any], done: Callable[[Any], None]) -> None:
        """Begin a lookup. `done` is called once with its result."""
        self._under_way += 1
        self._resume(_Lookup(steps, done), None)

    def turn(self) -> bool:
        """Wait until a lookup can go on, and run it; return whether to take questions now."""
        self._watch(self._under_way < self._most)
        now = time.monotonic()
        timeout = max(0.0, self._ends[0][0] - now) if self._ends else None
        asked = False
        polled = self._poll.poll(timeout)
        began = time.monotonic()
        came: dict[_Lookup, list[int]] = {}
        for descriptor, _ in polled:
            if descriptor == self._questions:
                asked = True
            else:
                came.setdefault(self._waiting[descriptor], []).append(descriptor)
        for lookup, descriptors in came.items():
            self._go_on(lookup, descriptors)
        now = time.monotonic()
        self._end_overdue(now)
        self._asked = min(self._asked, now) if asked else math.inf
        if asked and (now - began < QUICK or now >= self._asked + PATIENCE):
            self._asked = math.inf
            return True
        return False

    def _end_overdue(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, _, lookup, wait = heapq.heappop(self._ends)
            if lookup.wait is wait:
                self._go_on(lookup, ())

    def _go_on(self, lookup: _Lookup, came: Collection[int]) -> None:
        self._forget(lookup)
        self._resume(lookup, came)

    def _resume(self, lookup: _Lookup, came: Collection[int] | None) -> None:
        """Run the next steps of a lookup, until it waits or is done."""
        try:
            # A generator that was not started takes only None.
            wait = lookup.steps.send(came)  # type: ignore[arg-type]
            while not self._wait(lookup, wait):
                wait = lookup.steps.throw(OSError("the system has no room to wait for a socket"))
        except StopIteration as end:
            self._under_way -= 1
            lookup.done(end.value)

    def _wait(self, lookup: _Lookup, wait: Wait) -> bool:
        lookup.wait = wait
        try:
            for descriptor, event in wait.events:
                self._poll.register(descriptor, event)
                self._waiting[descriptor] = lookup
        except (MemoryError, OSError):
            self._forget(lookup)
            return False
        heapq.heappush(self._ends, (wait.until, next(self._number), lookup, wait))
        return True

    def _forget(self, lookup: _Lookup) -> None:
        """Wait no longer for what a lookup waited for."""
        assert lookup.wait is not None
        for descriptor, _ in lookup.wait.events:
            if self._waiting.pop(descriptor, None) is not None:
                self._poll.unregister(descriptor)
        lookup.wait = None

    def _watch(self, watching: bool) -> None:
        """Poll for questions, or stop while `most` lookups are under way."""
        if watching != self._watching:
            self._poll.modify(self._questions, select.POLLIN if watching else 0)
            self._watching = watching
