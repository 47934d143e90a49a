"""The PostgreSQL store on a real server: away and back, slow, failing over, full, shared."""

import contextlib
import itertools
import json
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import Mode
from tests.cache.test_store import DAY, NOW, POLICY, StoreContract, entry

pytest.importorskip("psycopg")

import psycopg

from stsresolver.config.postgres_options import postgres_settings
from stsresolver.stores import postgres
from stsresolver.stores.postgres import PostgresStore
from tests.support.postgres_server import PASSWORD, USER, PgBouncer, PostgresServer
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

    def test_a_damaged_row_of_a_server_that_can_only_be_read_stands_in_nobodys_way(
        self, store, options, sql
    ):
        for name in ("a", "b"):
            store.put(entry(f"{name}.example", due=NOW), NOW)
        sql("UPDATE stsresolver_policy SET entry = 'nonsense' WHERE domain = 'a.example'")
        options["server_settings"]["default_transaction_read_only"] = "on"
        with contextlib.closing(opened(options)) as reader:
            assert reader.get("a.example") is None
            assert [one.domain for some in reader.scan(10) for one in some] == ["b.example"]
            assert [one.domain for one in reader.due(NOW, 2)] == ["b.example"]
            assert reader.due(NOW, 1) == []

    def test_who_only_reads_makes_none(self, options, sql):
        tables = "SELECT to_regclass('stsresolver_policy') IS NOT NULL"
        with contextlib.closing(PostgresStore(postgres_settings(options)[0], to_read=True)) as one:
            assert one.get("example.com") is None
            assert list(one.scan(10)) == []
            assert sql(tables) == [(False,)]
        with contextlib.closing(opened(options)) as store:
            store.put(entry(), NOW)
        with contextlib.closing(PostgresStore(postgres_settings(options)[0], to_read=True)) as one:
            assert one.get("example.com") == entry()
            assert list(one.scan(10)) == [[entry()]]

    def test_they_are_made_again(self, store, server, schema):
        store.put(entry(), NOW)
        server.admin(f"DROP SCHEMA {schema} CASCADE", f"CREATE SCHEMA {schema}")
        assert store.get("example.com") is None
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()

    def test_while_one_thread_fills_them_the_others_wait_no_longer_than_for_an_answer(
        self, options, monkeypatch
    ):
        with contextlib.closing(opened({**options, "command_timeout": 0.3})) as store:
            begun, over = threading.Event(), threading.Event()
            prepare = store._pool._prepare

            def slow(connection):
                begun.set()
                assert over.wait(30)
                prepare(connection)

            monkeypatch.setattr(store._pool, "_prepare", slow)
            thread = threading.Thread(target=store.put, args=(entry(), NOW))
            thread.start()
            try:
                assert begun.wait(30)
                with pytest.raises(StoreError, match="tables are still being made and filled"):
                    store.get("example.com")
            finally:
                over.set()
                thread.join(30)
            assert store.get("example.com") == entry()

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

    def test_many_policies_are_taken_over(self, store, sql, caplog):
        caplog.set_level(logging.INFO, "stsresolver")
        number = 2 * postgres._SOME_OLDER + 1
        sql(
            *(line.format(body="jsonb") for line in OLD_TABLES),
            "INSERT INTO sts_policy_cache (domain, ts, pol_id, pol_body)"
            f" SELECT one || '.example', {int(time.time())}, '7', '{json.dumps(BODY)}'"
            f" FROM generate_series(1, {number}) AS one",
        )
        assert store.get(f"{number}.example").id == "7"
        assert f"took over {number} policies" in caplog.text
        assert sql("SELECT count(*) FROM stsresolver_policy") == [(number,)]

    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_a_row_that_is_no_text_stops_no_other(self, server, caplog, encoding):
        caplog.set_level(logging.INFO, "stsresolver")
        name = f"sts_{encoding.lower()}"
        server.admin(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
        with psycopg.connect(server.where(dbname=name), autocommit=True) as client:
            for line in OLD_TABLES:
                client.execute(line.format(body="text"))
            for domain in ("good", "b\xfc", "\xff\xfe"):
                client.execute(
                    b"INSERT INTO sts_policy_cache (domain, ts, pol_id, pol_body)"
                    + f" VALUES ('{domain}.example', {int(time.time())}, '7', ".encode("latin-1")
                    + f"'{json.dumps(BODY)}')".encode()
                )
        options = {"dsn": server.options["dsn"].replace("/sts", f"/{name}")}
        with contextlib.closing(opened(options)) as store:
            assert store.get("good.example").id == "7"
            store.put(entry(failure="caf\u00e9"), NOW)
            assert store.get("example.com").failure == "caf\u00e9"
        assert "from the older daemon's tables" in caplog.text

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

    def test_a_connection_that_the_server_closed_for_being_idle(self, server, options):
        options["server_settings"]["idle_session_timeout"] = "100ms"
        options["application_name"] = "idle"
        idle = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'idle'"
        with contextlib.closing(opened(options)) as store:
            store.put(entry(), NOW)
            eventually(lambda: not server.admin(idle), "the end of the connection")
            assert store.get("example.com") == entry()

    def test_two_writers_of_one_row_where_the_server_serializes(
        self, server, store, options, schema
    ):
        store.put(entry(), NOW)
        options["server_settings"]["default_transaction_isolation"] = "serializable"
        options["application_name"] = "waiting"
        waits = (
            "SELECT 1 FROM pg_stat_activity"
            " WHERE application_name = 'waiting' AND wait_event_type = 'Lock'"
        )
        newer, newest = entry(fetched=NOW + 1), entry(fetched=NOW + 2)
        with (
            contextlib.closing(opened(options)) as other,
            contextlib.closing(server.client()) as client,
            ThreadPoolExecutor(1) as threads,
        ):
            assert other.get("example.com") == entry()
            with client.transaction():
                client.execute(f"SET LOCAL search_path = {schema}")
                client.execute("UPDATE stsresolver_policy SET fetched = %s", (newer.fetched,))
                done = threads.submit(other.put, newest, NOW)
                eventually(lambda: server.admin(waits), "the second writer waits")
            done.result(30)
        assert store.get("example.com") == newest

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


@pytest.fixture(scope="class")
def secure(server, authority):
    """The server, with TLS meanwhile."""
    file = server.directory / "server.pem"
    file.write_bytes(authority.server_file("localhost").read_bytes())
    file.chmod(0o600)
    owner = server.data.stat()
    os.chown(file, owner.st_uid, owner.st_gid)
    server.admin(
        f"ALTER SYSTEM SET ssl_cert_file = '{file}'",
        f"ALTER SYSTEM SET ssl_key_file = '{file}'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    )
    eventually(lambda: server.admin("SHOW ssl") == [("on",)], "TLS")
    yield server
    server.admin("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    eventually(lambda: server.admin("SHOW ssl") == [("off",)], "no TLS")


class TestTls:
    """The server shows a certificate of an authority of its own."""

    @pytest.fixture
    def options(self, secure, schema, monkeypatch):
        # What this host trusts is another matter.
        monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        return {
            **{"host": "localhost", "port": secure.port, "database": "sts"},
            **{"user": USER, "password": PASSWORD, "server_settings": {"search_path": schema}},
        }

    def test_its_authority_is_named(self, options, authority):
        assert _encrypted({**options, "ssl": True, "sslrootcert": str(authority.bundle)})

    def test_its_authority_is_the_system_s(self, options, authority, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        assert _encrypted({**options, "ssl": True})

    def test_its_authority_is_named_by_the_environment(self, options, authority, monkeypatch):
        monkeypatch.setenv("PGSSLROOTCERT", str(authority.bundle))
        assert _encrypted({**options, "sslmode": "verify-full"})

    @pytest.mark.parametrize("by_option", [True, False])
    def test_its_authority_is_named_by_a_service(
        self, options, authority, monkeypatch, tmp_path, by_option
    ):
        file = tmp_path / "pg_service.conf"
        file.write_text(f"[mail]\nsslrootcert={authority.bundle}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        if not by_option:
            monkeypatch.setenv("PGSERVICE", "mail")
        service = {"service": "mail"} if by_option else {}
        assert _encrypted({**options, **service, "sslmode": "verify-full"})

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({}, "certificate verify failed"),
            ({"host": "127.0.0.1", "sslrootcert": "ours"}, "does not match host name"),
        ],
        ids=["another authority", "another name"],
    )
    def test_not_the_right_server(self, options, authority, changes, sentence):
        if "sslrootcert" in changes:
            changes = {**changes, "sslrootcert": str(authority.bundle)}
        with pytest.raises(StoreError, match=sentence):
            _encrypted({**options, "ssl": True, **changes})


def _encrypted(options):
    """Write and read by these options; return whether TLS was used."""
    with contextlib.closing(opened(options)) as store:
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return store._rows(query, ()) == [(True,)]


@pytest.fixture(scope="class")
def bouncer(server, tmp_path_factory):
    """A PgBouncer that pools transactions, in front of the server."""
    with contextlib.closing(PgBouncer(tmp_path_factory.mktemp("bouncer"), server)) as bouncer:
        yield bouncer


@pytest.fixture(scope="class")
def bounced(server):
    """A database of the class's own: PgBouncer lets no client choose a schema."""
    server.admin(f"CREATE DATABASE bounced OWNER {USER}")
    return "bounced"


@pytest.fixture
def database(server, bounced):
    """That database, without the tables of the test before."""
    yield bounced
    with contextlib.closing(server.client(bounced)) as client:
        tables = client.execute(
            "SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()[0]
        if tables:
            client.execute(f"DROP TABLE {tables}")


class TestPostgresStoreByPgBouncer(StoreContract):
    """Transactions of several clients in one connection."""

    @pytest.fixture
    def options(self, bouncer, database):
        return {
            "dsn": f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{bouncer.port}/{database}",
            "prepared_statements": False,
        }

    @pytest.fixture
    def store(self, options):
        with contextlib.closing(opened(options)) as store:
            yield store

    def test_connections_behind_it_that_were_closed_are_not_noticed(self, store, server, database):
        store.put(entry(), NOW)
        for _ in range(3):
            assert server.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{database}'"
            )
            assert store.get("example.com") == entry()

    def test_with_prepared_statements(self, options):
        """Those of one client are in the connection of another."""
        del options["prepared_statements"]
        with contextlib.closing(opened(options)) as store, ThreadPoolExecutor(4) as threads:
            store.get("example.com")

            def together(_):
                for _ in range(50):
                    store.get("example.com")

            with pytest.raises(StoreError, match="pools transactions; set prepared_statements"):
                list(threads.map(together, range(4)))


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
