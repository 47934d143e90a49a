"""Which policies got weaker, and when that is over."""

import pytest

from stsresolver.mta_sts.policy import Mode
from stsresolver.policies.setbacks import Setback, Setbacks

ENFORCE, TESTING, NONE = Mode.ENFORCE, Mode.TESTING, Mode.NONE


@pytest.mark.parametrize(
    ("steps", "found", "why"),
    [
        ([(None, ENFORCE)], None, "a first policy"),
        ([(ENFORCE, ENFORCE)], None, "as strong as before"),
        ([(TESTING, ENFORCE)], None, "stronger"),
        ([(ENFORCE, TESTING)], (ENFORCE, TESTING), "weaker"),
        ([(ENFORCE, NONE)], (ENFORCE, NONE), "withdrawn"),
        ([(TESTING, NONE)], (TESTING, NONE), "a test that ended"),
        ([(ENFORCE, None)], (ENFORCE, None), "expired"),
        ([(NONE, None)], None, "nothing protected mail before"),
        ([(ENFORCE, TESTING), (TESTING, NONE)], (ENFORCE, NONE), "twice: from the strongest"),
        ([(ENFORCE, TESTING), (TESTING, ENFORCE)], None, "it is over"),
        ([(ENFORCE, None), (None, TESTING)], (ENFORCE, TESTING), "a weaker one after its end"),
        ([(ENFORCE, None), (ENFORCE, ENFORCE)], None, "the same after its end"),
        ([(ENFORCE, NONE), (NONE, None)], (ENFORCE, NONE), "its owner ended it, nothing expired"),
        ([(ENFORCE, TESTING), (ENFORCE, None)], (ENFORCE, None), "a strong one that another saw"),
    ],
)
def test_setback(steps, found, why):
    setbacks = Setbacks()
    for number, (before, after) in enumerate(steps):
        setbacks.note("a.example", float(number), before, after)
    assert [(one.before, one.after) for one in setbacks.read()] == ([found] if found else []), why


def test_the_newest_come_first_and_one_is_forgotten():
    setbacks = Setbacks()
    setbacks.note("a.example", 1.0, ENFORCE, None, "SERVFAIL")
    setbacks.note("b.example", 2.0, ENFORCE, TESTING)
    assert setbacks.read() == [
        Setback("b.example", 2.0, ENFORCE, TESTING),
        Setback("a.example", 1.0, ENFORCE, None, "SERVFAIL"),
    ]
    setbacks.forget("b.example")
    assert [one.domain for one in setbacks.read()] == ["a.example"]


def test_only_so_many_are_remembered():
    setbacks = Setbacks()
    for number in range(1500):
        setbacks.note(f"{number}.example", float(number), ENFORCE, None)
    assert [one.domain for one in setbacks.read()][:1] == ["1499.example"]
    assert len(setbacks.read()) == 1000


def test_it_began_when_it_was_noticed_first():
    setbacks = Setbacks()
    setbacks.note("a.example", 1.0, ENFORCE, None, "SERVFAIL")
    setbacks.note("a.example", 9.0, None, TESTING)
    assert setbacks.read() == [Setback("a.example", 1.0, ENFORCE, TESTING)]


@pytest.mark.parametrize(
    ("steps", "since", "why"),
    [
        ([("fails", True), ("fails", True)], 0.0, "the first failure"),
        ([("fails", True), ("works", True)], None, "the record works again"),
        ([("fails", False), ("works", True), ("fails", False)], 0.0, "its record always worked"),
        ([("fails", True), ("works", True), ("fails", False)], 2.0, "another failure"),
        ([("fails", True), ("works", False)], None, "a fetch shows that all works"),
    ],
)
def test_since_when_it_fails(steps, since, why):
    setbacks = Setbacks()
    for number, (what, by_record) in enumerate(steps):
        if what == "fails":
            setbacks.note_failing("a.example", float(number), by_record=by_record)
        else:
            setbacks.note_working("a.example", by_record=by_record)
    assert setbacks.failing_since("a.example") == since, why
