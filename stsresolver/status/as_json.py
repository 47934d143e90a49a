"""The status as JSON objects: what the page shows. Times are written as in RFC 3339. Pure.

Keys are never left out.
"""

from __future__ import annotations

import json
from typing import Any

from ..cache.entry import Entry
from ..inspection.as_json import entry_fields, when
from ..lookup.messages import STEPS
from .domains import Trouble
from .state import MOST, Detail, Listing, Overview


def overview(found: Overview) -> bytes:
    """Return `/status.json`."""
    store = found.store
    return _line(
        {
            "now": when(found.now),
            "version": found.version,
            "pid": found.pid,
            "started": when(found.started),
            "configuration": {
                "source": found.source,
                "read": when(found.loaded),
                "only_a_restart_changes": list(found.kept),
            },
            "problems": list(found.problems),
            "faults": {one.name.lower(): round(last, 1) for one, last in found.faults.items()},
            "troubles": {
                "number": len(found.troubles),
                "first": [_trouble(one) for one in found.troubles[:MOST]],
            },
            "requests": {
                "total": found.total,
                "repeated": found.ready,
                "lately": found.lately,
                "lately_repeated": found.lately_ready,
                "lately_seconds": round(found.lately_for, 1),
                "zones": {
                    zone: {outcome.value: count for outcome, count in of.items()}
                    for zone, of in found.zones.items()
                },
                "connections": found.connections,
                "connections_limit": found.connections_limit,
            },
            "lookups": {
                "seconds": round(found.lookups_for, 1),
                "ended": [
                    {
                        "step": STEPS[one.what],
                        "result": one.result,
                        "cause": one.cause.name.lower() if one.cause else None,
                        "number": number,
                    }
                    for one, number in found.lookups
                ],
            },
            "resolver": {
                "processes": found.processes,
                "pid": found.pid_of_resolver,
                "losses": found.losses,
                "absence_seconds": round(found.absence, 1),
            },
            "store": {
                "type": store.kind,
                "works": store.ways,
                "unread_seconds": None if store.unread_for is None else round(store.unread_for, 1),
                "reads": store.reads,
                "memory": {
                    "policies": store.memory,
                    "room": store.memory_size,
                    "hits": store.hits,
                    "misses": store.misses,
                },
            },
            "policies_in_memory": {str(mode): count for mode, count in found.modes.items()},
            "proactive": {
                "enabled": found.proactive,
                "last_round": when(found.seen),
                "looked_at": found.looked_at,
            },
            "observed": {
                "number": len(found.observed),
                "first": [one._asdict() for one in found.observed[:MOST]],
            },
        }
    )


def listing(found: Listing) -> bytes:
    """Return `/status/domains.json`."""
    return _line(
        {
            "query": found.query,
            "after": found.after,
            "found": found.found,
            "more": found.more,
            "domains": [{"domain": one.domain, **entry_fields(one)} for one in found.entries],
        }
    )


def detail(found: Detail) -> bytes:
    """Return `/status/domain.json`."""
    entry = found.entry
    return _line(
        {
            "domain": found.domain,
            "in_memory": found.held,
            "store_failure": found.unread or None,
            "entry": None if entry is None else _entry(entry),
            "told": [
                {
                    "zone": one.zone,
                    "answer": one.answer or None,
                    "would_be": one.would_be or one.answer or None,
                    "exempt": one.exempt or None,
                }
                for one in found.told
            ],
            "trouble": None if found.trouble is None else _trouble(found.trouble),
            "misses": [
                {"zone": one.zone, "text": one.text, "believed_seconds": round(one.left, 1)}
                for one in found.misses
            ],
        }
    )


def _entry(entry: Entry) -> dict[str, Any]:
    return {**entry_fields(entry), "asked": when(entry.asked), "text": entry.policy.body}


def _trouble(one: Trouble) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "what": one.what,
        "why": one.why,
        "since": None if one.since is None else when(one.since),
        "end": None if one.end is None else when(one.end),
    }


def problem(text: str) -> bytes:
    """Return what is wrong with a request."""
    return _line({"error": text})


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, allow_nan=False).encode() + b"\n"
