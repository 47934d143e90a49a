"""Taking turns: one thread at a time, waits that end when they should, and no turn that is lost."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from stsresolver.lookup import scheduler
from stsresolver.lookup.scheduler import Scheduler

# Seconds: more than any test takes, and what a busy machine may add to a wait.
LONG = 20.0
LATE = 2.0


class Crowd:
    """Threads that take turns, a job each. `order`: what they note, `turns`: theirs."""

    def __init__(self) -> None:
        self._asking, self._questions = socket.socketpair()
        self._done, self._all_done = socket.socketpair()
        self._sockets = [self._asking, self._questions, self._done, self._all_done]
        self._raised: list[BaseException] = []
        self.turns = Scheduler(self._questions.fileno())
        self.order: list[object] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return two connected sockets, which are closed with the crowd."""
        pair = socket.socketpair()
        self._sockets += pair
        return pair

    def run(self, *jobs: Callable[[], object]) -> None:
        """Ask for each job, in order; return when all have ended, and raise what one raised."""
        left = deque(jobs)
        host = threading.Thread(target=self._host, args=(left,), daemon=True)
        host.start()
        host.join(LONG)
        assert not host.is_alive(), "a turn is lost"
        for error in self._raised:
            raise error
        assert not left
        assert self.registered() == []
        assert self.turns.idle == len(self.turns._ready) == len(self.turns._waiting) == 0

    def _host(self, left: deque[Callable[[], object]]) -> None:
        working = len(left)

        def work() -> None:
            nonlocal working
            try:
                self._questions.recv(1)
                left.popleft()()
            except BaseException as error:  # noqa: BLE001 - it is the test's
                self._raised.append(error)
            working -= 1
            if not working:
                self._all_done.send(b".")
            # Unlike those of the resolver process, these threads end.
            self.turns._next().gate.release()

        for _ in left:
            self.turns.start(work)
        self._asking.send(b"." * working)
        self.turns.wait(self._done.fileno(), select.POLLIN, LONG)

    def registered(self) -> list[str]:
        """Return a line for each descriptor that epoll(7) has."""
        lines = Path(f"/proc/self/fdinfo/{self.turns._poll.fileno()}").read_text().splitlines()
        return [line for line in lines if line.startswith("tfd:")]

    def close(self) -> None:
        self.turns._poll.close()
        for each in self._sockets:
            each.close()


@pytest.fixture
def crowd():
    with contextlib.closing(Crowd()) as crowd:
        yield crowd


def later(seconds: float, what: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, what)
    timer.daemon = True
    timer.start()


def test_one_runs_at_a_time(crowd):
    running: list[object] = []
    rounds = 30

    def alone() -> None:
        me = object()
        running.append(me)
        for _ in range(5):
            # Another thread that has no turn to wait for would run now.
            time.sleep(0)
            assert running == [me]
        running.remove(me)

    def job() -> None:
        ours, theirs = crowd.pair()
        for number in range(rounds):
            alone()
            later(0.001 * (number % 3), lambda: theirs.send(b"."))
            assert crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)
            alone()
            assert ours.recv(9) == b"."
        crowd.order.append("ended")

    crowd.run(*[job] * 20)
    assert crowd.order == ["ended"] * 20


def test_they_wait_side_by_side(crowd):
    def job() -> None:
        assert not crowd.turns.wait(crowd.pair()[0].fileno(), select.POLLIN, 0.2)

    started = time.monotonic()
    crowd.run(*[job] * 50)
    assert time.monotonic() - started < 0.2 + LATE, "one after the other would be ten seconds"


@pytest.mark.parametrize(
    ("seconds", "comes", "came"),
    [
        (0.1, None, False),
        (0.0, None, False),
        (-1.0, None, False),
        (LONG, 0.1, True),
        (LONG, 0.0, True),
        (0.0, 0.0, True),
    ],
)
def test_a_wait_ends(crowd, seconds, comes, came):
    """When its time is over, or with what it waits for; which may be there already."""
    ours, theirs = crowd.pair()

    def job() -> None:
        started = time.monotonic()
        if comes == 0.0:
            theirs.send(b".")
        elif comes is not None:
            later(comes, lambda: theirs.send(b"."))
        assert crowd.turns.wait(ours.fileno(), select.POLLIN, seconds) is came
        took = time.monotonic() - started
        # A timer counts from a moment before.
        assert max(0.0, min(seconds, comes or seconds) - 0.01) * (not came or bool(comes)) <= took
        assert took < max(0.0, min(seconds, LONG if comes is None else comes)) + LATE

    crowd.run(job)


def test_each_wait_ends_at_its_own_time(crowd):
    def job(seconds: float) -> Callable[[], None]:
        def wait() -> None:
            end = time.monotonic() + seconds
            assert not crowd.turns.wait(crowd.pair()[0].fileno(), select.POLLIN, seconds)
            assert time.monotonic() >= end
            crowd.order.append(seconds)

        return wait

    crowd.run(*map(job, [0.5, 0.1, 0.4, 0.2, 0.3]))
    assert crowd.order == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_wait_ends_while_others_go_on(crowd):
    """Who always has something to do does not keep those waiting whose time is over."""
    busy, full = crowd.pair()
    full.send(b".")

    def works() -> None:
        end = time.monotonic() + LONG
        while "over" not in crowd.order:
            assert crowd.turns.wait(busy.fileno(), select.POLLIN, LONG)
            assert time.monotonic() < end

    def waits() -> None:
        assert not crowd.turns.wait(crowd.pair()[0].fileno(), select.POLLIN, 0.1)
        crowd.order.append("over")

    crowd.run(waits, works)


def refused_datagram(crowd: Crowd) -> tuple[socket.socket, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        crowd._sockets.append(one)
        one.connect(closed.getsockname())
    one.send(b".")
    return one, select.POLLIN


def hung_up(crowd: Crowd) -> tuple[socket.socket, int]:
    ours, theirs = crowd.pair()
    theirs.close()
    return ours, select.POLLIN


def never_connected(crowd: Crowd) -> tuple[socket.socket, int]:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    crowd._sockets.append(one)
    return one, select.POLLIN


def room(crowd: Crowd) -> tuple[socket.socket, int]:
    return crowd.pair()[0], select.POLLOUT


@pytest.mark.parametrize("case", [refused_datagram, hung_up, never_connected, room])
def test_an_error_or_an_end_is_an_event(crowd, case):
    """The next system call tells which; until then it is something to go on for."""

    def job() -> None:
        one, event = case(crowd)
        assert crowd.turns.wait(one.fileno(), event, LONG)

    started = time.monotonic()
    crowd.run(job)
    assert time.monotonic() - started < LATE


def test_a_question_is_not_passed_over_for_long(crowd):
    ours, theirs = crowd.pair()
    theirs.send(b".")
    begun = threading.Event()
    end = time.monotonic() + LONG / 2

    def never_waits() -> None:
        while not begun.is_set():
            assert time.monotonic() < end, "nobody else begins"
            assert crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)

    crowd.run(never_waits, begun.set)


def test_what_was_begun_goes_on_before_more_is_begun(crowd, monkeypatch):
    monkeypatch.setattr(scheduler, "PATIENCE", LONG)
    ours, theirs = crowd.pair()
    theirs.send(b".")

    def job(name: str) -> Callable[[], None]:
        def work() -> None:
            for step in range(3):
                crowd.order.append((name, step))
                assert crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)

        return work

    crowd.run(job("first"), job("second"))
    assert crowd.order == [(name, step) for name in ("first", "second") for step in range(3)]


def test_a_question_is_served_while_others_wait(crowd):
    ours, theirs = crowd.pair()
    crowd.run(
        lambda: crowd.order.append(crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)),
        lambda: crowd.order.append(theirs.send(b".")),
    )
    assert crowd.order == [1, True]


def test_a_number_that_another_socket_has_now(crowd):
    """As often as not: a socket is closed after its wait, and the next one gets its number."""
    numbers: set[int] = set()

    def job() -> None:
        for number in range(20):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                numbers.add(ours.fileno())
                assert not crowd.turns.wait(ours.fileno(), select.POLLIN, 0.001)
                if number % 2:
                    theirs.send(b".")
                came = crowd.turns.wait(ours.fileno(), select.POLLIN, 0.001)
                assert came == bool(number % 2)

    crowd.run(*[job] * 10)
    assert len(numbers) < 10 * 20


# WHAT FAILS


def test_a_wait_that_cannot_be(crowd, tmp_path):
    ours, theirs = crowd.pair()

    def waits() -> None:
        assert crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)
        crowd.order.append("came")

    def fails() -> None:
        with pytest.raises(FileExistsError):
            crowd.turns.wait(ours.fileno(), select.POLLIN, LONG)
        with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
            crowd.turns.wait(file.fileno(), select.POLLIN, LONG)
        with pytest.raises(OSError, match="Bad file descriptor"):
            crowd.turns.wait(os.sysconf("SC_OPEN_MAX") - 1, select.POLLIN, LONG)
        theirs.send(b".")
        crowd.order.append("failed")

    crowd.run(waits, fails)
    assert crowd.order == ["failed", "came"], "who failed had the turn, and the other lost nothing"


class Memory:
    """Is short for the threads in `short_for`, the `after`th time that one of them wants some."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.short_for: set[int] = set()

    def take(self) -> None:
        if threading.get_ident() in self.short_for:
            self._after -= 1
            if self._after == 0:
                raise MemoryError


class Poll:
    """epoll(7), which takes memory for what it returns; the event that came last is the first."""

    def __init__(self, poll: select.epoll, memory: Memory) -> None:
        self._poll = poll
        self._memory = memory
        self.register, self.unregister = poll.register, poll.unregister
        self.fileno, self.close = poll.fileno, poll.close

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self._memory.take()
        return self._poll.poll(timeout)[::-1]


class Queue(deque[object]):
    """A queue, which takes memory for one more."""

    memory: Memory

    def append(self, one: object) -> None:
        self.memory.take()
        super().append(one)


@pytest.mark.parametrize("after", range(1, 8))
@pytest.mark.parametrize("place", ["poll", "queue"])
def test_memory_that_is_short_in_a_wait(crowd, place, after):
    """One wait fails, at any moment; its thread goes on, and so do all the others."""
    memory = Memory(after)
    crowd.turns._ready = Queue()
    crowd.turns._ready.memory = memory if place == "queue" else Memory(0)
    crowd.turns._poll = Poll(crowd.turns._poll, memory if place == "poll" else Memory(0))
    pairs = [crowd.pair() for _ in range(4)]
    failed = []

    def job(number: int) -> Callable[[], None]:
        def work() -> None:
            memory.short_for.add(threading.get_ident())
            for step in range(3):
                # The next one is woken; the first waits in vain, once at least.
                pairs[(number + 1) % 4][1].send(b".")
                try:
                    crowd.turns.wait(pairs[number][0].fileno(), select.POLLIN, 0.05)
                except MemoryError:
                    failed.append((number, step))
                with contextlib.suppress(BlockingIOError):
                    pairs[number][0].recv(9, socket.MSG_DONTWAIT)
            memory.short_for.remove(threading.get_ident())
            crowd.order.append("ended")

        return work

    crowd.run(*map(job, range(4)))
    assert crowd.order == ["ended"] * 4
    assert len(failed) == 1


def test_a_thread_that_cannot_be_started(crowd, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            crowd.turns.start(lambda: None)
    assert crowd.turns.idle == 0
    assert crowd.registered() == []
    crowd.run(lambda: crowd.order.append("later"))
    assert crowd.order == ["later"]
