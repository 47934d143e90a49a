"""The socketmap server (socketmap_table(5)): which thread owns a connection, which does what work.

The serving thread, which runs `serve_forever`, owns every connection (see `connections`). It
answers from the reply cache, and has all other requests looked up. A lookup that waits for the
network holds no thread: its reply comes through a queue that wakes the serving thread.

Worker threads do what may block, one job each: reading a store on disk or network, and renewals
behind the answers. `ThreadingMixIn` starts them, at most `workers`, and they stay for further jobs.
socketserver starts a thread for each of what it calls a request. Here that is a job.

A request that is not answered within `ANSWER_LIMIT` seconds is answered from what is cached, else
with `TEMP`.
"""

from __future__ import annotations

import collections
import logging
import math
import queue
import resource
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..counters import Durations
from .connections import SLICE, Connection, Connections
from .netstring import MAX_REPLY
from .reply_cache import Reply, ReplyCache

log = logging.getLogger(__name__)

# Seconds within which a request is answered. Postfix holds a mail meanwhile.
ANSWER_LIMIT = 20.0
# Seconds that `switch` waits for a serving thread that may have ended.
SWITCH_LIMIT = 5.0
# How often idle connections are looked for (seconds).
IDLE_ROUND = 60.0
# Seconds until another thread is tried, after one could not be started.
HIRE_PAUSE = 0.5
# Seconds without serving after there was no memory even to poll; others may free some.
MEMORY_PAUSE = 0.1
# Few, but some, when the limit of descriptors leaves none.
_MIN_CONNECTIONS = 16

Job: TypeAlias = Callable[[], None]


class Source(Protocol):
    """Where replies come from: see `answer.Answers`. Nothing here blocks."""

    @property
    def changes(self) -> int:
        """How many changes of a policy there were so far."""

    def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
        """Deliver the reply once, now or later, from any thread."""

    def cached(self, request: bytes) -> Reply:
        """Return the reply that can be given now."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do: a look at the server.

    `busy`: workers at work.
    `workers`: workers at most.
    `queued`: jobs of requests that wait for a worker.
    `behind`: jobs that wait behind the answers.
    `lookups`: requests that wait for a reply.
    `connections`: open ones.
    `limit`: connections that may be open.
    `accepted`: connections so far.
    `overdue`: requests so far that were not answered within `ANSWER_LIMIT`.
    """

    busy: int
    workers: int
    queued: int
    behind: int
    lookups: int
    connections: int
    limit: int
    accepted: int
    overdue: int


class Request:
    """A request that waits for its reply.

    `wire`: its bytes as they came.
    `since`: when (monotonic).
    `source`: where its reply comes from, though the server may have another one meanwhile.
    """

    __slots__ = ("answered", "connection", "since", "source", "text", "wire")

    def __init__(
        self, connection: Connection, wire: bytes, text: bytes, since: float, source: Source
    ) -> None:
        self.connection = connection
        self.wire = wire
        self.text = text
        self.since = since
        self.source = source
        self.answered = False


class JobHandler(socketserver.BaseRequestHandler):
    """Runs a job on a worker thread."""

    request: Job

    def handle(self) -> None:
        """Run the job."""
        self.request()


class SocketmapServer(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Serves `listeners` with the replies of `source`, which is set before `serve_forever`.

    `workers`: threads for jobs that may block; may be changed at any time.
    `shutdown_timeout`: seconds that requests under way have to end after `stop`; may be changed.
    `own_descriptors`: how many of the process's are not for connections.
    `after_turn`: called on the serving thread after each turn in which requests were looked up.
    `seconds`: how long the requests took whose reply was not cached.
    """

    daemon_threads = True
    block_on_close = False

    source: Source

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        *,
        workers: int,
        shutdown_timeout: float = 20.0,
        own_descriptors: int = 80,
    ) -> None:
        super().__init__("", JobHandler)
        self.workers = workers
        self.shutdown_timeout = shutdown_timeout
        self.after_turn: Job = lambda: None
        self.seconds = Durations()
        self._overdue = 0
        self._cache = ReplyCache()
        # What other threads ask of the serving thread, and how they wake it.
        self._messages: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]]
        self._messages = collections.deque()
        self._woken = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        limit = max(_MIN_CONNECTIONS, _descriptors() - own_descriptors)
        self._connections = Connections(listeners, self._wake_in, self._cache, self._ask, limit)
        # Requests that wait for a reply, the oldest first; some are answered already.
        self._waiting: collections.deque[Request] = collections.deque()
        self._asked = False
        self._queue: collections.deque[Job] = collections.deque()
        self._behind: collections.deque[Job] = collections.deque()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._hires: queue.SimpleQueue[tuple[Job, collections.deque[Job]]] = queue.SimpleQueue()
        self._hire_again = -math.inf
        self._hired = 0
        self._busy = 0
        self._complained = False
        self._idle_round = math.inf
        self._stops = 0
        self._drain_until = math.inf
        self._ended = threading.Event()

    # CALLED FROM ANY THREAD

    def deliver(self, request: Request, reply: Reply) -> None:
        """Give the reply to a request back to the serving thread."""
        self._tell(self._answered, request, reply)

    def hand(self, job: Job) -> None:
        """Run `job`, for which a request waits, on a worker."""
        self._tell(self._queue.append, job)

    def behind(self, job: Job) -> None:
        """Run `job` on a worker, when no request waits for one."""
        if not self._stops:
            self._tell(self._behind.append, job)

    def forget(self, domain: str) -> None:
        """Drop the cached replies that are about `domain`."""
        self._tell(self._cache.forget, domain)

    def soon(self, call: Job) -> None:
        """Make a call that does not block on the serving thread, in its next turn."""
        self._tell(call)

    def watch(self, one: socket.socket, job: Job) -> None:
        """Run a job that does not block on the serving thread whenever a socket can be read."""
        # As a message, like all that is not a client's.
        self._tell(self._connections.watch, one, lambda: self._messages.append((job, ())))

    def load(self) -> Load:
        """Look at how much there is to do."""
        return Load(
            busy=self._busy,
            workers=self.workers,
            queued=len(self._queue),
            behind=len(self._behind),
            lookups=len(self._waiting),
            connections=len(self._connections),
            limit=self._connections.limit,
            accepted=self._connections.accepted,
            overdue=self._overdue,
        )

    def switch(self, source: Source) -> None:
        """Take replies from another source from now on; no cached reply outlives the change.

        Returns once it is done. Not for the serving thread.
        """
        done = threading.Event()
        self._tell(self._switch, source, done)
        done.wait(SWITCH_LIMIT)

    def stop(self) -> None:
        """End `serve_forever` once what is under way is answered; a second call ends it at once.

        May be called in a signal handler.
        """
        self._stops += 1
        self._tell(self._drain)

    @property
    def wake_descriptor(self) -> int:
        """What `signal.set_wakeup_fd` writes to, so that a signal ends the poll."""
        return self._wake_out.fileno()

    def shutdown(self) -> None:
        """Stop, and wait until `serve_forever` has ended. Not for the thread that runs it."""
        self.stop()
        self._ended.wait()

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        self._messages.append((call, arguments))
        if not self._woken:
            self._woken = True
            try:
                self._wake_out.send(b"\0")
            except OSError as error:
                # A full buffer wakes as well; a closed one belongs to a server that has ended.
                log.debug("waking the server: %s", error)

    # ON A WORKER THREAD

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Run one job after the other."""
        while True:
            super().process_request_thread(request, client_address)
            self._tell(self._worker_free)
            request = self._jobs.get()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of ours; its request is answered at `ANSWER_LIMIT` at the latest."""
        log.exception("internal error in a job")

    def shutdown_request(self, request: Any) -> None:
        """Do nothing: a job has nothing to close."""

    # ON THE HIRING THREAD

    def _hire(self) -> None:
        """Start a worker for each job that needs a new one.

        A thread of its own, because starting one waits until it runs: in a burst, that is long.
        """
        while True:
            job, jobs = self._hires.get()
            try:
                super().process_request(job, None)  # type: ignore[arg-type]
            except RuntimeError as error:
                self._tell(self._not_hired, job, jobs, error)

    # ON THE SERVING THREAD

    def serve_forever(self, poll_interval: float = 0.5) -> bool:  # type: ignore[override]
        """Serve until `stop`; return whether everything under way was answered then.

        `poll_interval` is not used: every event wakes the poll.
        """
        try:
            threading.Thread(target=self._hire, daemon=True).start()
            now = time.monotonic()
            self._idle_round = now + IDLE_ROUND
            self._connections.accept()
            due = now
            while not self._finished(now):
                try:
                    now, due = self._turn(due)
                except MemoryError:
                    self._complain("out of memory")
                    time.sleep(MEMORY_PAUSE)
                    now = time.monotonic()
                    # What woke the poll may have been read, and its message not been taken.
                    self._woken, due = False, now
            return not self._connections
        finally:
            self._ended.set()

    def server_close(self) -> None:
        """Close every socket."""
        self._connections.close_all()
        self._wake_in.close()
        self._wake_out.close()

    def _turn(self, due: float) -> tuple[float, float]:
        """Serve once; return the time, and when something is due at the latest (monotonic)."""
        now = self._connections.serve(due)
        self._take_messages()
        if now >= due:
            self._see_to_time(now)
        if self._asked and not self._connections.put_off:
            self._asked = False
            self.after_turn()
        if self._queue or self._behind:
            self._fill_workers(now)
        return now, self._due(now)

    def _ask(self, connection: Connection, wire: bytes, text: bytes, now: float) -> None:
        """Have the reply to a request looked up."""
        request = Request(connection, wire, text, now, self.source)
        self._waiting.append(request)
        if text.isascii():
            self._look_up(request)
        else:
            # U-labels cost more to convert than the serving thread should spend.
            self._queue.append(lambda: self._look_up(request))

    def _look_up(self, request: Request) -> None:
        self._asked = True
        try:
            request.source.look_up(request.text, lambda reply: self.deliver(request, reply))
        except Exception:
            log.exception("internal error while answering a request")
            self._tell(self._answer_cached, request)

    def _fill_workers(self, now: float) -> None:
        """Give jobs to free workers: those for which requests wait, then others to half of them."""
        while self._queue or self._behind:
            jobs = self._queue or self._behind
            if self._busy >= (self.workers if self._queue else (self.workers + 1) // 2):
                return
            if self._busy == self._hired and now < self._hire_again:
                return
            job = jobs.popleft()
            if self._busy < self._hired:
                self._jobs.put(job)
            else:
                self._hires.put((job, jobs))
                self._hired += 1
            self._busy += 1

    def _not_hired(self, job: Job, jobs: collections.deque[Job], error: RuntimeError) -> None:
        """Put back a job for which no thread could be started: there may be one later."""
        self._hired -= 1
        self._busy -= 1
        jobs.appendleft(job)
        self._hire_again = time.monotonic() + HIRE_PAUSE
        self._complain(f"no thread for another job: {error}")

    def _complain(self, what: str) -> None:
        """Warn of a shortage, once until it is over."""
        if not self._complained:
            log.warning("%s", what)
        self._complained = True

    def _worker_free(self) -> None:
        self._busy -= 1
        if not self._queue:
            self._complained = False

    def _answered(self, request: Request, reply: Reply) -> None:
        """Send the reply to a request that had to wait, and cache it if it still is true."""
        now = time.monotonic()
        fits = len(reply.data) <= MAX_REPLY + len(b"100000:,")
        current = request.source is self.source and reply.change == self.source.changes
        if fits and reply.until > now and current:
            self._cache.put(request.wire, reply)
        if request.answered:
            return
        request.answered = True
        while self._waiting and self._waiting[0].answered:
            self._waiting.popleft()
        self.seconds.add(now - request.since)
        if fits:
            reply.count.first += 1
            self._connections.reply(request.connection, reply.data, now)
        else:
            log.error("a reply of %d bytes is longer than Postfix takes", len(reply.data))
            self._connections.close(request.connection)

    def _answer_cached(self, request: Request) -> None:
        """Answer a request from what is cached."""
        try:
            reply = request.source.cached(request.text)
        except Exception:
            log.exception("internal error while answering a request")
            request.answered = True
            self._connections.close(request.connection)
        else:
            self._answered(request, reply)

    def _switch(self, source: Source, done: threading.Event) -> None:
        self.source = source
        self._cache.clear()
        done.set()

    def _take_messages(self) -> None:
        """Do what other threads ask, for about `SLICE` seconds: then clients are served again."""
        end = time.monotonic() + SLICE
        # Nobody needs to wake this thread meanwhile.
        self._woken = True
        while self._messages:
            call, arguments = self._messages.popleft()
            try:
                call(*arguments)
            except Exception:
                log.exception("internal error while serving")
            if time.monotonic() >= end:
                break
        # What comes from now on wakes it. `_due` sees what came before.
        self._woken = False

    def _due(self, now: float) -> float:
        """Return the monotonic time at which `_see_to_time` has something to do."""
        if self._messages:
            return now
        due = min(self._idle_round, self._drain_until)
        due = min(due, self._connections.again, self._connections.crowded)
        if self._waiting:
            due = min(due, self._waiting[0].since + ANSWER_LIMIT)
        if (self._queue or self._behind) and now < self._hire_again:
            due = min(due, self._hire_again)
        return due

    def _see_to_time(self, now: float) -> None:
        """Answer what is overdue, accept again, and end idle connections, where that is due."""
        while self._waiting and now >= self._waiting[0].since + ANSWER_LIMIT:
            request = self._waiting.popleft()
            if not request.answered:
                self._overdue += 1
                self._complain(f"no answer within {ANSWER_LIMIT:g} s: answering from the cache")
                self._answer_cached(request)
        if now >= self._connections.again:
            self._connections.accept()
        if now >= self._connections.crowded:
            self._connections.make_room(now)
        if now >= self._idle_round:
            self._idle_round = now + IDLE_ROUND
            self._connections.close_idle(now)

    def _drain(self) -> None:
        """Stop accepting, close idle connections, and give the others their time."""
        if self._drain_until != math.inf:
            log.warning("stopping at once: %d connections are cut", len(self._connections))
            return
        log.info("stopping: no new connections, %d are open", len(self._connections))
        self._drain_until = time.monotonic() + self.shutdown_timeout
        self._behind.clear()
        self._connections.drain()

    def _finished(self, now: float) -> bool:
        if not self._stops:
            return False
        return self._stops > 1 or not self._connections or now >= self._drain_until


def _descriptors() -> int:
    """Return how many descriptors the process may open, after raising the limit to its most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
