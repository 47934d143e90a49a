"""A few pages over HTTP/1.0, for Prometheus and for probes that ask whether the daemon is alive.

The standard library's `ThreadingHTTPServer` on a socket of its own, never the one of Postfix. It
serves a handful of connections at once, each within a total time, and refuses what is beyond, so
that a slow client costs no more than these threads. One request a connection.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

log = logging.getLogger(__name__)

# Connections at once, and seconds that each may take in all, once others wait for its place.
PLACES = 4
TOTAL_LIMIT = 10.0
# Seconds for each read and write.
_LIMIT = 5.0
# Seconds without accepting after the process ran out of descriptors.
_PAUSE = 1.0
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered: the body, and what it is."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    media_type: str = "text/plain; charset=utf-8"


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
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            known = ", ".join(self.server.pages)
            return Page(f"There is {known}.\n".encode(), HTTPStatus.NOT_FOUND)
        try:
            return make()
        except Exception:
            log.exception("internal error while serving %.100a", self.path)
            return Page(b"The log says what is wrong.\n", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, page: Page, *, body: bool = True) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.media_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log what the standard library would write to standard error."""
        log.debug("a page: %.300a", format % args)


class PageServer(http.server.ThreadingHTTPServer):
    """Serves `pages`, by their paths, at a socket that listens already, from `start` to `close`.

    Each page is made anew whenever it is asked for, on a thread of its own.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = listener.family
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._lock = threading.Lock()
        # When each connection was opened.
        self._open: dict[socket.socket, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    def start(self) -> None:
        """Start the thread that serves."""
        self._thread.start()

    def close(self) -> None:
        """End, and close every connection."""
        self._ended.set()
        # Wakes the thread that waits for connections.
        self._shut(self.socket)
        if self._thread.ident is not None:
            self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._open:
                self._shut(connection)

    # ON ITS OWN THREAD

    def _run(self) -> None:
        while not self._ended.is_set():
            self.handle_request()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return self.socket.accept()
        except OSError as error:
            if not self._ended.wait(_PAUSE):
                log.debug("no connection for a page: %s", error)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, if there is a place."""
        now = time.monotonic()
        with self._lock:
            full = len(self._open) >= PLACES
            if full:
                for connection, since in self._open.items():
                    if now > since + TOTAL_LIMIT:
                        self._shut(connection)
            else:
                self._open[request] = now
        if full:
            self._refuse(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            log.debug("no thread for a page: %s", error)
            self._refuse(request)

    def _refuse(self, request: socket.socket) -> None:
        request.setblocking(False)
        try:
            request.send(_BUSY)
        except OSError as error:
            log.debug("refusing a page: %s", error)
        self.shutdown_request(request)

    # ON THE THREAD OF A CONNECTION

    def close_request(self, request: Any) -> None:
        """Close a connection, and give its place to another."""
        with self._lock:
            self._open.pop(request, None)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection ended in: somebody who went away, as a rule."""
        log.debug("a page could not be given", exc_info=True)

    def _shut(self, one: socket.socket) -> None:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("closing a page: %s", error)
