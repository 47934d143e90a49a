"""Time limits: of a question, of a process that hangs, and of one whose socket is full."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from stsresolver.lookup import supervisor
from stsresolver.lookup.supervisor import ResolverProcess
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import NAMES, TIMEOUT, errors, pid_of, ready, state
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited


@pytest.mark.parametrize(
    ("what", "seconds", "why"),
    [
        ("policy id", 4.0, "DNS has its time"),
        ("fetch", 4.0, "HTTPS has its time"),
        ("resolve", 8.0, "DNS and HTTPS have the time each"),
    ],
)
def test_the_time_limit_of_a_question(monkeypatch, what, seconds, why):
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    one = ResolverProcess({})
    one.ask(what, "example.com", 4.0, (), print)
    assert one._questions.next_end() == 1000.0 + seconds + supervisor._SLACK, why


def test_stopped(served, process, caplog, monkeypatch):
    """It is killed by the time limit of a lookup: the others are longer than any test."""
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    monkeypatch.setattr(supervisor, "_START", 2 * LONG)
    monkeypatch.setattr(supervisor, "_FULL", 2 * LONG)
    one = process(served.settings)
    pid = ready(one)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(NAMES) as threads:
        found = set(threads.map(Waited(one, 0.3).policy_id, ["example.com"] * NAMES))
    assert Failure(Cause.PROCESS, "it did not answer in time") in found
    assert found <= {Failure(Cause.PROCESS, "it did not answer in time"), "1"}
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert state(pid) == "", "killed and reaped"
    assert errors(caplog) == [
        "killing the resolver process: it hangs",
        "the resolver process ended, signal 9: starting another",
    ], "told once, whoever waited"


def test_one_that_works_is_not_killed_for_one_lookup(process, child, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    child("""
hello()
while True:
    number, what, domain, timeout = asked()
    if domain != "never.example":
        say(number, "id", "1")
""")
    one = process()
    pid = ready(one)
    lookups = Waited(one, 0.4)
    with ThreadPoolExecutor(1) as threads:
        never = threads.submit(lookups.policy_id, "never.example")
        while not never.done():
            assert lookups.policy_id("example.com") == "1"
    assert never.result() == Failure(Cause.PROCESS, "it did not answer in time")
    assert one.pid == pid


def test_one_that_does_not_get_ready(process, child, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    monkeypatch.setattr(supervisor, "_START", 2 * LONG)
    child("hang()")
    one = process()
    pid = pid_of(one)
    lookups = Waited(one, 0.1)
    assert lookups.fetch("example.com") == Failure(Cause.PROCESS, "it did not answer in time")
    assert one.pid == pid, "it may go on loading; the lookup does not wait for that"
    assert errors(caplog) == []
    monkeypatch.setattr(supervisor, "_START", 0.0)
    wait_for(lambda: lookups.fetch("example.com") and one.pid != pid, "another one")
    assert errors(caplog)[0] == "killing the resolver process: it hangs"


def test_stopped_with_its_socket_full(process, child, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 5.0)
    child("hello()\nhang()")
    one = process()
    pid = ready(one)
    with contextlib.suppress(BlockingIOError):
        while True:
            one._child.socket.send(b"[0]" + b" " * 50_000)
    one.ask("policy id", "example.com", 50.0, (), lambda result: None)
    one.flush()
    wait_for(lambda: state(pid) == "", "its end, though the time of the lookup is not over")
    assert errors(caplog)[0] == "killing the resolver process: it hangs"
