"""The resolver process as the daemon sees it: ask, and be called back with the result.

Lookups compute, and threads that compute take the GIL from the serving thread. So a child process
makes them (`child`). That also keeps what strangers send away from the caches, the sockets and the
daemon's memory. When the child ends, another follows it after a pause (`backoff`). It is asked once
more what was not answered. `resolver_process` draws the states of a child.

With other settings another `ResolverProcess` takes over (`pool`). This one drains: it takes no more
questions, and ends when those that its child has are answered or past their time limits.

Every failure of a lookup is a result, as from `Resolver`. No method raises for it.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from ..mta_sts.results import Cause, Failure
from ..version import __version__
from .backoff import Backoff
from .client import LookupClient
from .messages import MAX_LINE, MAX_MESSAGE, RESOLVE, Result, read, read_result
from .questions import Done, Question, Questions, Wanted
from .resolver_process import Process, State, cpu_seconds, start

log = logging.getLogger(__name__)

# Seconds past a lookup's own time limit after which the process counts as stuck.
_SLACK = 3.0
# Seconds that a process may take to start.
_START = 30.0
# Seconds for which its socket may stay full.
_FULL = 1.0
# Seconds for which a question waits while no process runs.
_WAIT = 2.0
# Seconds for which the listening thread waits at least before it looks at time limits again.
_PAUSE = 0.1
# Seconds without a question after which the listening thread has to be woken for the next one.
_LULL = 1.0
# Why a lookup fails while no process runs.
_NONE = "no such process is running"
# What is added in the log if a process ended before its first message.
_EARLY = " before it was ready (standard error may say why; after an upgrade, restart the daemon)"
# Has a job run on another thread whenever a socket can be read.
Watch = Callable[[socket.socket, Callable[[], None]], None]
# The log levels that the process may use.
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class StartError(Exception):
    """The process cannot be started; the text says why."""


# What is told of a process that was ready and died: the domains that it was looking up, and the
# questions that are not asked of the next one because they had their tries.
Died = Callable[[frozenset[str], list[Wanted]], None]


class ResolverProcess:
    """Keeps one resolver process running, and asks it.

    `resolver`: the arguments of `Resolver` except the timeout, as values of JSON.
    `died`: called for each death on the listening thread. By default the questions fail.
    `watch`: has another thread read what the process says. By default the listening thread does.
    `tries`: of how many processes a question is asked that end before they answer.
    `losses`: how often the process ended by itself, was killed, or could not be started.

    `start` returns before the process is ready. `close` ends it. Each method may be called on any
    thread, and `close` on any but the listening thread.
    """

    def __init__(
        self,
        resolver: Mapping[str, object],
        died: Died | None = None,
        tries: int = 2,
        watch: Watch | None = None,
    ) -> None:
        self.losses = 0
        self._resolver = dict(resolver)
        self._died = died or _give_up
        self._watch = watch
        # One buffer for all packets: allocating one for each maps and unmaps memory every time.
        self._buffer = bytearray(MAX_MESSAGE)
        # Guards the attributes below, and each send: the socket is not closed during one.
        self._lock = threading.Lock()
        self._questions = Questions(tries)
        self._child: Process | None = None
        self._bell: int | None = None
        # When the listening thread wakes without the bell (monotonic).
        self._wakes = 0.0
        self._closed = False
        self._drains = False
        # When a process was last ready (monotonic).
        self._last_ready = -math.inf
        self._persists = True
        # Set after the first try to start. `_refused`: why that try failed.
        self._tried = threading.Event()
        self._refused: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="resolver", daemon=True)

    def lookups(self, timeout: float) -> LookupClient:
        """Return a client whose lookups have a time limit, in seconds."""
        return LookupClient(self, timeout)

    def start(self, *, persist: bool = True) -> None:
        """Start the process. Raise `StartError` if there is no thread for that.

        `persist`: try until it starts. Otherwise raise `StartError` if the first try fails.
        """
        self._persists = persist
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._unhang_bell()
            raise StartError(f"the resolver process cannot be started: {error}") from error
        if persist:
            return
        self._tried.wait(_START)
        if self._refused is not None:
            self.close()
            raise StartError(f"the resolver process cannot be started: {self._refused}")

    def drain(self) -> list[Wanted]:
        """End the process when it has answered what it was sent; return the other questions."""
        with self._lock:
            self._drains = True
            self._ring()
            return [question.wanted for question in self._questions.take_unsent()]

    def join(self) -> None:
        """Wait until it has drained or was closed."""
        self._thread.join()

    def close(self) -> None:
        """End the process. Lookups under way, and later ones, end as failures."""
        with self._lock:
            self._closed = True
            self._ring()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """The process id, None while no process runs."""
        child = self._child
        return child.process.pid if child is not None else None

    @property
    def ready(self) -> bool:
        """Whether a process runs and takes questions."""
        child = self._child
        return child is not None and child.state is State.READY

    @property
    def last_ready(self) -> float:
        """When a process took questions last (monotonic), -inf if none did yet."""
        return time.monotonic() if self.ready else self._last_ready

    @property
    def ended(self) -> bool:
        """Whether it was started, and has drained or was closed."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far, 0 while none runs (proc(5))."""
        return cpu_seconds(self.pid)

    @property
    def under_way(self) -> int:
        """How many lookups wait for an answer."""
        return len(self._questions)

    def ask(
        self, what: str, domain: str, timeout: float, known_ids: tuple[str, ...], done: Done
    ) -> bool:
        """Ask for a lookup. `done` is called exactly once with the result, and must not block.

        Return False if this process drains: then ask another one.

        `what`: `POLICY_ID`, `FETCH` or `RESOLVE`, which alone uses `known_ids`.
        `domain`: in A-labels.
        `timeout`: seconds for DNS and for HTTPS each.
        `done`: runs on the thread that reads, or on the listening thread if the lookup is lost.
        After `close` it runs at once on this one.

        The question is sent at the next `flush` or earlier.
        """
        # DNS and HTTPS have the time each.
        seconds = (2 * timeout if what == RESOLVE else timeout) + _SLACK
        with self._lock:
            if self._drains:
                return False
            if not self._closed:
                now = time.monotonic()
                wanted = Wanted(what, domain, timeout, known_ids, done)
                self._questions.add(wanted, seconds, now)
                if self._questions.fill_a_packet:
                    self._send()
                if now + seconds < self._wakes:
                    self._ring()
                return True
        done(Failure(Cause.PROCESS, _NONE))
        return True

    def flush(self) -> None:
        """Send the questions that were not sent yet, in as few packets as they fit."""
        if self._questions.unsent:
            with self._lock:
                self._send()

    # WITH THE LOCK HELD

    def _send(self) -> None:
        child = self._child
        if child is None or child.state is not State.READY:
            return
        while self._questions.unsent:
            packet, batch = self._questions.packet()
            was_full = child.full is not None
            if not child.send(packet):
                if child.full is not None and not was_full:
                    self._ring()
                return
            self._questions.sent(batch, time.monotonic())

    def _ring(self) -> None:
        """Wake the listening thread."""
        if self._bell is not None:
            os.eventfd_write(self._bell, 1)

    # ON THE LISTENING THREAD

    def _run(self) -> None:
        backoff = Backoff()
        try:
            while self._pause(backoff.pause):
                started = time.monotonic()
                try:
                    self._live()
                except OSError as error:
                    if not (self._persists or self._tried.is_set()):
                        self._refused = error
                        self._tried.set()
                        return
                    self.losses += 1
                    _complain(error)
                except Exception:
                    log.exception("internal error while running the resolver process")
                backoff = backoff.after(time.monotonic() - started)
        finally:
            with self._lock:
                self._closed = True
                left = self._questions.older(time.monotonic())
            self._unhang_bell()
            _fail(left, _NONE)

    @property
    def _over(self) -> bool:
        """Whether no process is needed any more."""
        return self._closed or (self._drains and not self._questions)

    def _unhang_bell(self) -> None:
        with self._lock:
            if self._bell is not None:
                os.close(self._bell)
            self._bell = None

    def _pause(self, seconds: float) -> bool:
        """Wait before the next start; return whether to start."""
        until = time.monotonic() + seconds
        while not self._over and (now := time.monotonic()) < until:
            self._fail_older(now - _WAIT)
            self._wait(None, min(until, now + _WAIT / 10) - now)
        return not self._over

    def _fail_older(self, then: float) -> None:
        """Fail the questions that were asked at `then` or before."""
        with self._lock:
            over = self._questions.older(then)
        _fail(over, _NONE)

    def _wait(self, child: Process | None, seconds: float | None) -> None:
        """Wait for the bell, for what the child says if nobody else does, or for its end."""
        assert self._bell is not None
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if child is not None:
            packets = select.POLLIN if self._watch is None else 0
            room = select.POLLOUT if child.full is not None else 0
            poll.register(child.socket, packets | room)
        for descriptor, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)

    def _live(self) -> None:
        """Start a process and listen to it until it ends."""

        def read() -> None:
            self._read(child)

        level = logging.getLogger("stsresolver").getEffectiveLevel()
        child = start(self._resolver, level)
        try:
            self._child = child
            self._tried.set()
            if self._watch is not None:
                self._watch(child.socket, read)
            self._listen(child)
        finally:
            self._end(child)

    def _listen(self, child: Process) -> None:
        """Keep the time limits of a process until it ends, and read what it says."""
        while not self._over:
            self._wait(child, self._seconds(child))
            # Whoever reads as a rule: one that has said something does not hang.
            if not self._read(child):
                return
            self._end_overdue(child)
            with self._lock:
                self._send()

    def _seconds(self, child: Process) -> float | None:
        """Return how many seconds to wait for messages, None for no limit."""
        now = time.monotonic()
        with self._lock:
            # Answered questions have their ends too, and there may be thousands a second.
            end = max(self._questions.next_end(), now + _PAUSE)
            if child.full is not None:
                end = min(end, child.full + _FULL)
            if child.state is State.LOADING:
                end = min(end, child.heard + _START)
            # For a while after a message the thread wakes by itself, so questions ring no bell.
            if end == math.inf and now < child.heard + _LULL:
                end = child.heard + _LULL
            self._wakes = end
        return None if end == math.inf else end - now

    # ON THE THREAD THAT READS

    def _read(self, child: Process) -> bool:
        """Read a packet of a process, and take what it says; return False at its end."""
        with self._lock:
            # Else its socket is closed.
            packet = child.receive(self._buffer) if self._child is child else b""
        if packet is None:
            return True
        if packet and self._take(child, packet):
            return True
        child.hang_up()
        return False

    def _take(self, child: Process, packet: bytes) -> bool:
        """Take the messages in a packet; return False if one of them is invalid."""
        results: list[tuple[Wanted, bytes]] = []
        others: list[bytes] = []
        with self._lock:
            for message in packet.split(b"\n"):
                # Only the number is read here, so a result that nobody waits for costs little.
                number = message[1:24].partition(b",")[0]
                if number == b"0" or not number.isdigit():
                    others.append(message)
                elif question := self._questions.answered(int(number)):
                    results.append((question.wanted, message))
            if self._over:
                self._ring()
        for wanted, message in results:
            finish(wanted, _result(message))
        try:
            for message in others:
                self._take_other(child, message)
        except ValueError as error:
            # Only a process that is compromised sends this.
            log.error("invalid message from the resolver process: %s", error)
            return False
        return True

    def _take_other(self, child: Process, message: bytes) -> None:
        """Take a message that is no result: the version, or a line for the log."""
        _, what, values = read(message)
        match what, values:
            case "hello", [str(version)]:
                child.greeted = True
                with self._lock:
                    child.become(State.READY)
                    self._send()
                if version != __version__:
                    log.error(
                        "stsresolver was %s when this daemon started and is %.40s now:"
                        " restart the daemon",
                        __version__,
                        version,
                    )
            case "log", [int(level), str(), str(text)] if level in _LEVELS:
                log.log(level, "%s", text[:MAX_LINE])
            case _:
                raise ValueError(f"unknown type of message, or wrong values: {what[:40]!a}")

    # ON THE LISTENING THREAD

    def _end_overdue(self, child: Process) -> None:
        """Fail the questions whose time is over, and kill a process that hangs.

        A process hangs if it is silent past the time limit of a question, or while its socket stays
        full for `_FULL` seconds. One that is loading has at least `_START` seconds.
        """
        now = time.monotonic()
        silent = now - child.heard
        with self._lock:
            over = self._questions.overdue(now)
            # Its last message may have come soon after the question.
            limits = [question.seconds - _SLACK / 2 for question in over]
            if child.full is not None and now >= child.full + _FULL:
                limits.append(_FULL)
            least = _START if child.state is State.LOADING else 0.0
            hangs = any(silent >= max(limit, least) for limit in limits)
            child.overdue.update(question.wanted.domain for question in over if question.sent)
            killed = hangs and child.become(State.KILLED)
        if killed:
            log.error("killing the resolver process: it hangs")
            child.kill()
        _fail(over, "it did not answer in time")

    def _end(self, child: Process) -> None:
        """Reap a process. What it did not answer is asked of the next one, or told to `died`."""
        now = time.monotonic()
        # One that was killed because it hangs is a loss, though a reload may follow.
        expected = self._over and child.state is not State.KILLED
        with self._lock:
            self._child = None
            child.socket.close()
            under_way, over = self._questions.lost(now)
        if child.greeted:
            self._last_ready = now
        if expected:
            # It need not finish: nobody reads its results any more.
            child.kill()
            _fail(over, _NONE)
        status = child.reap()
        if not expected:
            self.losses += 1
            early = "" if child.greeted else _EARLY
            log.error("the resolver process ended%s, %s: starting another", early, _how(status))
            if child.greeted:
                self._died(under_way | child.overdue, [question.wanted for question in over])


def _result(message: bytes) -> Result:
    try:
        _, what, values = read(message)
        return read_result(what, values)
    except ValueError as error:
        log.error("invalid message from the resolver process: %s", error)
        return Failure(Cause.PROCESS, str(error))


def _complain(error: OSError) -> None:
    """Log why the process cannot be started."""
    gone = isinstance(error, FileNotFoundError)
    remedy = ": its Python was removed or upgraded: restart the daemon" if gone else ""
    log.error("the resolver process cannot be started: %s%s", error, remedy)


def _give_up(_: frozenset[str], lost: Iterable[Wanted]) -> None:
    for wanted in lost:
        finish(wanted, Failure(Cause.PROCESS, "it ended before it answered"))


def _fail(questions: Iterable[Question], why: str) -> None:
    for question in questions:
        finish(question.wanted, Failure(Cause.PROCESS, why))


def finish(wanted: Wanted, result: Result) -> None:
    """Hand over a result. An error of the receiver's goes to the log."""
    try:
        wanted.done(result)
    except Exception:
        log.exception("internal error after a lookup")


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
