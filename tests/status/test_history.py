"""What was counted lately."""

import pytest

from stsresolver.status.history import PAUSE, SPAN, History


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("minutes", "seconds", "span", "number", "why"),
    [
        (0, SPAN, 0.0, 0, "nothing yet"),
        (10, SPAN, 600.0, 10, "all since the start"),
        (10, PAUSE, PAUSE, 1, "the last minute"),
        (200, SPAN, SPAN, 60, "no more than an hour"),
    ],
)
def test_within(minutes, seconds, span, number, why):
    clock, counts = Clock(), {"a": 7, "b": 1}
    history = History(lambda: counts, clock)
    for _ in range(minutes):
        clock.now += PAUSE
        counts["a"] += 1
        history.sample()
    assert history.within(seconds) == (span, {"a": number} if number else {}), why


def test_what_is_new_counts_from_nothing():
    clock, counts = Clock(), {}
    history = History(lambda: counts, clock)
    counts["x"] = 3
    clock.now += 5
    assert history.within(SPAN) == (5.0, {"x": 3})
