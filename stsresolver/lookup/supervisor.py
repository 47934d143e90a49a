"""The resolver process as the daemon sees it: ask, and wait for the answer.

Lookups compute, and threads that compute take the GIL from the serving thread; so they are done in
a child process (`resolving`). It also keeps what strangers send away from the caches, the sockets
and the daemon's memory. It is a fresh interpreter and no fork: it inherits no memory, and may be
started anew at any time. When it dies, what it was asked is asked once more of the next one.

What a lookup ends in comes back as a result, as from `Resolver`: nothing is raised.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..mta_sts.results import Cause, Failure
from ..version import __version__
from .client import LookupClient
from .messages import HELLO, MAX_LINE, MAX_MESSAGE, RESOLVE, Result, read, read_result, write

log = logging.getLogger(__name__)

# Seconds past a lookup's own time limit after which the process counts as stuck.
_SLACK = 3.0
# Seconds that it may take to start.
_START = 30.0
# Seconds until the next one is started, doubled each time while they do not live for a minute.
_PAUSE = 0.25
_MAX_PAUSE = 30.0
_LONG = 60.0
# Seconds that it may take to end by itself, before it is killed.
_END = 1.0
# Seconds that a question waits for room in the socket.
_FULL = 1
# Seconds that a lookup waits for a process when there is none: the next one follows that end.
_WAIT = 2.0
# In which the kernel counts CPU time.
_TICKS = os.sysconf("SC_CLK_TCK")
# What its lines for the log may be.
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
# What a service manager tells the daemon is not for its child.
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS")


class StartError(Exception):
    """The process cannot be started; the text says why."""


@dataclass(slots=True)
class _Child:
    """One process, from its start to its end.

    `heard`: when it last said something, monotonic. `told`: to end, because another is to follow.
    """

    process: subprocess.Popen[bytes]
    socket: socket.socket
    heard: float
    ready: bool = False
    told: bool = False
    killed: bool = False


class ResolverProcess:
    """Starts the process, and starts it anew when it ends.

    `workers`: lookups at once. `resolver`: what `Resolver` is made with beside the timeout, as
    JSON has it. `start` returns before it is ready; `close` ends the process.

    `losses`: how often the process ended though nobody wanted it to, or could not be started.
    """

    def __init__(self, workers: int, resolver: Mapping[str, object]) -> None:
        self._settings = {"workers": workers, "resolver": dict(resolver)}
        self.losses = 0
        # Guards what follows, and each send: no other thread closes the socket meanwhile.
        self._lock = threading.Condition()
        self._last = 0
        self._asked: dict[int, queue.SimpleQueue[bytes | None]] = {}
        self._child: _Child | None = None
        # Whether a start has been tried, and why that one failed.
        self._tried = threading.Event()
        self._refused: OSError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resolver", daemon=True)

    def lookups(self, timeout: float) -> LookupClient:
        """Return lookups with a time limit in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the process. Raise `StartError` where that is not possible."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise StartError(f"the resolver process cannot be started: {error}") from error
        self._tried.wait(_START)
        if self._refused is not None:
            self.close()
            raise StartError(f"the resolver process cannot be started: {self._refused}")

    def change(self, workers: int, resolver: Mapping[str, object]) -> None:
        """Start a process with other settings, if they differ; it takes over what is under way."""
        settings = {"workers": workers, "resolver": dict(resolver)}
        with self._lock:
            if settings != self._settings and self._child is not None:
                self._child.told = True
                self._child.socket.shutdown(socket.SHUT_RDWR)
            self._settings = settings

    def close(self) -> None:
        """End the process. What is under way, and what is asked later, ends as a failure."""
        self._closed.set()
        with self._lock:
            self._lock.notify_all()
            if self._child is not None:
                self._child.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        child = self._child
        return child.process.pid if child is not None else None

    @property
    def ready(self) -> bool:
        """Whether there is a process that has said its first word."""
        child = self._child
        return child is not None and child.ready

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
        return len(self._asked)

    def ask(self, what: str, domain: str, timeout: float, *known_ids: str) -> Result:
        """Return what a lookup ended in."""
        for _ in range(2):
            reply = self._exchange(what, domain, timeout, *known_ids)
            if isinstance(reply, Failure):
                return reply
            if reply is not None:
                return self._result(reply)
        return Failure(Cause.PROCESS)

    def _exchange(
        self, what: str, domain: str, timeout: float, *known_ids: str
    ) -> bytes | Failure | None:
        """Return the message that came back, None if the process ended before."""
        # DNS and HTTPS have the time each.
        limit = (2 * timeout if what == RESOLVE else timeout) + _SLACK
        reply = queue.SimpleQueue[bytes | None]()
        with self._lock:
            self._lock.wait_for(lambda: self._child or self._closed.is_set(), _WAIT)
            child = self._child
            if child is None or self._closed.is_set():
                return Failure(Cause.PROCESS, "there is none just now")
            self._last += 1
            number = self._last
            question = write(number, what, domain, timeout, *known_ids)
            self._asked[number] = reply
        try:
            end = time.monotonic() + limit
            with self._lock:
                # It reads nothing before its first word, and the socket holds some hundreds.
                self._lock.wait_for(lambda: child.ready or child is not self._child, limit)
                if child is not self._child:
                    return None
                if not child.ready:
                    return self._overdue(child, limit)
                try:
                    child.socket.send(question)
                except BlockingIOError:
                    failure = self._overdue(child, _FULL)
                    if not child.killed:
                        return failure
                except OSError as error:
                    log.debug("asking the resolver process: %s", error)
            return reply.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return self._overdue(child, limit)
        finally:
            self._asked.pop(number, None)

    def _overdue(self, child: _Child, limit: float) -> Failure:
        """End a process that has said nothing for longer than `limit` seconds."""
        silent = time.monotonic() - child.heard
        if not child.killed and silent > max(limit, 0.0 if child.ready else _START):
            child.killed = True
            log.error("the resolver process hangs: it is killed")
            child.process.kill()
        return Failure(Cause.PROCESS, "it does not answer")

    def _result(self, message: bytes) -> Result:
        try:
            _, what, values = read(message)
            return read_result(what, values)
        except ValueError as error:
            log.error("the resolver process says what cannot be: %s", error)
            return Failure(Cause.PROCESS, str(error))

    # ON ITS OWN THREAD

    def _run(self) -> None:
        pause = 0.0
        while not self._closed.wait(pause):
            started = time.monotonic()
            told = False
            try:
                told = self._live()
            except OSError as error:
                if not self._tried.is_set():
                    self._refused = error
                    self._tried.set()
                    return
                self.losses += 1
                log.error("the resolver process cannot be started: %s", error)
            except Exception:
                log.exception("the resolver process met a bug of this program")
            lived = time.monotonic() - started
            pause = 0.0 if told or lived > _LONG else min(max(_PAUSE, 2 * pause), _MAX_PAUSE)

    def _live(self) -> bool:
        """Start a process and listen to it until it ends; say whether it was told to."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
            # One system call a message, where Python's own timeout would poll before.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _FULL, 0))
            try:
                process = _spawn(theirs)
            except BaseException:
                ours.close()
                raise
        level = logging.getLogger("stsresolver").getEffectiveLevel()
        now = time.monotonic()
        child = _Child(process, ours, now)
        try:
            with self._lock:
                # That it has ended already is met where it is listened to.
                with contextlib.suppress(ConnectionError):
                    ours.send(write(0, HELLO, {**self._settings, "level": level}))
                self._child = child
                self._lock.notify_all()
            self._tried.set()
            self._listen(child)
        finally:
            self._end(child)
        return child.told

    def _listen(self, child: _Child) -> None:
        """Hand each message to the thread that waits for it, until the process ends."""
        # One buffer: to allocate another for each packet would be to map memory and unmap it.
        buffer = bytearray(MAX_MESSAGE)
        while not self._closed.is_set():
            try:
                size = child.socket.recv_into(buffer)
            except ConnectionError:
                return
            if not size:
                return
            packet = bytes(memoryview(buffer)[:size])
            child.heard = time.monotonic()
            for message in packet.split(b"\n"):
                # The number alone is read here; the rest, by the thread that waits for it.
                number = message[1:24].partition(b",")[0]
                if number != b"0" and number.isdigit():
                    # Taken out, so that a second answer finds nobody.
                    waiting = self._asked.pop(int(number), None)
                    if waiting is not None:
                        waiting.put(message)
                    continue
                try:
                    self._told(child, message)
                except ValueError as error:
                    # No stranger can make it say this, unless he has taken it over.
                    log.error("the resolver process says what cannot be: %s", error)
                    return

    def _told(self, child: _Child, message: bytes) -> None:
        """Read what is no result: the first word, and lines for the log."""
        _, what, values = read(message)
        match what, values:
            case "hello", [str(version)]:
                with self._lock:
                    child.ready = True
                    self._lock.notify_all()
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

    def _end(self, child: _Child) -> None:
        """Reap a process, and wake who waits for an answer of it."""
        with self._lock:
            self._child = None
            child.socket.close()
            # A copy: who is woken takes his number out.
            for waiting in list(self._asked.values()):
                waiting.put(None)
            # And who waits for its first word.
            self._lock.notify_all()
        if child.told or self._closed.is_set():
            # By itself it would begin what was asked of it first, which nobody waits for.
            child.process.kill()
        try:
            status = child.process.wait(_END)
        except (subprocess.TimeoutExpired, OSError):
            # OSError: a clock that jumps makes the wait's own sleep fail.
            child.process.kill()
            status = child.process.wait()
        if child.told:
            log.debug("the resolver process ended as it was told to")
        elif not self._closed.is_set():
            self.losses += 1
            early = "" if child.ready else " before it was ready (standard error may say why)"
            log.error("the resolver process ended%s, %s: another is started", early, _how(status))


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process with a socket as its standard input."""
    package = str(Path(os.path.abspath(__file__)).parents[2])
    environment = {name: os.environ[name] for name in os.environ if name not in _NOT_INHERITED}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{package}{os.pathsep}{path}" if path else package
    # Each arena of glibc's allocator keeps what its threads no longer use.
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "stsresolver.lookup.child"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            # The terminal's Ctrl-C is for the daemon.
            process_group=0,
        )
    except OSError as error:
        # A virtual environment's Python is a link; what cannot be run may be what it leads to.
        real = os.path.realpath(sys.executable)
        if error.filename == sys.executable != real:
            error.filename2 = real
        raise


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
