"""Pauses between starts of a resolver process."""

import pytest

from stsresolver.lookup.backoff import FIRST, LONGEST, WELL, Backoff


@pytest.mark.parametrize(
    ("before", "lived", "replaced", "pause", "why"),
    [
        (0.0, 0.0, False, FIRST, "a first early end"),
        (FIRST, 0.0, False, 2 * FIRST, "another one: the pause doubles"),
        (LONGEST, 0.0, False, LONGEST, "up to its most"),
        (LONGEST, WELL + 1, False, 0.0, "one that lived for long is no part of a series"),
        (LONGEST, 0.0, True, 0.0, "nor is one that was replaced"),
    ],
)
def test_pause(before, lived, replaced, pause, why):
    assert Backoff(before).after(lived, replaced=replaced).pause == pause, why
