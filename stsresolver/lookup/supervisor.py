"""The resolver process as the daemon sees it: ask, and be called back with the result.

Lookups compute, and threads that compute take the GIL from the serving thread. So a child process
makes them (`child`). That also keeps what strangers send away from the caches, the sockets and the
daemon's memory. The child may be replaced at any time. The questions that it had not answered are
asked once more of the next one.

    LOADING ---- its first message ----> READY
       |                                   |
       +--- another is to follow it -------+---> REPLACED ---> its end, and the next start
       |                                   |                       ^
       +--- silent past its time limit ----+---> KILLED -----------+ after a pause (`backoff`)

Every failure of a lookup is a result, as from `Resolver`. No method raises for it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..mta_sts.results import Cause, Failure
from ..version import __version__
from .backoff import Backoff
from .client import LookupClient
from .messages import HELLO, MAX_LINE, MAX_MESSAGE, RESOLVE, Result, read, read_result, write
from .program import spawn
from .questions import Done, Question, Questions

log = logging.getLogger(__name__)

# Seconds past a lookup's own time limit after which the process counts as stuck.
_SLACK = 3.0
# Seconds that a process may take to start.
_START = 30.0
# Seconds that it may take to end by itself, before it is killed.
_END = 1.0
# Seconds for which its socket may stay full.
_FULL = 1.0
# Seconds for which a question waits while no process runs.
_WAIT = 2.0
# Seconds without a question after which the listening thread has to be woken for the next one.
_LULL = 1.0
# Clock ticks a second, in which the kernel counts CPU time (proc(5)).
_TICKS = os.sysconf("SC_CLK_TCK")
# The log levels that the process may use.
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class StartError(Exception):
    """The process cannot be started; the text says why."""


class State(enum.Enum):
    """The state of a process between its start and its end."""

    LOADING = "loading"
    READY = "ready"
    REPLACED = "replaced"
    KILLED = "killed"


# Which states may follow each, as drawn above. Nothing follows the last two.
_NEXT = {
    State.LOADING: (State.READY, State.REPLACED, State.KILLED),
    State.READY: (State.REPLACED, State.KILLED),
    State.REPLACED: (),
    State.KILLED: (),
}


@dataclass(slots=True)
class _Child:
    """One process, and the daemon's end of the socket to it.

    `heard`: when its last message came (monotonic).
    `greeted`: whether its first message came.
    `full`: since when its socket is full (monotonic), None while it is not.
    """

    process: subprocess.Popen[bytes]
    socket: socket.socket
    heard: float
    state: State = State.LOADING
    greeted: bool = False
    full: float | None = None

    def become(self, state: State) -> bool:
        """Enter a state if the present one allows it; return whether it does.

        The caller holds the lock: the listening thread and a reload both change states.
        """
        if state not in _NEXT[self.state]:
            return False
        self.state = state
        return True


class ResolverProcess:
    """Keeps one resolver process running, and asks it.

    `resolver`: the arguments of `Resolver` except the timeout, as values of JSON.
    `losses`: how often the process ended by itself, was killed, or could not be started.

    `start` returns before the process is ready. `close` ends it. Each method may be called on any
    thread, and `close` on any but the listening thread, in which `done` is called.
    """

    def __init__(self, resolver: Mapping[str, object]) -> None:
        self.losses = 0
        self._resolver = dict(resolver)
        # Guards the attributes below, and each send: the socket is not closed during one.
        self._lock = threading.Lock()
        self._questions = Questions()
        self._child: _Child | None = None
        self._bell: int | None = None
        # When the listening thread wakes without the bell (monotonic).
        self._wakes = 0.0
        self._closed = False
        # Set after the first try to start. `_refused`: why that try failed.
        self._tried = threading.Event()
        self._refused: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="resolver", daemon=True)

    def lookups(self, timeout: float) -> LookupClient:
        """Return a client whose lookups have a time limit, in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the process. Raise `StartError` if it cannot be started."""
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._unhang_bell()
            raise StartError(f"the resolver process cannot be started: {error}") from error
        self._tried.wait(_START)
        if self._refused is not None:
            self.close()
            raise StartError(f"the resolver process cannot be started: {self._refused}")

    def change(self, resolver: Mapping[str, object]) -> None:
        """Replace the process if the arguments differ. Lookups under way are asked once more."""
        with self._lock:
            child = self._child
            differ = self._resolver != resolver
            if differ and child is not None and child.become(State.REPLACED):
                child.socket.shutdown(socket.SHUT_RDWR)
            self._resolver = dict(resolver)

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
    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far, 0 while none runs (proc(5))."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                # The name in parentheses may hold spaces itself.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def under_way(self) -> int:
        """How many lookups wait for an answer."""
        return len(self._questions)

    def ask(
        self, what: str, domain: str, timeout: float, known_ids: tuple[str, ...], done: Done
    ) -> None:
        """Ask for a lookup. `done` is called exactly once with the result, and must not block.

        `what`: `POLICY_ID`, `FETCH` or `RESOLVE`, which alone uses `known_ids`.
        `domain`: in A-labels.
        `timeout`: seconds for DNS and for HTTPS each.
        `done`: runs on the listening thread, or at once on this one after `close`.

        The question is sent at the next `flush` or earlier.
        """
        # DNS and HTTPS have the time each.
        seconds = (2 * timeout if what == RESOLVE else timeout) + _SLACK
        with self._lock:
            if not self._closed:
                now = time.monotonic()
                self._questions.add(what, domain, timeout, known_ids, seconds, done, now)
                if now + seconds < self._wakes:
                    self._ring()
                return
        done(Failure(Cause.PROCESS, "no such process is running"))

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
            try:
                child.socket.send(packet)
            except BlockingIOError:
                if child.full is None:
                    child.full = time.monotonic()
                    self._ring()
                return
            except OSError as error:
                # The listening thread notices its end.
                log.debug("asking the resolver process: %s", error)
                return
            child.full = None
            self._questions.sent(batch)

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
                replaced = False
                try:
                    replaced = self._live()
                except OSError as error:
                    if not self._tried.is_set():
                        self._refused = error
                        self._tried.set()
                        return
                    self.losses += 1
                    log.error("the resolver process cannot be started: %s", error)
                except Exception:
                    log.exception("internal error while running the resolver process")
                lived = time.monotonic() - started
                backoff = backoff.after(lived, replaced=replaced)
        finally:
            with self._lock:
                self._closed = True
                left = self._questions.older(time.monotonic())
            self._unhang_bell()
            _fail(left, "no such process is running")

    def _unhang_bell(self) -> None:
        with self._lock:
            if self._bell is not None:
                os.close(self._bell)
            self._bell = None

    def _pause(self, seconds: float) -> bool:
        """Wait before the next start; return whether to start."""
        until = time.monotonic() + seconds
        while not self._closed and (now := time.monotonic()) < until:
            self._fail_older(now - _WAIT)
            self._wait(None, min(until, now + _WAIT / 10) - now)
        return not self._closed

    def _fail_older(self, then: float) -> None:
        """Fail the questions that were asked at `then` or before."""
        with self._lock:
            over = self._questions.older(then)
        _fail(over, "no such process is running")

    def _wait(self, child: _Child | None, seconds: float | None) -> bool:
        """Wait for the bell or a packet of the child; return whether a packet can be read."""
        assert self._bell is not None
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if child is not None:
            room = select.POLLOUT if child.full is not None else 0
            poll.register(child.socket, select.POLLIN | room)
        came = False
        for descriptor, event in poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
            elif event & ~select.POLLOUT:
                came = True
        return came

    def _live(self) -> bool:
        """Start a process and listen to it until it ends; return whether it was replaced."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
            ours.setblocking(False)
            try:
                process = spawn(theirs)
            except BaseException:
                ours.close()
                raise
        level = logging.getLogger("stsresolver").getEffectiveLevel()
        child = _Child(process, ours, time.monotonic())
        try:
            with self._lock:
                # The listening thread notices its end.
                with contextlib.suppress(ConnectionError):
                    ours.send(write(0, HELLO, {"resolver": self._resolver, "level": level}))
                self._child = child
            self._tried.set()
            self._listen(child)
        finally:
            self._end(child)
        return child.state is State.REPLACED

    def _listen(self, child: _Child) -> None:
        """Read the messages of a process and keep the time limits, until it ends."""
        # One buffer for all packets: allocating one for each maps and unmaps memory every time.
        buffer = bytearray(MAX_MESSAGE)
        while not self._closed:
            if self._wait(child, self._seconds(child)):
                try:
                    size = child.socket.recv_into(buffer)
                except ConnectionError:
                    return
                if not size:
                    return
                child.heard = time.monotonic()
                if not self._take(child, bytes(memoryview(buffer)[:size])):
                    return
            self._end_overdue(child)
            with self._lock:
                self._send()

    def _seconds(self, child: _Child) -> float | None:
        """Return how many seconds to wait for messages, None for no limit."""
        now = time.monotonic()
        with self._lock:
            end = self._questions.next_end()
            if child.full is not None:
                end = min(end, child.full + _FULL)
            if child.state is State.LOADING:
                end = min(end, child.heard + _START)
            # For a while after a message the thread wakes by itself, so questions ring no bell.
            if end == math.inf and now < child.heard + _LULL:
                end = child.heard + _LULL
            self._wakes = end
        return None if end == math.inf else end - now

    def _take(self, child: _Child, packet: bytes) -> bool:
        """Take the messages in a packet; return False if one of them is invalid."""
        for message in packet.split(b"\n"):
            # Only the number is read first, so that a result that nobody waits for costs little.
            number = message[1:24].partition(b",")[0]
            if number != b"0" and number.isdigit():
                with self._lock:
                    question = self._questions.answered(int(number))
                if question is not None:
                    _finish(question, _result(message))
                continue
            try:
                self._take_other(child, message)
            except ValueError as error:
                # Only a process that is compromised sends this.
                log.error("invalid message from the resolver process: %s", error)
                return False
        return True

    def _take_other(self, child: _Child, message: bytes) -> None:
        """Take a message that is no result: the version, or a line for the log."""
        _, what, values = read(message)
        match what, values:
            case "hello", [str(version)]:
                child.greeted = True
                with self._lock:
                    child.become(State.READY)
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

    def _end_overdue(self, child: _Child) -> None:
        """Fail the questions whose time is over, and kill a process that hangs.

        A process hangs if it is silent past the time limit of a question, or while its socket stays
        full for `_FULL` seconds. One that is loading has at least `_START` seconds.
        """
        now = time.monotonic()
        silent = now - child.heard
        with self._lock:
            over = self._questions.overdue(now)
            limits = [question.seconds for question in over]
            if child.full is not None and now >= child.full + _FULL:
                limits.append(_FULL)
            least = _START if child.state is State.LOADING else 0.0
            hangs = any(silent >= max(limit, least) for limit in limits)
            killed = hangs and child.become(State.KILLED)
        if killed:
            log.error("killing the resolver process: it hangs")
            child.process.kill()
        _fail(over, "it did not answer in time")

    def _end(self, child: _Child) -> None:
        """Reap a process. Its unanswered questions are asked once more of the next one."""
        now = time.monotonic()
        with self._lock:
            self._child = None
            child.socket.close()
            over = self._questions.lost(now)
        if child.state is State.REPLACED or self._closed:
            # It need not finish: nobody reads its results any more.
            child.process.kill()
        _fail(over, "")
        try:
            status = child.process.wait(_END)
        except (subprocess.TimeoutExpired, OSError):
            # OSError: the sleep in `wait` fails if the clock jumps.
            child.process.kill()
            status = child.process.wait()
        if child.state is State.REPLACED:
            log.debug("the resolver process ended: it is replaced")
        elif not self._closed:
            self.losses += 1
            early = "" if child.greeted else " before it was ready (standard error may say why)"
            log.error("the resolver process ended%s, %s: starting another", early, _how(status))


def _result(message: bytes) -> Result:
    try:
        _, what, values = read(message)
        return read_result(what, values)
    except ValueError as error:
        log.error("invalid message from the resolver process: %s", error)
        return Failure(Cause.PROCESS, str(error))


def _fail(questions: Iterable[Question], why: str) -> None:
    for question in questions:
        _finish(question, Failure(Cause.PROCESS, why))


def _finish(question: Question, result: Result) -> None:
    try:
        question.done(result)
    except Exception:
        log.exception("internal error after a lookup")


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
