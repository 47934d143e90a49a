"""A socketmap server in a thread, with a made-up source of replies: no DNS, no policies."""

from __future__ import annotations

import contextlib
import logging
import math
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from stsresolver.socketmap import connections
from stsresolver.socketmap.listeners import listen_tcp, listen_unix
from stsresolver.socketmap.reply_cache import Reply
from stsresolver.socketmap.server import SocketmapServer
from tests.support.socketmap_client import DEADLINE, Address, Client, frame, wait_for

# Seconds in which a server that has nothing to do is watched.
WATCHED = 0.15


class Source:
    """Replies after the word behind the map name; the reply repeats the request.

    now, much: at once, and not to be repeated. constant: at once and for ever.
    later: by a lookup, which delivers on another thread. held: by one that ends with `release`.
    ready: by one, kept until `until`. bytes N: by one, N bytes. twice: by one that delivers two
    replies. broken: the lookup raises.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.until = math.inf
        self.lookups: list[bytes] = []
        self.cached_works = True
        self._lock = threading.Lock()
        self._held: list[Callable[[], None]] = []
        self._open = False

    def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
        self.lookups.append(request)
        _, word, *rest = request.split()
        change = self.changes
        if word == b"broken":
            raise RuntimeError("look_up is broken")
        if word == b"held":
            with self._lock:
                if not self._open:
                    self._held.append(lambda: deliver(reply(b"LATER " + request)))
                    return
        if word == b"now":
            deliver(reply(b"NOW " + request))
        elif word == b"much":
            deliver(reply(b"MUCH " + request + b"." * 50_000))
        elif word == b"constant":
            deliver(reply(b"CONSTANT " + request, math.inf, change=change))
        elif word == b"later":
            threading.Thread(target=deliver, args=[reply(b"LATER " + request)]).start()
        elif word == b"bytes":
            deliver(reply(b"x" * int(rest[0])))
        elif word == b"ready":
            deliver(reply(b"READY " + request, self.until, change=change))
        elif word == b"twice":
            deliver(reply(b"FIRST " + request))
            deliver(reply(b"SECOND " + request))
        else:
            deliver(reply(b"LATER " + request))

    def cached(self, request: bytes) -> Reply:
        if not self.cached_works:
            raise RuntimeError("cached is broken")
        return reply(b"TEMP ")

    def release(self) -> None:
        """Let the held lookups end, and those to come."""
        with self._lock:
            self._open = True
            held, self._held = self._held, []
        for deliver in held:
            deliver()

    def held(self, number: int) -> Callable[[], bool]:
        """Return the condition that so many held lookups are under way."""
        return lambda: sum(b" held" in request for request in self.lookups) >= number


def reply(payload: bytes, until: float = -math.inf, change: int = 0) -> Reply:
    domain = "domain.example" if payload.startswith(b"READY") else ""
    return Reply(frame(payload), until, domain, change)


class Poll:
    """The server's epoll, counting how often it returns."""

    def __init__(self, poll) -> None:
        self._poll = poll
        self.count = 0

    def poll(self, timeout: float | None, most: int) -> list[tuple[int, int]]:
        self.count += 1
        return self._poll.poll(timeout, most)

    def __getattr__(self, name: str) -> object:
        return getattr(self._poll, name)


class Served:
    """A server that runs in a thread of its own."""

    def __init__(self, server: SocketmapServer, source: Source, address: Address) -> None:
        self.server = server
        self.source = source
        self.address = address
        self.clean: bool | None = None
        self.poll = server._connections._poll = Poll(server._connections._poll)
        self._thread = threading.Thread(target=self._run, daemon=True)
        server.source = source

    def _run(self) -> None:
        self.clean = self.server.serve_forever()

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.poll.count or self.clean is not None, "the server to serve")

    def client(self, **options: int) -> Client:
        return Client(self.address, **options)

    def has_ended(self) -> bool:
        self._thread.join(DEADLINE)
        return not self._thread.is_alive()

    @property
    def connections(self) -> list[connections.Connection]:
        return list(self.server._connections._open.values())

    def is_full(self) -> bool:
        """Say whether replies wait for a client that does not read."""
        return any(one.events == select.EPOLLOUT for one in self.connections)

    def has_stopped_listening(self) -> bool:
        return not self.server._connections._listeners

    def is_queued(self, number: int) -> Callable[[], bool]:
        """Return the condition that so many jobs of requests wait for a worker."""
        return lambda: len(self.server._queue) == number

    def has_connections(self, number: int) -> None:
        wait_for(lambda: len(self.connections) == number, f"{number} connections")

    def has_read(self, data: bytes) -> None:
        """Wait until the server holds just these bytes of an unfinished request."""
        wait_for(lambda: [one.received for one in self.connections] == [data], f"{data!r} read")

    def is_at_rest(self) -> bool:
        """Say whether the server leaves the processor alone while nothing happens."""
        before = self.poll.count
        threading.Event().wait(WATCHED)
        return self.poll.count - before <= 20

    def close(self) -> None:
        self.source.release()
        self.server.stop()
        self.server.stop()
        try:
            assert self.has_ended(), "serve_forever does not end"
        finally:
            self.server.server_close()


def listening(kind: str, tmp_path):
    if kind == "unix":
        path = str(tmp_path / "socket")
        return listen_unix(path, None), path
    host = "::1" if kind == "tcp6" else "127.0.0.1"
    try:
        listener = listen_tcp(host, 0, reuse_port=False)[0]
    except OSError as error:
        if kind == "tcp6":
            pytest.skip(f"no IPv6 on this machine: {error}")
        raise
    return listener, listener.getsockname()[:2]


@contextlib.contextmanager
def serving(tmp_path, caplog) -> Iterator[Callable[..., Served]]:
    """Give what starts servers, which end with the test that uses it as a fixture.

    A bug that one logs fails the test, unless `bugs` is true.
    """
    caplog.set_level(logging.INFO, "stsresolver")
    running: list[tuple[Served, bool]] = []

    def start(
        kind: str = "tcp4",
        *,
        workers: int = 4,
        source: Source | None = None,
        bugs: bool = False,
        run: bool = True,
        **options: float,
    ) -> Served:
        listener, address = listening(kind, tmp_path)
        server = SocketmapServer([listener], workers=workers, **options)
        served = Served(server, source or Source(), address)
        running.append((served, bugs))
        if run:
            served.start()
        return served

    yield start
    for served, _ in running:
        served.close()
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(bugs for _, bugs in running) or logged == []


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
