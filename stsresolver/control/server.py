"""The control socket: one request a connection, each on a thread of its own, never over TCP.

Whoever may open the socket may drop protection, so its file has mode 0600.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from typing import Any

from .commands import Commands
from .messages import MAX_REQUEST, End, MessageError, item_line, parse_request

log = logging.getLogger(__name__)

MODE = 0o600
# Seconds for each read and write of a client.
_LIMIT = 10.0


class _Handler(socketserver.StreamRequestHandler):
    server: ControlServer
    timeout = _LIMIT

    def handle(self) -> None:
        """Answer one request."""
        try:
            request = parse_request(self.rfile.readline(MAX_REQUEST))
        except MessageError as error:
            self.wfile.write(item_line(End(str(error))))
            return
        log.info("control: %s %s", request.command, request.domain)
        for item in self.server.commands.answer(request):
            self.wfile.write(item_line(item))


class ControlServer(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Serves `commands` at a UNIX socket that listens already, from `start` to `close`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, commands: Commands) -> None:
        super().__init__("", _Handler)
        self.commands = commands
        self._listener = listener
        self._thread = threading.Thread(target=self.serve_forever, name="control", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self.shutdown()
        self._thread.join()

    # WHAT socketserver CALLS

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._listener.fileno()

    def get_request(self) -> tuple[socket.socket, str]:
        """Accept a connection."""
        return self._listener.accept()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection ended in: a client that went away, as a rule."""
        log.debug("a control request could not be answered", exc_info=True)
