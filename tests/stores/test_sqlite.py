"""The sqlite store: the contract, several processes, kill -9, damaged rows, versions."""

import contextlib
import itertools
import logging
import os
import random
import signal

import pytest

from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.stores import sqlite
from stsresolver.stores.sqlite import SqliteStore
from stsresolver.stores.sqlite_file import Database
from tests.cache.test_store import DAY, NOW, StoreContract, entry
from tests.support.sqlite_files import assert_sound, execute, opened, python, raw

# Says each domain once it is stored, until it is killed. Arguments: file, name of this writer.
WRITER = """
import itertools, os, sys, threading
from tests.cache.test_store import NOW, entry
from stsresolver.stores.sqlite import SqliteStore

store = SqliteStore(sys.argv[1], threads=2)

def write(thread):
    for number in itertools.count():
        domain = f"d{number}.t{thread}.{sys.argv[2]}.example"
        store.put(entry(domain), NOW)
        os.write(1, f"{domain}\\n".encode())

for thread in range(2):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""

# Eight clients in turn put, get, touch, list and lease. Arguments: file, number of this process.
CLIENTS = """
import random, sys, threading
from dataclasses import replace
from tests.cache.test_store import NOW, entry
from stsresolver.stores.sqlite import SqliteStore

print("ready", flush=True)
sys.stdin.readline()
store = SqliteStore(sys.argv[1], threads=2)
failures = []

def work(client):
    dice = random.Random(client)
    try:
        for step in range(40):
            one = entry(f"d{step % 7}.example", fetched=NOW + dice.randrange(100_000), due=NOW)
            store.put(one, NOW + 100_000)
            store.put(entry(f"{client}.{step}.example"), NOW)
            found = store.get(one.domain)
            assert found is not None and found.fetched >= one.fetched, (one, found)
            store.touch(replace(found, checked=NOW + step))
            assert store.due(NOW, 3)
            store.lease(sys.argv[2], 60.0, NOW + step)
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=work, args=(8 * int(sys.argv[2]) + n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
store.close()
sys.exit(bool(failures))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def store(path):
    with opened(path) as store:
        yield store


class TestSqliteStore(StoreContract):
    """The contract, on a file."""


class TestSmallest(StoreContract):
    """The contract with one connection for all threads."""

    @pytest.fixture
    def store(self, path):
        with opened(path, threads=1) as store:
            yield store


def test_what_is_put_outlives_the_process(path):
    text = (
        b"version: STSv1\r\nmode: testing\r\nmx: *.Example.com\r\nnote: \xc3\xa4\r\nmax_age: 86400"
    )
    one = entry(policy=parse_policy(text), failed=NOW + 1.5, failure="HTTP status 404 ä")
    with opened(path) as store:
        store.put(one, NOW)
    with opened(path) as store:
        assert store.get("example.com") == one
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_lease_is_one_holders(path):
    with opened(path) as one, opened(path) as other:
        assert one.lease("one", 60, NOW)
        assert not other.lease("other", 60, NOW + 59.9)
        assert one.lease("one", 60, NOW + 59.9)
        assert not other.lease("other", 60, NOW + 60)
        assert other.lease("other", 60, NOW + 120), "the lease has run out"
        assert not one.lease("one", 60, NOW + 120)
        assert other.lease("other", 0, NOW + 130), "given back"
        assert one.lease("one", 60, NOW + 130)
        assert other.lease("other", 60, NOW - 365 * DAY), "taken by a clock that was wrong"


@pytest.mark.requirement("LIB-12")
def test_ten_thousand_entries_come_in_order(path):
    count = 10_000
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    with opened(path) as store:
        for number in numbers:
            fetched = NOW - 604_800 - number
            store.put(entry(f"d{number}.example", fetched, due=NOW - number), NOW)
        for limit in (1, 1000, count + 1):
            due = [one.due for one in store.due(NOW, limit)]
            assert due == [NOW - number for number in reversed(range(count))][:limit]
        assert [one.due for one in store.due(NOW - count + 2, count)] == [
            NOW - count + 1,
            NOW - count + 2,
        ]
        assert store.purge(NOW, 3000) == 3000
        assert store.get("d7000.example") is None, "the longest over go first"
        assert store.get("d6999.example") is not None
        assert [store.purge(NOW, 3000) for _ in range(4)] == [3000, 3000, 1000, 0]
    assert_sound(path)


def explain(path, text, values):
    with raw(path) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]


@pytest.mark.requirement("LIB-12")
@pytest.mark.parametrize("query", ["_GET", "_DUE", "_PUT", "_TOUCH", "_PURGE"])
def test_every_query_goes_by_an_index(store, path, query):
    text = getattr(sqlite, query)
    values = (1,) * text.count("?") or dict.fromkeys(
        (*sqlite._FIELDS.split(", "), "now", "ahead"), 1
    )
    plan = explain(path, text, values)
    assert not [step for step in plan if step.startswith("SCAN")], plan


@pytest.mark.requirement("LIB-12")
def test_what_is_not_due_is_not_passed_by(store, path):
    plan = explain(path, sqlite._DUE, {"now": NOW, "ahead": NOW})
    assert "SEARCH policy USING INDEX policy_due (due<?)" in plan
    assert "SEARCH policy USING INDEX policy_fetched (fetched>?)" in plan


# Several processes


def test_many_clients_of_one_file(path):
    """Three processes with eight clients each, which also make the file at the same moment."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(python(CLIENTS, path, number)) for number in range(3)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    last = {}
    for client in range(24):
        dice = random.Random(client)
        for step in range(40):
            domain = f"d{step % 7}.example"
            last[domain] = max(last.get(domain, 0), NOW + dice.randrange(100_000))
    with opened(path) as store:
        assert {domain: store.get(domain).fetched for domain in last} == last
        for client, step in itertools.product(range(24), range(40)):
            assert store.get(f"{client}.{step}.example") is not None
    assert_sound(path)


def test_another_process_makes_the_file_first(path, monkeypatch):
    look = Database._look

    def overtaken(database, connection):
        version = look(database, connection)
        monkeypatch.undo()
        with opened(path) as other:
            other.put(entry(), NOW)
        return version

    monkeypatch.setattr(Database, "_look", overtaken)
    with opened(path) as store:
        assert store.get("example.com") == entry()


@pytest.mark.requirement("LIB-9")
def test_kill_9_loses_nothing_that_was_acknowledged(path):
    acknowledged = []
    for turn in range(5):
        with python(WRITER, path, turn) as writer:
            lines = list(itertools.islice(writer.stdout, 20 + 70 * turn))
            os.kill(writer.pid, signal.SIGKILL)
            lines += writer.stdout
            assert writer.wait(10) == -signal.SIGKILL
        acknowledged += [line.rstrip("\n") for line in lines]
        with opened(path) as store:
            lost = [domain for domain in acknowledged if store.get(domain) != entry(domain)]
        assert not lost
        assert_sound(path)
    assert len(acknowledged) >= 5 * 20


# Rows that do not pass the grammar


@pytest.mark.requirement("POL-15")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("domain = 'Example.com'", "not in its one form"),
        ("domain = 'localhost'", "a single label"),
        ("domain = 'a b.example'", "no host name"),
        ("domain = x'ff2e6578'", "a blob that is not UTF-8"),
        ("domain = CAST(x'ff2e6578' AS TEXT)", "text that is not UTF-8"),
        ("id = ''", "no id"),
        ("id = '1; x=2'", "an id that brings a field"),
        ("id = 'ä'", "an id that is not ASCII"),
        ("policy = ''", "no policy"),
        ("policy = 'version: STSv1' || char(10) || 'mode: enforce'", "no max_age"),
        ("policy = replace(policy, 'mail', 'a protocols=SSLv3')", "mx is no host name"),
        ("policy = replace(policy, 'max_age: 6', 'max_age: 5')", "end does not follow"),
        ("policy = zeroblob(70000)", "larger than a policy may be"),
        ("fetched = 9e999", "infinite"),
        ("fetched = -1.0", "before all time"),
        ("checked = 'soon'", "no number"),
        ("checked = x'00'", "a blob for a time"),
        ("asked = 1e15", "too late for a calendar"),
        ("failed = -9e999", "infinite"),
        ("failure = x'00ff'", "a failure that is not UTF-8"),
        ("expiry = expiry + 1", "end does not follow"),
    ],
)
def test_a_bad_row_is_dropped_and_the_others_are_served(path, store, caplog, change, why):
    good = [entry("a.example", due=NOW - 2), entry("z.example", due=NOW)]
    for one in (good[0], entry(due=NOW - 1), good[1]):
        store.put(one, NOW)
    execute(path, f"UPDATE policy SET {change} WHERE domain = 'example.com'")
    assert store.due(NOW, 2) == good, why
    assert store.due(NOW, 10) == good
    assert store.get("example.com") is None
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM policy").fetchone() == (2,)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    line = record.getMessage()
    assert line.startswith(f"{path}: a damaged entry was dropped: domain ")
    assert line.isascii()
    assert line.isprintable()


def test_a_bad_row_is_dropped_when_it_is_asked_for(path, store, caplog):
    store.put(entry(), NOW)
    execute(path, "UPDATE policy SET id = '?'")
    assert store.get("example.com") is None
    assert store.get("example.com") is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: a damaged entry was dropped: domain 'example.com': id is not 1 to 32 letters and"
        " digits: '?'"
    ]
    store.put(entry(), NOW)
    assert store.get("example.com") == entry()


def test_a_bad_row_that_cannot_be_dropped_is_absent(path):
    with opened(path, timeout=0.1) as store:
        store.put(entry(), NOW)
        execute(path, "UPDATE policy SET id = '?'")
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            assert store.get("example.com") is None


# Versions


def test_migration_keeps_what_is_there(path, monkeypatch):
    with opened(path) as store:
        store.put(entry(), NOW)
    steps = ("ALTER TABLE policy ADD COLUMN note TEXT", "UPDATE policy SET note = 'new'")
    monkeypatch.setattr(sqlite, "_MIGRATIONS", (*sqlite._MIGRATIONS, steps))
    with opened(path) as store, opened(path) as again:
        assert store.get("example.com") == again.get("example.com") == entry()
    with raw(path) as connection:
        assert connection.execute("SELECT note FROM policy").fetchall() == [("new",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(sqlite._MIGRATIONS),)


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    with opened(path) as store:
        store.put(entry(), NOW)
    steps = ("DELETE FROM policy", "DELETE FROM missing")
    with monkeypatch.context() as context:
        context.setattr(sqlite, "_MIGRATIONS", (*sqlite._MIGRATIONS, steps))
        with pytest.raises(StoreError, match="no such table: missing"):
            SqliteStore(path, threads=2)
    with opened(path) as store:
        assert store.get("example.com") == entry()
