"""Steps on a thread of their own: `run` waits no longer than told, and closes what is open."""

from __future__ import annotations

import select
import socket
import time

import pytest

from stsresolver.net.steps import SideBySide, Wait, run

SHORT = 0.2
LONG = 20.0


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def other():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def waits(ours, event, seconds):
    came = yield Wait(((ours.fileno(), event),), time.monotonic() + seconds)
    return came == [ours.fileno()]


def test_without_a_wait():
    def steps():
        return 1
        yield

    assert run(steps()) == 1


@pytest.mark.parametrize("seconds", [SHORT, 0.0, -1.0])
def test_it_waits_no_longer_than_told(pair, seconds):
    started = time.monotonic()
    assert run(waits(pair[0], select.POLLIN, seconds)) is False
    assert time.monotonic() - started >= seconds - 0.01
    assert run(waits(pair[0], select.POLLOUT, seconds)) is True


@pytest.mark.parametrize("seconds", [1e7, 1e100, float("inf")])
def test_it_waits_for_longer_than_poll_can(pair, seconds):
    assert run(waits(pair[0], select.POLLOUT, seconds)) is True


def test_what_is_raised_comes_out_and_what_is_open_is_closed(pair, monkeypatch):
    closed = []

    def steps():
        try:
            yield Wait(((pair[0].fileno(), select.POLLOUT),), time.monotonic())
        finally:
            closed.append(True)

    def broken():
        raise MemoryError

    monkeypatch.setattr(select, "poll", broken)
    with pytest.raises(MemoryError):
        run(steps())
    assert closed


# SEVERAL AT ONCE


def both(pair, other, seconds=LONG):
    came = yield Wait(
        ((pair[0].fileno(), select.POLLIN), (other[0].fileno(), select.POLLIN)),
        time.monotonic() + seconds,
    )
    return came


def test_a_wait_for_several_ends_with_the_first(pair, other):
    other[1].send(b"x")
    assert run(both(pair, other)) == [other[0].fileno()]
    pair[1].send(b"x")
    assert sorted(run(both(pair, other))) == sorted([pair[0].fileno(), other[0].fileno()])


def test_a_wait_for_several_has_one_time_limit(pair, other):
    assert run(both(pair, other, SHORT)) == []


def test_the_first_that_is_done_comes_first(pair, other):
    def steps():
        with SideBySide() as several:
            several.start("a", waits(pair[0], select.POLLIN, LONG))
            several.start("b", waits(other[0], select.POLLIN, LONG))
            other[1].send(b"x")
            first = yield from several.first()
            pair[1].send(b"x")
            return first, (yield from several.first())

    assert run(steps()) == (("b", True), ("a", True))


def test_two_that_are_done_at_once_come_one_by_one(pair, other):
    pair[1].send(b"x")
    other[1].send(b"x")

    def steps():
        with SideBySide() as several:
            several.start("a", waits(pair[0], select.POLLIN, LONG))
            several.start("b", waits(other[0], select.POLLIN, LONG))
            first = yield from several.first()
            return {first, (yield from several.first())}

    assert run(steps()) == {("a", True), ("b", True)}


def test_each_keeps_its_own_time_limit(pair, other):
    def steps():
        with SideBySide() as several:
            several.start("a", waits(pair[0], select.POLLIN, 0.1))
            several.start("b", waits(other[0], select.POLLIN, LONG))
            return (yield from several.first())

    assert run(steps()) == ("a", False)


def test_none_is_done_in_time(pair):
    def steps():
        with SideBySide() as several:
            several.start("a", waits(pair[0], select.POLLIN, LONG))
            end = time.monotonic() + 0.1
            nothing = yield from several.first(lambda: end)
            pair[1].send(b"x")
            return nothing, (yield from several.first())

    assert run(steps()) == (None, ("a", True))


def test_one_that_need_not_wait_is_done_at_once(pair):
    def at_once():
        return 1
        yield

    def steps():
        with SideBySide() as several:
            several.start("a", waits(pair[0], select.POLLIN, LONG))
            several.start("b", at_once())
            return (yield from several.first())

    assert run(steps()) == ("b", 1)


def test_what_cannot_be_waited_for_fails_in_each_step(pair, other):
    def fails(ours):
        try:
            yield from waits(ours, select.POLLIN, LONG)
        except OSError as error:
            return str(error)

    def steps():
        with SideBySide() as several:
            several.start("a", fails(pair[0]))
            several.start("b", fails(other[0]))
            return [(yield from several.first()), (yield from several.first())]

    one = steps()
    next(one)
    one.throw(OSError("no room"))
    with pytest.raises(StopIteration) as end:
        one.throw(OSError("no room"))
    assert end.value.value == [("a", "no room"), ("b", "no room")]


@pytest.mark.parametrize("how", ["at its end", "by an error of another", "from outside"])
def test_what_is_under_way_at_the_end_is_closed(pair, how):
    closed = []

    def under_way():
        try:
            yield from waits(pair[0], select.POLLIN, LONG)
        finally:
            closed.append(True)

    def broken():
        raise MemoryError
        yield

    def steps():
        with SideBySide() as several:
            several.start("a", under_way())
            if how == "by an error of another":
                several.start("b", broken())
            yield from several.first(lambda: 0.0)
            if how == "from outside":
                yield from several.first()

    if how == "by an error of another":
        with pytest.raises(MemoryError):
            run(steps())
    elif how == "from outside":
        one = steps()
        next(one)
        assert closed == []
        one.close()
    else:
        run(steps())
    assert closed == [True]
