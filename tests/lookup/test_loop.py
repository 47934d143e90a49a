"""The event loop: lookups go on when their event comes or their time is over, questions wait."""

from __future__ import annotations

import itertools
import select
import socket
import time

import pytest

from stsresolver.lookup import loop
from stsresolver.lookup.loop import Loop
from stsresolver.net.steps import NoTurn, Wait, clock, now

# Seconds: more than any test takes.
LONG = 20.0


def waiting(descriptor, event, until):
    """Wait for one event."""
    return Wait(((descriptor.fileno(), event),), until)


class Place:
    """A loop, the daemon's end of its questions, and the results so far."""

    def __init__(self, most=100):
        self.daemon, self.questions = socket.socketpair()
        self.loop = Loop(self.questions.fileno(), most)
        self.done = []
        self.sockets = [self.daemon, self.questions]

    def pair(self):
        pair = socket.socketpair()
        self.sockets += pair
        return pair

    def start(self, name, *waits):
        """Begin a lookup that waits for each of these in turn; its result tells which came."""

        def steps():
            came = []
            for descriptor, event, until in waits:
                came.append(bool((yield waiting(descriptor, event, until))))
            return name, came

        self.loop.start(steps(), self.done.append)

    def turns(self, number):
        """Take turns until there are so many results; return whether one was for questions."""
        asked = False
        end = time.monotonic() + LONG
        while len(self.done) < number:
            assert time.monotonic() < end, self.done
            asked = self.loop.turn() or asked
        return asked


@pytest.fixture
def place():
    place = Place()
    yield place
    for one in place.sockets:
        one.close()


def later(seconds=LONG):
    return time.monotonic() + seconds


def test_a_lookup_that_does_not_wait_is_done_at_once(place):
    place.start("a")
    assert place.done == [("a", [])]


def test_it_goes_on_when_its_event_comes(place):
    ours, theirs = place.pair()
    place.start("a", (ours, select.POLLIN, later()), (ours, select.POLLOUT, later()))
    assert place.done == []
    theirs.send(b"x")
    place.turns(1)
    assert place.done == [("a", [True, True])]


def test_it_goes_on_when_its_time_is_over(place):
    ours, _ = place.pair()
    place.start("a", (ours, select.POLLIN, later(0.05)), (ours, select.POLLIN, later(-1.0)))
    place.turns(1)
    assert place.done == [("a", [False, False])]


def test_the_one_whose_time_is_over_first_goes_on_first(place):
    for name, seconds in ("a", 0.2), ("b", 0.1), ("c", 0.15):
        place.start(name, (place.pair()[0], select.POLLIN, later(seconds)))
    place.turns(3)
    assert [name for name, _ in place.done] == ["b", "c", "a"]


def test_an_event_that_came_makes_its_time_limit_void(place):
    ours, theirs = place.pair()
    other, _ = place.pair()
    place.start("a", (ours, select.POLLIN, later(0.1)), (ours, select.POLLIN, later()))
    place.start("b", (other, select.POLLIN, later(0.2)))
    theirs.send(b"x")
    place.turns(1)
    assert place.done[0][0] == "a"
    place.turns(2)


def both(first, second, until):
    return Wait(((first.fileno(), select.POLLIN), (second.fileno(), select.POLLIN)), until)


def test_a_wait_for_several_ends_with_any_of_them(place):
    (ours, theirs), (other, others) = place.pair(), place.pair()

    def steps():
        came = [(yield both(ours, other, later()))]
        theirs.send(b"x")
        came.append((yield both(ours, other, later())))
        ours.recv(1)
        other.recv(1)
        came.append((yield both(ours, other, later(0.05))))
        return came

    place.loop.start(steps(), place.done.append)
    others.send(b"x")
    place.turns(1)
    first, second, third = place.done[0]
    assert (first, sorted(second), list(third)) == (
        [other.fileno()],
        sorted([ours.fileno(), other.fileno()]),
        [],
    )


def test_what_a_lookup_no_longer_waits_for_does_not_wake_it(place):
    (ours, theirs), (other, _) = place.pair(), place.pair()

    def steps():
        yield both(ours, other, later())
        theirs.send(b"x")
        return (yield waiting(other, select.POLLIN, later(0.1)))

    place.loop.start(steps(), place.done.append)
    theirs.send(b"x")
    place.turns(1)
    assert list(place.done[0]) == []


def test_an_event_of_a_descriptor_that_has_another_lookup_now(place):
    """Both events come in one turn; after the first the second's number belongs to a new socket."""

    def steps():
        first, second = socket.socketpair(), socket.socketpair()
        for pair in first, second:
            pair[1].send(b"x")
        yield both(first[0], second[0], later())
        numbers = {first[0].fileno(), second[0].fileno()}
        for end in *first, *second:
            end.close()
        silent = [place.pair() for _ in range(2)]
        assert numbers & {end.fileno() for pair in silent for end in pair}
        return (yield both(silent[0][0], silent[1][0], later(0.1)))

    place.loop.start(steps(), place.done.append)
    place.turns(1)
    assert list(place.done[0]) == []


def test_a_descriptor_may_be_closed_and_another_have_its_number(place):
    def steps():
        for _ in range(3):
            pair = socket.socketpair()
            with pair[0], pair[1]:
                yield waiting(pair[0], select.POLLOUT, later())
        return "done"

    place.loop.start(steps(), place.done.append)
    place.turns(1)
    assert place.done == ["done"]


def test_a_question_is_taken_when_nothing_else_can_go_on(place):
    place.daemon.send(b"question")
    assert place.loop.turn()


# WHOSE TURN IT IS


def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def one_a_turn(monkeypatch):
    """Have the loop run one lookup in each turn."""
    monkeypatch.setattr(loop, "SLICE", 0.0)
    monkeypatch.setattr(loop, "PATIENCE", LONG)


def start(place, name, *used):
    """Begin a lookup that uses so many seconds of CPU before each wait; return what wakes it."""
    ours, theirs = place.pair()

    def steps():
        for seconds in used:
            compute(seconds)
            yield waiting(ours, select.POLLIN, later())
            ours.recv(1)
        return name

    place.loop.start(steps(), place.done.append)
    return theirs


MUCH = 2 * loop.USUAL
ORDERS = [
    pytest.param({"a": 0.0, "b": 0.0, "c": 0.0}, "abc", id="equal: the first one first"),
    pytest.param({"a": 0.003, "b": 0.0, "c": 0.001}, "abc", id="all have used little"),
    pytest.param({"a": MUCH, "b": 0.0, "c": 0.003}, "bca", id="one has used much"),
    pytest.param({"a": 3 * MUCH, "b": 2 * MUCH, "c": MUCH}, "cba", id="much, more, most"),
]


@pytest.mark.parametrize(("used", "order"), ORDERS)
def test_those_that_have_used_much_go_on_last(place, one_a_turn, used, order):
    for one in [start(place, name, seconds) for name, seconds in used.items()]:
        one.send(b"x")
    place.turns(3)
    assert "".join(place.done) == order


def test_one_that_has_used_little_overtakes_those_that_were_ready_before(place, one_a_turn):
    for one in [start(place, "a", MUCH), start(place, "b", 2 * MUCH)]:
        one.send(b"x")
    place.turns(1)
    start(place, "c", 0.0).send(b"x")
    place.turns(3)
    assert place.done == ["a", "c", "b"]


def test_what_a_lookup_has_used_is_the_sum_of_its_steps(place, one_a_turn):
    slow = start(place, "a", *[loop.USUAL / 4] * 8)
    for _ in range(7):
        slow.send(b"x")
        place.loop.turn()
    other = start(place, "b", 0.0)
    slow.send(b"x")
    other.send(b"x")
    place.turns(2)
    assert place.done == ["b", "a"]


def test_what_a_lookup_has_received_counts_in_advance(place, one_a_turn):
    """OpenSSL computes once the certificates are complete."""
    ours, theirs = place.pair()

    def receives():
        clock.received += int(2 * loop.USUAL / loop.BYTE)
        yield waiting(ours, select.POLLIN, later())
        return "much"

    place.loop.start(receives(), place.done.append)
    other = start(place, "little", 0.001)
    theirs.send(b"x")
    other.send(b"x")
    place.turns(2)
    assert place.done == ["little", "much"]


def test_those_that_have_used_much_pause_after_one_that_is_lavish(place, one_a_turn):
    lavish = start(place, "lavish", 2 * loop.LAVISH, 0.1)
    much = start(place, "much", 3 * loop.LAVISH)
    for one in lavish, much:
        one.send(b"x")
    place.loop.turn()
    turned = time.monotonic()
    start(place, "usual", 0.0).send(b"x")
    place.turns(2)
    assert place.done == ["usual", "much"]
    assert time.monotonic() > turned + 0.09


def test_the_last_step_of_one_that_is_lavish_counts(place, one_a_turn):
    ours, theirs = place.pair()

    def lavish():
        yield waiting(ours, select.POLLIN, later())
        compute(0.1)
        return "lavish"

    place.loop.start(lavish(), place.done.append)
    theirs.send(b"x")
    start(place, "much", MUCH).send(b"x")
    place.turns(1)
    turned = time.monotonic()
    place.turns(2)
    assert place.done == ["lavish", "much"]
    assert time.monotonic() > turned + 0.09


def test_a_time_limit_ends_while_those_pause(place, one_a_turn):
    ours, _ = place.pair()
    lavish = start(place, "lavish", 2 * loop.LAVISH, 0.1)
    much = start(place, "much", 3 * loop.LAVISH)
    for one in lavish, much:
        one.send(b"x")
    place.loop.turn()
    place.start("late", (ours, select.POLLIN, later(0.01)))
    place.turns(1)
    assert place.done == [("late", [False])]


def test_after_a_slice_it_looks_at_the_network_again(place, monkeypatch):
    monkeypatch.setattr(loop, "SLICE", 0.02)
    ready = [start(place, name, 0.0) for name in "abcd"]
    for one in ready:
        one.send(b"x")
    place.loop.turn()
    assert place.done == ["a", "b", "c", "d"], "they have used nothing"


# TIME THAT IS NOT THE DOMAIN'S


def test_what_others_compute_is_not_charged(place):
    ours, theirs = place.pair()

    def busy():
        yield waiting(theirs, select.POLLOUT, later())
        compute(0.5)

    def steps():
        began = now()
        came = yield waiting(ours, select.POLLIN, began + 0.2)
        used = now() - began
        # It has the rest of its time still.
        again = yield waiting(ours, select.POLLIN, began + 0.2)
        return bool(came), bool(again), used

    began = time.monotonic()
    place.loop.start(busy(), lambda _: None)
    place.loop.start(steps(), place.done.append)
    theirs.send(b"x")
    place.turns(1)
    ((came, again, used),) = place.done
    assert came
    assert again
    assert used < 0.2
    assert time.monotonic() - began > 0.5


def test_one_that_gets_no_turn_ends(place, one_a_turn, monkeypatch):
    monkeypatch.setattr(loop, "NO_TURN", 0.3)

    ours, theirs = place.pair()
    theirs.send(b"x")
    closed = []

    def starves():
        compute(MUCH)
        try:
            yield waiting(ours, select.POLLIN, later())
        except NoTurn:
            return "no turn"
        finally:
            closed.append(True)

    began = time.monotonic()
    place.loop.start(starves(), place.done.append)
    pairs = itertools.cycle([place.pair()[0] for _ in range(3)])

    def usual():
        yield waiting(next(pairs), select.POLLOUT, later())

    def begin(_):
        if not place.done:
            place.loop.start(usual(), begin)

    begin(None)
    begin(None)
    while not place.done:
        assert time.monotonic() < began + LONG
        place.loop.turn()
    assert place.done == ["no turn"]
    assert closed
    assert time.monotonic() - began > 0.3


# QUESTIONS


def test_usual_lookups_go_on_before_a_question_is_taken(place, one_a_turn):
    for one in [start(place, name, 0.0) for name in ("a", "b")]:
        one.send(b"x")
    place.daemon.send(b"question")
    assert not place.loop.turn()
    assert place.done == ["a"]
    assert place.loop.turn()
    assert place.done == ["a", "b"]


def test_a_question_is_taken_before_those_that_have_used_much(place, one_a_turn):
    for one in [start(place, "a", MUCH), start(place, "b", 2 * MUCH)]:
        one.send(b"x")
    place.daemon.send(b"question")
    assert place.loop.turn()
    assert place.done == ["a"]


def test_but_not_for_long(place, one_a_turn, monkeypatch):
    monkeypatch.setattr(loop, "PATIENCE", 0.05)

    def dribble(ready):
        while True:
            yield waiting(ready, select.POLLOUT, later())

    for _ in range(2):
        place.loop.start(dribble(place.pair()[0]), place.done.append)
    place.daemon.send(b"question")
    assert not place.loop.turn()
    end = later()
    while not place.loop.turn():
        assert time.monotonic() < end, "the question is passed over for ever"


def test_with_as_many_lookups_as_may_be_questions_wait():
    place = Place(most=1)
    ours, theirs = place.pair()
    place.start("a", (ours, select.POLLIN, later()))
    place.daemon.send(b"question")
    theirs.send(b"x")
    assert not place.loop.turn()
    assert place.done
    assert place.loop.turn(), "there is room again"
    for one in place.sockets:
        one.close()


def test_lookups_are_counted_and_not_what_they_wait_for():
    place = Place(most=2)

    def steps():
        yield both(place.pair()[0], place.pair()[0], later())

    place.loop.start(steps(), place.done.append)
    place.daemon.send(b"question")
    assert place.loop.turn()
    for end in place.sockets:
        end.close()


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_where_the_system_cannot_wait_the_lookup_fails_alone(place, error):
    class Poll:
        def register(self, *_):
            raise error

    real, place.loop._poll = place.loop._poll, Poll()
    failed = []

    def steps():
        try:
            yield waiting(place.pair()[0], select.POLLIN, later())
        except OSError as reason:
            failed.append(str(reason))
        return "failed"

    place.loop.start(steps(), place.done.append)
    place.loop._poll = real
    assert place.done == ["failed"]
    assert "no room" in failed[0]
    place.start("a")
    assert place.done[1:] == [("a", [])]
