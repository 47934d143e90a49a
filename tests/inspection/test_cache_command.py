"""mta-sts-query cache: what it prints and how it ends, with a store and with a control socket."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from stsresolver import query
from stsresolver.cache.memory import MemoryStore
from stsresolver.config.postgres_options import postgres_settings
from stsresolver.control.commands import Commands
from stsresolver.control.messages import Command, Request
from stsresolver.control.server import MODE, ControlServer
from stsresolver.inspection import cache_command
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy
from stsresolver.policies.in_force import Policies
from stsresolver.policies.renewal_times import RenewalTimes
from stsresolver.socketmap.listeners import listen_unix
from stsresolver.stores.sqlite import SqliteStore
from tests.support.inspections import entry as made
from tests.support.inspections import policy
from tests.support.postgres_server import PostgresServer

ROOT = Path(__file__).parent.parent.parent
NO_RECORD = NoPolicy(Cause.NO_RECORD, ttl=1800)


def entry(domain: str = "example.com", **changes):
    """Return an entry that was fetched an hour ago."""
    then = time.time() - 3600
    times = {"fetched": then, "checked": then, "asked": then, "due": then + 7260}
    return replace(made(), domain=domain, **times | changes)


def entries():
    return [
        entry("a.example"),
        entry("b.example", policy=policy("*.b.example", mode="testing"), failed=time.time() - 3700,
              failure="the DNS lookup failed: \u2603"),
        entry("c.example", policy=policy(mode="none", max_age=60)),
    ]  # fmt: skip


class Lookups:
    """Looks nothing up: `result` is what comes of it."""

    def __init__(self) -> None:
        self.result = NO_RECORD

    def begin_resolve(self, domain, known_ids, done):
        done(self.result)


class Served:
    """A control socket with the policies of a daemon behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lookups = Lookups()
        self.store = MemoryStore(100)
        self.forgotten: list[str] = []
        self.policies = Policies(
            self.store,
            lambda timeout: self.lookups,
            times=RenewalTimes(60.0),
            behind=lambda job: None,
            flush=lambda: None,
            changed=self.forgotten.append,
        )


@contextlib.contextmanager
def served(path: Path) -> Iterator[Served]:
    made = Served(path)
    with listen_unix(str(path), MODE) as listener:
        server = ControlServer(listener, Commands(made.policies, lambda: 4.0))
        server.start()
        try:
            yield made
        finally:
            server.close()


@pytest.fixture
def daemon(tmp_path) -> Iterator[Served]:
    with served(tmp_path / "control") as made:
        for one in entries():
            made.store.put(one, time.time())
        yield made


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A configuration with a control socket and a cache in memory."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config.yml"
    path.write_text(f"control: {{path: {tmp_path}/control}}\n")
    return path


@pytest.fixture
def store(tmp_path, config) -> Iterator[SqliteStore]:
    """A store of a daemon that does not run."""
    file = tmp_path / "cache.db"
    config.write_text(f"cache: {{type: sqlite, options: {{filename: {file}}}}}\n")
    store = SqliteStore(file, threads=2)
    for one in entries():
        store.put(one, time.time())
    yield store
    store.close()


@pytest.fixture
def printed(config, capsys):
    """Return what runs the command, and returns exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = query.main(["cache", "--config", str(config), *arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


TABLE = """\
DOMAIN                           MODE           AGE     ENDS  LAST FAILURE
a.example                        enforce       1.0h     7.0d
b.example                        testing       1.0h     7.0d  the DNS lookup failed: \\u2603
c.example                        none          1.0h    ended
"""


def test_list_of_a_running_daemon(daemon, printed):
    daemon.policies.ask("none.example", 4.0, lambda _: None)
    status, output, errors = printed("list")
    assert (status, errors) == (0, "")
    assert output.startswith(TABLE)
    missing = "none.example                     not found             30.0m  the domain publishes"
    assert output.removeprefix(TABLE).startswith(missing)


def test_list_of_a_store(store, printed):
    assert printed("list") == (0, TABLE, "")


def test_in_postgresql(tmp_path, config, printed):
    """Whoever only looks makes no tables: the daemon may be another user there."""
    from stsresolver.stores.postgres import PostgresStore

    with contextlib.closing(PostgresServer(tmp_path / "postgres")) as server:
        config.write_text(f"cache: {{type: postgres, options: {server.options}}}\n")
        nothing = "".join(TABLE.partition("\n")[:2])
        assert printed("list") == (0, nothing, "")
        assert printed("show", "a.example")[0] == 1
        tables = "SELECT 1 FROM pg_tables WHERE schemaname = 'public'"
        assert server.admin(tables) == []
        with contextlib.closing(PostgresStore(postgres_settings(server.options)[0])) as store:
            for one in entries():
                store.put(one, time.time())
            assert printed("list") == (0, TABLE, "")
            assert printed("forget", "--yes", "a.example")[0] == 0
            assert store.get("a.example") is None
        assert printed("list")[1] == TABLE.replace(TABLE.splitlines(True)[1], "")
    status, _, errors = printed("list")
    assert status == 69
    assert "Connection refused" in errors


def test_list_as_json(daemon, printed):
    daemon.policies.ask("none.example", 4.0, lambda _: None)
    _, output, _ = printed("--json", "list")
    *found, missing = map(json.loads, output.splitlines())
    assert [one["domain"] for one in found] == ["a.example", "b.example", "c.example"]
    assert found[0]["mode"] == "enforce"
    assert found[1]["failure"] == "the DNS lookup failed: \u2603"
    assert missing["found"] is False
    assert missing["cause"] == "no-record"
    assert 1790 < missing["seconds_left"] <= 1800


def test_show(daemon, printed):
    status, output, _ = printed("show", "user@B.example")
    assert status == 0
    assert output == (
        "b.example\n"
        "  policy 2015: mode testing, max_age 604800\n"
        "  mx *.b.example\n"
        "  fetched 1.0 hours ago, ends in 7.0 days\n"
        "  record seen 1.0 hours ago, is looked at next in 1.0 hours\n"
        "  failed 1.0 hours ago: the DNS lookup failed: \\u2603\n"
    )
    assert printed("show", "d.example") == (1, "d.example: nothing is cached\n", "")


def test_show_of_what_was_not_found(daemon, printed):
    daemon.policies.ask("none.example", 4.0, lambda _: None)
    status, output, _ = printed("show", "none.example")
    assert status == 0
    assert output.endswith(
        ": the domain publishes no MTA-STS record; believed for 30.0 minutes more\n"
    )


def test_forget(daemon, printed):
    status, output, errors = printed("forget", "--yes", "a.example")
    assert (status, errors) == (0, "")
    assert output.startswith("a.example: forgotten\n  policy 2015: mode enforce")
    assert daemon.store.get("a.example") is None
    assert daemon.forgotten == ["a.example"], "ready replies go"
    status, output, _ = printed("forget", "--yes", "a.example")
    assert (status, output) == (0, "a.example: nothing was known, and is forgotten\n")


def test_forget_asks(daemon, printed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, _, errors = printed("forget", "a.example")
    assert status == 64
    assert errors == f"{cache_command.PROG}: nothing was forgotten: say y, or give --yes\n"
    assert daemon.store.get("a.example") is not None


@pytest.mark.parametrize(("said", "status"), [(b"y\n", 0), (b"n\n", 64), (b"\n", 64)])
def test_forget_asks_on_a_terminal(daemon, config, said, status):
    ours, theirs = pty.openpty()
    try:
        os.write(ours, said)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "stsresolver.query",
                "cache",
                "-c",
                config,
                "forget",
                "a.example",
            ],
            cwd=ROOT,
            stdin=theirs,
            capture_output=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status
    assert b"is not protected from now on" in done.stderr
    assert (daemon.store.get("a.example") is None) is (status == 0)


def test_forget_in_a_store(store, printed):
    status, _, errors = printed("forget", "--yes", "a.example")
    assert status == 0
    assert "running daemons notice it within cache_grace, 60 s (control is not set" in errors
    assert store.get("a.example") is None
    assert [domain for domain, _ in store.revoked(0.0)] == ["a.example"]


def test_refresh(daemon, printed):
    daemon.lookups.result = Found(policy("mx2.example.com"), "2027")
    status, output, _ = printed("refresh", "a.example")
    assert status == 0
    before, _, now = output.partition("now:\n")
    assert before.startswith("before:\n  policy 2015: mode enforce")
    assert now.startswith("  policy 2027: mode enforce, max_age 604800\n  mx mx2.example.com\n")
    assert daemon.store.get("a.example").id == "2027"


def test_refresh_that_fails(daemon, printed):
    daemon.lookups.result = Failure(Cause.CONNECT, "refused", "2027")
    status, output, _ = printed("refresh", "a.example")
    assert status == 2
    assert "  not found: no connection to the policy host: refused; believed for " in output
    assert daemon.store.get("a.example").id == "2015", "it stays in force"
    status, output, _ = printed("--json", "refresh", "d.example")
    assert status == 2
    found = json.loads(output)
    assert found["before"] == []
    assert [one["cause"] for one in found["now"]] == ["connect"]


class Resolver:
    result = NO_RECORD

    def __init__(self, timeout, proxy):
        pass

    def resolve(self, domain):
        return self.result


def test_refresh_in_a_store(store, printed, monkeypatch):
    monkeypatch.setattr(cache_command, "Resolver", Resolver)
    monkeypatch.setattr(Resolver, "result", Found(policy("mx2.example.com"), "2027"))
    status, output, _ = printed("refresh", "a.example")
    assert status == 0
    assert "now:\n  policy 2027: mode enforce" in output
    assert store.get("a.example").policy.mx == ("mx2.example.com",)
    (revoked,) = store.revoked(0.0)
    assert revoked[1] < store.get("a.example").fetched, "what is new stays"
    monkeypatch.setattr(Resolver, "result", Failure(Cause.DNS, "SERVFAIL"))
    assert printed("refresh", "a.example")[0] == 2
    assert store.get("a.example").failure == "the DNS lookup failed: SERVFAIL"


def test_export(daemon, config, printed):
    row = "a.example secure match=mail.example.com servername=hostname\n"
    assert printed("export") == (0, row, "")
    config.write_text(config.read_text() + "zones: {strict: {strict_testing: true}}\n")
    strict = f"{row}b.example secure match=.b.example servername=hostname\n"
    assert printed("export", "--zone", "strict") == (0, strict, "")


def test_cache_in_memory_of_a_daemon_that_does_not_answer(config, printed):
    status, _, errors = printed("list")
    assert status == 69
    assert "/control: No such file or directory; set control: {path: ...}" in errors
    config.write_text("")
    status, _, errors = printed("list")
    assert status == 69
    assert "which cannot be asked: control is not set in the configuration; set" in errors


def test_database_that_is_not_there(store, printed, tmp_path):
    store.close()
    (tmp_path / "cache.db").unlink()
    status, _, errors = printed("list")
    assert status == 69
    assert errors.endswith("cache.db: there is no such database yet\n")
    assert not (tmp_path / "cache.db").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 64, "the following arguments are required: COMMAND"),
        (["drop"], 64, "argument COMMAND: invalid choice: 'drop'"),
        (["show"], 64, "the following arguments are required: DOMAIN"),
        (["show", "com"], 64, "no domain name, address or next hop: 'com'"),
    ],
)
def test_wrong_arguments(printed, arguments, status, message):
    found, output, errors = printed(*arguments)
    assert (found, output) == (status, "")
    assert message in errors


def test_wrong_configuration(config, printed):
    config.write_text("control: {}\n")
    status, _, errors = printed("list")
    assert status == 78
    assert "control: path is missing: the name of the socket" in errors


# THE SOCKET


def test_socket_admits_its_owner_alone(daemon):
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\n", b"x" * 100_000])
def test_client_that_says_something_else(daemon, printed, said):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(daemon.path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(65536).startswith(b'{"end": "no JSON')
    assert printed("list")[0] == 0


def test_client_that_goes_away(daemon, printed):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.path))
        client.sendall(b'{"command": "list"}\n')
    assert printed("list")[0] == 0


def replying(reply: bytes, path: Path):
    """Return a context in which somebody else listens at `path`."""

    @contextlib.contextmanager
    def listening():
        import threading

        with listen_unix(str(path), None) as listener:

            def serve():
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

            thread = threading.Thread(target=serve)
            thread.start()
            yield
            thread.join(10)

    return listening()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "the daemon ended before its reply did"),
        (b"HTTP/1.0 400\r\n", "no JSON: b'HTTP/1.0 400\\r\\n'"),
        (b'{"end": "cache.db: no space is left on its disk"}\n', "no space is left on its disk"),
    ],
)
def test_reply_of_somebody_else(tmp_path, printed, reply, why):
    with replying(reply, tmp_path / "control"):
        status, _, errors = printed("list")
    assert status == 69
    assert why in errors


def test_entry_of_a_running_daemon_is_seen_by_a_look(daemon, config, monkeypatch):
    from stsresolver.config.keys import load
    from stsresolver.inspection.stored import cached

    with contextlib.ExitStack() as stack:
        known = cached(load(str(config)), stack)
        assert [one.id for one in known("a.example")] == ["2015"]
        assert known("d.example") == []


def test_every_command_is_answered(daemon):
    answer = partial(Commands(daemon.policies, lambda: 4.0).answer)
    for command in Command:
        assert list(answer(Request(command, "a.example")))
