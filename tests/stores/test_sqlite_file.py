"""The sqlite file: files that are not for us, locks, connections, permissions, disks that fail."""

import os
import random
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.stores.sqlite import SqliteStore
from stsresolver.stores.sqlite_file import Database
from tests.cache.test_store import NOW, TEXT, entry
from tests.support.small_disk import small_disk
from tests.support.sqlite_files import (
    assert_sound,
    execute,
    many_entries,
    old_tables,
    opened,
    python,
)

NOBODY = 65534

# Holds the file locked until its input ends. Argument: file.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.close()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def no_database(path):
    path.write_bytes(b"host: 127.0.0.1\n" * 100)


def foreign_tables(path):
    execute(path, "CREATE TABLE users (name)", "INSERT INTO users VALUES ('a')")


def foreign_mark(path):
    execute(path, "PRAGMA application_id=7")


def old_and_foreign_tables(path):
    old_tables(path)
    foreign_tables(path)


def old_tables_of_another_shape(path):
    execute(path, "CREATE TABLE sts_policy_cache (domain text, policy text)")


def later_version(path):
    with opened(path):
        pass
    execute(path, "PRAGMA user_version=99")


def cut_in_half(path):
    many_entries(path)
    os.truncate(path, path.stat().st_size // 2)


def cut_in_the_header(path):
    many_entries(path)
    os.truncate(path, 50)


def broken_schema(path):
    many_entries(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 3900)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (no_database, "is no sqlite database"),
        (foreign_tables, r"belongs to another program \(table 'users'\)"),
        (foreign_mark, r"belongs to another program \(application id 7\)"),
        (old_and_foreign_tables, r"belongs to another program \(table 'users'\)"),
        (old_tables_of_another_shape, "no such column: ts"),
        (later_version, r"was made by a later version of this program \(schema 99,"),
        (cut_in_half, "is damaged; stop the daemon"),
        (cut_in_the_header, "is damaged; stop the daemon"),
        (broken_schema, "is damaged; stop the daemon"),
        (Path.mkdir, "cannot be opened or made"),
    ],
)
def test_a_file_that_is_not_for_us_is_left_alone(path, make, why):
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=f"^{path}: {why}"):
        SqliteStore(path, threads=2)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if before is not None:
        assert path.read_bytes() == before


@pytest.mark.parametrize("below", ["missing/cache.db", "file/cache.db"])
def test_no_such_directory(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"^{tmp_path}/{below}: cannot be opened or made"):
        SqliteStore(tmp_path / below, threads=2)


@pytest.mark.parametrize(
    ("make", "file", "directory_mode", "why"),
    [
        (None, None, 0o555, "cannot be opened or made"),
        (many_entries, 0o444, 0o555, "cannot be (opened or made|written by this user)"),
        (many_entries, 0o666, 0o555, "cannot be (opened or made|written by this user)"),
        (many_entries, 0o444, 0o777, "cannot be written by this user"),
        (many_entries, 0o000, 0o777, "cannot be opened"),
        (old_tables, 0o444, 0o777, "cannot be written by this user"),
        (old_tables, 0o666, 0o555, "cannot be (opened or made|written by this user)"),
    ],
)
def test_not_allowed_to_write(make, file, directory_mode, why):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cache.db"
        if make is not None:
            make(path)
            path.chmod(file)
        os.chmod(directory, directory_mode)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(StoreError, match=f"^{path}: {why}"):
                SqliteStore(path, threads=2)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(directory, 0o700)


def test_a_page_broken_in_the_middle(path):
    """What can be read is right, the rest is an error in words."""
    many_entries(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(random.Random(1).randbytes(2 * 4096))
    with opened(path) as store:
        served, failed = 0, 0
        for number in range(500):
            try:
                found = store.get(f"d{number}.example")
            except StoreError as error:
                assert str(error).startswith(f"{path}: is damaged; stop the daemon")
                failed += 1
            else:
                assert found in (None, entry(f"d{number}.example"))
                served += found is not None
        assert served > 100
        assert failed > 0


def moved(path):
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").rename(f"{path}.old{suffix}")


def replaced(path):
    moved(path)
    many_entries(path)


@pytest.mark.parametrize("change", [moved, Path.unlink, replaced])
def test_a_file_moved_away_while_in_use(path, change):
    """Nothing is written where nobody finds it, and nothing is made beside it."""
    with opened(path) as store:
        store.put(entry(), NOW)
        change(path)
        for call in (lambda: store.put(entry(), NOW), lambda: store.get("example.com")):
            with pytest.raises(StoreError, match=f"^{path}: was moved or replaced while in use"):
                call()
    with opened(path) as store:
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()
    assert_sound(path)


# Locks and connections


@pytest.mark.requirement("LIB-9")
def test_a_lock_held_too_long(path):
    with opened(path, timeout=0.3) as store:
        store.put(entry(), NOW)
        with python(LOCKER, path) as locker:
            assert locker.stdout.readline() == "locked\n"
            start = time.monotonic()
            with pytest.raises(StoreError, match=f"^{path}: another process keeps it locked"):
                store.put(entry("example.net"), NOW)
            assert 0.2 < time.monotonic() - start < 2
            assert store.get("example.com") == entry(), "reading does not wait"
            with pytest.raises(StoreError, match=f"^{path}: another process keeps it locked"):
                SqliteStore(path, threads=1, timeout=0.1)
            locker.stdin.close()
            locker.wait(10)
        store.put(entry("example.net"), NOW)
        assert store.get("example.net") is not None


@pytest.fixture
def database(path):
    options = {"application": 1, "version": 1, "migrate": lambda connection, version: None}
    database = Database(path, threads=1, timeout=0.1, **options)
    yield database
    database.close()


def test_waiting_for_a_connection_ends(database):
    with (
        database.connection(),
        pytest.raises(StoreError, match="all 1 connections were in use"),
        database.connection(),
    ):
        pass
    with database.connection() as connection:
        connection.execute("SELECT 1")


@pytest.mark.requirement("LIB-10")
def test_a_failed_transaction_leaves_nothing(database):
    with database.transaction() as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="no such table: u"), database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO u VALUES (1)")
    with database.connection() as connection:
        assert not connection.in_transaction
        assert connection.execute("SELECT * FROM t").fetchall() == []


def test_a_closed_store_says_so(path):
    with opened(path) as store:
        pass
    with pytest.raises(StoreError, match=f"^{path}: was closed"):
        store.get("example.com")


# A full disk


def put_until_it_fails(store):
    """Return the domains that were acknowledged, and the error."""
    filler = tuple(f"note{number}: {'x' * 3000}" for number in range(10))
    policy = parse_policy("\n".join(TEXT + filler).encode())
    done = []
    with pytest.raises(StoreError) as caught:
        for number in range(200):
            store.put(entry(f"d{number}.example", policy=policy), NOW)
            done.append(f"d{number}.example")
    return done, str(caught.value)


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path):
        path, filler = tmp_path / "cache.db", tmp_path / "filler"
        filler.write_bytes(bytes(200_000))
        with opened(path) as store:
            done, error = put_until_it_fails(store)
            assert error.startswith(f"{path}: no space is left on its disk")
            assert done
            assert all(store.get(domain) for domain in done)
            with pytest.raises(StoreError, match="no space"):
                store.touch(replace(store.get(done[0]), failure="x" * 60_000))
            filler.unlink()
            store.put(entry(), NOW)
            assert store.get("example.com") == entry()
        assert_sound(path)


def test_a_full_disk_at_the_start(tmp_path):
    with small_disk(tmp_path):
        with (tmp_path / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(StoreError, match=f"^{tmp_path}/cache.db: (no space|reading or writ)"):
            SqliteStore(tmp_path / "cache.db", threads=1)


def test_a_file_that_may_not_grow(path):
    with opened(path) as store:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
        try:
            done, error = put_until_it_fails(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert error.startswith(f"{path}: ")
        assert done
        assert all(store.get(domain) for domain in done)
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()
    assert_sound(path)
