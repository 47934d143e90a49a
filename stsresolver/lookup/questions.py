"""Questions to a resolver process: those under way, those not sent yet, and when their time ends.

Plain bookkeeping: no I/O and no lock, which is the owner's to take. The clock is passed in, as
monotonic seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .messages import MAX_MESSAGE, Result, write

# Questions that are sent though others may follow at once: a quarter of those under way, within
# these bounds. So a process begins early, and one that has enough to do is woken less.
_FEW, _SOME = 4, 8
# Messages in a packet at most: between two packets, the process goes on with running lookups.
_BATCH = 64
# Seconds within which a question counts as sent when it was asked.
_AT_ONCE = 0.1

Done = Callable[[Result], None]


class Wanted(NamedTuple):
    """A lookup that somebody waits for. The fields are the arguments of `ResolverProcess.ask`."""

    what: str
    domain: str
    timeout: float
    known_ids: tuple[str, ...]
    done: Done


@dataclass(slots=True)
class Question:
    """A question under way.

    `number`: by which its result is recognised.
    `wanted`: what was asked.
    `message`: the message to send.
    `seconds`: its time limit, for each try.
    `asked`: when the try began (monotonic): when it was asked, or sent later.
    `sent`: whether the message was sent to the present process.
    `tries`: how many processes got it and ended without an answer.
    """

    number: int
    wanted: Wanted
    message: bytes
    seconds: float
    asked: float = 0.0
    sent: bool = False
    tries: int = 0

    @property
    def end(self) -> float:
        """When its time is over (monotonic)."""
        return self.asked + self.seconds


class Questions:
    """The questions of one process, by number. `tries`: how often each may be sent."""

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._last = 0
        self._under_way: dict[int, Question] = {}
        self._unsent: deque[Question] = deque()
        # A heap by the end of each try. Answered questions stay in it until then.
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def unsent(self) -> int:
        """How many questions wait to be sent."""
        return len(self._unsent)

    @property
    def fill_a_packet(self) -> bool:
        """Whether enough questions wait to be sent that the process should begin with them."""
        return len(self._unsent) >= max(_FEW, min(len(self._under_way) // 4, _SOME))

    def add(self, wanted: Wanted, seconds: float, now: float) -> None:
        """Add a question, to be sent. `seconds`: its time limit."""
        self._last += 1
        what, domain, timeout, known_ids, _ = wanted
        message = write(self._last, what, domain, timeout, *known_ids)
        self._begin(Question(self._last, wanted, message, seconds), now)

    def packet(self) -> tuple[bytes, list[Question]]:
        """Return the next packet to send, and the questions in it."""
        batch: list[Question] = []
        size = 0
        for question in self._unsent:
            size += len(question.message) + 1
            if batch and (len(batch) == _BATCH or size > MAX_MESSAGE):
                break
            batch.append(question)
        return b"\n".join(question.message for question in batch), batch

    def sent(self, batch: list[Question], now: float) -> None:
        """Note that a packet was sent. The time of questions that had to wait begins anew."""
        for question in batch:
            question.sent = True
            self._unsent.popleft()
            if now > question.asked + _AT_ONCE:
                question.asked = now
                heapq.heappush(self._ends, (question.end, question.number))

    def answered(self, number: int) -> Question | None:
        """Take out the question with a number; None if it is not under way."""
        question = self._under_way.pop(number, None)
        if question is not None and not question.sent:
            self._unsent.remove(question)
        return question

    def next_end(self) -> float:
        """Return a time before which no question is overdue (monotonic), inf without any."""
        return self._ends[0][0] if self._ends else math.inf

    def overdue(self, now: float) -> list[Question]:
        """Take out the questions whose time is over."""
        found = []
        while self._ends and self._ends[0][0] <= now:
            _, number = heapq.heappop(self._ends)
            question = self._under_way.get(number)
            if question is not None and question.end <= now:
                found.append(question)
                self.answered(number)
        return found

    def older(self, then: float) -> list[Question]:
        """Take out the questions that were asked at `then` or before."""
        found = [one for one in self._under_way.values() if one.asked <= then]
        for question in found:
            self.answered(question.number)
        return found

    def take_unsent(self) -> list[Question]:
        """Take out the questions that were not sent yet."""
        found = list(self._unsent)
        for question in found:
            self.answered(question.number)
        return found

    def lost(self, now: float) -> tuple[frozenset[str], list[Question]]:
        """Note that the process ended. Take out the questions that had their tries.

        Return the domains that were under way, and these questions. The others are to be sent to
        the next process, with their whole time.
        """
        under_way, over = set(), []
        for question in list(self._under_way.values()):
            question.tries += question.sent
            if question.sent:
                under_way.add(question.wanted.domain)
            if question.tries >= self._tries:
                self.answered(question.number)
                over.append(question)
            elif question.sent:
                question.sent = False
                self._begin(question, now)
            else:
                question.asked = now
                heapq.heappush(self._ends, (question.end, question.number))
        return frozenset(under_way), over

    def _begin(self, question: Question, now: float) -> None:
        question.asked = now
        self._under_way[question.number] = question
        self._unsent.append(question)
        heapq.heappush(self._ends, (question.end, question.number))
