"""An inspection as one JSON object: the form that docs/query.schema.json describes. Pure.

Keys are never left out. What was not reached is null.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from ..cache.entry import Entry
from ..dane.states import Dane
from ..mta_sts.results import Failure, NoPolicy
from .findings import Certificate, Inspection, MailHost, Part, PolicyHost
from .judgement import code

SCHEMA = 1


def as_json(seen: Inspection) -> str:
    """Return one line of ASCII."""
    return json.dumps(fields(seen), allow_nan=False)


def fields(seen: Inspection) -> dict[str, Any]:
    """Return the object as plain data."""
    result = seen.result
    detail = result.detail if isinstance(result, NoPolicy | Failure) else ""
    policy = seen.policy
    return {
        "schema": SCHEMA,
        "domain": seen.domain,
        "result": _RESULTS.get(type(result), "policy"),
        "cause": None if seen.cause is None else code(seen.cause),
        "detail": detail or None,
        "record": {
            "name": seen.record.name,
            "texts": _list(seen.record.texts),
            "id": seen.record.id,
        },
        "policy_host": None if seen.policy_host is None else _host(seen.policy_host, seen.now),
        "policy": None
        if policy is None
        else {
            "mode": str(policy.mode),
            "mx": list(policy.mx),
            "max_age": policy.max_age,
            "text": policy.body,
        },
        "mx": None if seen.mx is None else [_mail_host(one, seen.now) for one in seen.mx],
        "dane": None if seen.dane is None else _dane(seen.dane),
        "entry": None if seen.entry is None else entry_fields(seen.entry),
        "answer": seen.answer,
        "would_be": seen.would_be or seen.answer,
        "exempt": seen.exempt,
        "problems": [
            {"severity": str(one.severity), "code": one.code, "text": one.text}
            for one in seen.problems
        ],
        "verdict": seen.verdict,
        "times": {str(part): _seconds(seen.times.get(part)) for part in Part},
        "seconds": _seconds(seen.seconds),
    }


_RESULTS: dict[type, str] = {NoPolicy: "none", Failure: "failure"}


def _host(host: PolicyHost, now: float) -> dict[str, Any]:
    return {
        "name": host.name,
        "addresses": _list(host.addresses),
        "reached": host.reached,
        "certificate": _certificate(host.certificate, now),
        "status": host.status,
        "media_type": host.media_type,
        "size": host.size,
        "text": host.text,
    }


def _mail_host(host: MailHost, now: float) -> dict[str, Any]:
    made: dict[str, Any] = {
        "host": host.host,
        "preference": host.preference,
        "pattern": host.pattern,
    }
    if host.probe is not None:
        probe = host.probe
        made["probe"] = {
            "ok": probe.ok,
            "reason": probe.reason,
            "tls": probe.tls,
            "address": probe.address,
            "certificate": _certificate(probe.certificate, now),
        }
    return made


def _dane(dane: Dane) -> dict[str, Any]:
    return {
        "verdict": dane.verdict.value,
        "mx": dane.mx.name.lower().replace("_", "-"),
        "detail": dane.detail or None,
        "hosts": [
            {
                "host": host.name,
                "state": host.state.name.lower().replace("_", "-"),
                "detail": host.detail or None,
                "name": host.tlsa_name or None,
                "tlsa": [
                    {"record": str(one), "unusable": one.unusable or None} for one in host.tlsa
                ],
            }
            for host in dane.hosts
        ],
        "ttl": dane.ttl,
    }


def _certificate(certificate: Certificate | None, now: float) -> dict[str, Any] | None:
    if certificate is None:
        return None
    return {
        "names": list(certificate.names),
        "issuer": certificate.issuer,
        "not_after": when(certificate.not_after),
        "days_left": certificate.days_left(now),
    }


def entry_fields(entry: Entry) -> dict[str, Any]:
    """Return what a store holds of a domain."""
    return {
        "id": entry.id,
        "mode": str(entry.policy.mode),
        "mx": list(entry.policy.mx),
        "max_age": entry.policy.max_age,
        "fetched": when(entry.fetched),
        "checked": when(entry.checked),
        "due": when(entry.due),
        "end": when(entry.end),
        "failed": when(entry.failed) if entry.failed else None,
        "failure": entry.failure or None,
    }


def when(seconds: float) -> str | None:
    """Return a time as RFC 3339 writes it, None for one that no calendar has."""
    try:
        moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
