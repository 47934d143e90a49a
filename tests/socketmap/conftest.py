"""Servers in threads of their own, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.served import Served, serving


@pytest.fixture
def serve(tmp_path, caplog) -> Iterator[Callable[..., Served]]:
    """Return what starts a server; it ends with the test."""
    with serving(tmp_path, caplog) as start:
        yield start


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def everywhere(request, serve) -> Served:
    """A server on each kind of socket."""
    return serve(request.param)
