"""A domain that makes the resolver process die costs the others a second, and no answer."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

from stsresolver.lookup import quarantine, supervisor, suspects
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import TIMEOUT, children, errors, logged, ready
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited

LEFT = Failure(Cause.PROCESS, quarantine.LEFT_ALONE)

# Answers every domain but poison-*, of which it dies or hangs, and slow-*, which waits for others.
POISONED = """
hello()
late = []
while True:
    number, what, domain, *_ = asked()
    if domain.startswith("poison"):
        DIES
    elif domain.startswith("slow"):
        late.append(number)
    else:
        say(number, "id", "1")
        for one in late:
            say(one, "id", "late")
        late.clear()
"""
DIES = POISONED.replace("DIES", "os.kill(os.getpid(), signal.SIGSEGV)")
HANGS = POISONED.replace("DIES", "hang()")


def all_at_once(several, domains, timeout=TIMEOUT):
    """Ask for all these domains at once; return the results."""
    with ThreadPoolExecutor(len(domains)) as threads:
        results = threads.map(Waited(several, timeout).policy_id, domains)
        return dict(zip(domains, results, strict=True))


HEALTHY = [f"{number}.example" for number in range(50)]


def told(caplog):
    return [line for line in errors(caplog) if "not looking it up for five minutes" in line]


def suspect(several, *domains):
    """Have these domains under suspicion."""
    for _ in range(suspects.DEATHS):
        several._quarantine.died(domains)


def test_a_poisonous_domain_beside_healthy_ones(pool, child, caplog):
    child(DIES)
    several = pool()
    ready(several._processes[0])
    # What has the bad luck to be sent behind it is under way when the process dies.
    results = all_at_once(several, ["poison.example", *HEALTHY])
    assert results.pop("poison.example") == LEFT
    assert results == dict.fromkeys(HEALTHY, "1")
    (line,) = told(caplog)
    assert line.startswith("poison.example: the resolver process ends when it looks this domain up")
    losses = several.losses
    assert losses == 3, "twice among others, once alone"
    results = all_at_once(several, ["poison.example", *HEALTHY])
    assert results.pop("poison.example") == LEFT
    assert results == dict.fromkeys(HEALTHY, "1")
    assert several.losses == losses, "nothing dies of it any more"
    wait_for(lambda: len(children()) == 1, "the end of the process of its own")


def test_after_five_minutes_it_is_looked_up_alone(pool, child, caplog, monkeypatch):
    child(DIES)
    several = pool()
    lookups = Waited(several, TIMEOUT)
    monkeypatch.setattr(suspects, "PAUSE", 0.0)
    assert lookups.policy_id("poison.example") == LEFT
    pid = ready(several._processes[0])
    for times in (2, 3):
        assert lookups.policy_id("poison.example") == LEFT
        assert len(told(caplog)) == times
    assert several.pid == pid, "the others' process lives on"


def test_several_poisonous_domains(pool, child, caplog):
    child(DIES)
    several = pool()
    poisons = [f"poison-{number}.example" for number in range(5)]
    results = all_at_once(several, [*poisons, *HEALTHY], LONG)
    assert results == dict.fromkeys(poisons, LEFT) | dict.fromkeys(HEALTHY, "1")
    assert len(told(caplog)) == len(poisons)


def test_a_domain_that_makes_it_hang(pool, child, caplog, monkeypatch):
    """Its first lookups fail by their time limit. Then it is looked up alone."""
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    child(HANGS)
    several = pool()
    lookups = Waited(several, 0.3)
    for _ in range(2):
        ready(several._processes[0])
        result = lookups.policy_id("poison.example")
        assert result == Failure(Cause.PROCESS, "it did not answer in time")
        wait_for(lambda: several.pid is None or several._processes[0].ready, "its end")
    pid = ready(several._processes[0])
    assert lookups.policy_id("poison.example").cause is Cause.PROCESS
    wait_for(lambda: told(caplog), "the third one")
    assert several.pid == pid
    assert lookups.policy_id("poison.example") == LEFT
    assert lookups.policy_id("0.example") == "1"


def test_deaths_of_another_cause_leave_nobody_alone(served, pool, caplog):
    """Killed twice with the same lookups under way: they are made alone, and have their results."""
    several = pool(served.settings)
    names = [f"{number}.example" for number in range(2, 8)]
    deaths = []

    def kill(query):
        if len(deaths) == 2 * len(names):
            return real(query)
        deaths.append(query)
        if len(deaths) % len(names) == 0:
            os.kill(several.pid, signal.SIGKILL)
        return []

    real = served.dns.zone["_mta-sts.example.com TXT"]
    served.dns.zone |= {f"_mta-sts.{name} TXT": kill for name in names}
    assert all_at_once(several, names, LONG) == dict.fromkeys(names, "1")
    assert told(caplog) == []
    assert several.losses == 2
    wait_for(lambda: len(children()) == 1, "the end of the process of their own")
    assert Waited(several, TIMEOUT).policy_id("2.example") == "1"
    assert len(children()) == 1, "no suspect any more"


def test_starts_that_fail_make_no_suspect(pool, child, monkeypatch):
    monkeypatch.setattr(supervisor, "_WAIT", 0.1)
    child("os._exit(3)")
    several = pool()
    for _ in range(4):
        assert Waited(several, TIMEOUT).policy_id("a.example").cause is Cause.PROCESS
    assert "a.example" not in several._quarantine._suspects


def test_reload_while_suspects_are_looked_up(pool, child, caplog):
    child(DIES)
    several = pool({"number": 1})
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(all_at_once, several, ["poison.example", *HEALTHY], LONG)
        wait_for(logged(caplog, "ended, signal 11"), "a death")
        for number in range(2, 6):
            several.change({"number": number})
        results = found.result()
    assert results.pop("poison.example").cause is Cause.PROCESS
    assert results == dict.fromkeys(HEALTHY, "1")


def test_close_while_suspects_are_looked_up(pool, child):
    child(DIES)
    several = pool()
    suspect(several, "slow.example", "other.example")
    with ThreadPoolExecutor(2) as threads:
        lookups = Waited(several, LONG)
        found = [threads.submit(lookups.policy_id, "slow.example")]
        wait_for(lambda: len(children()) == 2, "a process of its own")
        found.append(threads.submit(lookups.policy_id, "other.example"))
        several.close()
        assert {future.result().cause for future in found} == {Cause.PROCESS}
    assert lookups.policy_id("other.example").cause is Cause.PROCESS


def test_what_nobody_waits_for_any_more_is_not_looked_up(pool, child, monkeypatch):
    """A long line of suspects that take their time holds up none that come later."""
    monkeypatch.setattr(quarantine, "_PATIENCE", 0.3)
    monkeypatch.setattr(supervisor, "_SLACK", 0.5)
    child(DIES)
    several = pool()
    suspect(several, "slow.example", "a.example", "b.example")
    lookups = Waited(several, 0.5)
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(lookups.policy_id, "slow.example")
        wait_for(lambda: len(children()) == 2, "a process of its own")
        found = threads.submit(lookups.policy_id, "a.example")
        assert slow.result().cause is Cause.PROCESS
        why = "other domains that it may have ended of came first"
        assert found.result() == Failure(Cause.PROCESS, why)
    assert lookups.policy_id("b.example") == "1"


def test_a_bug_in_the_quarantine_ends_one_lookup(pool, child, monkeypatch, caplog):
    child(DIES)
    several = pool()
    suspect(several, "a.example")

    def bug(self):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(quarantine.Quarantine, "_running_process", bug)
        result = Waited(several, TIMEOUT).policy_id("a.example")
    assert result == Failure(Cause.PROCESS, "MemoryError: ")
    assert errors(caplog) == ["a.example: internal error in a lookup"]
    caplog.clear()
    assert Waited(several, TIMEOUT).policy_id("a.example") == "1"


def test_no_thread_for_suspects(pool, child, monkeypatch):
    child(DIES)
    several = pool()
    suspect(several, "a.example")

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(quarantine.threading, "Thread", refuse)
        result = Waited(several, TIMEOUT).policy_id("a.example")
    assert result == Failure(Cause.PROCESS, "can't start new thread")
    assert Waited(several, TIMEOUT).policy_id("a.example") == "1"
