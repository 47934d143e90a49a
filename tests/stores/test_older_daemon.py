"""The older daemon's sqlite file is taken over: what passes the grammar, once, and only read."""

import json
import logging
import time
from dataclasses import replace

import pytest

from stsresolver.mta_sts.policy import Mode
from tests.cache.test_store import DAY
from tests.support.sqlite_files import execute, opened, raw

LOGGER = "stsresolver.stores"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


BODY = {"version": "STSv1", "mode": "enforce", "mx": ["a.example", "*.B.example"], "max_age": 86400}


def body(**changes):
    return json.dumps(BODY | changes)


def make_old_file(path, rows):
    with raw(path) as connection:
        connection.execute(
            "CREATE TABLE sts_policy_cache (domain text, ts integer, pol_id text, pol_body text)"
        )
        connection.execute("CREATE UNIQUE INDEX by_domain ON sts_policy_cache (domain)")
        connection.execute("CREATE TABLE proactive_fetch_ts (id integer, last_fetch_ts integer)")
        connection.execute("INSERT INTO proactive_fetch_ts VALUES (1, 1700000000)")
        connection.executemany("INSERT INTO sts_policy_cache VALUES (?, ?, ?, ?)", rows)


def old_rows(path):
    with raw(path) as connection:
        return [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("sts_policy_cache", "proactive_fetch_ts")
        ]


def test_the_older_daemons_policies_are_taken_over(path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    now = time.time()
    ts = int(now) - 3600
    make_old_file(
        path,
        [
            ("good.example", ts, "20260101", body()),
            ("Bücher.example.", ts, "1", body(mode="testing")),
            ("none.example", ts, "1", '{"version": "STSv1", "mode": "none", "max_age": 86400}'),
            ("ahead.example", ts + 10 * int(DAY), "1", body()),
        ],
    )
    before = old_rows(path)
    with opened(path) as store, opened(path) as other:
        good = other.get("good.example")
        assert good == store.get("good.example")
        assert good.policy.text == (
            "version: STSv1",
            "mode: enforce",
            "mx: a.example",
            "mx: *.B.example",
            "max_age: 86400",
        )
        assert (good.id, good.policy.mx) == ("20260101", ("a.example", "*.b.example"))
        assert (good.fetched, good.checked, good.asked) == (ts, 0.0, ts // DAY * DAY)
        assert store.get("xn--bcher-kva.example").policy.mode is Mode.TESTING
        assert store.get("none.example").policy.mx == ()
        assert now <= store.get("ahead.example").fetched <= time.time()
        assert len(store.due(time.time(), 10)) == 4, "due at once"
        newer = replace(good, fetched=now + 1.0)
        store.put(newer, now)
    with opened(path) as store:
        assert store.get("good.example") == newer, "taken over once only"
    assert old_rows(path) == before
    assert [record.getMessage() for record in caplog.records] == [
        "took over 4 policies from the older daemon's tables; 0 have expired, 0 are damaged"
    ]


@pytest.mark.requirement("POL-15")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"domain": None}, "no domain"),
        ({"domain": b"\xff.example"}, "not UTF-8"),
        ({"domain": "a b.example"}, "no host name"),
        ({"domain": "[192.0.2.1]"}, "no domain"),
        ({"ts": None}, "no time"),
        ({"ts": "yesterday"}, "text for a time"),
        ({"ts": -1}, "before all time"),
        ({"pol_id": None}, "no id"),
        ({"pol_id": "a;b"}, "no id by the grammar"),
        ({"pol_id": "a" * 33}, "an id too long"),
        ({"pol_body": None}, "no body"),
        ({"pol_body": ""}, "an empty body"),
        ({"pol_body": "{"}, "no JSON"),
        ({"pol_body": "[" * 100_000}, "JSON nested too deep"),
        ({"pol_body": "[]"}, "no object"),
        ({"pol_body": body(version="STSv2")}, "another version"),
        ({"pol_body": body(mode="report")}, "no mode"),
        ({"pol_body": body(mode="none\nmode: none")}, "a mode that brings a line"),
        ({"pol_body": body(max_age=-1)}, "max_age below zero"),
        ({"pol_body": body(max_age=1.5)}, "max_age with a fraction"),
        ({"pol_body": body(max_age=True)}, "max_age that is no number"),
        ({"pol_body": body(max_age=None)}, "no max_age"),
        ({"pol_body": body(mx="a.example")}, "mx is no list"),
        ({"pol_body": body(mx=[])}, "no mx"),
        ({"pol_body": body(mx=["a.example", None])}, "an mx that is no text"),
        ({"pol_body": body(mx=["a protocols=SSLv3"])}, "an mx that adds an attribute"),
        ({"pol_body": body(mx=["a.example\nmx: b.example"])}, "an mx that brings a line"),
        ({"pol_body": body(mx=["a.example", ""])}, "an empty mx"),
        ({"pol_body": body(mx=["localhost"])}, "an mx of one label"),
        ({"pol_body": body(mx=["\ud800.example"])}, "half a character"),
    ],
)
def test_what_breaks_the_grammar_is_not_taken_over(path, caplog, change, why):
    caplog.set_level(logging.INFO, LOGGER)
    bad = {"domain": "bad.example", "ts": int(time.time()), "pol_id": "1", "pol_body": body()}
    rows = [tuple((bad | change).values()), ("good.example", int(time.time()), "1", body())]
    make_old_file(path, rows)
    with opened(path) as store:
        assert [one.domain for one in store.due(time.time(), 10)] == ["good.example"], why
    assert [record.getMessage() for record in caplog.records] == [
        "took over 1 policies from the older daemon's tables; 0 have expired, 1 are damaged"
    ]


@pytest.mark.requirement("KEEP-16")
def test_what_has_expired_is_taken_over_but_not_due(path, caplog):
    """By a clock that is ahead all of them have. There is no second time."""
    caplog.set_level(logging.INFO, LOGGER)
    ts = int(time.time() - 400 * DAY)
    make_old_file(path, [("a.example", ts, "1", body())])
    with opened(path) as store:
        assert store.get("a.example").fetched == ts
        assert store.get("a.example").is_over
        assert store.due(ts + DAY, 10) == []
    assert caplog.messages == [
        "took over 0 policies from the older daemon's tables; 1 have expired, 0 are damaged"
    ]


def test_of_two_old_entries_the_later_counts(path):
    now = int(time.time())
    make_old_file(path, [])
    execute(path, "DROP INDEX by_domain")
    with raw(path) as connection:
        for ts, policy_id in ((now - 20, "2"), (now - 10, "3"), (now - 30, "1")):
            row = ("a.example", ts, policy_id, body())
            connection.execute("INSERT INTO sts_policy_cache VALUES (?, ?, ?, ?)", row)
    with opened(path) as store:
        assert store.get("a.example").id == "3"
