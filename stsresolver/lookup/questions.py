"""Questions to a resolver process: those under way, those not sent yet, and when their time ends.

Plain bookkeeping: no I/O and no lock, which is the owner's to take. The clock is passed in, as
monotonic seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .messages import MAX_MESSAGE, Result, write

# A question is asked once more if the process ends before it answers.
_TRIES = 2
# Messages in a packet at most: between two packets, the process goes on with running lookups.
_BATCH = 64

Done = Callable[[Result], None]


@dataclass(slots=True)
class Question:
    """A question under way.

    `number`: by which its result is recognised.
    `message`: the message to send.
    `seconds`: its time limit, for each try.
    `done`: to be called with the result.
    `asked`: when the try began (monotonic).
    `sent`: whether the message was sent to the present process.
    `tries`: how many processes got it and ended without an answer.
    """

    number: int
    message: bytes
    seconds: float
    done: Done = field(repr=False)
    asked: float = 0.0
    sent: bool = False
    tries: int = 0

    @property
    def end(self) -> float:
        """When its time is over (monotonic)."""
        return self.asked + self.seconds


class Questions:
    """The questions of one process, by number."""

    def __init__(self) -> None:
        self._last = 0
        self._under_way: dict[int, Question] = {}
        self._unsent: deque[Question] = deque()
        # A heap by the end of each try. Answered questions stay in it until then.
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def unsent(self) -> bool:
        """Whether a question waits to be sent."""
        return bool(self._unsent)

    def add(
        self, what: str, domain: str, timeout: float, known_ids: tuple[str, ...],
        seconds: float, done: Done, now: float,
    ) -> None:  # fmt: skip
        """Add a question, to be sent. `seconds`: its time limit."""
        self._last += 1
        message = write(self._last, what, domain, timeout, *known_ids)
        self._begin(Question(self._last, message, seconds, done), now)

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

    def sent(self, batch: list[Question]) -> None:
        """Note that a packet was sent."""
        for question in batch:
            question.sent = True
            self._unsent.popleft()

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

    def lost(self, now: float) -> list[Question]:
        """Note that the process ended: take out the questions that had their tries.

        The others are to be sent to the next process, with their whole time.
        """
        over = []
        for question in list(self._under_way.values()):
            question.tries += question.sent
            if question.tries >= _TRIES:
                self.answered(question.number)
                over.append(question)
            elif question.sent:
                question.sent = False
                self._begin(question, now)
            else:
                question.asked = now
                heapq.heappush(self._ends, (question.end, question.number))
        return over

    def _begin(self, question: Question, now: float) -> None:
        question.asked = now
        self._under_way[question.number] = question
        self._unsent.append(question)
        heapq.heappush(self._ends, (question.end, question.number))
