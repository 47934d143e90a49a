"""The PostgreSQL store on a real server: away and back, slow, failing over, full, shared."""

import contextlib
import itertools
import json
import logging
import signal
import threading
import time
from dataclasses import replace

import pytest

from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import Mode
from tests.cache.test_store import DAY, NOW, POLICY, StoreContract, entry

pytest.importorskip("psycopg")

import psycopg

from stsresolver.config.postgres_options import postgres_settings
from stsresolver.stores.postgres import PostgresStore
from tests.support.postgres_server import PASSWORD, USER, PostgresServer
from tests.support.redis_server import eventually

_numbers = itertools.count()


def opened(options):
    return PostgresStore(postgres_settings(options)[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with contextlib.closing(PostgresServer(tmp_path_factory.mktemp("postgres") / "one")) as server:
        yield server


@pytest.fixture
def schema(server):
    """A schema of the test's own, so that one server does for all."""
    name = f"test{next(_numbers)}"
    server.admin(f"CREATE SCHEMA {name}")
    return name


@pytest.fixture
def options(server, schema):
    return {**server.options, "server_settings": {"search_path": schema}}


@pytest.fixture
def store(options):
    with contextlib.closing(opened(options)) as store:
        yield store


@pytest.fixture
def sql(server, schema):
    """Return what executes statements in the test's schema."""

    def execute(*statements):
        return server.admin(f"SET search_path = {schema}", *statements)

    return execute


class TestPostgresStore(StoreContract):
    """The contract over TCP."""


class TestPostgresStoreByUnixSocket(StoreContract):
    """As behind PgBouncer, without prepared statements."""

    @pytest.fixture
    def store(self, server, schema):
        options = {
            "host": str(server.directory),
            "port": server.port,
            "user": USER,
            "password": PASSWORD,
            "database": "sts",
            "statement_cache_size": 0,
            "server_settings": {"search_path": schema},
        }
        with contextlib.closing(opened(options)) as store:
            yield store


class TestTables:
    def test_stores_that_open_together_make_them_once(self, options, sql):
        barrier, errors = threading.Barrier(6), []

        def work():
            with contextlib.closing(opened(options)) as one:
                barrier.wait(30)
                try:
                    one.put(entry(), NOW)
                except StoreError as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        assert sql("SELECT version FROM stsresolver_schema") == [(1,)]

    def test_of_a_later_version(self, store, options, sql):
        store.put(entry(), NOW)
        sql("UPDATE stsresolver_schema SET version = 99")
        with (
            contextlib.closing(opened(options)) as other,
            pytest.raises(StoreError, match="of a later version of stsresolver; update"),
        ):
            other.get("example.com")

    def test_a_damaged_row_is_dropped(self, store, sql, caplog):
        caplog.set_level(logging.WARNING, "stsresolver")
        for name in ("a", "b", "c"):
            store.put(entry(f"{name}.example", due=NOW), NOW)
        sql("UPDATE stsresolver_policy SET entry = 'nonsense' WHERE domain = 'a.example'")
        sql("UPDATE stsresolver_policy SET entry = '{}' WHERE domain = 'b.example'")
        assert store.get("a.example") is None
        assert [one.domain for one in store.due(NOW, 1)] == ["c.example"]
        assert sql("SELECT count(*) FROM stsresolver_policy") == [(1,)]
        assert len(caplog.messages) == 2
        assert "a damaged entry was dropped: domain 'a.example': " in caplog.text

    def test_the_lease_is_of_one_until_it_ends_by_the_clock_of_the_server(self, store, sql):
        assert store.lease("a", 60.0, NOW)
        assert not store.lease("b", 60.0, NOW + 10 * DAY)
        sql("UPDATE stsresolver_lease SET until = clock_timestamp()")
        assert store.lease("b", 60.0, NOW)
        assert not store.lease("a", 60.0, NOW)
        assert store.lease("b", 0.0, NOW), "given back"
        assert store.lease("a", 60.0, NOW)
        sql("UPDATE stsresolver_lease SET until = clock_timestamp() + interval '3 days'")
        assert store.lease("b", 60.0, NOW), "taken by a clock that was ahead"

    def test_a_user_without_the_right_to_make_tables(self, server, schema):
        server.admin("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'x'")
        options = {
            **server.options,
            "user": "reader",
            "password": "x",
            "server_settings": {"search_path": schema},
        }
        server.admin(f"GRANT USAGE ON SCHEMA {schema} TO reader")
        with (
            contextlib.closing(opened(options)) as store,
            pytest.raises(StoreError, match="its user lacks a right; let it create tables"),
        ):
            store.get("example.com")


OLD_TABLES = (
    "CREATE TABLE sts_policy_cache"
    " (id serial PRIMARY KEY, domain text, ts integer, pol_id text, pol_body {body})",
    "CREATE TABLE proactive_fetch_ts (id integer, last_fetch_ts integer)",
)
BODY = {"version": "STSv1", "mode": "enforce", "mx": ["a.example"], "max_age": 86400}


class TestTheOlderDaemon:
    @pytest.mark.parametrize("body", ["jsonb", "text"])
    def test_its_policies_are_taken_over(self, store, sql, caplog, body):
        caplog.set_level(logging.INFO, "stsresolver")
        ts = int(time.time()) - 3600
        text = json.dumps(BODY)
        sql(*(line.format(body=body) for line in OLD_TABLES))
        for domain, when, what in (
            ("good.example", str(ts), text),
            ("ended.example", "1000", text),
            ("damaged.example", str(ts), "{}"),
            ("none.example", "NULL", text),
        ):
            sql(
                "INSERT INTO sts_policy_cache (domain, ts, pol_id, pol_body)"
                f" VALUES ('{domain}', {when}, '7', '{what}')"
            )
        before = sql("SELECT * FROM sts_policy_cache ORDER BY id")
        good = store.get("good.example")
        assert (good.id, good.policy.mode, good.policy.mx) == ("7", Mode.ENFORCE, ("a.example",))
        assert good.fetched == ts
        assert store.get("ended.example").is_over
        assert store.get("damaged.example") is None
        assert caplog.messages == [
            "took over 1 policies from the older daemon's tables; 1 have expired, 2 are damaged"
        ]
        assert sql("SELECT * FROM sts_policy_cache ORDER BY id") == before

    def test_tables_that_it_may_not_read_lose_nothing(self, server, schema, sql):
        sql(*(line.format(body="jsonb") for line in OLD_TABLES))
        server.admin("DROP ROLE IF EXISTS writer", "CREATE ROLE writer LOGIN PASSWORD 'x'")
        server.admin(f"GRANT ALL ON SCHEMA {schema} TO writer")
        options = {
            **server.options,
            "user": "writer",
            "password": "x",
            "server_settings": {"search_path": schema},
        }
        with contextlib.closing(opened(options)) as store:
            with pytest.raises(StoreError, match="SELECT on those of the older daemon"):
                store.put(entry(), NOW)
            sql("GRANT SELECT ON sts_policy_cache TO writer")
            store.put(entry(), NOW)
            assert store.get("example.com") == entry()


class TestFailures:
    """What goes wrong between us and the server, and what is said of it."""

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"password": "wrong"}, "password authentication failed"),
            ({"database": "none"}, 'database "none" does not exist'),
            ({"host": "127.0.0.1", "port": 1}, "Connection refused"),
            ({"sslmode": "require"}, "server does not support SSL"),
            ({"host": "none.invalid"}, "none.invalid"),
        ],
    )
    def test_no_connection(self, options, changes, sentence):
        begin = time.monotonic()
        with contextlib.closing(opened({**options, **changes})) as store:
            with pytest.raises(StoreError) as caught:
                store.get("example.com")
            assert sentence in str(caught.value)
            assert str(caught.value).startswith("PostgreSQL at ")
            assert "\n" not in str(caught.value)
            assert PASSWORD not in str(caught.value)
            assert "wrong" not in str(caught.value)
        assert time.monotonic() - begin < 4, "at once, not after the time limit"

    def test_away_at_the_start_and_back(self, tmp_path):
        with contextlib.closing(PostgresServer(tmp_path / "server")) as server:
            server.stop()
            with contextlib.closing(opened(server.options)) as store:
                for _ in range(3):
                    with pytest.raises(StoreError, match="Connection refused"):
                        store.put(entry(), NOW)
                server.start()
                store.put(entry(), NOW)
                server.stop()
                with pytest.raises(StoreError):
                    store.get("example.com")
                server.start()
                assert store.get("example.com") == entry()

    def test_connections_that_were_closed_are_not_noticed(self, server, store):
        store.put(entry(), NOW)
        barrier = threading.Barrier(4)

        def together():
            barrier.wait(30)
            for _ in range(20):
                assert store.get("example.com") == entry()

        threads = [threading.Thread(target=together) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for _ in range(3):
            closed = server.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'stsresolver'"
            )
            assert closed
            assert store.get("example.com") == entry()

    def test_a_server_that_hangs(self, server, options):
        with contextlib.closing(opened({**options, "command_timeout": 0.3})) as store:
            store.put(entry(), NOW)
            server.signal(signal.SIGSTOP)
            try:
                with pytest.raises(StoreError, match=r"no answer within 0\.3 s"):
                    store.get("example.com")
                with pytest.raises(StoreError, match=r"within 0\.3 s"):
                    store.get("example.com")
            finally:
                server.signal(signal.SIGCONT)
            eventually(lambda: _reads(store), "an answer")

    def test_a_lock_that_another_client_holds(self, server, store, options, sql, schema):
        store.put(entry(), NOW)
        with (
            contextlib.closing(opened({**options, "command_timeout": 0.3})) as other,
            contextlib.closing(server.client()) as client,
            client.transaction(),
        ):
            client.execute(f"LOCK TABLE {schema}.stsresolver_policy")
            with pytest.raises(StoreError, match="no answer within"):
                other.get("example.com")

    def test_no_connection_is_free(self, server, options):
        with contextlib.closing(
            opened({**options, "max_connections": 1, "command_timeout": 0.5})
        ) as store:
            store.put(entry(), NOW)
            taken = store._pool._pool.getconn()
            try:
                with pytest.raises(StoreError, match="no connection is free, of 1"):
                    store.get("example.com")
            finally:
                store._pool._pool.putconn(taken)
            assert store.get("example.com") == entry()

    def test_a_server_that_takes_no_more_clients(self, server, options):
        with contextlib.ExitStack() as stack:
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                for _ in range(100):
                    stack.enter_context(contextlib.closing(server.client()))
            with (
                contextlib.closing(opened(options)) as store,
                pytest.raises(StoreError, match="too many clients"),
            ):
                store.get("example.com")

    def test_closed(self, options):
        store = opened(options)
        store.put(entry(), NOW)
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.get("example.com")

    def test_a_failover(self, tmp_path):
        """Two hosts: the first is the primary, then a standby takes its place."""
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(contextlib.closing(PostgresServer(tmp_path / "first")))
            second = stack.enter_context(
                contextlib.closing(PostgresServer(tmp_path / "second", copy_of=first))
            )
            options = {
                "dsn": f"postgres://{USER}:{PASSWORD}@127.0.0.1:{second.port}"
                f",127.0.0.1:{first.port}/sts"
            }
            store = stack.enter_context(contextlib.closing(opened(options)))
            store.put(entry(), NOW)
            eventually(
                lambda: (
                    second.admin("SELECT to_regclass('stsresolver_policy')") != [(None,)]
                    and second.admin("SELECT 1 FROM stsresolver_policy")
                ),
                "the standby has it",
            )
            first.stop()
            with pytest.raises(StoreError):
                store.put(entry("other.example"), NOW)
            second.promote()
            eventually(lambda: _puts(store, "other.example"), "the new primary")
            assert store.get("example.com") == entry()
            assert second.admin("SELECT count(*) FROM stsresolver_policy") == [(2,)]

    def test_a_primary_that_becomes_read_only(self, server, store, options, sql):
        """Its connections stay open, and are of no use."""
        store.put(entry(), NOW)
        server.admin(f"ALTER ROLE {USER} SET default_transaction_read_only = on")
        try:
            with contextlib.closing(opened(options)) as other:
                assert other.get("example.com") == entry()
                with pytest.raises(StoreError, match="the server can only be read; name the one"):
                    other.put(entry("other.example"), NOW)
                # This one is by a connection of its own, in which the setting can be left.
                with contextlib.closing(server.client()) as client:
                    client.execute("SET default_transaction_read_only = off")
                    client.execute(f"ALTER ROLE {USER} RESET default_transaction_read_only")
                other.put(entry("other.example"), NOW)
        finally:
            with contextlib.closing(server.client()) as client:
                client.execute("SET default_transaction_read_only = off")
                client.execute(f"ALTER ROLE {USER} RESET default_transaction_read_only")


def _reads(store):
    try:
        return store.get("example.com") == entry()
    except StoreError:
        return False


def _puts(store, domain):
    try:
        store.put(entry(domain), NOW)
    except StoreError:
        return False
    return True


def test_an_entry_with_an_odd_failure(store):
    odd = entry(failure="caf\u00e9 \x00 \u2028")
    store.put(odd, NOW)
    found = store.get("example.com")
    assert replace(found, failure="") == replace(odd, failure="")
    assert found.policy == POLICY
