"""A world on loopback that the tests of a module share, and daemons in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.whole_daemon import Daemon, World, making_world


@pytest.fixture(scope="module")
def world_of_the_module(tmp_path_factory) -> Iterator[World]:
    with making_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def world(world_of_the_module) -> Iterator[World]:
    """Return the world; everything in it works when the test begins."""
    world_of_the_module.faults.clear()
    yield world_of_the_module
    world_of_the_module.faults.clear()
    world_of_the_module.late = 0.0
    world_of_the_module.published.clear()


@pytest.fixture
def start(tmp_path, world) -> Iterator[Callable[..., Daemon]]:
    """Return what starts a daemon; in the end it stops as it should, without a bug in its log."""
    running: list[Daemon] = []

    def begin(text: str = "", **options: str) -> Daemon:
        running.append(Daemon(tmp_path, world, "port: 0\nworkers: 8\n" + text, **options))
        return running[-1]

    yield begin
    for daemon in running:
        try:
            if daemon.process.poll() is None:
                assert daemon.stop() == 0
            assert "internal error" not in daemon.text
            assert "Traceback" not in daemon.text
        finally:
            daemon.kill()
