"""The cache type `sqlite`: entries in a file that outlives the process and that several may share.

A row that does not pass the grammar any more (a faulty disk, a manual edit) is deleted with one
warning, and taken for absent. The file does not shrink, but the space of deleted rows is used
again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from ..cache.entry import CLOCK_SKEW, Entry
from ..cache.store import StoreError
from ..mta_sts.policy import MAX_MAX_AGE, MAX_STORED_SIZE, parse_policy
from ..mta_sts.record import checked_id
from ..net.domain_names import is_host_name
from . import older_daemon
from .sqlite_file import Database

log = logging.getLogger(__name__)

# PRAGMA application_id: the letters STSR.
_APPLICATION = 0x53545352
# Each brings the file from the version that is its index to the next; none is ever changed.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `policy` is `Policy.body`, `expiry` is `Entry.end`; see there for the rest.
        """
        CREATE TABLE policy (
            domain TEXT NOT NULL UNIQUE,
            id TEXT NOT NULL,
            policy TEXT NOT NULL,
            fetched REAL NOT NULL CHECK (typeof(fetched) = 'real'),
            checked REAL NOT NULL,
            asked REAL NOT NULL,
            due REAL NOT NULL CHECK (typeof(due) = 'real'),
            failed REAL NOT NULL,
            failure TEXT NOT NULL,
            expiry REAL NOT NULL CHECK (typeof(expiry) = 'real')
        )
        """,
        "CREATE INDEX policy_due ON policy (due)",
        "CREATE INDEX policy_expiry ON policy (expiry)",
        # For what was fetched in the future.
        "CREATE INDEX policy_fetched ON policy (fetched)",
        """
        CREATE TABLE lease (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            holder TEXT NOT NULL,
            until REAL NOT NULL
        )
        """,
    ),
    (
        """
        CREATE TABLE revoked (
            domain TEXT NOT NULL UNIQUE,
            until REAL NOT NULL
        )
        """,
        "CREATE INDEX revoked_until ON revoked (until)",
    ),
)

_FIELDS = "domain, id, policy, fetched, checked, asked, due, failed, failure, expiry"
_GET = f"SELECT rowid, {_FIELDS} FROM policy WHERE domain = ?"
_ROW = f"SELECT rowid, {_FIELDS} FROM policy WHERE rowid = ?"
# Both halves walk along an index, so the cost is that of the rows taken. Left alone, sqlite would
# take the second half from the index on due and pass by every row that is not due.
_DUE = f"""
    SELECT rowid, {_FIELDS} FROM policy WHERE due <= :now
    UNION ALL
    SELECT rowid, {_FIELDS} FROM policy INDEXED BY policy_fetched
    WHERE fetched > :ahead AND due > :now
    ORDER BY due
"""
# The condition is `Entry.yields_to`.
_PUT = f"""
    INSERT INTO policy ({_FIELDS})
    VALUES (:domain, :id, :policy, :fetched, :checked, :asked, :due, :failed, :failure, :expiry)
    ON CONFLICT (domain) DO UPDATE SET
        id = excluded.id, policy = excluded.policy, fetched = excluded.fetched,
        checked = excluded.checked, asked = excluded.asked, due = excluded.due,
        failed = excluded.failed, failure = excluded.failure, expiry = excluded.expiry
    WHERE excluded.fetched >= policy.fetched OR policy.fetched > :ahead
"""
_TOUCH = """
    UPDATE policy SET id = :id, checked = :checked, asked = :asked, due = :due,
        failed = :failed, failure = :failure
    WHERE domain = :domain AND fetched = :fetched
"""
_AFTER = f"SELECT rowid, {_FIELDS} FROM policy WHERE domain > ? ORDER BY domain"
_REVOKE = "DELETE FROM policy WHERE domain = :domain AND fetched <= :until"
_NOTE_REVOKED = """
    INSERT INTO revoked (domain, until) VALUES (:domain, :until)
    ON CONFLICT (domain) DO UPDATE SET until = max(until, excluded.until)
"""
_REVOKED = "SELECT domain, until FROM revoked WHERE until >= ? ORDER BY until"
_PURGE_REVOKED = "DELETE FROM revoked WHERE until < ?"
_DROP = "DELETE FROM policy WHERE rowid = ?"
_MAKE_DUE = """
    UPDATE policy SET due = :now
    WHERE rowid IN (SELECT rowid FROM policy WHERE due > :now LIMIT :limit)
"""
_PURGE = """
    DELETE FROM policy
    WHERE rowid IN (SELECT rowid FROM policy WHERE expiry <= ? ORDER BY expiry LIMIT ?)
"""
# One that ends a day later than ours would was taken by a clock that was wrong.
_LEASE = """
    INSERT INTO lease (one, holder, until) VALUES (1, :holder, :until)
    ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE lease.holder = excluded.holder OR lease.until <= :now OR lease.until > :until + 86400
"""
_HAS_OLDER = "PRAGMA table_info(sts_policy_cache)"
_OLDER = "SELECT domain, ts, pol_id, pol_body FROM sts_policy_cache"
# Rows changed in one transaction.
_SOME = 10_000
# Seconds since the epoch that the calendar functions can still say.
_LAST_TIME = 1e11


class SqliteStore:
    """Entries in the sqlite file `filename`. See `Store` for what the methods promise.

    `threads`: connections that may be open at once. `timeout`: seconds to wait for one of them, and
    as long again for another process's lock. The constructor raises `StoreError` where the file
    cannot be read and written, was made by a later version, or belongs to another program.

    The database of the older daemon is taken over when it is opened for the first time, see
    `older_daemon`. Make a store after the last fork and as the user who is to own the file.
    """

    def __init__(
        self, filename: str | os.PathLike[str], *, threads: int, timeout: float = 5.0
    ) -> None:
        self._database = Database(
            filename,
            threads=threads,
            timeout=timeout,
            application=_APPLICATION,
            version=len(_MIGRATIONS),
            migrate=_migrate,
            adopted=older_daemon.TABLES,
        )

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`."""
        found = self._read(_GET, (domain,), 1)
        return found[0] if found else None

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry`, unless the one that is there was fetched later."""
        self._write(_PUT, {**_values(entry), "ahead": now + CLOCK_SKEW})

    def touch(self, entry: Entry) -> None:
        """Update the times, id and failure of an entry."""
        self._write(_TOUCH, _values(entry))

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield all entries."""
        last = ""
        while entries := self._read(_AFTER, (last,), some):
            yield entries
            last = entries[-1].domain

    def revoke(self, domain: str, until: float) -> None:
        """Remove an entry, and note that."""
        values = {"domain": domain, "until": until}
        with self._database.transaction() as connection:
            connection.execute(_REVOKE, values)
            connection.execute(_NOTE_REVOKED, values)
            # Nobody holds a policy for longer.
            connection.execute(_PURGE_REVOKED, (until - MAX_MAX_AGE,))

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return what was revoked."""
        with self._database.connection() as connection:
            rows = connection.execute(_REVOKED, (since,)).fetchall()
        return [(domain.decode("utf-8", "replace"), until) for domain, until in rows]

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return entries that are due."""
        return self._read(_DUE, {"now": now, "ahead": now + CLOCK_SKEW}, limit)

    def make_due(self, now: float) -> None:
        """Let every entry be due."""
        # Some at a time, so that no other writer waits for long.
        while self._write(_MAKE_DUE, {"now": now, "limit": _SOME}) >= _SOME:
            pass

    def purge(self, now: float, limit: int) -> int:
        """Remove entries past their end."""
        return self._write(_PURGE, (now, limit))

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take or prolong the lease. 0 `seconds` give it back."""
        values = {"holder": holder, "until": now + seconds, "now": now}
        return self._write(_LEASE, values) == 1

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _write(self, statement: str, values: Any) -> int:
        """Execute a statement, which is a transaction by itself; return how many rows changed."""
        with self._database.connection() as connection:
            return connection.execute(statement, values).rowcount

    def _read(self, query: str, values: Any, limit: int) -> list[Entry]:
        """Return the first `limit` entries of the query that are sound; drop the others."""
        entries: list[Entry] = []
        damaged: list[int] = []
        with (
            self._database.connection() as connection,
            closing(connection.execute(query, values)) as rows,
        ):
            for row in rows:
                if len(entries) == limit:
                    break
                try:
                    entries.append(_entry(row))
                except ValueError:
                    damaged.append(row[0])
        for number in damaged:
            self._drop(number)
        return entries

    def _drop(self, number: int) -> None:
        """Delete a damaged row and say so, unless it has been replaced meanwhile."""
        try:
            with self._database.transaction() as connection:
                row = connection.execute(_ROW, (number,)).fetchone()
                why = _fault(row) if row else ""
                if why:
                    connection.execute(_DROP, (number,))
        except StoreError as error:
            log.debug("a damaged entry could not be dropped: %s", error)
            return
        if why:
            domain = row[1].decode(errors="replace") if isinstance(row[1], bytes) else row[1]
            text = "%s: a damaged entry was dropped: domain %.300s: %.300s"
            log.warning(text, self._database.path, ascii(domain), why)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, and fill a new one with what the older daemon knew."""
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version == 0 and connection.execute(_HAS_OLDER).fetchall():
        now = time.time()
        for entry in older_daemon.entries(connection.execute(_OLDER), now):
            connection.execute(_PUT, {**_values(entry), "ahead": now + CLOCK_SKEW})


def _values(entry: Entry) -> dict[str, str | float]:
    return {
        "domain": entry.domain,
        "id": entry.id,
        "policy": entry.policy.body,
        "fetched": entry.fetched,
        "checked": entry.checked,
        "asked": entry.asked,
        "due": entry.due,
        "failed": entry.failed,
        "failure": entry.failure,
        "expiry": entry.end,
    }


def _entry(row: tuple[Any, ...]) -> Entry:
    """Return the entry of a row. Raise `ValueError` if it does not pass the grammar."""
    _, domain, policy_id, policy, fetched, checked, asked, due, failed, failure, expiry = row
    for text in (domain, policy_id, policy, failure):
        if not isinstance(text, bytes):
            raise ValueError(f"{text!a} is no text")
    for when in (fetched, checked, asked, due, failed, expiry):
        if not isinstance(when, float) or not 0 <= when < _LAST_TIME:
            raise ValueError(f"{when!a} is no time")
    if not is_host_name(domain.decode()):
        raise ValueError("no domain name")
    entry = Entry(
        domain.decode(),
        checked_id(policy_id),
        parse_policy(policy, MAX_STORED_SIZE),
        fetched,
        checked,
        asked,
        due,
        failed,
        failure.decode(),
    )
    if entry.end != expiry:
        raise ValueError("its end does not follow from its policy")
    return entry


def _fault(row: tuple[Any, ...]) -> str:
    """Say what is wrong with a row, nothing if it is sound."""
    try:
        _entry(row)
    except ValueError as error:
        return str(error)
    return ""
