"""The program of the resolver process: what it has, what it ignores, and when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stsresolver.dane.resolver import DaneResolver
from stsresolver.lookup import backoff
from stsresolver.lookup import child as child_program
from stsresolver.lookup.child import Child, Resolvers, make_resolvers
from stsresolver.lookup.messages import MAX_MESSAGE, read, read_result, write
from stsresolver.lookup.program import spawn
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.mta_sts.results import Cause, Failure, Found
from stsresolver.net.steps import NoTurn, Wait
from tests.lookup.processes import (
    IN_PLACE,
    LARGE,
    ROOT,
    SLOW,
    TIMEOUT,
    Served,
    errors,
    logged,
    never,
    once,
    ready,
    state,
)
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited


@pytest.mark.parametrize(
    ("result", "policy_id"), [(Found(parse_policy(LARGE), "1"), "1"), (parse_policy(LARGE), "")]
)
def test_a_policy_that_the_socket_cannot_take_is_a_failure_of_the_fetch(result, policy_id):
    daemon, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        one = Child(theirs, lambda timeout: make_resolvers({}, timeout), 1)
        one._done(7, result)
        one._send()
        number, *said = read(daemon.recv(MAX_MESSAGE))
    result = read_result(*said)
    assert (number, result.cause, result.id) == (7, Cause.SIZE, policy_id)


def test_lines_of_its_log_arrive_as_one_record_each(served, process, caplog):
    served.resolv_conf.unlink()
    Waited(process(served.settings), TIMEOUT).policy_id("example.com")
    path = re.escape(str(served.resolv_conf))
    line = re.compile(f"{path} cannot be read, .*: No such file.*")
    assert any(line.fullmatch(record.getMessage()) for record in caplog.records)


def test_its_level_is_the_daemons(served, process, caplog):
    one = process(served.settings)
    wait_for(logged(caplog, "the resolver process is confined"), "a line for debugging")
    one.close()
    caplog.clear()
    caplog.set_level(logging.ERROR, "stsresolver")
    served.resolv_conf.unlink()
    assert Waited(process(served.settings), TIMEOUT).policy_id("example.com") == "1"
    assert caplog.records == [], "a file that is missing is a warning"


def test_it_has_no_descriptor_of_the_daemons(served, process, tmp_path):
    with open(tmp_path / "cache", "w") as file, socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(listener.fileno(), True)
        pid = ready(process(served.settings))
        open_files = {}
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                open_files[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    stderr = os.readlink("/proc/self/fd/2")
    assert open_files[1] == os.devnull
    assert open_files.pop(2) == stderr
    del open_files[1]
    theirs = {open_files[0], "anon_inode:[eventpoll]"}
    assert set(open_files.values()) <= theirs, "its socket, what it waits with, and nothing else"
    assert open_files[0].startswith("socket:")


# What the resolver process gets of the environment, and what it does not get.
THEIRS = "PATH LD_LIBRARY_PATH PYTHONUTF8 LANG LC_ALL TZ RES_OPTIONS SSL_CERT_FILE SSL_CERT_DIR"
NOT_THEIRS = (
    "NOTIFY_SOCKET WATCHDOG_PID WATCHDOG_USEC LISTEN_PID LISTEN_FDS LISTEN_FDNAMES"
    " AWS_SECRET_ACCESS_KEY REDIS_PASSWORD https_proxy HOME PGPASSWORD MY_PATH"
)


def test_its_environment_is_what_it_needs_by_name(served, process, monkeypatch):
    given = dict.fromkeys(NOT_THEIRS.split(), "1")
    given |= {"LD_LIBRARY_PATH": "/nowhere", "PYTHONUTF8": "1", "LANG": "C", "LC_ALL": "C.UTF-8"}
    given |= {"TZ": "UTC", "RES_OPTIONS": "attempts:1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    # As this process was started, with variables of the test's own.
    for name in os.environ:
        if name.startswith("PYTHON") and name not in ("PYTHONPATH", "PYTHONUTF8"):
            monkeypatch.delenv(name)
    pid = ready(process(served.settings))
    pairs = Path(f"/proc/{pid}/environ").read_bytes().removesuffix(b"\0").split(b"\0")
    environment = dict(pair.decode().split("=", 1) for pair in pairs)
    ours = {"PYTHONPATH", "OPENSSL_CONF", "STSRESOLVER_OPENSSL_CONF"}
    theirs = set(THEIRS.split())
    assert set(environment) == theirs | ours
    assert all(environment[name] == os.environ[name] for name in theirs)


def test_it_imports_nothing_from_where_it_is_started(served, process, tmp_path, monkeypatch):
    (tmp_path / "stsresolver").mkdir()
    (tmp_path / "stsresolver" / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert Waited(process(served.settings), TIMEOUT).policy_id("example.com") == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_for_the_daemon(served, process, number):
    one = process(served.settings)
    pid = ready(one)
    assert os.getpgid(pid) == pid, "a terminal's signals do not even reach it"
    os.kill(pid, number)
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert one.pid == pid


def test_a_lookup_that_wants_too_much_memory_fails_alone(served, process, child):
    child(
        IN_PLACE
        + """
class Resolver(child.Resolver):
    def steps_of_fetch(self, domain):
        return bytearray(1 << 32)
        yield
child.Resolver = Resolver
child.main()
"""
    )
    one = process(served.settings)
    lookups = Waited(one, TIMEOUT)
    result = lookups.fetch("example.com")
    pid = one.pid
    assert result == Failure(Cause.PROCESS, "MemoryError: ")
    assert lookups.policy_id("example.com") == "1"
    assert one.pid == pid


def test_a_lookup_that_gets_no_turn_is_a_failure_of_ours():
    class Slow:
        def steps_of_fetch(self, domain):
            try:
                yield Wait((), 0.0)
            except OSError:
                raise AssertionError("taken for an error of the network") from None

    steps = child_program._answer(Resolvers(Slow(), DaneResolver()), "fetch", "example.com", [])
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.throw(NoTurn())
    assert end.value.value.cause is Cause.PROCESS


def spawned(served: Served) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return the real program and the daemon's end of its socket, the first word said."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = spawn(theirs)
    settings = {"resolver": served.settings, "level": logging.ERROR}
    ours.send(write(0, "hello", settings))
    assert read(ours.recv(MAX_MESSAGE))[1] == "hello"
    return process, ours


def test_it_ends_while_lookups_are_under_way(served):
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    process, ours = spawned(served)
    with ours:
        for number in 1, 2:
            ours.send(write(number, "policy id", "slow.example", 10 * LONG))
        asked = served.dns.asked
        wait_for(lambda: asked("_mta-sts.slow.example", "TXT") == 2, "both lookups")
    assert process.wait(LONG) == 0, "the time limit of the lookups is farther off"


def test_a_bug_outside_of_a_lookup_ends_it(served, process, child, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    child(
        IN_PLACE
        + """
def bug(*arguments):
    raise MemoryError
child.write_result = child.log.exception = bug
child.main()
"""
    )
    one = process(served.settings)
    ready(one)
    why = "it ended before it answered"
    assert Waited(one, TIMEOUT).policy_id("example.com") == Failure(Cause.PROCESS, why)
    assert "the resolver process ended, exit status 1: starting another" in errors(caplog)


def test_it_ends_with_the_daemon(served, tmp_path):
    program = f"""
import logging, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from stsresolver.lookup.supervisor import ResolverProcess
from tests.support.waited import Waited
one = ResolverProcess({served.settings!r})
one.start()
print(Waited(one, 4.0).policy_id("example.com"), one.pid, flush=True)
Waited(one, 30.0).policy_id("slow.example")
signal.pause()
"""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    command = [sys.executable, "-c", program]
    stderr = tmp_path / "stderr"
    with (
        stderr.open("wb") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file) as daemon,
    ):
        found, pid = daemon.stdout.readline().split()
        assert found == b"1"
        wait_for(lambda: served.dns.asked("_mta-sts.slow.example", "TXT"), "a lookup")
        daemon.kill()
    wait_for(lambda: state(int(pid)) in ("", "Z"), "the resolver process to end")
    assert stderr.read_text() == ""


def test_it_ends_with_the_daemon_that_has_not_read_everything(served):
    """What is unread turns the end of the connection into a reset."""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    process, ours = spawned(served)
    with ours:
        ours.send(write(1, "policy id", "example.com", TIMEOUT))
        ours.send(write(2, "policy id", "slow.example", 10 * LONG))
        assert ours.recv(1, socket.MSG_PEEK) == b"["
    assert process.wait(LONG) == 0
