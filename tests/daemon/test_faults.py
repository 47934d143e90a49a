"""The whole daemon while what it lives on comes and goes, and an oracle that knows the answers.

The daemon is a real process with a real resolver process; its name server, its policy hosts and its
Redis are ours, on loopback. While `Load` asks, the test takes things away. Whatever happens, a
domain whose policy is in force gets just that answer, and nobody waits without end.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stsresolver.socketmap import connections
from stsresolver.stores import sqlite
from tests.support.missing import not_installed
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.served import warnings
from tests.support.small_disk import small_disk
from tests.support.socketmap_client import DEADLINE, Address, Client, frame, wait_for
from tests.support.whole_daemon import (
    KNOWN,
    NOT_FOUND,
    SHORT,
    TEMP,
    Daemon,
    Load,
    in_force,
    learn,
    recovered,
    word,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small disk")

# A GRACE SO SHORT THAT EVERYTHING IS ASKED FOR AGAIN AND AGAIN
QUICK = "cache_grace: 0.1\ndefault_zone: {timeout: 0.5}\n"


def test_dns_https_and_the_resolver_process_come_and_go(start, world):
    daemon = start(QUICK)
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    with Load(address) as load:
        for fault in ("dns", "https", "dns"):
            world.faults.add(fault)
            load.more(20)
            world.faults.clear()
            load.more(20)
        for _ in range(2):
            for pid in daemon.children():
                os.kill(pid, signal.SIGKILL)
            load.more(50)
        load.more(20, "policy")
        # One that has not said its first word yet may stay silent for longer.
        wait_for(lambda: any(map(is_confined, daemon.children())), "a resolver process that works")
        stopped = [pid for pid in daemon.children() if is_confined(pid)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        load.more(5)
        wait_for(lambda: not set(stopped) & set(daemon.children()), "other resolver processes")
        load.more(20, "policy")
    recovered(address)
    assert "killing the resolver process: it hangs" in daemon.text


def is_confined(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "NoNewPrivs:\t1\n" in Path(f"/proc/{pid}/status").read_text()
    return False


def test_redis_comes_and_goes(start, tmp_path):
    with contextlib.closing(RedisServer(tmp_path / "redis")) as server:
        options = {"url": f"redis://127.0.0.1:{server.port}"}
        options |= {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}

        def held() -> int:
            with contextlib.closing(server.client()) as client:
                return client.dbsize()

        comes_and_goes(start(with_server("redis", options), before=SOON), server, server.kill, held)


def test_postgresql_comes_and_goes(start, tmp_path):
    with contextlib.closing(PostgresServer(tmp_path / "postgres")) as server:
        options = server.options | {"connect_timeout": 2, "command_timeout": 0.5}

        def stop_and_lose() -> None:
            # As a Redis does when it ends.
            server.admin("DELETE FROM stsresolver_policy")
            server.stop()

        def held() -> int:
            return server.admin("SELECT count(*) FROM stsresolver_policy")[0][0]

        daemon = start(with_server("postgres", options), before=SOON)
        comes_and_goes(daemon, server, stop_and_lose, held)


SOON = "from stsresolver.cache import layered; layered.PAUSE = 0.5"


def with_server(kind, options):
    cache = f"cache: {{type: {kind}, options: {options}}}\n"
    return f"{QUICK}{cache}proactive_policy_fetching: {{enabled: true}}\n"


def comes_and_goes(daemon, server, stop, held):
    """A server is stopped, hangs, and comes back. `held`: returns how many policies it has."""
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    with Load(address) as load:
        stop()
        load.more(100)
        server.start()
        load.more(100)
        server.signal(signal.SIGSTOP)
        load.more(60)
        server.signal(signal.SIGCONT)
        load.more(100)
        stop()
        load.more(20)
        server.start()
        wait_for(lambda: held() >= len(KNOWN), "what it missed")
        load.more(20)
    recovered(address)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    with small_disk(path):
        yield path


@as_root
def test_the_disk_fills_and_empties(start, disk):
    daemon = start(f"{QUICK}cache: {{type: sqlite, options: {{filename: {disk}/cache}}}}\n")
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    with Load(address) as load:
        for _ in range(2):
            with (
                contextlib.suppress(OSError),
                open(disk / "full", "wb", buffering=0) as file,
            ):
                while True:
                    file.write(b"x" * 4096)
            load.more(150)
            (disk / "full").unlink()
            load.more(150)
    recovered(address)
    assert daemon.stop() == 0
    store = sqlite.SqliteStore(str(disk / "cache"), threads=1)
    try:
        assert all(store.get(domain).policy.mx == (f"mx.{domain}",) for domain in KNOWN)
    finally:
        store.close()


def limit(daemon: Daemon, which: int, value: int) -> tuple[int, int]:
    """Give the daemon another limit, and return what it was."""
    _, hard = before = resource.prlimit(daemon.pid, which)
    resource.prlimit(daemon.pid, which, (value, hard))
    return before


def test_descriptors_are_used_up(start, world):
    daemon = start(QUICK)
    address = daemon.address()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(address))
        learn(client)
        load = stack.enter_context(Load(address))
        load.more(20)
        before = limit(daemon, resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{daemon.pid}/fd")))
        others = [stack.enter_context(Client(address)) for _ in range(20)]
        wait_for(daemon.says("no new connections for now"), "a word about it")
        for _ in range(3):
            load.more(60)
            load.more(10, "new")
        os.kill(daemon.children()[0], signal.SIGKILL)
        wait_for(daemon.says("the resolver process cannot be started"), "a word about it")
        unknown = client.ask(b"postfix unknown.example")
        assert unknown == b"TEMP the resolver process failed", "mail to it waits"
        load.more(10)
        assert daemon.text.count("no new connections for now") == 1
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        for other in others:
            # One that has asked nothing for two seconds may have given way to another.
            with contextlib.suppress(EOFError), other:
                assert other.ask(b"postfix " + KNOWN[0].encode()) == in_force(KNOWN[0])
        wait_for(daemon.children, "a resolver process")
    recovered(address)


def test_no_memory(start, world):
    daemon = start(QUICK)
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    with Client(address) as client:
        used = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
        before = limit(daemon, resource.RLIMIT_DATA, int(used[1]) << 10)
        with contextlib.ExitStack() as stack:
            for number in range(300):
                one = stack.enter_context(Client(address))
                with contextlib.suppress(OSError):
                    one.send(b"9999:" + b"x" * 9000)
                    if number % 10 == 0:
                        one.send(b"%d:postfix new-%03d.example," % (23, number))
            wait_for(daemon.says("out of memory"), "a word about it")
        resource.prlimit(daemon.pid, resource.RLIMIT_DATA, before)
    recovered(address)
    assert daemon.text.count("no new connections for now: out of memory") <= 2


def test_no_memory_even_to_poll(serve, caplog):
    served = serve()
    real, failures = served.poll.poll, [MemoryError] * 3

    def poll(timeout: float | None, most: int) -> list[tuple[int, int]]:
        if failures:
            raise failures.pop()
        return real(timeout, most)

    served.poll.poll = poll
    with served.client() as client:
        assert client.ask(b"zone later") == b"LATER zone later"
    assert failures == []
    assert warnings(caplog) == ["out of memory"], "told once"


def test_no_memory_to_read_the_replies_of_workers(serve):
    """What woke the poll for them has been read already."""
    served = serve()
    real, failures = served.server._take_messages, [MemoryError] * 3

    def read_messages() -> None:
        if failures:
            raise failures.pop()
        real()

    served.server._take_messages = read_messages
    with served.client() as client:
        assert client.ask(b"zone later") == b"LATER zone later"
        assert client.ask(b"zone later") == b"LATER zone later"
    assert failures == []


def test_no_memory_for_one_of_the_ready_replies(serve, caplog, monkeypatch):
    served = serve()
    its = served.server._connections
    with served.client() as one, served.client() as other:
        for client in (one, other):
            assert client.ask(b"zone constant") == b"CONSTANT zone constant"
        real, failures = its._send, [MemoryError]

        def send(connection: connections.Connection) -> None:
            if failures:
                raise failures.pop()
            real(connection)

        monkeypatch.setattr(its, "_send", send)
        # No reply goes out by the short way.
        short = SimpleNamespace(read=os.read, write=lambda descriptor, data: 0)
        monkeypatch.setattr(connections, "os", short)
        gate = threading.Event()
        served.server.soon(lambda: gate.wait(DEADLINE))
        for client in (one, other):
            client.send(frame(b"zone constant"))
        gate.set()
        wait_for(lambda: len(served.connections) == 1, "the end of one of them")
        (left,) = served.connections
        lucky = next(
            client
            for client in (one, other)
            if client.socket.getsockname() == left.socket.getpeername()
        )
        assert lucky.reply() == b"CONSTANT zone constant"
    assert warnings(caplog) == ["no new connections for now: out of memory"]


def test_no_threads(start, tmp_path):
    daemon = start(
        QUICK,
        before=f"""
import threading
real = threading.Thread.start
def start(self):
    if os.path.exists({str(tmp_path / "none")!r}):
        raise RuntimeError("can't start new thread")
    real(self)
threading.Thread.start = start
""",
    )
    (address, blocked) = daemon.address(), tmp_path / "none"
    with Client(address) as client:
        learn(client)
        blocked.touch()
        with contextlib.ExitStack() as stack:
            hanging = [stack.enter_context(Client(address)) for _ in range(12)]
            for number, one in enumerate(hanging):
                one.send(b"%d:postfix hang-%02d.example," % (23, number))
            for _ in range(20):
                assert client.ask(b"postfix " + KNOWN[0].encode()) == in_force(KNOWN[0])
            assert {word(one.reply()) for one in hanging} <= {NOT_FOUND, TEMP}
        blocked.unlink()
    recovered(address)


def test_domains_that_hang_do_not_wait_for_each_other(start):
    """Each is answered when its own time is over, and a known domain all the while."""
    daemon = start("default_zone: {timeout: 1}\n")
    address = daemon.address()
    with Client(address) as client, contextlib.ExitStack() as stack:
        learn(client)
        with Load(address, new=False, within=1.0) as load:
            clients = [stack.enter_context(Client(address)) for _ in range(200)]
            began = time.monotonic()
            for number, one in enumerate(clients):
                one.send(b"%d:postfix hang-%03d.example," % (24, number))
            assert {one.reply() for one in clients} == {NOT_FOUND}
            assert time.monotonic() - began < 20.0, "one after the other would take 200 s"
            load.more(50)
        assert load.longest < 1.0
    recovered(address)


# THE CLOCK

HOUR, DAY = 3600, 86_400


@pytest.fixture
def clock(tmp_path) -> tuple[Callable[[float], None], dict[str, str]]:
    """Return what sets the daemon's clock ahead by seconds, and its environment."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        not_installed("libfaketime")
    file = tmp_path / "clock"

    def ahead(seconds: float) -> None:
        (tmp_path / "clock-new").write_text(f"{seconds:+d}\n")
        (tmp_path / "clock-new").rename(file)

    ahead(0)
    return ahead, {
        "LD_PRELOAD": libraries[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        # At a jump it may make sleep fail with EINVAL, and then a child is not waited for.
        "PYTHONWARNINGS": "ignore",
    }


def of(address: Address, domain: str) -> bytes:
    with Client(address) as client:
        return word(client.ask(b"postfix " + domain.encode()))


CACHES = ["sqlite", "redis", "postgres"]


@pytest.mark.parametrize("kind", CACHES)
def test_the_clock_jumps(start, world, clock, tmp_path, kind):
    ahead, environment = clock
    with contextlib.ExitStack() as stack:
        cache = ""
        if kind == "sqlite":
            cache = f"cache: {{type: sqlite, options: {{filename: {tmp_path}/cache}}}}\n"
        elif kind == "redis":
            server = stack.enter_context(contextlib.closing(RedisServer(tmp_path / "redis")))
            url = f"redis://127.0.0.1:{server.port}"
            cache = f"cache: {{type: redis, options: {{url: '{url}'}}}}\n"
        elif kind == "postgres":
            place = tmp_path / "postgres"
            postgres = stack.enter_context(contextlib.closing(PostgresServer(place)))
            cache = f"cache: {{type: postgres, options: {postgres.options}}}\n"
        proactive = "proactive_policy_fetching: {enabled: true}\n"
        daemon = start(QUICK + cache + proactive, **environment)
        address = daemon.address()
        with Client(address) as client:
            learn(client)
        world.faults.add("servfail")
        for jump in (-HOUR, 0, -DAY, 0, -400 * DAY, 0):
            ahead(jump)
            for domain in (SHORT, *KNOWN[:3]):
                assert of(address, domain) == in_force(domain), f"{domain} at {jump:+d}"
        lapsed = {NOT_FOUND, TEMP}
        with Load(address, new=False):
            for jump in (HOUR, 0, DAY, 0, 6 * DAY, 0):
                ahead(jump)
                for domain in KNOWN[:3]:
                    assert of(address, domain) == in_force(domain), f"{domain} at {jump:+d}"
                # What was said just now is repeated for a tenth of a second.
                right = lapsed if jump else {in_force(SHORT)}
                wait_for(lambda right=right: of(address, SHORT) in right, f"{SHORT} at {jump:+d}")
        ahead(8 * DAY)
        wait_for(lambda: {of(address, domain) for domain in KNOWN} <= lapsed, "their end")
        rounds = "proactive fetching: a run over all policies"
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(daemon.says(rounds), "a round, which removes what has ended")
        ahead(0)
        for domain in (*KNOWN, SHORT):
            wait_for(lambda domain=domain: of(address, domain) == in_force(domain), "it is back")
        world.faults.clear()
        recovered(address)


# THE END, AT ANY MOMENT


@pytest.mark.parametrize("moment", [0.1, 0.3, 0.4, 0.5, 0.6, 0.8, 1.2])
def test_sigterm_at_any_moment(tmp_path, world, moment):
    """While it loads, starts, learns, answers; and again while it ends."""
    path = tmp_path / "socket"
    text = (
        f"path: {path}\n{QUICK}cache: {{type: sqlite, options: {{filename: {tmp_path}/cache}}}}\n"
    )
    daemon = Daemon(tmp_path, world, text)
    try:
        with contextlib.ExitStack() as stack:
            end = time.monotonic() + moment
            clients: list[Client] = []
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    clients.append(stack.enter_context(Client(str(path))))
                    clients[-1].send(b"%d:postfix %s," % (23, KNOWN[len(clients) % 8].encode()))
                threading.Event().wait(0.02)
            children = daemon.children()
            status = daemon.stop()
            assert status in (0, -signal.SIGTERM), daemon.text
            for number, one in enumerate(clients, 1):
                with contextlib.suppress(EOFError):
                    assert word(one.reply()) in (in_force(KNOWN[number % 8]), NOT_FOUND, TEMP)
        # Before it listens, a signal ends it as any program.
        if status == 0:
            assert not path.exists()
            assert not (tmp_path / "pid").exists()
            assert "stopped" in daemon.text
        else:
            assert "listening" not in daemon.text
        assert "Traceback" not in daemon.text
        assert "internal error" not in daemon.text
        for pid in children:
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "its child to end")
    finally:
        daemon.kill()
