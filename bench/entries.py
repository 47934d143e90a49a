"""Entries as the daemon stores them, made in numbers, and their way into a store."""

import contextlib
import hashlib
import itertools
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# The checkout of this benchmark is what is measured, whether or not it is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from world import wait_until

from stsresolver.cache.entry import Entry
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.stores.entry_json import to_json

DAY = 86400
MAX_AGE = 7 * DAY
POLICY = "version: STSv1\nmode: enforce\n{mx}max_age: {age}\n"

# What `SqliteStore` writes in one row, which is slow for a million of them.
_ROW = """
INSERT INTO policy
    (domain, id, policy, fetched, checked, asked, due, failed, failure, expiry)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_IN_ONE_TRANSACTION = 100_000
_COPY = "COPY stsresolver_policy (domain, entry, fetched, due, expiry) FROM STDIN"


def domain(number: int) -> str:
    """A name that stands anywhere in the alphabet, as those that are met one after another do."""
    return f"d{hashlib.blake2s(b'%d' % number, digest_size=6).hexdigest()}.example"


def entry(
    name: str,
    fetched: float,
    due: float,
    policy_id: str = "20240101000000",
    mx: str = "mail",
    max_age: int = MAX_AGE,
    hosts: Sequence[str] = ("", "2"),
) -> Entry:
    """An entry made from texts, as the daemon makes it; `mx` and one of `hosts` name an MX host."""
    lines = "".join(f"mx: {mx}{host}.{name}\n" for host in hosts)
    text = POLICY.format(mx=lines, age=max_age)
    policy = parse_policy(text.encode())
    asked = fetched // DAY * DAY
    # A string of its own for each entry, as out of DNS.
    return Entry(name, policy_id.encode().decode(), policy, fetched, fetched + 1, asked, due)


def spread(first: int, end: int, now: float) -> Iterator[Entry]:
    """Entries with numbers from `first` to before `end`, for stores of any size.

    They were fetched over the day before `now`, are due over the day after it, and all in force.
    """
    for number in range(first, end):
        share = (number * 7919 % 1_000_003) / 1_000_003
        yield entry(domain(number), now - DAY + share * (DAY - 10), now + 1 + share * DAY)


def into_file(filename: Path, entries: Iterable[Entry]) -> None:
    """Write new entries to an sqlite file that a store has made, many in one transaction."""
    rows = (
        (e.domain, e.id, e.policy.body, e.fetched, e.checked, e.asked, e.due, e.failed, e.failure,
         e.end)
        for e in entries
    )  # fmt: skip
    with contextlib.closing(sqlite3.connect(filename, timeout=30)) as connection:
        connection.execute("PRAGMA synchronous=NORMAL")
        # KiB: pages are written once and not each time they are full.
        connection.execute("PRAGMA cache_size=-262144")
        while part := list(itertools.islice(rows, _IN_ONE_TRANSACTION)):
            with connection:
                connection.executemany(_ROW, part)


def into_postgres(where: str, entries: Iterable[Entry]) -> None:
    """Write new entries to the tables in PostgreSQL that a store has made, in one transaction."""
    # The extra may be missing where it is left out.
    import psycopg  # noqa: PLC0415

    with (
        psycopg.connect(where) as connection,
        connection.cursor() as cursor,
        cursor.copy(_COPY) as copy,
    ):
        for one in entries:
            copy.write_row((one.domain, to_json(one), one.fetched, one.due, one.end))


def renew_in_postgres(where: str, entries: Iterable[Entry]) -> None:
    """The same in place of what is there, as soon as a store has made the tables."""
    import psycopg  # noqa: PLC0415

    with psycopg.connect(where, autocommit=True) as connection:
        made = "SELECT count(*) FROM pg_tables WHERE tablename = 'stsresolver_policy'"
        wait_until(lambda: connection.execute(made).fetchone() == (1,), 20, "the tables")
        connection.execute("TRUNCATE stsresolver_policy")
    into_postgres(where, entries)


def address(options: Mapping[str, object]) -> str:
    """The same PostgreSQL as the options of a cache, as libpq writes it."""
    return "host={host} user={user} dbname={database}".format_map(options)
