"""Other settings for the resolver processes: what is under way ends in the old ones."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stsresolver.lookup import backoff, supervisor
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import (
    NAMES,
    SLOW,
    TIMEOUT,
    children,
    errors,
    never,
    once,
    pid_of,
    ready,
    state,
)
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited


def other(served, port=9):
    """Return settings with which nothing can be fetched, but DNS works."""
    return served.settings | {"proxy": {"host": "127.0.0.1", "port": port}}


def of(several):
    """Return the first process of a pool."""
    return several._processes[0]


def test_what_is_under_way_ends_in_the_old_process(served, pool, caplog):
    several = pool(served.settings)
    pid = ready(of(several))
    changed = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(changed.is_set, SLOW)
    asked = served.dns.asked
    with ThreadPoolExecutor(NAMES) as threads:
        lookups = Waited(several, LONG)
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(NAMES)]
        wait_for(lambda: asked("_mta-sts.slow.example", "TXT") >= NAMES, "the lookups to begin")
        several.change(other(served))
        assert Waited(several, TIMEOUT).policy_id("example.com") == "1", "the new one serves"
        assert several.pid != pid
        assert state(pid) in ("S", "R"), "and the old one still works"
        changed.set()
        assert [future.result() for future in found] == ["slow"] * NAMES
    assert asked("_mta-sts.slow.example", "TXT") == NAMES, "none was asked twice"
    wait_for(lambda: state(pid) == "", "the end of the old one")
    assert several.losses == 0
    assert errors(caplog) == []


def test_the_same_settings_change_nothing(served, pool):
    several = pool(served.settings)
    pid = ready(of(several))
    several.change(dict(served.settings))
    assert Waited(several, TIMEOUT).policy_id("example.com") == "1"
    assert several.pid == pid


def test_one_with_other_settings_follows_at_once(served, pool, monkeypatch):
    """A reload is no failure: nothing is lost, however many there are."""
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    several = pool(served.settings)
    for port in range(8, 16):
        several.change(other(served, port))
        assert Waited(several, TIMEOUT).policy_id("example.com") == "1"
    wait_for(lambda: len(children()) == 1, "the end of the others")
    assert several.losses == 0


def test_reloads_in_quick_succession_wait_for_lookups(served, pool, monkeypatch):
    """So the number of processes is bounded, and each lookup ends where it began."""
    released = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(released.is_set, SLOW)
    asked = served.dns.asked
    several = pool(served.settings)
    lookups = Waited(several, LONG)
    with ThreadPoolExecutor(8) as threads:
        found = []
        for number in range(5):
            found.append(threads.submit(lookups.policy_id, "slow.example"))
            wait_for(lambda: asked("_mta-sts.slow.example", "TXT") == len(found), "the lookup")
            if number < 4:
                several.change(other(served, number))
        assert len(children()) == 5
        last = threads.submit(several.change, other(served, 99))
        with pytest.raises(TimeoutError):
            last.result(0.3)
        released.set()
        assert [future.result() for future in found] == ["slow"] * 5
        last.result(LONG)
    assert Waited(several, TIMEOUT).policy_id("example.com") == "1"
    assert several.losses == 0


# What has the number 1 answers nothing.
STUBBORN = """
one = json.loads(settings)[2]["resolver"]["number"] == 1
if one and not early:
    hello()
if one:
    hang()
hello()
while True:
    say(asked()[0], "id", "new")
"""


def test_what_was_not_sent_is_asked_of_the_new_one(pool, child, caplog):
    child(f"early = True\n{STUBBORN}")
    several = pool({"number": 1})
    pid_of(of(several))
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(Waited(several, LONG).policy_id, "example.com")
        wait_for(lambda: of(several).under_way, "the lookup")
        several.change({"number": 2})
        assert found.result() == "new"
    assert several.losses == 0
    assert errors(caplog) == []


def test_an_old_one_that_does_not_answer_ends_by_the_limit_of_its_lookups(
    pool, child, caplog, monkeypatch
):
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    monkeypatch.setattr(backoff, "FIRST", LONG)
    child(f"early = False\n{STUBBORN}")
    several = pool({"number": 1})
    pid = ready(of(several))
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(Waited(several, 0.5).policy_id, "example.com")
        wait_for(lambda: not of(several)._questions.unsent and of(several).under_way, "its lookup")
        several.change({"number": 2})
        assert Waited(several, TIMEOUT).policy_id("example.com") == "new"
        assert found.result() == Failure(Cause.PROCESS, "it did not answer in time")
    wait_for(lambda: state(pid) == "", "its end")
    assert children() == [str(several.pid)], "and no other follows it"
    assert several.losses == 1


def test_an_old_one_that_dies_is_followed_for_what_it_had(served, pool):
    killed = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(killed.is_set, SLOW)
    several = pool(served.settings)
    pid = ready(of(several))
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(Waited(several, LONG).policy_id, "slow.example")
        wait_for(lambda: served.dns.asked("_mta-sts.slow.example", "TXT"), "the lookup")
        several.change(other(served))
        os.kill(pid, signal.SIGKILL)
        killed.set()
        assert found.result() == "slow"
    assert several.losses == 1


def test_close_while_old_ones_drain(served, pool):
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    several = pool(served.settings)
    ready(of(several))
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(Waited(several, LONG).policy_id, "slow.example")
        wait_for(lambda: served.dns.asked("_mta-sts.slow.example", "TXT"), "the lookup")
        several.change(other(served))
        several.close()
        assert found.result() == Failure(Cause.PROCESS, "no such process is running")


def test_the_losses_of_old_ones_are_counted(served, pool):
    several = pool(served.settings)
    os.kill(ready(of(several)), signal.SIGKILL)
    wait_for(lambda: several.losses == 1, "the loss")
    for port in range(3):
        several.change(other(served, port))
    assert several.losses == 1
    wait_for(lambda: all(one.ended for one in several._draining), "the end of the old ones")
    several.change(other(served))
    assert several._draining[:-1] == []
    assert several.losses == 1
