"""Which domains are looked up alone after deaths of the resolver process, and which not at all."""

from __future__ import annotations

import pytest

from stsresolver.lookup import suspects
from stsresolver.lookup.suspects import PAUSE, Suspects, Treatment

NOW = 1000.0
A, B = "a.example", "b.example"
TOGETHER, ALONE, NOT_NOW = Treatment.TOGETHER, Treatment.ALONE, Treatment.NOT_NOW


def told(*events: str | tuple[str, ...]) -> Suspects:
    """Return suspects after events: domains that a process died with, or one that is named alone.

    "!a": a process died that had nothing else to do. "+a": a result.
    """
    found = Suspects()
    for event in events:
        if isinstance(event, tuple):
            found.died(event)
        elif event[0] == "!":
            found.died_alone(event[1:], NOW)
        else:
            found.answered(event[1:])
    return found


@pytest.mark.parametrize(
    ("events", "of_a", "of_b", "why"),
    [
        ([], TOGETHER, TOGETHER, "nothing happened"),
        ([(A, B)], TOGETHER, TOGETHER, "one death may be anybody's doing"),
        ([(A, B), (A, B)], ALONE, ALONE, "both were under way at both"),
        ([(A, B), (A,)], ALONE, TOGETHER, "b was under way at one"),
        ([(A,), (B,)], TOGETHER, TOGETHER, "another one at each"),
        ([(A,), (B,), (A,)], ALONE, TOGETHER, "a had no result between its deaths"),
        ([(A, B), "+" + B, (A, B)], ALONE, TOGETHER, "b had one"),
        ([(A,), (A,), "+" + A], TOGETHER, TOGETHER, "alone it had a result"),
        ([(A,), (A,), "+" + A, (A,)], TOGETHER, TOGETHER, "then it counts anew"),
        ([(A, B), (A, B), "!" + A], NOT_NOW, ALONE, "a process died of it alone"),
        ([(A,), (A,), "!" + A, "+" + A], TOGETHER, TOGETHER, "a result that came late"),
        ([()], TOGETHER, TOGETHER, "a process that died idle"),
        (["+" + A], TOGETHER, TOGETHER, "a result, as ever"),
    ],
)
def test_how_a_domain_is_looked_up(events, of_a, of_b, why):
    found = told(*events)
    assert (found.treatment(A, NOW), found.treatment(B, NOW)) == (of_a, of_b), why


@pytest.mark.parametrize(
    ("later", "treatment", "why"),
    [
        (PAUSE - 1, NOT_NOW, "it is left alone"),
        (PAUSE, ALONE, "it is tried again, and only alone"),
    ],
)
def test_it_is_left_alone_for_some_minutes(later, treatment, why):
    assert told((A,), (A,), "!" + A).treatment(A, NOW + later) is treatment, why


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(suspects, "MOST", 2)
    found = told((A,), (A,), (B,), ("c.example",))
    assert A not in found, "the oldest is forgotten"
    assert B in found
