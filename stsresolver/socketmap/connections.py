"""All connections to Postfix, on the serving thread.

Accepts, reads, writes and closes. Only the poll waits. While a connection waits for a reply or does
not read its replies, nothing more is read from it (`conversation`). So a client that misbehaves
costs its own connection and nothing else.

At the limit of connections, or of descriptors, new ones stay in the backlog, and the log says so
once. Then those that have been idle longest give way to them (`idle_limits`).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterable

from . import idle_limits
from .conversation import Conversation
from .netstring import NetstringError
from .reply_cache import ReplyCache

log = logging.getLogger(__name__)

# Seconds for which the serving thread does anything else before it repeats replies again.
SLICE = 0.001
# Seconds without accepting after the process ran out of descriptors.
ACCEPT_PAUSE = 1.0
# How often connections that are idle give way, while new ones are not accepted (seconds).
ROOM_ROUND = 0.5
# One read takes the longest request.
_READ = 16_384
# The first read takes most requests, in a buffer for which Python allocates no memory.
_SHORT = 470
# Requests read before the first of them is answered. The data of more connections does not stay in
# the cache of the core.
_BATCH = 128

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR


class Connection(Conversation):
    """A client's socket and conversation.

    `events`: of epoll(7), for which it is polled.
    `opened`: when it was accepted (monotonic).
    `last`: when its last whole request came or was answered; as `opened` before the first one.
    """

    __slots__ = ("events", "fd", "last", "opened", "socket")

    def __init__(self, client: socket.socket, now: float) -> None:
        super().__init__()
        self.socket = client
        self.fd = client.fileno()
        self.events = _IN
        self.opened = self.last = now


# Takes a connection, a request's bytes on the wire, its text, and the monotonic time. The reply
# comes later by `Connections.reply`.
Ask = Callable[[Connection, bytes, bytes, float], None]


class Connections:
    """Serves the clients of `listeners` with replies from `cache`, else from `ask`.

    `wake`: a socket that ends the poll; the bytes sent to it mean nothing.
    `limit`: connections that may be open at once.
    `again`: when to call `accept`, after accepting had to stop (monotonic).
    `crowded`: when to call `make_room` (monotonic).
    `accepted`: connections so far.
    """

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        wake: socket.socket,
        cache: ReplyCache,
        ask: Ask,
        limit: int,
    ) -> None:
        self.limit = limit
        self.again = math.inf
        self.crowded = math.inf
        self.accepted = 0
        self._wake = wake
        self._cache = cache
        self._ask = ask
        self._open: dict[int, Connection] = {}
        self._listeners = {listener.fileno(): listener for listener in listeners}
        for listener in self._listeners.values():
            listener.setblocking(False)
        # Other sockets, with what reads them, by descriptor.
        self._watched: dict[int, tuple[socket.socket, Callable[[], None]]] = {}
        # Those whose data was read, and may be a first request: that takes longer to answer.
        self._put_off: collections.deque[Connection] = collections.deque()
        self._accepting = False
        self._refused = False
        self._draining = False
        self._poll = select.epoll()
        self._poll.register(wake, _IN)

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, due: float) -> float:
        """Repeat cached replies until anything else is to be done, or the monotonic time `due`.

        Return the monotonic time of the last events.
        """
        now = time.monotonic()
        while True:
            if self._put_off:
                due = now
            events = self._poll.poll(None if due == math.inf else max(0.0, due - now), _BATCH)
            now = time.monotonic()
            others = self._repeat(events, now)
            for fd, event, data in others:
                self._see_to(fd, event, data, now)
            self._look_at_some(now)
            if others or not events or now >= due:
                return now

    @property
    def put_off(self) -> bool:
        """Whether requests that were read are still to be looked at."""
        return bool(self._put_off)

    def _look_at_some(self, now: float) -> None:
        """Look at requests that were put off, for about `SLICE` seconds."""
        end = now + SLICE
        while self._put_off:
            connection = self._put_off.popleft()
            if self._open.get(connection.fd) is connection:
                self._see_to(connection.fd, 0, None, now)
            if time.monotonic() >= end:
                return

    def _see_to(self, fd: int, event: int, data: bytes | None, now: float) -> None:
        """Do what an event asks for, or (0) look at what was put off.

        `data`: what was read already. What goes wrong costs no more than this connection.
        """
        connection = self._open.get(fd)
        try:
            if connection is None:
                self._other_descriptor(fd, now)
            elif data:
                connection.received = data
                self._put_off.append(connection)
            elif event == _IN:
                self._read(connection, now)
            elif event:
                self._other_event(connection, event, now)
            else:
                self._advance(connection, now)
        except MemoryError:
            self._out_of_memory(connection, now)
        except Exception:
            log.exception("internal error while serving a connection")
            if connection is not None:
                self.close(connection)

    # THE FAST PATH: a whole request alone, whose reply is cached. Nearly all requests are such, and
    # each step less is felt, so it goes round `Conversation`.
    def _repeat(
        self, events: Iterable[tuple[int, int]], now: float
    ) -> list[tuple[int, int, bytes | None]]:
        """Answer requests from the cache that came whole and alone.

        Return what is left to do: descriptors, their events, and what was read of them, if it was.
        """
        find = self._cache.find
        replies = []
        others: list[tuple[int, int, bytes | None]] = []
        for fd, event in events:
            connection = self._open.get(fd)
            if connection is None or event != _IN or connection.received or connection.waiting:
                others.append((fd, event, None))
                continue
            try:
                data = os.read(fd, _SHORT)
            except (OSError, MemoryError):
                others.append((fd, event, None))
                continue
            reply = find(data, now)
            if reply is None:
                others.append((fd, event, data))
                continue
            reply.count.again += 1
            connection.last = now
            replies.append((connection, reply.data))
        for connection, data in replies:
            try:
                sent = os.write(connection.fd, data)
            except OSError:
                # _send finds out why.
                sent = 0
            if sent < len(data):
                connection.unsent = data[sent:]
                try:
                    self._send(connection)
                except MemoryError:
                    self._out_of_memory(connection, now)
        return others

    def reply(self, connection: Connection, data: bytes, now: float) -> None:
        """Send the reply that a connection waits for, and go on with what came behind it."""
        if self._open.get(connection.fd) is not connection:
            return
        connection.last = now
        connection.reply(data)
        self._send(connection)
        if connection.received and self._open.get(connection.fd) is connection:
            self._advance(connection, now)

    def close(self, connection: Connection) -> None:
        """Close a connection, if it is open still."""
        # The descriptor of a connection that is gone may be another one's by now.
        if self._open.get(connection.fd) is not connection:
            return
        del self._open[connection.fd]
        self._poll.unregister(connection.fd)
        connection.socket.close()
        connection.received = connection.unsent = b""
        if self.again == math.inf:
            self.accept()

    def close_idle(self, now: float) -> None:
        """Close what has been idle for long."""
        for connection in list(self._open.values()):
            if now >= idle_limits.ends_at(connection.last, waiting=connection.waiting):
                log.debug("connection %d is closed: idle", connection.fd)
                self.close(connection)

    def make_room(self, now: float) -> None:
        """Let the connections that have been idle longest give way to new ones, if some wait."""
        self.crowded = now + ROOM_ROUND
        backlog = select.poll()
        for fd in self._listeners:
            backlog.register(fd, select.POLLIN)
        waiting = backlog.poll(0)
        if not waiting:
            return
        idle = [one for one in self._open.values() if now >= _gives_way_at(one)]
        if not idle:
            # Nothing can be idle for long enough before.
            earliest = min(map(_gives_way_at, self._open.values()), default=now)
            self.crowded = min(max(earliest, self.crowded), now + idle_limits.CROWDED_LIMIT)
        # The one that has been idle longest comes last; of several, the one that came first.
        idle.sort(key=lambda one: one.last)
        idle.reverse()
        while idle and waiting:
            for fd, _ in waiting[: len(idle)]:
                connection = idle.pop()
                log.debug("connection %d is closed: idle, and others wait", connection.fd)
                self.close(connection)
                self._accept_from(self._listeners[fd], now)
            waiting = backlog.poll(0)

    def watch(self, one: socket.socket, job: Callable[[], None]) -> None:
        """Call `job` whenever a socket that is no client's can be read, until it is closed."""
        self._watched = {fd: each for fd, each in self._watched.items() if each[0].fileno() == fd}
        # It may be closed already.
        with contextlib.suppress(ValueError):
            self._poll.register(one, _IN)
            self._watched[one.fileno()] = one, job

    def accept(self) -> None:
        """Accept new connections from now on."""
        self.again = self.crowded = math.inf
        if not self._accepting and not self._draining:
            for fd in self._listeners:
                self._poll.register(fd, _IN)
            self._accepting = True

    def drain(self) -> None:
        """Accept no more, close what is idle, and the others once they are answered."""
        # Clients in the backlog, and requests that have come, are not lost.
        now = time.monotonic()
        for listener in self._listeners.values():
            self._accept_from(listener, now)
        self._refuse()
        self.again = self.crowded = math.inf
        self._draining = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        while self._put_off:
            self._look_at_some(now)
        for connection in list(self._open.values()):
            if connection.idle:
                self._read(connection, now)
            if self._open.get(connection.fd) is connection:
                self._end(connection)

    def close_all(self) -> None:
        """Close every connection, listener and the poll."""
        for one in (*self._listeners.values(), *(each.socket for each in self._open.values())):
            one.close()
        self._listeners.clear()
        self._open.clear()
        self._poll.close()

    def _read(self, connection: Connection, now: float) -> None:
        if connection.waiting:
            # What it sends now is read once it has its reply.
            self._poll_for(connection, 0)
            return
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, error)
            return
        connection.received += data
        self._advance(connection, now)
        if not data:
            self._end(connection)

    def _advance(self, connection: Connection, now: float) -> None:
        """Answer the requests that have come whole, up to the first that has to wait."""

        def ask(wire: bytes, text: bytes) -> bytes | None:
            connection.last = now
            reply = self._cache.find(wire, now)
            if reply is None:
                self._ask(connection, wire, text, now)
                return None
            reply.count.again += 1
            return reply.data

        more = True
        while more and connection.idle:
            try:
                more = connection.answer(ask)
            except NetstringError as error:
                log.info("connection %d is closed: %s", connection.fd, error)
                more = False
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        """Send what the client takes now; the rest waits, and with it what the client asks."""
        data = connection.unsent
        if data:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(connection, error)
                return
            connection.sent(sent)
        if connection.ending and connection.idle:
            self.close(connection)
        else:
            self._poll_for(connection, _OUT if connection.unsent else _IN)

    def _poll_for(self, connection: Connection, events: int) -> None:
        """Wait for room to write, for a request, or (0) only for the end of the connection."""
        if events != connection.events:
            self._poll.modify(connection.fd, events)
            connection.events = events

    def _other_event(self, connection: Connection, event: int, now: float) -> None:
        if event & _GONE:
            self.close(connection)
        elif event & _OUT:
            self._send(connection)
            if self._open.get(connection.fd) is connection:
                self._advance(connection, now)

    def _other_descriptor(self, fd: int, now: float) -> None:
        if fd == self._wake.fileno():
            self._wake.recv(4096)
        elif fd in self._listeners:
            self._accept_from(self._listeners[fd], now)
        elif fd in self._watched:
            _, job = self._watched[fd]
            job()

    def _end(self, connection: Connection) -> None:
        """Close a connection, once what it asked for is answered."""
        connection.end()
        if connection.idle:
            self.close(connection)

    def _lost(self, connection: Connection, error: OSError) -> None:
        log.debug("connection %d is lost: %s", connection.fd, error)
        self.close(connection)

    def _refuse(self) -> None:
        """Leave new connections to the backlog."""
        if self._accepting:
            for fd in self._listeners:
                self._poll.unregister(fd)
            self._accepting = False
            self.crowded = time.monotonic() + ROOM_ROUND

    def _accept_from(self, listener: socket.socket, now: float) -> None:
        while len(self._open) < self.limit:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                self._refused = False
                return
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._refuse()
                    self.again = now + ACCEPT_PAUSE
                    self._complain(str(error))
                    return
            else:
                client.setblocking(False)
                if client.family != socket.AF_UNIX:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(client, now)
                self._poll.register(connection.fd, _IN)
                self._open[connection.fd] = connection
                self.accepted += 1
        self._refuse()
        self._complain(f"{self.limit} are open, the limit")

    def _out_of_memory(self, connection: Connection | None, now: float) -> None:
        """Close the connection for which there is no memory, and accept no new ones for now."""
        if connection is not None:
            self.close(connection)
        if not self._draining:
            self._refuse()
            self.again = now + ACCEPT_PAUSE
        self._complain("out of memory")

    def _complain(self, why: str) -> None:
        """Warn that clients have to wait, once until they need not."""
        if not self._refused:
            log.warning("no new connections for now: %s", why)
        self._refused = True


def _gives_way_at(connection: Connection) -> float:
    opened, last = connection.opened, connection.last
    return idle_limits.gives_way_at(opened, last, waiting=connection.waiting)
