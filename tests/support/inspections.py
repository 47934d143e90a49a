"""Inspections that are made up, as an `Inspector` would return them."""

from __future__ import annotations

from dataclasses import replace

from stsresolver import Found, Lookup, NoPolicy
from stsresolver.cache.entry import Entry
from stsresolver.config.exemptions import exempted_by
from stsresolver.config.settings import Zone
from stsresolver.dane.states import Dane
from stsresolver.inspection.findings import (
    Certificate,
    Inspection,
    MailHost,
    Part,
    PolicyHost,
    Record,
)
from stsresolver.inspection.inspector import _told
from stsresolver.inspection.judgement import judged
from stsresolver.mta_sts.policy import parse_policy

NOW = 1_800_000_000.0
DAY = 86_400.0


def policy(*mx: str, mode: str = "enforce", max_age: int = 604_800, more: str = ""):
    """Return a policy that has passed the grammar."""
    patterns = "".join(f"mx: {one}\n" for one in mx or ("mail.example.com",))
    text = f"version: STSv1\nmode: {mode}\n{patterns}max_age: {max_age}\n{more}"
    return parse_policy(text.encode())


def inspection(
    result: Lookup | None = None,
    mx: tuple[MailHost | str, ...] | None = ("mail.example.com",),
    *,
    mx_failure: str = "",
    texts: tuple[str, ...] | None = ("v=STSv1; id=2016",),
    certificate_days: float = 60.5,
    zone: Zone | None = None,
    entry: Entry | None = None,
    text: str | None = None,
    now: float = NOW,
    dane: Dane | None = None,
) -> Inspection:
    """Return what was seen of example.com."""
    result = result or Found(policy(), "2016")
    found = result.policy if isinstance(result, Found) else None
    in_force = found or (entry.policy if entry is not None and now < entry.end else None)
    hosts = None
    if mx is not None:
        named = (MailHost(one, 10) if isinstance(one, str) else one for one in mx)
        hosts = tuple(
            replace(one, pattern=in_force.pattern_of(one.host) if in_force else None)
            for one in named
        )
    policy_id = None if isinstance(result, NoPolicy) else result.id or None
    host = None
    if policy_id is not None:
        certificate = Certificate(
            ("mta-sts.example.com",), "CN=R3, O=Example", now + certificate_days * DAY
        )
        host = PolicyHost(
            "mta-sts.example.com",
            ("192.0.2.1", "2001:db8::1"),
            "192.0.2.1",
            certificate,
            200,
            "text/plain",
            99,
            text if text is not None or found is None else found.body,
        )
    told = _told(result, in_force, "example.com", zone or Zone(), dane)
    return judged(
        Inspection(
            "example.com",
            result,
            Record("_mta-sts.example.com", texts, policy_id),
            host,
            hosts,
            mx_failure,
            "25",
            in_force,
            told if not zone or not (zone.observe or zone.exempt) else "NOTFOUND ",
            entry,
            {Part.RECORD: 0.0123, Part.TLS: 0.02},
            0.1,
            now,
            dane,
            zone is not None and zone.dane,
            exempted_by("example.com", zone.exempt) if zone else None,
            told,
        )
    )


def entry(mode: str = "enforce", age: float = 3600.0, failure: str = "") -> Entry:
    """Return what a store may hold of example.com."""
    fetched = NOW - age
    failed = NOW - 60 if failure else 0.0
    return Entry(
        "example.com",
        "2015",
        policy(mode=mode),
        fetched,
        fetched,
        fetched,
        NOW + 60,
        failed,
        failure,
    )
