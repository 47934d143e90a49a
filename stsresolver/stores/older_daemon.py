"""Policies that the older daemon for Postfix left in its database, sqlite or PostgreSQL.

Two tables: `sts_policy_cache(domain, ts, pol_id, pol_body)`, with `pol_body` a JSON object of
`version`, `mode`, `max_age` and `mx`, a list; and `proactive_fetch_ts(id, last_fetch_ts)`, which is
not needed. We never change these tables, so that an administrator can go back to the older daemon.
Once nobody wants to, `DROP TABLE` is safe.

The older daemon never checked the mx lines, so an entry that breaks our grammar is dropped. Its
`ts` is when it last checked the record, not when it fetched the policy. We take it for the fetch:
the policy is in force from then on, is due at once, and is checked when mail asks for it. One that
has ended is taken over too, in case the clock is ahead, but only kept (`Entry.over`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from ..cache.entry import Entry
from ..mta_sts.policy import MAX_STORED_SIZE, Policy, parse_policy
from ..mta_sts.record import checked_id
from ..net.domain_names import a_labels

log = logging.getLogger(__name__)

TABLES = frozenset({"sts_policy_cache", "proactive_fetch_ts"})
_DAY = 86_400.0


def entries(rows: Iterable[tuple[Any, ...]], now: float) -> Iterator[Entry]:
    """Yield the entries that pass the grammar, then log how many were in force at `now`.

    `rows`: domain, ts, pol_id and pol_body, texts as bytes.
    """
    taken = ended = dropped = 0
    for row in rows:
        try:
            entry = _entry(row, now)
        except ValueError as error:
            log.debug("dropped %.300s: %.300s", ascii(row[0]), error)
            dropped += 1
            continue
        if entry.end > now:
            taken += 1
            yield entry
        else:
            ended += 1
            yield entry.over()
    text = "took over %d policies from the older daemon's tables; %d have expired, %d are damaged"
    log.info(text, taken, ended, dropped)


def _entry(row: tuple[Any, ...], now: float) -> Entry:
    domain, ts, id_text, body = row
    for text in (domain, id_text, body):
        if not isinstance(text, bytes):
            raise ValueError("no text")
    if not isinstance(ts, (int, float)) or not ts >= 0:
        raise ValueError("no time")
    fetched = float(min(ts, now))
    return Entry(
        a_labels(domain.decode()),
        checked_id(id_text),
        _policy(body),
        fetched,
        checked=0.0,
        asked=fetched // _DAY * _DAY,
        due=fetched,
    )


def _policy(body: bytes) -> Policy:
    try:
        fields = json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    match fields:
        case {"version": version, "mode": mode, "max_age": max_age, "mx": [*patterns]}:
            mx = [f"mx: {pattern}" for pattern in patterns]
        case {"version": version, "mode": "none" as mode, "max_age": max_age}:
            mx = []
        case _:
            raise ValueError("not the fields of a policy")
    lines = [f"version: {version}", f"mode: {mode}", *mx, f"max_age: {max_age}"]
    policy = parse_policy("\n".join(lines).encode(), MAX_STORED_SIZE)
    # No value may bring a line of its own.
    if policy.text != tuple(lines):
        raise ValueError("a value that is no field")
    return policy
