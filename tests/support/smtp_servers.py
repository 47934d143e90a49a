"""MX hosts on loopback that speak SMTP as far as a test wants them to, well or badly.

A *step* is a function of the connection, which it may replace by one with TLS. A script for
`hostile_https.Listener` is made of steps.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

from tests.support.hostile_https import Script, silence

Step = Callable[[socket.socket], socket.socket]

GREETING = b"220 mx.example.com ESMTP\r\n"
FEATURES = b"250-mx.example.com\r\n250-PIPELINING\r\n250 STARTTLS\r\n"


def say(data: bytes) -> Step:
    """Send `data`."""

    def step(connection: socket.socket) -> socket.socket:
        connection.sendall(data)
        return connection

    return step


def hear(command: bytes) -> Step:
    """Take a line that begins with `command`."""

    def step(connection: socket.socket) -> socket.socket:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionAbortedError
            line += byte
        assert line.upper().startswith(command), line
        return connection

    return step


def tls(context: ssl.SSLContext) -> Step:
    """Shake hands."""
    return lambda connection: context.wrap_socket(connection, server_side=True)


def wait(seconds: float) -> Step:
    """Say nothing for some time."""

    def step(connection: socket.socket) -> socket.socket:
        threading.Event().wait(seconds)
        return connection

    return step


def mute(connection: socket.socket) -> socket.socket:
    """Take what comes, and say nothing any more."""
    silence(connection, threading.Event())
    return connection


def server(*steps: Step) -> Script:
    """Return the script of these steps."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        opened = [connection]
        try:
            for step in steps:
                connection = step(connection)
                opened.append(connection)
        finally:
            with contextlib.suppress(OSError):
                opened[-1].close()

    return script


def until_tls(greeting: bytes = GREETING, features: bytes = FEATURES) -> tuple[Step, ...]:
    """Return the steps up to the handshake."""
    return (
        say(greeting),
        hear(b"EHLO"),
        say(features),
        hear(b"STARTTLS"),
        say(b"220 2.0.0 ready\r\n"),
    )


def honest(context: ssl.SSLContext) -> Script:
    """Return the script of a server that does all of it."""
    return server(
        *until_tls(),
        tls(context),
        hear(b"EHLO"),
        say(b"250 mx.example.com\r\n"),
        hear(b"QUIT"),
        say(b"221 bye\r\n"),
    )
