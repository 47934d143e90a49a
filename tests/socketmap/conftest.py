"""A server on each kind of socket, and the clock of one, for the tests of this room."""

from __future__ import annotations

import time

import pytest

from stsresolver.socketmap import connections, server
from tests.support.served import Served


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def everywhere(request, serve) -> Served:
    """A server on each kind of socket."""
    return serve(request.param)


class Forward:
    """The module `time`, whose monotonic clock is put forward by hand."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def later(self, seconds: float) -> None:
        self._seconds += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._seconds

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch) -> Forward:
    """The clock of the server and its connections."""
    clock = Forward()
    for module in (connections, server):
        monkeypatch.setattr(module, "time", clock)
    return clock
