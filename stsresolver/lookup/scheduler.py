"""Taking turns: of the threads that look something up, one runs at a time.

Threads that compute hand the GIL to each other at every system call, and handing it over costs
more than the call does. Here a thread has the turn until it would wait for the network; then it
hands it to one whose wait is over. So the threads change as often as lookups wait.

Who waits for a question is served last: what was begun goes on before more is begun. But a question
is not passed over for long, or a policy host that dribbles bytes would keep all others waiting.

Every method raises `MemoryError`, and `OSError` of epoll(7), to a thread that has the turn then.
After `wait` it may go on; after another method the process has to end.
"""

from __future__ import annotations

import collections
import math
import select
import threading
import time
from collections.abc import Callable

# Seconds for which a question is passed over while others can go on.
PATIENCE = 0.02


class _Slot:
    """A thread that waits, until `end` (monotonic); `came`: whether what it waited for has."""

    __slots__ = ("came", "end", "gate")

    def __init__(self, end: float) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.end = end
        self.came = False


class Scheduler:
    """The turns of some threads. `questions`: the descriptor that they wait at for work.

    The thread that makes it has the turn, and `start` adds more threads. Each has the turn whenever
    it is in none of the methods, which alone see to whose it is; so nothing here needs a lock. None
    of them ends, but with the process.
    """

    def __init__(self, questions: int) -> None:
        self._questions = questions
        self._poll = select.epoll()
        self._ready: collections.deque[_Slot] = collections.deque()
        self._waiting: dict[int, _Slot] = {}
        self._idle: list[_Slot] = []
        # No wait ends before.
        self._due = math.inf
        # When the question that is to be taken next was seen first.
        self._asked = math.inf

    @property
    def idle(self) -> int:
        """How many threads wait for a question."""
        return len(self._idle)

    def wait(self, descriptor: int, event: int, seconds: float) -> bool:
        """Give others their turns until a descriptor has an event of poll(2); at most `seconds`.

        Return whether it has it. No two threads wait for one descriptor, and none is closed while
        one waits for it.
        """
        turn = _Slot(time.monotonic() + seconds)
        self._poll.register(descriptor, event)
        try:
            self._waiting[descriptor] = turn
            self._due = min(self._due, turn.end)
            self._pass_on(turn)
        except BaseException:
            self._withdraw(descriptor, turn)
            raise
        return turn.came

    def question(self) -> None:
        """Give others their turns until there is a question, and nobody else to go on.

        For `PATIENCE` seconds; then this one goes on before the others.
        """
        turn = _Slot(math.inf)
        self._rest(turn)
        self._pass_on(turn)

    def start(self, work: Callable[[], None]) -> None:
        """Start a thread that waits for a question, and then does `work`.

        Raise `RuntimeError` where the system has no thread; all is as before then.
        """
        turn = _Slot(math.inf)

        def run() -> None:
            turn.gate.acquire()
            work()

        threading.Thread(target=run, daemon=True).start()
        self._rest(turn)

    def _rest(self, turn: _Slot) -> None:
        if not self._idle:
            self._poll.register(self._questions, select.POLLIN)
        self._idle.append(turn)

    def _pass_on(self, turn: _Slot) -> None:
        """Hand the turn on, and return when it is that of `turn`."""
        after = self._next()
        if after is not turn:
            after.gate.release()
            turn.gate.acquire()

    def _next(self) -> _Slot:
        """Return whose turn it is now. Wait while nobody can go on."""
        while not self._ready:
            now = time.monotonic()
            timeout = None if self._due == math.inf else max(0.0, self._due - now)
            asked = False
            for descriptor, _ in self._poll.poll(timeout):
                if descriptor == self._questions:
                    asked = True
                else:
                    self._waiting[descriptor].came = True
                    self._let_go_on(descriptor)
            now = time.monotonic()
            self._end_overdue(now)
            self._asked = min(self._asked, now) if asked else math.inf
            if asked and (not self._ready or now >= self._asked + PATIENCE):
                self._asked = math.inf
                turn = self._idle.pop()
                if not self._idle:
                    self._poll.unregister(self._questions)
                return turn
        return self._ready.popleft()

    def _end_overdue(self, now: float) -> None:
        """Let those go on whose time is over."""
        if now < self._due:
            return
        for descriptor, turn in list(self._waiting.items()):
            if now >= turn.end:
                self._let_go_on(descriptor)
        self._due = min((turn.end for turn in self._waiting.values()), default=math.inf)

    def _let_go_on(self, descriptor: int) -> None:
        # First what may raise: a turn is never on no list.
        self._ready.append(self._waiting[descriptor])
        del self._waiting[descriptor]
        self._poll.unregister(descriptor)

    def _withdraw(self, descriptor: int, turn: _Slot) -> None:
        """Forget a turn whose thread goes on by itself, wherever it is."""
        if turn in self._ready:
            self._ready.remove(turn)
        else:
            self._waiting.pop(descriptor, None)
            self._poll.unregister(descriptor)
