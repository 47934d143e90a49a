"""The socketmap server (socketmap_table(5)): who owns a connection, and who owns a request.

The serving thread, which runs `serve_forever`, owns every connection (see `connections`). It says
ready replies and hands on what has none.

A worker thread owns one request, never a connection: it looks the answer up and gives it back
through a queue that wakes the serving thread. Workers are `ThreadingMixIn`'s threads, at most
`workers` of them, kept for the next request. A request that finds them all busy waits in line; it
gets what is at hand when that has lasted `LINE_LIMIT` seconds. In socketserver's words a request is
a `Request`, as a datagram is for `UDPServer`.
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
from typing import Any, Protocol

from ..counters import Durations
from .connections import Connection, Connections
from .netstring import MAX_REPLY
from .reply_cache import Reply, ReplyCache

log = logging.getLogger(__name__)

# Seconds that a request waits for a worker at most. Postfix holds a mail meanwhile.
LINE_LIMIT = 10.0
# Seconds that `switch` waits for a serving thread that may have ended.
SWITCH_LIMIT = 5.0
# How often idle connections are looked for (seconds).
IDLE_ROUND = 60.0
# Seconds until another thread is tried, after one could not be started.
HIRE_PAUSE = 0.5
# Seconds without serving after there was no memory even to poll; others may give some back.
MEMORY_PAUSE = 0.1
# Descriptors left for lookups (a DNS and an HTTPS socket for each worker), files and logs.
_SPARE_DESCRIPTORS = 64
# Few, but some, when the limit of descriptors leaves none.
_MIN_CONNECTIONS = 16


class Source(Protocol):
    """Where replies come from: see `answer.Answers`."""

    @property
    def changes(self) -> int:
        """How many changes of a policy there were so far."""

    def at_once(self, request: bytes) -> Reply | None:
        """Return a reply that takes no lookup."""

    def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
        """Deliver the reply once, from whatever thread."""

    def at_hand(self, request: bytes) -> Reply:
        """Return the reply that takes no waiting."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do: a look at the server.

    `busy`: workers at work, of `workers` at the most. `line`: requests that wait for one. `behind`:
    jobs that wait behind the answers. `connections`: open ones, of `limit` at the most; `accepted`:
    all so far. `overdue`: requests so far that got what was at hand after `LINE_LIMIT`.
    """

    busy: int
    workers: int
    line: int
    behind: int
    connections: int
    limit: int
    accepted: int
    overdue: int


class Request:
    """A request on its way through line and worker: its bytes on the wire, and its text.

    `source` is where its reply comes from, though the server may have another one meanwhile.
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


class Job(socketserver.BaseRequestHandler):
    """What a worker does: look up the reply to a `Request`, or run a job behind the answers."""

    request: Request | Callable[[], None]
    server: SocketmapServer

    def handle(self) -> None:
        """Run on a worker thread."""
        request = self.request
        if isinstance(request, Request):
            request.source.look_up(request.text, lambda reply: self.server.deliver(request, reply))
        else:
            request()


class SocketmapServer(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Serves `listeners` with the replies of `source`, which is set before `serve_forever`.

    `workers`: how many lookups may be under way at once. `shutdown_timeout`: seconds that
    requests under way have to end after `stop`. Both may be changed at any time. `seconds`: how
    long the requests took that had no ready reply.
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
    ) -> None:
        super().__init__("", Job)
        self.workers = workers
        self.shutdown_timeout = shutdown_timeout
        self.seconds = Durations()
        self._overdue = 0
        self._ready = ReplyCache()
        # What other threads ask of the serving thread, and how they wake it.
        self._messages: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]]
        self._messages = collections.deque()
        self._woken = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        limit = max(_MIN_CONNECTIONS, _descriptors() - 2 * workers - _SPARE_DESCRIPTORS)
        self._connections = Connections(listeners, self._wake_in, self._ready, self._ask, limit)
        self._line: collections.deque[Request] = collections.deque()
        self._behind: collections.deque[Callable[[], None]] = collections.deque()
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._hires: queue.SimpleQueue[Any] = queue.SimpleQueue()
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

    def behind(self, job: Callable[[], None]) -> None:
        """Run `job` on a worker, when no request waits in line for one."""
        if not self._stops:
            self._tell(self._behind.append, job)

    def forget(self, domain: str) -> None:
        """Drop the ready replies that speak of `domain`."""
        self._tell(self._ready.forget, domain)

    def soon(self, call: Callable[[], None]) -> None:
        """Do a call that waits for nothing on the serving thread, when it next comes round."""
        self._tell(call)

    def load(self) -> Load:
        """Look at how much there is to do."""
        return Load(
            busy=self._busy,
            workers=self.workers,
            line=len(self._line),
            behind=len(self._behind),
            connections=len(self._connections),
            limit=self._connections.limit,
            accepted=self._connections.accepted,
            overdue=self._overdue,
        )

    def switch(self, source: Source) -> None:
        """Take replies from another source from now on; no ready reply outlives the change.

        Returns once it is so. Not for the serving thread.
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
        """Work on one request after the other."""
        while True:
            super().process_request_thread(request, client_address)
            self._tell(self._worker_free)
            request = self._jobs.get()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a request ended in, and answer it all the same."""
        log.exception("a request ended in a bug of this program")
        if isinstance(request, Request):
            self._tell(self._answer_at_hand, request)

    def shutdown_request(self, request: Any) -> None:
        """Do nothing: the connection belongs to the serving thread."""

    # ON THE HIRING THREAD

    def _hire(self) -> None:
        """Start a worker for each request that needs a new one.

        A thread of its own, because starting one waits until it runs: in a burst, that is long.
        """
        while True:
            request = self._hires.get()
            try:
                super().process_request(request, None)
            except RuntimeError as error:
                self._tell(self._not_hired, request, error)

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
                    now = self._connections.serve(due)
                    self._read_messages()
                    if now >= due:
                        self._on_time(now)
                    if self._line or self._behind:
                        self._fill_workers(now)
                    due = self._due(now)
                except MemoryError:
                    self._complain("out of memory")
                    time.sleep(MEMORY_PAUSE)
                    now = time.monotonic()
                    # What woke the poll may have been read, and what it was about not been done.
                    self._woken, due = False, now
            return not self._connections
        finally:
            self._ended.set()

    def server_close(self) -> None:
        """Close every socket."""
        self._connections.close_all()
        self._wake_in.close()
        self._wake_out.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a request to a worker, a new one if none is free."""
        if self._busy < self._hired:
            self._jobs.put(request)
        else:
            self._hires.put(request)
            self._hired += 1
        self._busy += 1

    def _ask(self, connection: Connection, wire: bytes, text: bytes, now: float) -> bytes | None:
        """Return the reply to a request that has none ready, or put it in line."""
        try:
            reply = self.source.at_once(text)
        except Exception:
            log.exception("a request ended in a bug of this program")
            reply = None
        if reply is None:
            self._line.append(Request(connection, wire, text, now, self.source))
            return None
        self._ready.put(wire, reply)
        reply.count.first += 1
        return reply.data

    def _fill_workers(self, now: float) -> None:
        """Give waiting requests to free workers, and jobs behind the answers to half of them."""
        while self._line or self._behind:
            line: collections.deque[Any] = self._line or self._behind
            if self._busy >= (self.workers if self._line else (self.workers + 1) // 2):
                return
            if self._busy == self._hired and now < self._hire_again:
                return
            self.process_request(line.popleft(), None)

    def _not_hired(self, request: Any, error: RuntimeError) -> None:
        """Put back what no thread could be started for: there may be one later."""
        self._hired -= 1
        self._busy -= 1
        line: collections.deque[Any] = self._line if isinstance(request, Request) else self._behind
        line.appendleft(request)
        self._hire_again = time.monotonic() + HIRE_PAUSE
        self._complain(f"no thread for another lookup: {error}")

    def _complain(self, what: str) -> None:
        """Warn of a shortage, once until it is over."""
        if not self._complained:
            log.warning("%s", what)
        self._complained = True

    def _worker_free(self) -> None:
        self._busy -= 1
        if not self._line:
            self._complained = False

    def _answered(self, request: Request, reply: Reply) -> None:
        """Send the reply to a request that had to wait, and keep it ready if it still is true."""
        now = time.monotonic()
        fits = len(reply.data) <= MAX_REPLY + len(b"100000:,")
        current = request.source is self.source and reply.change == self.source.changes
        if fits and reply.until > now and current:
            self._ready.put(request.wire, reply)
        if request.answered:
            return
        request.answered = True
        self.seconds.add(now - request.since)
        if fits:
            reply.count.first += 1
            self._connections.reply(request.connection, reply.data, now)
        else:
            log.error("a reply of %d bytes, more than Postfix takes", len(reply.data))
            self._connections.close(request.connection)

    def _switch(self, source: Source, done: threading.Event) -> None:
        self.source = source
        self._ready.clear()
        done.set()

    def _answer_at_hand(self, request: Request) -> None:
        try:
            reply = request.source.at_hand(request.text)
        except Exception:
            log.exception("a request ended in a bug of this program")
            self._connections.close(request.connection)
        else:
            self._answered(request, reply)

    def _read_messages(self) -> None:
        # Reset before the messages are read: who adds one from now on wakes again.
        self._woken = False
        while self._messages:
            call, arguments = self._messages.popleft()
            try:
                call(*arguments)
            except Exception:
                log.exception("a message ended in a bug of this program")

    def _due(self, now: float) -> float:
        """Return the monotonic time at which `_on_time` has something to do."""
        due = min(self._idle_round, self._connections.again, self._drain_until)
        if self._line:
            due = min(due, self._line[0].since + LINE_LIMIT)
        if (self._line or self._behind) and now < self._hire_again:
            due = min(due, self._hire_again)
        return due

    def _on_time(self, now: float) -> None:
        while self._line and now >= self._line[0].since + LINE_LIMIT:
            request = self._line.popleft()
            self._overdue += 1
            self._complain(f"all {self._busy} workers are busy: a request gets what is at hand")
            self._answer_at_hand(request)
        if now >= self._connections.again:
            self._connections.accept()
        if now >= self._idle_round:
            self._idle_round = now + IDLE_ROUND
            self._connections.close_idle(now)

    def _drain(self) -> None:
        """Stop accepting, close who waits for nothing, and give the others their time."""
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
