"""Policies in PostgreSQL, shared by all daemons that use the same database and schema.

Tables: `stsresolver_policy`, an entry as JSON a row, with its times in columns of their own, which
are there for their indexes; `stsresolver_lease`; `stsresolver_revoked`; and `stsresolver_schema`,
the version of all these. They are made when they are first needed, in the schema that the search
path of the user begins with. The tables of the older daemon, if they are there, are taken over then
(see `older_daemon`).

The lease ends by the clock of the server, so that those of the hosts do not matter. A row that does
not pass the grammar any more is deleted with one warning, and taken for absent.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..cache.entry import CLOCK_SKEW, Entry
from ..cache.store import StoreError
from ..config.postgres_options import PostgresSettings
from ..mta_sts.policy import MAX_MAX_AGE
from . import older_daemon
from .entry_json import from_json, to_json
from .postgres_pool import Connection, Pool

log = logging.getLogger(__name__)

# Each brings the tables from the version that is its index to the next; none is ever changed.
# Domains are ASCII, and are compared byte by byte.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE stsresolver_policy (
            domain text COLLATE "C" PRIMARY KEY,
            entry text NOT NULL,
            fetched float8 NOT NULL,
            due float8 NOT NULL,
            expiry float8 NOT NULL
        )
        """,
        "CREATE INDEX stsresolver_policy_due ON stsresolver_policy (due)",
        "CREATE INDEX stsresolver_policy_expiry ON stsresolver_policy (expiry)",
        # For what was fetched in the future.
        "CREATE INDEX stsresolver_policy_fetched ON stsresolver_policy (fetched)",
        """
        CREATE TABLE stsresolver_lease (
            one bool PRIMARY KEY CHECK (one),
            holder text NOT NULL,
            until timestamptz NOT NULL
        )
        """,
        """
        CREATE TABLE stsresolver_revoked (
            domain text COLLATE "C" PRIMARY KEY,
            until float8 NOT NULL
        )
        """,
        "CREATE INDEX stsresolver_revoked_until ON stsresolver_revoked (until)",
    ),
)
# Held while the tables are made: the letters STSR.
_LOCK = "SELECT pg_advisory_xact_lock(1398035282)"
_HAS_SCHEMA = "SELECT to_regclass('stsresolver_schema') IS NOT NULL"
_MAKE_SCHEMA = "CREATE TABLE IF NOT EXISTS stsresolver_schema (version int NOT NULL)"
_VERSION = "SELECT max(version) FROM stsresolver_schema"
_SET_VERSION = "INSERT INTO stsresolver_schema (version) VALUES (%s)"
_HAS_OLDER = "SELECT to_regclass('sts_policy_cache') IS NOT NULL"
# As bytes: a database of SQL_ASCII may hold what is no text, and this server refuses to send it.
_OLDER = """
    SELECT ts::text, convert_to(domain::text, encoding), convert_to(pol_id::text, encoding),
        convert_to(pol_body::text, encoding)
    FROM sts_policy_cache, (SELECT CASE getdatabaseencoding()
        WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END AS encoding) AS of
"""

_GET = "SELECT domain, entry FROM stsresolver_policy WHERE domain = %s"
# The condition is `Entry.yields_to`.
_PUT = """
    INSERT INTO stsresolver_policy AS known (domain, entry, fetched, due, expiry)
    VALUES (%(domain)s, %(entry)s, %(fetched)s, %(due)s, %(expiry)s)
    ON CONFLICT (domain) DO UPDATE SET entry = excluded.entry, fetched = excluded.fetched,
        due = excluded.due, expiry = excluded.expiry
    WHERE excluded.fetched >= known.fetched OR known.fetched > %(ahead)s
"""
_TOUCH = """
    UPDATE stsresolver_policy SET entry = %(entry)s, due = %(due)s
    WHERE domain = %(domain)s AND fetched = %(fetched)s
"""
_AFTER = "SELECT domain, entry FROM stsresolver_policy WHERE domain > %s ORDER BY domain LIMIT %s"
# Each half walks along an index.
_DUE = """
    SELECT domain, entry FROM (
        (SELECT domain, entry, due FROM stsresolver_policy
            WHERE due <= %(now)s ORDER BY due LIMIT %(limit)s)
        UNION ALL
        (SELECT domain, entry, due FROM stsresolver_policy
            WHERE fetched > %(ahead)s AND due > %(now)s ORDER BY fetched LIMIT %(limit)s)
    ) AS found ORDER BY due LIMIT %(limit)s
"""
_MAKE_DUE = """
    UPDATE stsresolver_policy SET due = %(now)s WHERE domain IN
        (SELECT domain FROM stsresolver_policy WHERE due > %(now)s LIMIT %(limit)s)
"""
_PURGE = """
    DELETE FROM stsresolver_policy WHERE domain IN
        (SELECT domain FROM stsresolver_policy WHERE expiry <= %s ORDER BY expiry LIMIT %s)
        AND expiry <= %s
"""
_DROP = "DELETE FROM stsresolver_policy WHERE domain = %s AND entry = %s"
_REVOKE = "DELETE FROM stsresolver_policy WHERE domain = %s AND fetched <= %s"
_NOTE_REVOKED = """
    INSERT INTO stsresolver_revoked AS known (domain, until) VALUES (%s, %s)
    ON CONFLICT (domain) DO UPDATE SET until = greatest(known.until, excluded.until)
"""
_PURGE_REVOKED = "DELETE FROM stsresolver_revoked WHERE until < %s"
_REVOKED = "SELECT domain, until FROM stsresolver_revoked WHERE until >= %s ORDER BY until"
# One that ends a day later than ours would was taken by a clock that was wrong.
_LEASE = """
    INSERT INTO stsresolver_lease AS known (one, holder, until)
    VALUES (true, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s))
    ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE known.holder = excluded.holder OR known.until <= clock_timestamp()
        OR known.until > excluded.until + interval '1 day'
"""
# Rows changed in one transaction.
_SOME = 10_000
# Entries of the older daemon that are sent at once.
_SOME_OLDER = 500


class PostgresStore:
    """A store in PostgreSQL 11 or later. See `Store` for what the methods promise.

    Nothing is connected before it is needed, so a server that is away can be used later. An
    operation is tried again where its connection was closed. Make a store after the last
    fork.

    `to_read`: make no tables. Without them there is nothing to read.
    """

    def __init__(self, settings: PostgresSettings, *, to_read: bool = False) -> None:
        self._pool = Pool(settings, self._find if to_read else self._migrate)
        self._is_absent = False

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`."""
        found = self._read(_GET, (domain,))
        return found[0] if found else None

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry`, unless the one that is there was fetched later."""
        self._write(_PUT, _values(entry, now))

    def touch(self, entry: Entry) -> None:
        """Update the times, id and failure of an entry."""
        self._write(_TOUCH, _values(entry, 0.0))

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield all entries, by their domains."""
        last = ""
        while rows := self._rows(_AFTER, (last, some)):
            yield self._sound(rows)
            last = rows[-1][0]

    def revoke(self, domain: str, until: float) -> None:
        """Remove an entry, and note that."""

        def operation(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(_REVOKE, (domain, until))
                connection.execute(_NOTE_REVOKED, (domain, until))
                # Nobody holds a policy for longer.
                connection.execute(_PURGE_REVOKED, (until - MAX_MAX_AGE,))

        self._pool.run(operation)

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return what was revoked."""
        return [(domain, until) for domain, until in self._rows(_REVOKED, (since,))]

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return entries that are due."""
        values = {"now": now, "ahead": now + CLOCK_SKEW, "limit": limit}
        before: list[Any] = []
        while True:
            rows = self._rows(_DUE, values)
            found = self._sound(rows)
            # The same ones again could not be dropped.
            if found or rows == before or not rows:
                return found
            before = rows

    def make_due(self, now: float) -> None:
        """Let every entry be due."""
        # Some at a time, so that no other writer waits for long.
        while self._write(_MAKE_DUE, {"now": now, "limit": _SOME}) >= _SOME:
            pass

    def purge(self, now: float, limit: int) -> int:
        """Remove entries past their end."""
        return self._write(_PURGE, (now, limit, now))

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take or prolong the lease; `seconds` are counted by the server's clock."""
        return self._write(_LEASE, {"holder": holder, "seconds": seconds}) == 1

    def look(self) -> None:
        """Raise `StoreError` if the database cannot be used. What is tried is taken back."""
        self._pool.run(self._look, unprepared=True)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _rows(self, query: str, values: Any) -> list[Any]:
        return self._pool.run(
            lambda connection: (
                [] if self._is_absent else connection.execute(query, values).fetchall()
            )
        )

    def _write(self, statement: str, values: Any) -> int:
        """Execute a statement, which is a transaction by itself; return how many rows changed."""
        return self._pool.run(lambda connection: connection.execute(statement, values).rowcount)

    def _read(self, query: str, values: Any) -> list[Entry]:
        return self._sound(self._rows(query, values))

    def _sound(self, rows: Sequence[tuple[str, str]]) -> list[Entry]:
        """Return the entries of the rows that are sound; drop the others, with a warning."""
        entries = []
        for domain, text in rows:
            try:
                entries.append(from_json(text, domain))
            except ValueError as error:
                self._drop(domain, text, error)
        return entries

    def _drop(self, domain: str, text: str, why: ValueError) -> None:
        """Remove a damaged row; leave it where the server can only be read."""
        try:
            dropped = self._write(_DROP, (domain, text))
        except StoreError as error:
            log.debug("%.300s is damaged, and stays: %s", ascii(domain), error)
            return
        if dropped:
            said = "%s: a damaged entry was dropped: domain %.300s: %.300s"
            log.warning(said, self._pool.name, ascii(domain), why)

    def _look(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            if self._made(connection) == 0:
                connection.execute(_MAKE_SCHEMA)
            else:
                connection.execute(_PURGE_REVOKED, (0.0,))

    def _made(self, connection: Connection) -> int:
        """Return the version of the tables, 0 if there are none. Raise for a later one."""
        version = _version(connection) if _one(connection, _HAS_SCHEMA) else 0
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"{self._pool.name}: its tables are of a later version of stsresolver; update this"
                " one, or name another database"
            )
        return version

    def _find(self, connection: Connection) -> None:
        self._is_absent = self._made(connection) == 0

    def _migrate(self, connection: Connection) -> None:
        """Bring the tables up to date, and fill new ones with what the older daemon knew."""
        newest = len(_MIGRATIONS)
        if self._made(connection) == newest:
            return
        with connection.transaction():
            # Daemons that start together take turns.
            connection.execute(_LOCK)
            # Unlike a question for the table, this sees what another has made meanwhile.
            connection.execute(_MAKE_SCHEMA)
            version = _version(connection)
            if version == newest:
                return
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(_SET_VERSION, (newest,))
            if version == 0:
                _take_over(connection)


def _version(connection: Connection) -> int:
    """Return the version of the tables, 0 if there are none yet."""
    return int(_one(connection, _VERSION) or 0)


def _one(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row and row[0]


def _take_over(connection: Connection) -> None:
    if not _one(connection, _HAS_OLDER):
        return
    now = time.time()
    with connection.cursor(name="older") as rows, connection.cursor() as cursor:
        entries = older_daemon.entries(map(_older, rows.execute(_OLDER)), now)
        while some := [_values(entry, now) for entry in itertools.islice(entries, _SOME_OLDER)]:
            cursor.executemany(_PUT, some)


def _older(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row as `older_daemon` takes it."""
    ts, domain, policy_id, body = row
    try:
        seconds = float(ts)
    except (TypeError, ValueError):
        seconds = -1.0
    return domain, seconds, policy_id, body


def _values(entry: Entry, now: float) -> dict[str, Any]:
    return {
        "domain": entry.domain,
        "entry": to_json(entry),
        "fetched": entry.fetched,
        "due": entry.due,
        "expiry": entry.end,
        "ahead": now + CLOCK_SKEW,
    }
