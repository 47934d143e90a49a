"""A handshake with a server on loopback."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest

from stsresolver.net.ca_store import CaStore
from stsresolver.net.deadline import Deadline, connected
from stsresolver.net.steps import run
from stsresolver.net.tls import BoundedTls
from tests.support.hostile_https import Listener

HOST = "mta-sts.example.com"
# Seconds: longer than any step takes. Bytes: more than any server sends that behaves.
LONG = 20.0
MOST = 500_000

Handshake = Callable[..., BoundedTls]


@pytest.fixture
def handshake(authority) -> Iterator[Handshake]:
    """Return what shakes hands with a server, and raises what that raises."""
    opened = []

    def make(
        server: Listener, context: ssl.SSLContext | None = None, *, most: int = MOST
    ) -> BoundedTls:
        connection = run(connected(("127.0.0.1", server.port), Deadline(LONG)))
        opened.append(connection)
        tls = BoundedTls(connection, context or CaStore().context(), HOST, most)
        run(tls.handshake())
        return tls

    yield make
    for connection in opened:
        connection.close()
