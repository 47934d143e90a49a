"""The life of the resolver process: its states, its starts and ends."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stsresolver.lookup import backoff, resolver_process, supervisor
from stsresolver.lookup.resolver_process import Process, State, cpu_seconds
from stsresolver.lookup.supervisor import ResolverProcess, StartError
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import (
    NAMES,
    SLOW,
    TIMEOUT,
    errors,
    logged,
    never,
    once,
    pid_of,
    ready,
    state,
)
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited

# WHEN IT ENDS


def test_killed_while_lookups_are_under_way(served, process, caplog):
    one = process(served.settings)
    pid = ready(one)
    killed = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(killed.is_set, SLOW)
    asked = served.dns.asked
    lookups = Waited(one, LONG)
    with ThreadPoolExecutor(NAMES) as threads:
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(NAMES)]
        wait_for(lambda: asked("_mta-sts.slow.example", "TXT") >= NAMES, "the lookups to begin")
        os.kill(pid, signal.SIGKILL)
        killed.set()
        assert [future.result() for future in found] == ["slow"] * NAMES
    assert one.pid != pid
    assert errors(caplog) == ["the resolver process ended, signal 9: starting another"]


def test_killed_again_and_again(served, process, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    monkeypatch.setattr(backoff, "LONGEST", 0.8)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    real, pauses = ResolverProcess._pause, []

    def pause(one: ResolverProcess, seconds: float) -> bool:
        pauses.append(seconds)
        return real(one, seconds)

    monkeypatch.setattr(ResolverProcess, "_pause", pause)
    one = process(served.settings)
    lookups = Waited(one, TIMEOUT)
    for _ in range(5):
        os.kill(pid_of(one), signal.SIGKILL)
        wait_for(lambda: one.pid is None, "its end")
    found = lookups.policy_id("example.com")
    assert found == Failure(Cause.PROCESS, "no such process is running")
    pid_of(one)
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8], "the pause grows"
    assert lookups.policy_id("example.com") == "1", "it recovers by itself"
    assert len(errors(caplog)) == 5, "a line for each"


def test_one_that_lived_for_long_is_replaced_at_once(served, process, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    monkeypatch.setattr(backoff, "WELL", 0.0)
    one = process(served.settings)
    for _ in range(2):
        os.kill(ready(one), signal.SIGKILL)
        assert Waited(one, TIMEOUT).policy_id("example.com") == "1"


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("LOADING", "READY", True),
        ("LOADING", "KILLED", True),
        ("READY", "KILLED", True),
        ("READY", "READY", False),
        ("KILLED", "READY", False),
        ("KILLED", "LOADING", False),
    ],
)
def test_what_a_state_may_become(before, after, allowed):
    one = Process(None, None, 0.0, State[before])
    assert one.become(State[after]) is allowed
    assert one.state.name == (after if allowed else before)


def test_one_that_ended_before_it_was_told_anything_is_one_loss(process, caplog, monkeypatch):
    def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["/bin/false"], stdin=theirs.fileno(), process_group=0)
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        return started

    monkeypatch.setattr(resolver_process, "spawn", spawn)
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    one = process()
    wait_for(lambda: one.losses, "its end")
    one.close()
    assert one.losses == len(errors(caplog)) == 1


def test_one_that_ends_of_itself_is_an_error(process, child, caplog):
    child("hello()\nasked()\nos._exit(0)")
    one = process()
    ready(one)
    Waited(one, TIMEOUT).policy_id("example.com")
    wait_for(logged(caplog, "ended, exit status 0"), "a word about it")


def test_one_that_was_killed_is_a_loss_though_it_was_to_drain(process, child, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    child("hello()\nhang()")
    one = process({"number": 1})
    ready(one)

    def drain(message, *_):
        """Let it drain between the decision to kill it and its end."""
        if "hangs" in message:
            one.drain()

    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(supervisor.log, "error", drain)
        assert Waited(one, 0.1).fetch("example.com").cause is Cause.PROCESS
        wait_for(lambda: one.losses, "the loss to be counted")


# WHEN IT CANNOT BE STARTED


def test_a_first_start_that_fails(served, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(StartError, match=r"cannot be started: .*'/nonexistent/python'"):
        ResolverProcess(served.settings).start(persist=False)


def test_a_first_start_without_a_thread(served, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StartError, match="cannot be started: can't start new thread"):
            ResolverProcess(served.settings).start(persist=False)


def test_a_first_start_of_a_link_that_leads_nowhere(served, monkeypatch, tmp_path):
    (tmp_path / "python3").symlink_to(tmp_path / "no-python")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(StartError, match=r"python3' -> '.*/no-python'$"):
        ResolverProcess(served.settings).start(persist=False)


def test_a_later_start_that_fails(served, process, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    one = process(served.settings)
    pid = ready(one)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        os.kill(pid, signal.SIGKILL)
        wait_for(logged(caplog, "cannot be started"), "a word about it")
        assert Waited(one, TIMEOUT).fetch("example.com").cause is Cause.PROCESS
    wait_for(lambda: one.pid is not None, "a start that works")
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert "No such file or directory: '/nonexistent/python'" in errors(caplog)[1]


def test_a_program_that_cannot_run(process, child, caplog):
    child("sys.stderr = open(os.devnull, 'w')\nraise ImportError('no such module')")
    one = process()
    wait_for(logged(caplog, "before it was ready"), "a word about it")
    one.close()
    assert errors(caplog)[0] == (
        "the resolver process ended before it was ready (standard error may say why; after an"
        " upgrade, restart the daemon),"
        " exit status 1: starting another"
    )


def test_out_of_descriptors(served, process, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    one = process(served.settings)
    pid = ready(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        os.kill(pid, signal.SIGKILL)
        wait_for(logged(caplog, "ended"), "its end")
        # Its socket has left room for one end of another.
        taken.append(os.dup(0))
        wait_for(logged(caplog, "Too many open files"), "a word about it")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    pid_of(one)
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"


def test_another_version_is_told(process, child, caplog):
    child('say(0, "hello", "99.9")\nasked()')
    process()
    wait_for(logged(caplog, "is 99.9 now: restart the daemon"), "a word about it")


# CLOSING


def test_close_without_a_start():
    ResolverProcess({}).close()


def test_closed_twice(process):
    one = process()
    ready(one)
    one.close()
    one.close()


@pytest.mark.parametrize(
    "moment",
    [
        lambda one, dns: True,
        lambda one, dns: one.under_way,
        lambda one, dns: one.pid is not None and one.under_way == 4,
        lambda one, dns: one.ready,
        lambda one, dns: dns.asked("_mta-sts.slow.example", "TXT"),
        lambda one, dns: dns.asked("_mta-sts.slow.example", "TXT") >= 4,
    ],
    ids=["at once", "asked", "while it loads", "ready", "at work", "with all of its work"],
)
def test_close_at_any_moment(served, process, moment):
    """The lookups end with the process, and not by their time limit or by an answer."""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    one = process(served.settings)
    lookups = Waited(one, LONG)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(4)]
        wait_for(lambda: moment(one, served.dns), "the moment")
        one.close()
        closed = Failure(Cause.PROCESS, "no such process is running")
        assert [future.result() for future in found] == [closed] * 4
    assert lookups.fetch("example.com") == closed


def test_close_ends_one_that_does_not_listen(process, child, monkeypatch):
    """At once, and not when its time to end by itself is over."""
    end = 30.0
    monkeypatch.setattr(resolver_process, "_END", end)
    child("hello()\nhang()")
    one = process()
    pid = ready(one)
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < end
    assert state(pid) == ""


def test_close_while_it_pauses(process, child, caplog, monkeypatch):
    pause = 30.0
    monkeypatch.setattr(backoff, "FIRST", pause)
    monkeypatch.setattr(supervisor, "_WAIT", pause)
    child("os._exit(3)")
    one = process()
    wait_for(logged(caplog, "exit status 3"), "its end")
    started = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Waited(one, TIMEOUT).policy_id, "example.com")
        wait_for(lambda: one.under_way, "a lookup that waits for a process")
        one.close()
        assert waiting.result().cause is Cause.PROCESS
    assert time.monotonic() - started < pause, "before the pause is over"


def test_how_much_a_process_has_computed():
    before, cpu = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < cpu + 0.05:
        pass
    assert cpu_seconds(os.getpid()) > before + 0.02
    assert cpu_seconds(None) == 0.0, "there is none"
