"""Servers that know many domains before they are measured.

Up to `LOOKED_UP` domains a server has its cache in memory and looks each of them up itself. More
would take minutes: it then has its cache in an sqlite file, which is filled while it runs, with
entries checked just now. Whoever has a memory is asked for every domain once before it is measured.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from entries import MAX_AGE, Entry, address, entry, into_file, renew_in_postgres
from figures import load
from servers import Running

LOOKED_UP = 1000
PATTERN = "d%.good.test"


def in_memory(size: int) -> dict[str, object]:
    """The `cache` of a configuration file, for so many policies."""
    return {"type": "internal", "options": {"cache_size": size}}


def cache(
    directory: Path, name: str, domains: int, postgres: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The same, for a server of that name that is to know so many domains.

    `postgres`: the options of a PostgreSQL that has them.
    """
    if postgres is not None:
        return {"type": "postgres", "options": {**postgres, "cache_size": 2 * domains}}
    if domains <= LOOKED_UP:
        return in_memory(2 * domains)
    options: dict[str, object] = {"filename": str(_file(directory, name))}
    # The asyncio daemon has no memory in front of the file.
    if name != "asyncio":
        options["cache_size"] = 2 * domains
    return {"type": "sqlite", "options": options}


def keys(domains: int) -> list[str]:
    """The generator's options for these domains."""
    return ["-p", PATTERN, "-k", str(domains)]


def make_known(
    process: Running, directory: Path, domains: int, postgres: Mapping[str, object] | None = None
) -> None:
    """Have the server know so many domains. RuntimeError if it does not."""
    if postgres is not None:
        renew_in_postgres(address(postgres), _entries(domains))
        load(process.server, directory, ["-c", "16", "-n", str(domains), *keys(domains)])
        return
    file = _file(directory, process.server.name)
    if file.exists():
        _fill(file, domains)
        if process.server.name == "asyncio":
            return  # it would remember nothing of it
    elif domains > LOOKED_UP:
        raise RuntimeError(f"{process.server.name}: no more than {LOOKED_UP:,} domains, or a file")
    load(process.server, directory, ["-c", "16", "-n", str(domains), *keys(domains)])


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.db"


def _fill(file: Path, domains: int) -> None:
    """Write to the tables that the server has made: ours, or the asyncio daemon's."""
    now = time.time()
    names = _names(domains)
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
        (theirs,) = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'sts_policy_cache'"
        ).fetchone()
        if theirs:
            with connection:
                connection.executemany(
                    "INSERT INTO sts_policy_cache (domain, ts, pol_id, pol_body)"
                    " VALUES (?, ?, '1', ?)",
                    ((name, int(now), json.dumps(_body(name))) for name in names),
                )
            return
    into_file(file, _entries(domains))


def _names(domains: int) -> Iterator[str]:
    return (PATTERN.replace("%", str(number)) for number in range(domains))


def _entries(domains: int) -> Iterator[Entry]:
    """Entries checked just now."""
    now = time.time()
    due = now + MAX_AGE / 2
    return (entry(name, now, due, policy_id="1", hosts=[""]) for name in _names(domains))


def _body(name: str) -> Mapping[str, object]:
    """A policy as the asyncio daemon stores it."""
    mx = [f"mail.{name}"]
    return {"version": "STSv1", "mode": "enforce", "max_age": MAX_AGE, "mx": mx}
