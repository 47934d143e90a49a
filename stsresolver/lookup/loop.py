"""The event loop of the resolver process: many lookups on one thread.

A lookup is work in steps (`net.steps`). The loop takes its steps until it would wait for the
network, waits for all lookups at once with epoll(7), and goes on with those whose event has come or
whose time is over.

                 start                    event, or time over
    question ------------> running <------------------------- waiting
                              |  \\____________________________/
                              |             would wait
                              v
                            done(result)

Running lookups continue before new questions are taken. While they compute for more than `QUICK`
seconds a turn, no question is taken, but none is passed over for more than `PATIENCE` seconds: a
policy host that dribbles bytes must not keep all others waiting.
"""

from __future__ import annotations

import heapq
import itertools
import math
import select
import time
from collections.abc import Callable
from typing import Any

from ..net.steps import Steps, Wait

# Seconds of a turn after which questions are passed over: the lookups under way fill the core.
QUICK = 0.002
# Seconds for which a question is passed over at most.
PATIENCE = 0.02


class _Lookup:
    """A lookup under way. `wait`: what it waits for."""

    __slots__ = ("done", "steps", "wait")

    def __init__(self, steps: Steps[Any], done: Callable[[Any], None]) -> None:
        self.steps = steps
        self.done = done
        self.wait: Wait | None = None


class Loop:
    """Runs lookups until they are done. For one thread.

    `questions`: the descriptor at which new questions are announced.
    `most`: lookups under way; beyond them questions wait where they are.
    """

    def __init__(self, questions: int, most: int) -> None:
        self._questions = questions
        self._most = most
        self._poll = select.epoll()
        self._poll.register(questions, select.POLLIN)
        self._watching = True
        self._waiting: dict[int, _Lookup] = {}
        # By the end of each wait; those that ended before it are still there.
        self._ends: list[tuple[float, int, _Lookup, Wait]] = []
        self._number = itertools.count()
        # When the question that is to be taken next was seen first.
        self._asked = math.inf

    def start(self, steps: Steps[Any], done: Callable[[Any], None]) -> None:
        """Begin a lookup. `done` is called once with its result."""
        self._resume(_Lookup(steps, done), None)

    def turn(self) -> bool:
        """Wait until anything can go on, and let it; return whether to take questions now."""
        self._watch(len(self._waiting) < self._most)
        now = time.monotonic()
        timeout = max(0.0, self._ends[0][0] - now) if self._ends else None
        asked = False
        came = self._poll.poll(timeout)
        began = time.monotonic()
        for descriptor, _ in came:
            if descriptor == self._questions:
                asked = True
            else:
                self._go_on(descriptor, True)
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
                self._go_on(wait.descriptor, False)

    def _go_on(self, descriptor: int, came: bool) -> None:
        self._poll.unregister(descriptor)
        self._resume(self._waiting.pop(descriptor), came)

    def _resume(self, lookup: _Lookup, came: bool | None) -> None:
        """Take the next steps of a lookup."""
        lookup.wait = None
        try:
            # The first time, a generator takes None alone.
            wait = lookup.steps.send(came)  # type: ignore[arg-type]
            while not self._wait(lookup, wait):
                wait = lookup.steps.throw(OSError("the system has no room to wait for a socket"))
        except StopIteration as end:
            lookup.done(end.value)

    def _wait(self, lookup: _Lookup, wait: Wait) -> bool:
        try:
            self._poll.register(wait.descriptor, wait.event)
        except (MemoryError, OSError):
            return False
        lookup.wait = wait
        self._waiting[wait.descriptor] = lookup
        heapq.heappush(self._ends, (wait.until, next(self._number), lookup, wait))
        return True

    def _watch(self, watching: bool) -> None:
        """Look for questions, or not while as many lookups are under way as may be."""
        if watching != self._watching:
            self._poll.modify(self._questions, select.POLLIN if watching else 0)
            self._watching = watching
