"""Pauses between starts of a resolver process."""

import pytest

from stsresolver.lookup.backoff import FIRST, LONGEST, WELL, Backoff


@pytest.mark.parametrize(
    ("before", "lived", "pause", "why"),
    [
        (0.0, 0.0, FIRST, "a first early end"),
        (FIRST, 0.0, 2 * FIRST, "another one: the pause doubles"),
        (LONGEST, 0.0, LONGEST, "up to its most"),
        (LONGEST, WELL + 1, 0.0, "one that lived for long is no part of a series"),
    ],
)
def test_pause(before, lived, pause, why):
    assert Backoff(before).after(lived).pause == pause, why
