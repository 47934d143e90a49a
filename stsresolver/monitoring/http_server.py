"""A few pages over HTTP/1.0, for Prometheus, for people, and for probes of whether it is alive.

The standard library's `ThreadingHTTPServer` on a socket of its own, never the one of Postfix. One
request a connection.

A handful of connections have a place and a thread at once. Further ones wait in the backlog. While
some wait, a connection gives way that has not sent its request after a moment, or has not taken its
answer after some seconds. A page that is no probe gets half of the places at most. So no client
keeps the probes out, and slow ones cost no more than these threads.
"""

from __future__ import annotations

import http.server
import logging
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

log = logging.getLogger(__name__)

# Connections at once, and how many of them may wait for a page that is not for probes.
PLACES = 8
LONG_PAGES = 4
# Seconds that a connection keeps its place while others wait for one: until its request has come,
# which a client sends at once, and until its answer is taken.
REQUEST_LIMIT = 0.02
TOTAL_LIMIT = 10.0
# Seconds for each read and write.
_LIMIT = 5.0
# Seconds without accepting after the process ran out of descriptors or threads.
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for besides the path.

    `query`: what stands behind the first `?`, as it was sent.
    `host`: the header Host, None without one.
    """

    query: str
    host: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: the body, what it is, and further headers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    media_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Make = Callable[[Request], Page]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: PageServer
    timeout = _LIMIT
    server_version = "mta-sts-daemon"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a page."""
        self._answer(self._page())

    def do_HEAD(self) -> None:
        """Answer with the head of a page."""
        self._answer(self._page(), body=False)

    def _page(self) -> Page:
        path, _, query = self.path.partition("?")
        make = self.server.pages.get(path)
        if make is None:
            known = ", ".join(self.server.pages)
            return Page(f"There is {known}.\n".encode(), HTTPStatus.NOT_FOUND)
        if not self.server.may_have(self.request, path):
            return Page(b"Others are asking for it.\n", HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return make(Request(query, self.headers.get("Host")))
        except Exception:
            log.exception("internal error while serving %.100a", self.path)
            return Page(b"The log says what is wrong.\n", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, page: Page, *, body: bool = True) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.media_type)
        self.send_header("Content-Length", str(len(page.body)))
        for name, value in page.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log what the standard library would write to standard error."""
        log.debug("a page: %.300a", format % args)


@dataclass(slots=True)
class _Place:
    """A connection's place.

    `end`: when it has to be given back if others wait (monotonic).
    `long_page`: whether the connection waits for a page that is not for probes.
    """

    end: float
    long_page: bool = False


class PageServer(http.server.ThreadingHTTPServer):
    """Serves `pages`, by their paths, at a socket that listens already, from `start` to `close`.

    `probes`: the paths of short pages, which are never refused.

    Each page is made anew whenever it is asked for, on a thread of its own.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listener: socket.socket,
        pages: Mapping[str, Make],
        probes: Container[str] = (),
    ) -> None:
        self.address_family = listener.family
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._probes = probes
        # Guards the places, and is notified when one is given back.
        self._freed = threading.Condition()
        self._places: dict[socket.socket, _Place] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    def start(self) -> None:
        """Start the thread that serves."""
        self._thread.start()

    def close(self) -> None:
        """End, and close every connection."""
        with self._freed:
            self._ended = True
            self._freed.notify()
        # Wakes the thread that waits for connections.
        self._shut(self.socket)
        if self._thread.ident is not None:
            self._thread.join()
        self.server_close()
        with self._freed:
            for connection in self._places:
                self._shut(connection)

    # ON ITS OWN THREAD

    def _run(self) -> None:
        coming = select.poll()
        coming.register(self.socket, select.POLLIN)
        while not self._ended:
            coming.poll()
            self._make_room()
            self.handle_request()

    def _make_room(self) -> None:
        """Wait until there is a place for another connection."""
        with self._freed:
            while not self._ended and len(self._places) >= PLACES:
                now = time.monotonic()
                connection, first = min(self._places.items(), key=lambda one: one[1].end)
                if now < first.end:
                    self._freed.wait(None if first.end == math.inf else first.end - now)
                else:
                    # Its thread gives the place back.
                    self._shut(connection)
                    first.end = math.inf

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return self.socket.accept()
        except OSError as error:
            log.debug("no connection for a page: %s", error)
            self._pause()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread."""
        with self._freed:
            self._places[request] = _Place(time.monotonic() + REQUEST_LIMIT)
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            log.debug("no thread for a page: %s", error)
            self.shutdown_request(request)
            self._pause()

    def _pause(self) -> None:
        with self._freed:
            self._freed.wait_for(lambda: self._ended, _PAUSE)

    # ON THE THREAD OF A CONNECTION

    def may_have(self, request: socket.socket, path: str) -> bool:
        """Say whether the connection, whose request has come, may have a page."""
        with self._freed:
            long_pages = sum(place.long_page for place in self._places.values())
            place = self._places[request]
            place.end = time.monotonic() + TOTAL_LIMIT
            place.long_page = path not in self._probes and long_pages < LONG_PAGES
            return place.long_page or path in self._probes

    def close_request(self, request: Any) -> None:
        """Close a connection, and give its place to another."""
        with self._freed:
            self._places.pop(request, None)
            request.close()
            self._freed.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection ended in: somebody who went away, as a rule."""
        log.debug("a page could not be given", exc_info=True)

    def _shut(self, one: socket.socket) -> None:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("closing a page: %s", error)
