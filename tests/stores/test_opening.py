"""Which cache there is for which settings, and what is said of one that cannot be opened."""

import contextlib
import logging
import os
import re
import sys

import pytest

from stsresolver.cache.layered import LayeredStore
from stsresolver.cache.memory import MemoryStore
from stsresolver.cache.store import StoreError
from stsresolver.config.settings import InternalCache, SqliteCache
from stsresolver.stores.opening import open_cache
from stsresolver.stores.postgres import PostgresStore
from stsresolver.stores.redis import RedisStore
from stsresolver.stores.sqlite import SqliteStore
from tests.cache.test_store import NOW, entry
from tests.support.redis_server import free_port
from tests.support.server_caches import postgres_cache, redis_cache
from tests.support.sqlite_files import execute, many_entries

GRACE = 60.0


SENTINELS = {"sentinel_master_name": "ours", "sentinels": [["127.0.0.1", 26379]]}


def opened(settings):
    return contextlib.closing(open_cache(settings, GRACE))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def test_internal_is_memory_alone():
    with opened(InternalCache()) as cache:
        assert isinstance(cache, MemoryStore)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (lambda path: SqliteCache(str(path)), SqliteStore),
        (lambda path: redis_cache({"unix_socket_path": str(path)}), RedisStore),
        (lambda _: redis_cache(SENTINELS, by_sentinels=True), RedisStore),
        (lambda path: postgres_cache({"host": str(path)}), PostgresStore),
    ],
    ids=["sqlite", "redis", "redis_sentinel", "postgres"],
)
def test_in_front_of_a_store_there_is_memory(path, settings, kind):
    with opened(settings(path)) as cache:
        assert isinstance(cache, LayeredStore)
        assert isinstance(cache._store, kind)
        assert cache.grace == GRACE


@pytest.mark.parametrize(
    "settings",
    [
        lambda path: InternalCache(2),
        lambda path: SqliteCache(str(path), cache_size=2),
        lambda path: redis_cache({"unix_socket_path": str(path)}, cache_size=2),
        lambda path: postgres_cache({"host": str(path)}, cache_size=2),
    ],
    ids=["internal", "sqlite", "redis", "postgres"],
)
def test_cache_size_is_that_of_the_memory(path, settings):
    domains = [f"d{number}.example" for number in range(3)]
    with opened(settings(path)) as cache:
        for domain in domains:
            cache.put(entry(domain), NOW)
        assert [cache.peek(domain) is not None for domain in domains] == [False, True, True]


def test_what_sqlite_was_told_is_there_after_opening_it_again(path):
    settings = SqliteCache(str(path), threads=1)
    with opened(settings) as cache:
        cache.put(entry(), NOW)
    with opened(settings) as cache:
        assert cache.peek("example.com") is None
        assert cache.get("example.com") == entry()


@pytest.mark.parametrize("server", [redis_cache, postgres_cache])
def test_a_server_that_is_away_is_no_reason_not_to_start(caplog, server):
    caplog.set_level(logging.WARNING, "stsresolver")
    with opened(server({"host": "127.0.0.1", "port": free_port()})) as cache:
        cache.put(entry(), NOW)
        assert cache.get("example.com") == entry()
    ours = [record for record in caplog.records if record.name.startswith("stsresolver")]
    [warning] = [record.getMessage() for record in ours]
    assert "Connection refused" in warning


def directory(path):
    path.mkdir()


def no_database(path):
    path.write_bytes(b"precious text, and much of it\n" * 100)


def damaged(path):
    many_entries(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def foreign(path):
    execute(path, "CREATE TABLE accounts (name)")


def later_version(path):
    many_entries(path)
    execute(path, "PRAGMA user_version=99")


UNUSABLE = [
    (directory, "cannot be opened or made", "a directory is no file"),
    (no_database, "is no sqlite database", "a text file"),
    (damaged, "is damaged", "the second half is missing"),
    (foreign, "belongs to another program (table 'accounts')", "somebody's accounts"),
    (later_version, "was made by a later version of this program", "after a downgrade"),
]


@pytest.mark.parametrize(("make", "says", "why"), UNUSABLE)
def test_sqlite_file_that_cannot_be_used(path, make, says, why):
    make(path)
    before = path.read_bytes() if path.is_file() else os.listdir(path)
    with pytest.raises(StoreError, match=re.escape(f"{path}: {says}")):
        open_cache(SqliteCache(str(path)), GRACE)
    assert (path.read_bytes() if path.is_file() else os.listdir(path)) == before, why


def test_sqlite_file_in_a_directory_that_is_not_there(tmp_path):
    path = tmp_path / "missing" / "cache.db"
    with pytest.raises(StoreError, match=re.escape(f"{path}: cannot be opened or made")):
        open_cache(SqliteCache(str(path)), GRACE)


def without_redis_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "stsresolver.stores.redis")


@pytest.mark.parametrize("settings", [redis_cache({}), redis_cache(SENTINELS, by_sentinels=True)])
def test_without_redis_py_the_command_that_installs_it_is_named(monkeypatch, settings):
    without_redis_py(monkeypatch)
    with pytest.raises(StoreError, match=r"^cache: .*pip install 'stsresolver\[redis\]'"):
        open_cache(settings, GRACE)


def test_without_psycopg_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in ("postgres", "postgres_pool"):
        monkeypatch.delitem(sys.modules, f"stsresolver.stores.{name}")
    with pytest.raises(StoreError, match=r"^cache: .*pip install 'stsresolver\[postgres\]'"):
        open_cache(postgres_cache({}), GRACE)


def test_without_redis_py_the_others_are_opened(monkeypatch, path):
    without_redis_py(monkeypatch)
    for settings in (InternalCache(), SqliteCache(str(path))):
        with opened(settings) as cache:
            cache.put(entry(), NOW)
            assert cache.get("example.com") == entry()
