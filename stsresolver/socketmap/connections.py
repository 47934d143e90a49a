"""The connections to Postfix, all of them, on the serving thread.

Accepts, reads, cuts netstrings, writes and closes; nothing here waits but the poll. A connection
has at most one request outstanding: until it is answered, and while replies wait for a client that
does not read, nothing more is read from that client. So pipelined requests are answered in their
order, and a client that misbehaves costs its own connection and nothing else.

When there are as many connections as may be, or the process is out of descriptors, new ones are
left in the backlog, and the log says so once.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterable

from .netstring import NetstringError, cut
from .reply_cache import ReplyCache

log = logging.getLogger(__name__)

# Seconds without a whole request after which a connection is closed. Postfix may keep one idle for
# minutes, and must not find it closed sooner than after 120.
IDLE_LIMIT = 300.0
# Seconds after which the answer to a request is lost: no lookup takes so long.
ANSWER_LIMIT = 300.0
# Seconds without accepting after the process ran out of descriptors.
ACCEPT_PAUSE = 1.0
# One read takes the longest request.
_READ = 16_384
# The first one takes what most are, in a buffer that Python has at hand.
_SHORT = 470
# Requests read before the first of them is answered: what belongs to more connections leaves the
# cache of the core meanwhile.
_BATCH = 128
# Bytes of replies that may wait for a client before its further requests do.
_UNSENT_LIMIT = 131_072

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR


class Connection:
    """A client, and what it sent and has not read yet."""

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


# Takes a connection, a request's bytes on the wire, its text, and the monotonic time. Returns the
# reply, or None if it comes later by `Connections.reply`.
Ask = Callable[[Connection, bytes, bytes, float], bytes | None]


class Connections:
    """Serves the clients of `listeners` with replies from `ready` and, failing that, from `ask`.

    `limit`: how many may be open at once. `again`: the monotonic time at which `accept` is to be
    called, after it had to stop. `accepted`: how many there were so far. `wake`: a socket that ends
    the poll; what is sent to it means nothing.
    """

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        wake: socket.socket,
        ready: ReplyCache,
        ask: Ask,
        limit: int,
    ) -> None:
        self.limit = limit
        self.again = math.inf
        self.accepted = 0
        self._wake = wake
        self._ready = ready
        self._ask = ask
        self._open: dict[int, Connection] = {}
        self._listeners = {listener.fileno(): listener for listener in listeners}
        for listener in self._listeners.values():
            listener.setblocking(False)
        self._accepting = False
        self._refused = False
        self._draining = False
        self._poll = select.epoll()
        self._poll.register(wake, _IN)

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, due: float) -> float:
        """Say ready replies until there is something else to do, or the monotonic time `due` comes.

        Return the monotonic time of the last events.
        """
        now = time.monotonic()
        while True:
            events = self._poll.poll(None if due == math.inf else max(0.0, due - now), _BATCH)
            now = time.monotonic()
            others = self._say_ready(events, now)
            for fd, event, data in others:
                connection = self._open.get(fd)
                try:
                    if connection is None:
                        self._other_descriptor(fd, now)
                    elif data is not None:
                        self._received(connection, data, now)
                    elif event == _IN:
                        self._read(connection, now)
                    else:
                        self._other_event(connection, event, now)
                except MemoryError:
                    self._out_of_memory(connection, now)
                except Exception:
                    log.exception("a connection ended in a bug of this program")
                    if connection is not None:
                        self.close(connection)
            if others or not events or now >= due:
                return now

    def _say_ready(
        self, events: Iterable[tuple[int, int]], now: float
    ) -> list[tuple[int, int, bytes | None]]:
        """Say the ready replies to requests that came whole and alone.

        Return what is left to do: descriptors, their events, and what was read of them, if it was.
        Nearly all that the process does is done here, and each step less is felt.
        """
        ready = self._ready.newer
        replies = []
        others: list[tuple[int, int, bytes | None]] = []
        for fd, event in events:
            connection = self._open.get(fd)
            if connection is None or event != _IN or connection.received:
                others.append((fd, event, None))
                continue
            try:
                data = os.read(fd, _SHORT)
            except (OSError, MemoryError):
                others.append((fd, event, None))
                continue
            reply = ready.get(data)
            if reply is None or now >= reply.until:
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
                try:
                    self._send(connection, data[sent:])
                except MemoryError:
                    self._out_of_memory(connection, now)
        return others

    def reply(self, connection: Connection, data: bytes, now: float) -> None:
        """Send the reply that a connection waits for, and go on with what came behind it."""
        if self._open.get(connection.fd) is not connection:
            return
        connection.waiting = False
        connection.last = now
        self._send(connection, data)
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
        """Close the connections that have asked nothing for `IDLE_LIMIT` seconds."""
        for connection in list(self._open.values()):
            if now >= connection.last + (ANSWER_LIMIT if connection.waiting else IDLE_LIMIT):
                log.debug("connection %d is closed: idle", connection.fd)
                self.close(connection)

    def accept(self) -> None:
        """Accept new connections from now on."""
        self.again = math.inf
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
        self.again = math.inf
        self._draining = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for connection in list(self._open.values()):
            if connection.idle:
                self._read(connection, now)
            if self._open.get(connection.fd) is connection:
                self._end(connection)

    def close_all(self) -> None:
        """Close everything."""
        for one in (*self._listeners.values(), *(each.socket for each in self._open.values())):
            one.close()
        self._listeners.clear()
        self._open.clear()
        self._poll.close()

    def _read(self, connection: Connection, now: float) -> None:
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, error)
            return
        self._received(connection, data, now)

    def _received(self, connection: Connection, data: bytes, now: float) -> None:
        """Take what a client sent; nothing is its end."""
        if not data:
            self._end(connection)
            return
        connection.received += data
        self._advance(connection, now)

    def _advance(self, connection: Connection, now: float) -> None:
        """Answer the requests that have come whole, up to the first that has to wait."""
        more = True
        while more and connection.idle:
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
            reply = self._ready.get(wire, now) or self._ask(connection, wire, text, now)
            if reply is None:
                connection.waiting = True
            else:
                replies.append(reply)
                size += len(reply)
        connection.received = received[start:]
        return b"".join(replies), size >= _UNSENT_LIMIT

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send what the client takes now; the rest waits, and with it what the client asks."""
        if connection.unsent:
            data = connection.unsent + data
        if data:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(connection, error)
                return
            if sent == len(data) and connection.events == _IN and not connection.ending:
                if connection.waiting:
                    self._watch(connection)
                return
            connection.unsent = data[sent:]
        if connection.ending and connection.idle:
            self.close(connection)
        else:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Wait for room to write, for a reply, or for a request: for one of them at a time."""
        events = _OUT if connection.unsent else 0 if connection.waiting else _IN
        if events != connection.events:
            self._poll.modify(connection.fd, events)
            connection.events = events

    def _other_event(self, connection: Connection, event: int, now: float) -> None:
        if event & _GONE:
            self.close(connection)
        elif event & _OUT:
            self._send(connection, b"")
            if self._open.get(connection.fd) is connection:
                self._advance(connection, now)

    def _other_descriptor(self, fd: int, now: float) -> None:
        if fd == self._wake.fileno():
            self._wake.recv(4096)
        elif fd in self._listeners:
            self._accept_from(self._listeners[fd], now)

    def _end(self, connection: Connection) -> None:
        """Close a connection, once what it asked for is answered."""
        connection.ending = True
        connection.received = b""
        if connection.idle:
            self.close(connection)
        else:
            self._watch(connection)

    def _lost(self, connection: Connection, error: OSError) -> None:
        log.debug("connection %d is lost: %s", connection.fd, error)
        self.close(connection)

    def _refuse(self) -> None:
        """Leave new connections to the backlog."""
        if self._accepting:
            for fd in self._listeners:
                self._poll.unregister(fd)
            self._accepting = False

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
        self._complain(f"{self.limit} are open, as many as may be")

    def _out_of_memory(self, connection: Connection | None, now: float) -> None:
        """Close the connection that needs what there is not, and take no new ones for now."""
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
