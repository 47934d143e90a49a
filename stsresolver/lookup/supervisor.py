"""The resolver process as the daemon sees it: ask, and be called back with the result.

Lookups compute, and threads that compute take the GIL from the serving thread. So a child process
makes them (`child`). That also keeps what strangers send away from the caches, the sockets and the
daemon's memory. The child may be started anew at any time: what it was asked when it ended is asked
once more of the next one.

    LOADING ---- its first message ----> READY
       |                                   |
       +--- another is to follow it -------+---> REPLACED ---> its end, and the next start
       |                                   |                       ^
       +--- silent past its time limit ----+---> KILLED -----------+ after a pause (`backoff`)

Every failure comes back as a result, as from `Resolver`. Nothing is raised for it.
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
# Seconds that it may take to start.
_START = 30.0
# Seconds that it may take to end by itself, before it is killed.
_END = 1.0
# Seconds that its socket may stay full.
_FULL = 1.0
# Seconds that a question waits for a process while there is none.
_WAIT = 2.0
# Seconds without a question after which the listening thread has to be woken for the next one.
_LULL = 1.0
# In which the kernel counts CPU time.
_TICKS = os.sysconf("SC_CLK_TCK")
# The levels that its log lines may have.
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
    """One process.

    `heard`: when its last message came (monotonic).
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

        The caller has the lock: the listening thread and a reload may both want to.
        """
        if state not in _NEXT[self.state]:
            return False
        self.state = state
        return True


class ResolverProcess:
    """Starts the process, and starts it anew when it ends.

    `resolver`: the arguments of `Resolver` beside the timeout, as JSON has them.
    `losses`: how often the process ended by itself, or could not be started.

    `start` returns before the process is ready; `close` ends it.
    """

    def __init__(self, resolver: Mapping[str, object]) -> None:
        self.losses = 0
        self._resolver = dict(resolver)
        # Guards what follows, and each send: no other thread closes the socket meanwhile.
        self._lock = threading.Lock()
        self._questions = Questions()
        self._child: _Child | None = None
        self._bell: int | None = None
        # When the listening thread wakes by itself (monotonic).
        self._wakes = 0.0
        self._closed = False
        # Whether a start has been tried, and why that one failed.
        self._tried = threading.Event()
        self._refused: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="resolver", daemon=True)

    def lookups(self, timeout: float) -> LookupClient:
        """Return lookups with a time limit in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the process. Raise `StartError` where that is not possible."""
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
        """Start a process with other arguments, if they differ; it takes over what is under way."""
        with self._lock:
            child = self._child
            differ = self._resolver != resolver
            if differ and child is not None and child.become(State.REPLACED):
                child.socket.shutdown(socket.SHUT_RDWR)
            self._resolver = dict(resolver)

    def close(self) -> None:
        """End the process. What is under way, and what is asked later, ends as a failure."""
        with self._lock:
            self._closed = True
            self._ring()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        child = self._child
        return child.process.pid if child is not None else None

    @property
    def ready(self) -> bool:
        """Whether there is a process that takes questions."""
        child = self._child
        return child is not None and child.state is State.READY

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far, 0 while there is none (proc(5))."""
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
        """Ask for a lookup; `done` is called once with the result, on the listening thread.

        The question goes out with the next `flush`, or before.
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
        done(Failure(Cause.PROCESS, "there is none just now"))

    def flush(self) -> None:
        """Send what was asked, in as few packets as it takes."""
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
                # Its end is met where it is listened to.
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
            _fail(left, "there is none just now")

    def _unhang_bell(self) -> None:
        with self._lock:
            if self._bell is not None:
                os.close(self._bell)
            self._bell = None

    def _pause(self, seconds: float) -> bool:
        """Wait until the next start; return whether there is to be one."""
        until = time.monotonic() + seconds
        while not self._closed and (now := time.monotonic()) < until:
            self._fail_older(now - _WAIT)
            self._wait(None, min(until, now + _WAIT / 10) - now)
        return not self._closed

    def _fail_older(self, then: float) -> None:
        """Fail the questions that have waited for a process since `then` or before."""
        with self._lock:
            over = self._questions.older(then)
        _fail(over, "there is none just now")

    def _wait(self, child: _Child | None, seconds: float | None) -> bool:
        """Wait for the bell, or a message of the child; return whether a message is there."""
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
                # Its end is met where it is listened to.
                with contextlib.suppress(ConnectionError):
                    ours.send(write(0, HELLO, {"resolver": self._resolver, "level": level}))
                self._child = child
            self._tried.set()
            self._listen(child)
        finally:
            self._end(child)
        return child.state is State.REPLACED

    def _listen(self, child: _Child) -> None:
        """Take the messages of a process, and see to time limits, until it ends."""
        # One buffer: to allocate another for each packet would be to map memory and unmap it.
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
        """Return how long to wait for messages, None for ever."""
        now = time.monotonic()
        with self._lock:
            end = self._questions.next_end()
            if child.full is not None:
                end = min(end, child.full + _FULL)
            if child.state is State.LOADING:
                end = min(end, child.heard + _START)
            # Soon after the last question, the next one needs no bell.
            if end == math.inf and now < child.heard + _LULL:
                end = child.heard + _LULL
            self._wakes = end
        return None if end == math.inf else end - now

    def _take(self, child: _Child, packet: bytes) -> bool:
        """Take the messages in a packet; return whether the process can be believed."""
        for message in packet.split(b"\n"):
            # The number alone is read first: an answer to nobody costs nothing more.
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
                # Strangers cannot make it send this unless one has compromised it.
                log.error("invalid message from the resolver process: %s", error)
                return False
        return True

    def _take_other(self, child: _Child, message: bytes) -> None:
        """Take a message that is no result: the first one, or a line for the log."""
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
                raise ValueError(f"not a message: {what[:40]!a}")

    def _end_overdue(self, child: _Child) -> None:
        """Fail the questions whose time is over, and kill a process that hangs.

        It hangs if it is silent past the time limit of a question, if its socket stays full, or if
        it does not get ready.
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
        _fail(over, "it does not answer")

    def _end(self, child: _Child) -> None:
        """Reap a process; what it was asked is asked once more."""
        now = time.monotonic()
        with self._lock:
            self._child = None
            child.socket.close()
            over = self._questions.lost(now)
        if child.state is State.REPLACED or self._closed:
            # By itself it would begin first what it was asked, whose results nobody takes.
            child.process.kill()
        _fail(over, "")
        try:
            status = child.process.wait(_END)
        except (subprocess.TimeoutExpired, OSError):
            # OSError: a clock that jumps makes the wait's own sleep fail.
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
