"""Sqlite files for the tests: opened, looked into behind the store's back, used by processes."""

import contextlib
import os
import sqlite3
import subprocess
import sys

from stsresolver.stores.sqlite import SqliteStore
from tests.cache.test_store import NOW, entry


@contextlib.contextmanager
def python(program, *arguments):
    """Run a program in a process of its own, which does not outlive the `with`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def opened(path, **options):
    store = SqliteStore(path, **({"threads": 2} | options))
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def raw(path):
    """A connection of the test's own."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path, *statements):
    with raw(path) as connection:
        for statement in statements:
            connection.execute(statement)


def assert_sound(path):
    with raw(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def many_entries(path):
    with opened(path) as store:
        for number in range(500):
            store.put(entry(f"d{number}.example"), NOW)


def old_tables(path):
    execute(path, "CREATE TABLE sts_policy_cache (domain, ts, pol_id, pol_body)")
