"""A minute of `bench/soak`, and the oracle of it: it can tell right answers from wrong ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.missing import unavailable

ROOT = Path(__file__).parent.parent.parent
SOAK = ROOT / "bench" / "soak"
sys.path.append(str(SOAK.parent))

from soak_kinds import WEEK, lives  # noqa: E402
from soak_lives import Host, Life, Phase, Policy, Record  # noqa: E402
from soak_oracle import LINE, PAUSE, SETTLED, ZONES, Oracle  # noqa: E402

DOMAIN = "d.soak.test"
POSTFIX, STRICT, REPORT = ZONES
NOT_FOUND, TEMP = b"NOTFOUND ", b"TEMP no answer in time"
FAULT = b"TEMP the resolver process failed"

# THE ORACLE

FIRST = Policy(DOMAIN, 1, "enforce", WEEK)
SECOND = Policy(DOMAIN, 2, "enforce", WEEK)
SHORT = Policy(DOMAIN, 1, "enforce", 20)
TESTING = Policy(DOMAIN, 1, "testing", WEEK)
NONE = Policy(DOMAIN, 2, "none", WEEK)
NONE_FIRST = Policy(DOMAIN, 1, "none", WEEK)


def phase(begins: float, policy: Policy, record=Record.THERE, host=Host.WELL) -> Phase:
    return Phase(begins, record, f"i{policy.version}", policy.version, host, policy)


STABLE = (phase(0, FIRST),)
CHANGED = (phase(0, FIRST), phase(100, SECOND))
GONE = (phase(0, SHORT), phase(10, SHORT, Record.NXDOMAIN, Host.GONE))
LOST = (phase(0, FIRST), phase(10, FIRST, Record.SERVFAIL, Host.SILENCE))
ILL = (phase(0, FIRST, host=Host.STATUS), phase(20, FIRST))
WITHDRAWN = (phase(0, FIRST), phase(100, NONE))

# What was served to the daemon and taken, and when.
Served = tuple[tuple[int, float], ...]
ONCE: Served = ((1, 1.0),)
LATER = 100 + SETTLED + 1


def known(phases: tuple[Phase, ...], served: Served) -> tuple[Oracle, list[float]]:
    """Return an oracle that knows this one domain, and its clock."""
    clock = [0.0]
    oracle = Oracle([Life(DOMAIN, phases)], lambda: clock[0])
    for version, when in served:
        # In steps, because it takes a jump for a machine that stood still.
        while clock[0] < when:
            clock[0] = min(when, clock[0] + 0.5)
            oracle.now()
        oracle.contacted(oracle.domains[DOMAIN])
        oracle.serves(oracle.domains[DOMAIN], version)
        oracle.served(oracle.domains[DOMAIN], version, when)
    return oracle, clock


def ok(policy: Policy, zone=POSTFIX) -> bytes:
    return zone.answer(policy)


@pytest.mark.parametrize(
    ("phases", "served", "sent", "answer", "right"),
    [
        pytest.param(*case, id=reason)
        for reason, *case in (
            ("in force", STABLE, ONCE, 50, ok(FIRST), True),
            ("in force, and missing", STABLE, ONCE, 50, NOT_FOUND, False),
            ("never served", STABLE, (), 50, ok(FIRST), False),
            ("time enough to find it", STABLE, (), SETTLED + 1, NOT_FOUND, False),
            ("no time yet to find it", STABLE, (), SETTLED - 1, NOT_FOUND, True),
            ("nobody's policy", STABLE, ONCE, 50, ok(SECOND), False),
            ("more than the policy says", STABLE, ONCE, 50, ok(FIRST) + b" x=y", False),
            ("no wait, no TEMP", STABLE, ONCE, 50, TEMP, False),
            ("a fault of ours", LOST, (), 500, FAULT, True),
            ("in force, with a fault", STABLE, ONCE, 50, FAULT, False),
            ("the id was seen", CHANGED, ((1, 1), (2, 101)), LATER, ok(SECOND), True),
            ("the old one for too long", CHANGED, ONCE, LATER, ok(FIRST), False),
            ("the old one within grace", CHANGED, ONCE, 101, ok(FIRST), True),
            ("neither old nor new", CHANGED, ((1, 1), (2, 101)), LATER, NOT_FOUND, False),
            ("no record, not over", GONE, ONCE, 18, NOT_FOUND, False),
            ("no record, in force", GONE, ONCE, 18, ok(SHORT), True),
            ("no record, over", GONE, ONCE, 40, NOT_FOUND, True),
            ("enforced past its end", GONE, ONCE, 40, ok(SHORT), False),
            ("renewed before", GONE, ((1, 1), (1, 9)), 25, NOT_FOUND, False),
            ("everything fails, in force", LOST, ONCE, 500, ok(FIRST), True),
            ("everything fails, forgotten", LOST, ONCE, 500, NOT_FOUND, False),
            ("nothing known, all fails", LOST, (), 500, NOT_FOUND, True),
            ("withdrawn", WITHDRAWN, ((1, 1), (2, 101)), LATER, NOT_FOUND, True),
            ("enforced though withdrawn", WITHDRAWN, ((1, 1), (2, 101)), LATER, ok(FIRST), False),
            ("testing is not enforced", (phase(0, TESTING),), ONCE, 50, ok(TESTING), False),
            ("testing", (phase(0, TESTING),), ONCE, 50, NOT_FOUND, True),
            ("none", (phase(0, NONE_FIRST),), ONCE, 50, NOT_FOUND, True),
        )
    ],
)
def test_what_is_right(phases, served, sent, answer, right):
    oracle, _ = known(phases, served)
    oracle.judge(POSTFIX, DOMAIN, sent, sent + 0.01, answer)
    assert (oracle.wrong == []) is right, oracle.wrong


def test_a_failed_fetch_excuses_for_five_minutes():
    oracle, clock = known(ILL, ())
    clock[0] = 0.5
    oracle.failed(oracle.domains[DOMAIN])
    oracle.judge(POSTFIX, DOMAIN, PAUSE - 1, PAUSE - 0.9, NOT_FOUND)
    assert not oracle.wrong
    oracle.judge(POSTFIX, DOMAIN, PAUSE + SETTLED, PAUSE + SETTLED, NOT_FOUND)
    assert oracle.wrong


def test_a_lost_process_excuses_for_a_while_and_for_no_policy_in_force():
    oracle, clock = known(STABLE, ())
    oracle.disturb()
    oracle.judge(POSTFIX, DOMAIN, 60, 60, NOT_FOUND)
    clock[0] = 0.9
    oracle.calm()
    assert not oracle.wrong
    oracle.judge(POSTFIX, DOMAIN, 60, 60, NOT_FOUND)
    assert len(oracle.wrong) == 1
    oracle, _ = known(STABLE, ((1, 1.0), (1, 5.0)))
    oracle.judge(POSTFIX, DOMAIN, 20, 20, ok(FIRST))
    oracle.disturb()
    oracle.judge(POSTFIX, DOMAIN, 21, 22, NOT_FOUND)
    assert len(oracle.wrong) == 1


def test_nothing_is_due_where_it_went_meanwhile():
    gone = (phase(0, FIRST), phase(30, FIRST, Record.SERVFAIL), phase(31, FIRST))
    oracle, _ = known(gone, ())
    oracle.judge(POSTFIX, DOMAIN, 29, 33, NOT_FOUND)
    assert not oracle.wrong


@pytest.mark.parametrize("sooner", ["the host's end", "the answer"])
def test_what_a_late_answer_did_not_have_in_time_need_not_be_in_force(sooner):
    oracle, clock = known(STABLE, ())
    domain = oracle.domains[DOMAIN]
    clock[0] = 7
    oracle.serves(domain, 1)
    if sooner == "the answer":
        oracle.judge(POSTFIX, DOMAIN, 0.5, 6.9, NOT_FOUND)
        oracle.served(domain, 1, 7)
    else:
        oracle.served(domain, 1, 7)
        oracle.judge(POSTFIX, DOMAIN, 0.5, 7.1, NOT_FOUND)
    oracle.judge(POSTFIX, DOMAIN, 50, 50.1, NOT_FOUND)
    assert not oracle.wrong


def test_a_late_answer_says_nothing_of_what_was_in_force_before():
    oracle, _ = known(STABLE, ONCE)
    oracle.judge(POSTFIX, DOMAIN, 10, 17, NOT_FOUND)
    assert len(oracle.wrong) == 1


def test_nobody_sees_an_earlier_policy_again():
    oracle, _ = known(CHANGED, ((1, 1), (2, 101)))
    oracle.judge(POSTFIX, DOMAIN, 102, 102.1, ok(SECOND))
    oracle.judge(POSTFIX, DOMAIN, 101.9, 102.2, ok(FIRST))
    assert not oracle.wrong, "it was on its way"
    oracle.judge(POSTFIX, DOMAIN, 103, 103.1, ok(FIRST))
    assert len(oracle.wrong) == 1


def test_temp_is_for_who_waited():
    oracle, _ = known(STABLE, ONCE)
    oracle.judge(POSTFIX, DOMAIN, 50, 50 + LINE, TEMP)
    assert not oracle.wrong


def test_zones():
    oracle, _ = known((phase(0, TESTING),), ONCE)
    oracle.judge(STRICT, DOMAIN, 50, 50, ok(TESTING, STRICT))
    assert not oracle.wrong
    oracle.judge(STRICT, DOMAIN, 50, 50, NOT_FOUND)
    assert len(oracle.wrong) == 1
    oracle, _ = known(STABLE, ONCE)
    long = (
        b"OK secure match=v1.d.soak.test servername=hostname policy_type=sts"
        b" policy_domain=d.soak.test { policy_string = version: STSv1 }"
        b" { policy_string = mode: enforce } { policy_string = mx: v1.d.soak.test }"
        b" { policy_string = max_age: 604800 } mx_host_pattern=v1.d.soak.test"
    )
    oracle.judge(REPORT, DOMAIN, 50, 50, long)
    assert not oracle.wrong
    oracle.judge(POSTFIX, DOMAIN, 50, 50, long)
    assert len(oracle.wrong) == 1


def test_a_seed_is_a_course_of_things():
    assert lives(1, 60) == lives(1, 60)
    assert lives(1, 60) != lives(2, 60)
    for life in lives(1, 600):
        versions = [one.policy.version for one in life.phases]
        assert versions == sorted(versions), "no domain goes back"


# THE SOAK

# Forgets what is in force when DNS fails, which RFC 8461 §5.1 forbids.
FORGETFUL = """
import sys
from stsresolver import daemon
from dataclasses import replace
from stsresolver.policies import decision
from stsresolver.mta_sts.results import Cause
real = decision._missed
def forget(result, known, now, times):
    entry = known.entry
    if result.cause is not Cause.DNS or entry is None:
        return real(result, known, now, times)
    return real(result, known._replace(entry=None), now, times)
decision._missed = forget
sys.exit(daemon.main())
"""


def soak(*options: str) -> tuple[int, dict, str]:
    """Run it; return its exit status, what it saw, and its complaints."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    if missing := [name for name in ("ip", "unshare") if shutil.which(name) is None]:
        unavailable(f"not installed: {', '.join(missing)}")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "true"], check=False, capture_output=True, text=True
    )
    if tried.returncode:
        unavailable(f"no network namespace: {tried.stderr.strip()}")
    done = subprocess.run(
        [sys.executable, SOAK, "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_minute():
    status, seen, complaints = soak("--minutes", "1")
    assert status == 0, complaints
    assert seen["wrong"] == 0
    assert seen["errors"] == []
    assert seen["exact"] > seen["judged"] / 2 > 1000, "it judges nothing"
    assert {"OK", "NOTFOUND", "PERM"} <= seen["answers"].keys()
    assert seen["restarts"] == {"kill": 2, "replace": 4}


def test_a_daemon_that_forgets_is_found_out(tmp_path):
    driver = tmp_path / "forgetful.py"
    driver.write_text(FORGETFUL)
    status, seen, complaints = soak("--minutes", "0.2", "--driver", str(driver))
    assert status == 1
    assert seen["wrong"] > 0
    assert "right is v" in complaints
