"""What the log says of domains: once for each change, within a share of the log for each."""

from __future__ import annotations

import itertools
import logging
import threading

import pytest

from stsresolver.cache.entry import Entry
from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause, Failure, NoPolicy
from stsresolver.policies import event_log
from stsresolver.policies.event_log import EventLog
from stsresolver.policies.rate_limit import RateLimiter
from tests.support.clock import Clock
from tests.support.policies import policy

KEY = ("a.example", 4.0)
DNS = Failure(Cause.DNS, "SERVFAIL")
STATUS = Failure(Cause.STATUS, "404")
HOUR = 3600


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def noted(clock) -> EventLog:
    return EventLog(clock.monotonic)


@pytest.fixture
def said(caplog):
    """Return what gives the lines since the last time, each as level and text."""
    caplog.set_level(logging.DEBUG, "stsresolver")

    def lines(level: int = logging.INFO) -> list[tuple[str, str]]:
        found = [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.levelno >= level
        ]
        caplog.clear()
        return found

    return lines


def entry(mode: Mode) -> Entry:
    return Entry("a.example", "1", policy(mode), fetched=0, checked=0, asked=0, due=0)


def test_domain_that_flaps_gets_five_lines_an_hour(noted, clock, said):
    """Two kinds of lines here: that it fails, and that it works again."""
    for _ in range(50):
        noted.failed(KEY, STATUS, None)
        noted.works(KEY, by_record=False)
    failed = ("WARNING", f"a.example: no policy: {STATUS}")
    works = ("INFO", "a.example: the policy can be fetched again")
    assert said() == [failed, works] * 5

    clock.ticks += HOUR
    noted.failed(KEY, STATUS, None)
    left_out = "a.example: keeps changing: 45 lines left out within an hour"
    assert said() == [
        ("WARNING", f"{left_out} (failed STATUS)"),
        ("INFO", f"{left_out} (works STATUS)"),
        failed,
    ]


def test_what_is_left_out_is_there_for_debugging(noted, said):
    for _ in range(50):
        noted.failed(KEY, STATUS, None)
        noted.works(KEY, by_record=False)
    assert len(said(logging.DEBUG)) == 100


def test_lines_for_debugging_use_nothing_up(noted, said):
    for _ in range(50):
        noted.failed(KEY, STATUS, None)
    noted.works(KEY, by_record=False)
    noted.failed(KEY, STATUS, None)
    assert [level for level, _ in said()] == ["WARNING", "INFO", "WARNING"]


def test_each_domain_and_cause_has_lines_of_its_own(noted, said):
    for _ in range(50):
        for domain in ("a.example", "b.example"):
            noted.failed((domain, 4.0), STATUS, None)
            noted.failed((domain, 4.0), Failure(Cause.SYNTAX, "x"), None)
    lines = said()
    for domain in ("a.example", "b.example"):
        for cause in (Cause.STATUS, Cause.SYNTAX):
            assert sum(domain in text and cause.value in text for _, text in lines) == 5
    assert len(lines) == 20


def test_left_out_lines_of_any_domain_are_said_by_the_next_event(noted, clock, said):
    for _ in range(6):
        noted.failed(KEY, DNS, None)
        noted.works(KEY, by_record=True)
    said()
    clock.ticks += HOUR - 1
    noted.failed(("b.example", 4.0), DNS, None)
    assert [text.partition(":")[0] for _, text in said()] == ["b.example"]
    clock.ticks += 1
    noted.failed(("c.example", 4.0), DNS, None)
    assert said()[:-1] == [
        ("INFO", f"a.example: keeps changing: 1 lines left out within an hour ({kind} DNS)")
        for kind in ("failed", "works")
    ]


def test_policy_that_changes_at_each_look_cannot_fill_the_log(noted, said):
    """A domain can do that: another id and another policy each time."""
    modes = [Mode.ENFORCE, Mode.NONE] * 50
    for before, after in itertools.pairwise(modes):
        noted.changed("a.example", before, policy(after), again=False)
    levels = [level for level, _ in said()]
    assert (levels.count("WARNING"), levels.count("INFO")) == (5, 5)


def test_policy_that_is_over_at_once_cannot_fill_the_log(noted, said):
    for _ in range(50):
        noted.lapsed(KEY, Mode.ENFORCE, "nobody asked for it")
    assert len(said()) == 5


def test_what_is_remembered_is_bounded_and_its_count_said(noted, said, monkeypatch):
    monkeypatch.setattr(event_log, "_MAX_STATES", 10)
    noted = EventLog(Clock().monotonic)
    for _ in range(6):
        noted.failed(KEY, DNS, None)
        noted.works(KEY, by_record=True)
    for number in range(20):
        noted.failed((f"{number}.example", 4.0), DNS, None)
    assert len(noted._limiter._windows) == 10
    assert sum("left out" in text for _, text in said()) == 2


FIELDS = [
    (
        lambda noted: noted.failed(KEY, STATUS, None),
        {"event": "failed", "cause": "STATUS"},
        "no policy in force",
    ),
    (
        lambda noted: noted.failed(KEY, STATUS, entry(Mode.TESTING)),
        {"event": "failed", "cause": "STATUS", "mode": "testing"},
        "a policy in force",
    ),
    (
        lambda noted: noted.changed("a.example", None, policy(Mode.ENFORCE), again=False),
        {"event": "found", "mode": "enforce"},
        "a first policy",
    ),
    (
        lambda noted: noted.changed("a.example", Mode.NONE, policy(Mode.ENFORCE), again=False),
        {"event": "changed", "mode": "enforce", "before": "none"},
        "another policy",
    ),
    (
        lambda noted: noted.lapsed(KEY, Mode.ENFORCE, "why"),
        {"event": "expired", "before": "enforce"},
        "no policy any more",
    ),
]


@pytest.mark.parametrize(("event", "fields", "reason"), FIELDS)
def test_fields_for_machines(noted, caplog, event, fields, reason):
    caplog.set_level(logging.DEBUG, "stsresolver")
    event(noted)
    [record] = caplog.records
    names = {"domain", "event", "cause", "mode", "before"}
    found = {name: value for name, value in vars(record).items() if name in names}
    assert found == {"domain": "a.example", **fields}, reason


def test_domain_without_a_record_is_no_news(noted, said):
    noted.failed(KEY, NoPolicy(Cause.NO_RECORD), None)
    assert said() == []


# RateLimiter


def test_quota_begins_anew_after_its_time():
    clock = Clock()
    quota = RateLimiter[str](2, 10, 100, clock.monotonic)
    assert [quota.admits("a", 1)[0] for _ in range(4)] == [True, True, False, False]
    clock.ticks += 9.9
    assert quota.admits("a", 3) == (False, [])
    assert quota.admits("a", 1) == (False, [])
    clock.ticks += 0.1
    assert quota.admits("a", 1) == (True, [("a", 4, 3)])
    clock.ticks += 10
    assert quota.admits("b", 1) == (True, []), "nothing was refused since"


def test_notices_may_come_from_any_thread(noted, said):
    def flap() -> None:
        for _ in range(200):
            noted.failed(KEY, STATUS, None)
            noted.works(KEY, by_record=False)

    threads = [threading.Thread(target=flap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = said()
    assert sum(level == "WARNING" for level, _ in lines) == 5
    assert sum(level == "INFO" for level, _ in lines) == 5
