"""The event loop of the resolver process: many lookups on one thread.

A lookup is work in steps (`net.steps`). The loop runs its steps until the lookup would wait for the
network, waits for all lookups at once with epoll(7), and goes on with those for which an event has
come or whose time is over.

                            would wait
    question ----> running ------------> waiting
                   |     ^                  | event, or time over
                   v     | its turn         v
          done(result)   +---------------- ready

Lookups that have used little CPU go on before those that have used much, so that no policy host
delays the others by what it has us compute. Up to `USUAL` seconds all are equal, and the first one
goes on first. After the turn of one that has used more than `LAVISH`, those that have used much
pause for as long: the other half of the time is for lookups to come, and for the rest of the host.

The clock of a lookup (`steps.now`) stands still while it is ready. After `NO_TURN` seconds of that
it gets `steps.NoTurn` instead of its event.

Ready lookups that have used little continue before new questions are taken, but no question is put
off for more than `PATIENCE` seconds.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import select
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from ..net.steps import NoTurn, Steps, Wait, clock

# Seconds of CPU that a lookup uses as a rule, at most: one with a policy takes 1.5 ms, on a slow
# machine 4. Each byte that it has received counts as well, because OpenSSL computes when the
# certificates are complete: those of an honest policy host are 8 kB at most.
USUAL = 0.01
BYTE = 0.4e-6
# Seconds of CPU that hardly any honest policy host has a lookup use.
LAVISH = 2 * USUAL
# Seconds for which ready lookups run before the loop looks at the network again.
SLICE = 0.002
# Seconds for which a question is put off at most.
PATIENCE = 0.02
# Seconds for which a lookup waits for its turns, all together, at most.
NO_TURN = 15.0


class _Lookup:
    """A lookup under way.

    `wait`: what it waits for, None while it is ready or runs.
    `ready`: since when it is ready (monotonic), None while it waits or runs.
    `came`: the descriptors whose event came, while it is ready.
    `late`: seconds for which it was ready before.
    `size`: as how many lookups it counts.
    `used`: seconds of CPU, those in advance for what it has received included.
    """

    __slots__ = ("came", "done", "late", "ready", "size", "steps", "used", "wait")

    def __init__(self, steps: Steps[Any], done: Callable[[Any], None], size: int) -> None:
        self.steps = steps
        self.done = done
        self.size = size
        self.wait: Wait | None = None
        self.ready: float | None = None
        self.came: Collection[int] = ()
        self.late = 0.0
        self.used = 0.0


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
        self._under_way = 0
        # The lookup that waits for a descriptor.
        self._waiting: dict[int, _Lookup] = {}
        # A heap by the time limit of each wait. Waits that are over stay in it until then.
        self._ends: list[tuple[float, int, _Lookup, Wait]] = []
        # Ready lookups: a heap by the CPU that they have used, if that is much.
        self._ready: list[tuple[float, int, _Lookup]] = []
        # Those that have used much, in the order in which they became ready, with `ready`. One that
        # had its turn stays in it until it is first.
        self._line: deque[tuple[float, _Lookup]] = deque()
        # When the next of those may have a turn (monotonic).
        self._much_at = -math.inf
        self._number = itertools.count()
        # Since when a question is put off (monotonic), inf while none is.
        self._asked = math.inf

    def start(self, steps: Steps[Any], done: Callable[[Any], None], size: int = 1) -> None:
        """Begin a lookup, which counts as `size`. `done` is called once with its result."""
        self._under_way += size
        lookup = _Lookup(steps, done, size)
        # A generator that was not started takes only None.
        self._run(lookup, steps.send, None)

    def turn(self) -> bool:
        """Wait until a lookup can go on, and run some; return whether to take questions now."""
        self._watch(self._under_way < self._most)
        began = time.monotonic()
        due = self._due(began)
        timeout = None if due == math.inf else max(0.0, due - began)
        polled = self._poll.poll(timeout)
        now = time.monotonic()
        # What the poll takes beyond its timeout, this process had no CPU.
        since = now if timeout is None else min(now, began + timeout)
        asked = False
        came: dict[_Lookup, list[int]] = {}
        for descriptor, _ in polled:
            if descriptor == self._questions:
                asked = True
            else:
                came.setdefault(self._waiting[descriptor], []).append(descriptor)
        for lookup, descriptors in came.items():
            self._make_ready(lookup, descriptors, since)
        while self._ends and self._ends[0][0] <= now:
            _, _, lookup, wait = heapq.heappop(self._ends)
            if lookup.wait is wait:
                self._make_ready(lookup, (), since)
        now = self._run_slice(now)
        self._asked = min(self._asked, now) if asked else math.inf
        if asked and (not self._usual_are_ready() or now >= self._asked + PATIENCE):
            self._asked = math.inf
            return True
        return False

    def _due(self, now: float) -> float:
        """Return when there is something to do, if no event comes before (monotonic)."""
        if self._usual_are_ready():
            return now
        end = self._ends[0][0] if self._ends else math.inf
        return min(end, self._much_at) if self._ready else end

    def _make_ready(self, lookup: _Lookup, came: Collection[int], since: float) -> None:
        """Have a lookup wait for its turn. `since`: when it could have had it (monotonic)."""
        self._forget(lookup)
        lookup.came = came
        lookup.ready = since
        much = lookup.used > USUAL
        heapq.heappush(self._ready, (lookup.used if much else 0.0, next(self._number), lookup))
        if much:
            self._line.append((since, lookup))

    def _usual_are_ready(self) -> bool:
        """Say whether a lookup is ready that has used little CPU."""
        return bool(self._ready) and self._ready[0][0] == 0.0

    def _run_slice(self, now: float) -> float:
        """Run ready lookups for about `SLICE` seconds. Return when that is (monotonic)."""
        end = now + SLICE
        while self._usual_are_ready() or (self._ready and now >= self._much_at):
            lookup = self._next(now) if self._line else heapq.heappop(self._ready)[2]
            if lookup.ready is not None:
                lookup.late += now - lookup.ready
                lookup.ready = None
                if lookup.late < NO_TURN:
                    self._run(lookup, lookup.steps.send, lookup.came)
                else:
                    self._run(lookup, lookup.steps.throw, NoTurn())
                began, now = now, time.monotonic()
                if lookup.used > LAVISH:
                    self._much_at = now + (now - began)
                if now >= end:
                    break
        return now

    def _next(self, now: float) -> _Lookup:
        """Take out the lookup whose turn it is."""
        while self._line and self._line[0][1].ready != self._line[0][0]:
            self._line.popleft()
        if self._line and now >= self._line[0][0] + NO_TURN:
            return self._line.popleft()[1]
        return heapq.heappop(self._ready)[2]

    def _run(self, lookup: _Lookup, resume: Callable[[Any], Wait], value: object) -> None:
        """Run the next steps of a lookup, until it waits or is done."""
        clock.late, clock.received = lookup.late, 0
        before = time.thread_time()
        try:
            wait = resume(value)
            while not self._wait(lookup, wait):
                why = "the system has no room to wait for a socket"
                wait = lookup.steps.throw(OSError(errno.ENOMEM, why))
        except StopIteration as end:
            self._under_way -= lookup.size
            lookup.done(end.value)
        finally:
            lookup.used += time.thread_time() - before + clock.received * BYTE

    def _wait(self, lookup: _Lookup, wait: Wait) -> bool:
        lookup.wait = wait
        try:
            for descriptor, event in wait.events:
                self._poll.register(descriptor, event)
                self._waiting[descriptor] = lookup
        except (MemoryError, OSError):
            self._forget(lookup)
            return False
        heapq.heappush(self._ends, (wait.until + lookup.late, next(self._number), lookup, wait))
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
