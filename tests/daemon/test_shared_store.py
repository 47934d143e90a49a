"""Two daemons on one store: what one has learned the other says, also that a policy is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.socketmap_client import Client, wait_for
from tests.support.whole_daemon import KNOWN, NOT_FOUND, Daemon, World, in_force

GRACE = 1.0
DOMAIN = KNOWN[0]


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def cache(request, tmp_path) -> Iterator[str]:
    """Return the settings of a store of each kind."""
    if request.param == "sqlite":
        yield f"cache: {{type: sqlite, options: {{filename: {tmp_path}/cache}}}}\n"
    elif request.param == "postgres":
        with contextlib.closing(PostgresServer(tmp_path / "postgres")) as postgres:
            yield f"cache: {{type: postgres, options: {postgres.options}}}\n"
    else:
        with contextlib.closing(RedisServer(tmp_path / "redis")) as server:
            yield f"cache: {{type: redis, options: {{url: 'redis://127.0.0.1:{server.port}'}}}}\n"


@pytest.fixture
def start(cache: str, tmp_path: Path, world: World) -> Iterator[Callable[[str], Daemon]]:
    """Return what starts a daemon by name; in the end none has a bug in its log."""
    running: list[Daemon] = []

    def begin(name: str) -> Daemon:
        (tmp_path / name).mkdir(exist_ok=True)
        text = f"port: 0\ncache_grace: {GRACE:.0f}\ndefault_zone: {{timeout: 0.5}}\n{cache}"
        running.append(Daemon(tmp_path / name, world, text))
        running[-1].address()
        return running[-1]

    yield begin
    for daemon in running:
        daemon.kill()
        assert "internal error" not in daemon.text
        assert "Traceback" not in daemon.text


def says(daemon: Daemon, domain: str, reply: bytes) -> Callable[[], bool]:
    def condition() -> bool:
        with Client(daemon.address()) as client:
            return client.ask(b"postfix " + domain.encode()) == reply

    return condition


@pytest.mark.requirement("KEEP-17")
def test_what_one_has_fetched_the_other_answers(start, world):
    first, second = start("first"), start("second")
    world.faults.add("servfail")
    assert says(second, DOMAIN, NOT_FOUND)()
    world.faults.clear()
    wait_for(says(first, DOMAIN, in_force(DOMAIN)), "the policy")
    world.faults |= {"servfail", "https"}
    wait_for(says(second, DOMAIN, in_force(DOMAIN)), "the policy that the first has fetched")
    world.faults.clear()
    changed = f"version: STSv1\nmode: enforce\nmx: new.{DOMAIN}\nmax_age: 604800\n"
    world.published[DOMAIN] = "2", changed
    new = in_force(DOMAIN).replace(b"mx.", b"new.")
    wait_for(says(first, DOMAIN, new), "the new policy")
    world.faults |= {"servfail", "https"}
    wait_for(says(second, DOMAIN, new), "the new policy of the first")


@pytest.mark.requirement("KEEP-17")
@pytest.mark.parametrize("max_age", [0, 1, 86_400])
def test_what_one_has_seen_withdrawn_the_other_does_not_put_back(start, world, max_age):
    first, second = start("first"), start("second")
    for daemon in (first, second):
        wait_for(says(daemon, DOMAIN, in_force(DOMAIN)), "the policy")
    world.published[DOMAIN] = "2", f"version: STSv1\nmode: none\nmax_age: {max_age}\n"
    wait_for(says(first, DOMAIN, NOT_FOUND), "its end")
    # From now on both know only what they remember.
    world.faults |= {"servfail", "https"}
    wait_for(says(second, DOMAIN, NOT_FOUND), "its end, from the store")
    wait_for(says(first, DOMAIN, NOT_FOUND), "that it stays so")
    for daemon in (first, second):
        daemon.kill()
    assert says(start("third"), DOMAIN, NOT_FOUND)()
