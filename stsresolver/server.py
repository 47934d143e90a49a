"""The socketmap server (socketmap_table(5)): who owns a connection, and who owns a request.

The serving thread, which runs `serve_forever`, owns every connection: it accepts, reads, cuts
netstrings, says ready replies, writes and closes. It never waits for anything but its poll.

A worker thread owns one request, never a connection: it looks the answer up and gives it back
through a queue that wakes the serving thread. Workers are `ThreadingMixIn`'s threads, at most
`workers` of them, kept for the next request. A request that finds them all busy waits in line; it
gets what is at hand when that has lasted `LINE_LIMIT` seconds. In socketserver's words a request is
a `Request`, as a datagram is for `UDPServer`, and its client address is the `Connection`.

A client that breaks the protocol is closed; one that does not read, or sends a byte now and then,
costs its own connection and nothing else. Pipelined requests are answered in their order.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import math
import queue
import resource
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .netstring import MAX_REPLY, NetstringError, cut
from .ready import ReadyReplies, Reply

log = logging.getLogger(__name__)

# Seconds that a request waits for a worker at most. Postfix holds a mail meanwhile.
LINE_LIMIT = 10.0
# Seconds without a whole request after which a connection is closed. Postfix may keep one idle for
# minutes, and must not find it closed sooner than after 120.
IDLE_LIMIT = 300.0
# How often idle connections are looked for (seconds).
_IDLE_ROUND = 60.0
# Seconds without accepting after the process ran out of descriptors.
_ACCEPT_PAUSE = 1.0
# Descriptors left for lookups (a DNS and an HTTPS socket for each worker), files and logs.
_SPARE_DESCRIPTORS = 64
# One read takes the longest request, so that most requests come in one.
_READ = 16_384
# Bytes of replies that may wait for a client before its further requests do.
_UNSENT_LIMIT = 131_072

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT


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


class Connection:
    """A client, and what it sent and has not read yet. The serving thread alone touches it."""

    __slots__ = ("ending", "events", "fd", "last", "received", "socket", "unsent", "waiting")

    def __init__(self, client: socket.socket, now: float) -> None:
        self.socket = client
        self.fd = client.fileno()
        self.received = b""
        self.unsent = b""
        self.waiting = False
        self.ending = False
        self.events = _IN
        self.last = now

    @property
    def idle(self) -> bool:
        """Whether nothing is owed to the client."""
        return not self.waiting and not self.unsent


class Request:
    """A request on its way through line and worker: its bytes on the wire, and its text."""

    __slots__ = ("answered", "connection", "since", "text", "wire")

    def __init__(self, connection: Connection, wire: bytes, text: bytes, since: float) -> None:
        self.connection = connection
        self.wire = wire
        self.text = text
        self.since = since
        self.answered = False


class Job(socketserver.BaseRequestHandler):
    """What a worker does: look up the reply to a `Request`, or run a job behind the answers."""

    request: Request | Callable[[], None]
    server: SocketmapServer

    def handle(self) -> None:
        """Run on a worker thread."""
        request = self.request
        if isinstance(request, Request):
            self.server.source.look_up(
                request.text, lambda reply: self.server.deliver(request, reply)
            )
        else:
            request()


class SocketmapServer(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Serves `listeners` with the replies of `source`, which is set before `serve_forever`.

    `workers`: how many lookups may be under way at once. `shutdown_timeout`: seconds that
    requests under way have to end after `stop`.
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
        self._workers = workers
        self._shutdown_timeout = shutdown_timeout
        self._max_connections = max(16, _descriptors() - 2 * workers - _SPARE_DESCRIPTORS)
        self._poll = select.epoll()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._connections: dict[int, Connection] = {}
        self._ready = ReadyReplies()
        self._line: collections.deque[Request] = collections.deque()
        self._behind: collections.deque[Callable[[], None]] = collections.deque()
        self._jobs: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._threads_started = 0
        self._busy = 0
        self._accepting = False
        self._accept_again = math.inf
        self._accept_refused = False
        self._idle_round = math.inf
        self._complained = ""
        self._stops = 0
        self._drain_until = math.inf
        self._ended = threading.Event()
        # What other threads ask of the serving thread, and how they wake it.
        self._messages: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]]
        self._messages = collections.deque()
        self._woken = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._poll.register(self._wake_in, _IN)
        for listener in self._listeners.values():
            listener.setblocking(False)

    # CALLED FROM ANY THREAD

    def deliver(self, request: Request, reply: Reply) -> None:
        """Give the reply to a request back to the serving thread."""
        self._tell(self._answered, request, reply)

    def behind(self, job: Callable[[], None]) -> None:
        """Run `job` on a worker, when no request waits in line for one."""
        self._tell(self._behind.append, job)

    def forget(self, domain: str) -> None:
        """Drop the ready replies that speak of `domain`."""
        self._tell(self._ready.forget, domain)

    def stop(self) -> None:
        """End `serve_forever` once what is under way is answered; a second call ends it at once.

        May be called in a signal handler.
        """
        self._stops += 1
        self._tell(self._drain)

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
            request, client_address = self._jobs.get()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a request ended in, and answer it all the same."""
        log.exception("a request ended in a bug of this program")
        if isinstance(request, Request):
            self._tell(self._answer_at_hand, request)

    def shutdown_request(self, request: Any) -> None:
        """Do nothing: the connection belongs to the serving thread."""

    # ON THE SERVING THREAD

    def serve_forever(self, poll_interval: float = 0.5) -> bool:  # type: ignore[override]
        """Serve until `stop`; return whether everything under way was answered then.

        `poll_interval` is not used: every event wakes the poll.
        """
        try:
            self._idle_round = time.monotonic() + _IDLE_ROUND
            self._accept()
            while not self._finished():
                self._serve_once()
            return not self._connections
        finally:
            self._ended.set()

    def server_close(self) -> None:
        """Close every socket."""
        for one in (*self._listeners.values(), self._wake_in, self._wake_out):
            one.close()
        for connection in self._connections.values():
            connection.socket.close()
        self._listeners.clear()
        self._connections.clear()
        self._poll.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a request to a worker, a new one if none is free."""
        if self._busy < self._threads_started:
            self._jobs.put((request, client_address))
        else:
            super().process_request(request, client_address)
            self._threads_started += 1
        self._busy += 1

    def _serve_once(self) -> None:
        now = time.monotonic()
        events = self._poll.poll(self._pause(now))
        now = time.monotonic()
        for fd, event in events:
            connection = self._connections.get(fd)
            try:
                if connection is not None:
                    if event == _IN:
                        self._read(connection, now)
                    else:
                        self._other_event(connection, event, now)
                elif fd in self._listeners:
                    self._accept_from(self._listeners[fd], now)
            except Exception:
                log.exception("a connection ended in a bug of this program")
                if connection is not None:
                    self._close(connection)
        if self._messages:
            self._read_messages()
        self._on_time(now)
        self._fill_workers()

    def _read(self, connection: Connection, now: float) -> None:
        """Read what came, and answer it if it is one request with a ready reply."""
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("connection %d: %s", connection.fd, error)
            self._close(connection)
            return
        if not data:
            self._end(connection)
            return
        if connection.received:
            connection.received += data
        else:
            reply = self._ready.get(data, now)
            if reply is not None:
                connection.last = now
                self._send(connection, reply)
                return
            connection.received = data
        self._advance(connection, now)

    def _advance(self, connection: Connection, now: float) -> None:
        """Answer the requests that have come whole, up to the first that has to wait."""
        more = True
        while more and not connection.waiting and not connection.unsent:
            replies, more = self._answer_received(connection, now)
            self._send(connection, replies)

    def _answer_received(self, connection: Connection, now: float) -> tuple[bytes, bool]:
        """Return replies to what the client sent, and whether there is more to answer."""
        received, start = connection.received, 0
        replies: list[bytes] = []
        size = 0
        while not connection.waiting and size < _UNSENT_LIMIT:
            try:
                found = cut(received, start)
            except NetstringError as error:
                log.info("connection %d is closed: %s", connection.fd, error)
                connection.ending = True
                start = len(received)
                break
            if found is None:
                break
            text, end = found
            wire, start = received[start:end], end
            connection.last = now
            reply = self._ready.get(wire, now) or self._at_once(wire, text)
            if reply is None:
                connection.waiting = True
                self._line.append(Request(connection, wire, text, now))
            else:
                replies.append(reply)
                size += len(reply)
        connection.received = received[start:]
        return b"".join(replies), size >= _UNSENT_LIMIT

    def _at_once(self, wire: bytes, text: bytes) -> bytes | None:
        reply = self.source.at_once(text)
        if reply is None:
            return None
        self._ready.put(wire, reply)
        return reply.data

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send what the client takes now; the rest waits, and with it what the client asks."""
        data = connection.unsent + data if connection.unsent else data
        if data:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                log.debug("connection %d: %s", connection.fd, error)
                self._close(connection)
                return
            connection.unsent = data[sent:]
        if connection.ending and connection.idle:
            self._close(connection)
        elif connection.waiting or connection.unsent or connection.events != _IN:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Wait for room to write, for a reply, or for a request: for one of them at a time."""
        events = _OUT if connection.unsent else 0 if connection.waiting else _IN
        if connection.ending:
            events &= ~_IN
        if events != connection.events:
            self._poll.modify(connection.fd, events)
            connection.events = events

    def _other_event(self, connection: Connection, event: int, now: float) -> None:
        if event & (select.EPOLLHUP | select.EPOLLERR):
            self._close(connection)
        elif event & _OUT:
            self._send(connection, b"")
            if connection.fd in self._connections:
                self._advance(connection, now)

    def _end(self, connection: Connection) -> None:
        """The client has sent its last byte: close, once what it asked for is answered."""
        connection.ending = True
        connection.received = b""
        if connection.idle:
            self._close(connection)
        else:
            self._watch(connection)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._poll.unregister(connection.fd)
        connection.socket.close()
        connection.received = connection.unsent = b""
        if self._accept_again == math.inf and not self._stops:
            self._accept()

    def _accept(self) -> None:
        """Begin to accept connections, if that is not so already."""
        if not self._accepting:
            for fd in self._listeners:
                self._poll.register(fd, _IN)
            self._accepting = True
        self._accept_again = math.inf

    def _refuse(self) -> None:
        """Leave new connections to the backlog."""
        if self._accepting:
            for fd in self._listeners:
                self._poll.unregister(fd)
            self._accepting = False

    def _accept_from(self, listener: socket.socket, now: float) -> None:
        while len(self._connections) < self._max_connections:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                self._accept_refused = False
                return
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                self._refuse()
                self._accept_again = now + _ACCEPT_PAUSE
                if not self._accept_refused:
                    log.warning("no new connections for now: %s", error)
                self._accept_refused = True
                return
            client.setblocking(False)
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client, now)
            self._connections[connection.fd] = connection
            self._poll.register(connection.fd, _IN)
        self._refuse()
        if not self._accept_refused:
            limit = self._max_connections
            log.warning("no new connections for now: %d are open, as many as may be", limit)
        self._accept_refused = True

    def _fill_workers(self) -> None:
        """Give waiting requests, and then jobs behind the answers, to free workers."""
        while self._busy < self._workers and (self._line or self._behind):
            line: collections.deque[Any] = self._line or self._behind
            try:
                self.process_request(line[0], None)
            except RuntimeError as error:
                # It waits for a worker that there is, or for its time in line to end.
                self._complain(f"no thread for another lookup: {error}")
                return
            line.popleft()
        if not self._line:
            self._complained = ""

    def _complain(self, what: str) -> None:
        """Warn of a shortage, once until it is over."""
        if not self._complained:
            log.warning("%s", what)
        self._complained = what

    def _worker_free(self) -> None:
        self._busy -= 1

    def _answered(self, request: Request, reply: Reply) -> None:
        """Send the reply to a request that had to wait, and go on with what came behind it."""
        if len(reply.data) > MAX_REPLY + len(b"100000:,"):
            log.error("a reply of %d bytes, more than Postfix takes", len(reply.data))
            self._close(request.connection)
            return
        now = time.monotonic()
        if reply.until > now and reply.change == self.source.changes:
            self._ready.put(request.wire, reply)
        if request.answered:
            return
        request.answered = True
        connection = request.connection
        if self._connections.get(connection.fd) is not connection:
            return
        connection.waiting = False
        connection.last = now
        if self._stops:
            connection.ending = True
            connection.received = b""
        self._send(connection, reply.data)
        if connection.received and self._connections.get(connection.fd) is connection:
            self._advance(connection, now)

    def _answer_at_hand(self, request: Request) -> None:
        try:
            reply = self.source.at_hand(request.text)
        except Exception:
            log.exception("a request ended in a bug of this program")
            self._close(request.connection)
        else:
            self._answered(request, reply)

    def _read_messages(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)
        # Reset before the queue is read: who adds to it from now on wakes again.
        self._woken = False
        while self._messages:
            call, arguments = self._messages.popleft()
            call(*arguments)

    def _pause(self, now: float) -> float | None:
        """Return for how many seconds nothing is to be done on time, None for ever."""
        until = min(self._accept_again, self._drain_until)
        if self._line:
            until = min(until, self._line[0].since + LINE_LIMIT)
        if self._connections:
            until = min(until, self._idle_round)
        return None if until == math.inf else max(0.0, until - now)

    def _on_time(self, now: float) -> None:
        while self._line and now >= self._line[0].since + LINE_LIMIT:
            request = self._line.popleft()
            self._complain(f"all {self._busy} workers are busy: a request gets what is at hand")
            self._answer_at_hand(request)
        if now >= self._accept_again and not self._stops:
            self._accept()
        if now >= self._idle_round:
            self._idle_round = now + _IDLE_ROUND
            for connection in list(self._connections.values()):
                if not connection.waiting and now >= connection.last + IDLE_LIMIT:
                    log.debug("connection %d is closed: idle", connection.fd)
                    self._close(connection)

    def _drain(self) -> None:
        """Stop accepting, close who waits for nothing, and give the others their time."""
        if self._drain_until != math.inf:
            log.warning("stopping at once: %d connections are cut", len(self._connections))
            return
        log.info("stopping: no new connections, %d are open", len(self._connections))
        self._drain_until = time.monotonic() + self._shutdown_timeout
        self._behind.clear()
        self._refuse()
        self._accept_again = math.inf
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections.values()):
            if connection.idle:
                self._close(connection)
            else:
                connection.ending = True
                connection.received = b""

    def _finished(self) -> bool:
        if self._stops < 2 and (self._connections or not self._stops):
            return time.monotonic() >= self._drain_until
        return True


def _descriptors() -> int:
    """Return how many descriptors the process may open, after raising the limit to its most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
