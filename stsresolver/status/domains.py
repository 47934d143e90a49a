"""What holds for a domain with a policy: what Postfix is told, and whether somebody has to act.

Pure: entries, zones and the time (wall-clock seconds) come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..cache.entry import Entry
from ..config.exemptions import exempted_by
from ..config.settings import Zone
from ..mta_sts.policy import Mode
from ..policies.dane_states import DaneState
from ..policies.faults import Fault
from ..policies.setbacks import Setback
from ..socketmap.answer import WITH_DANE, answer

# The zones by name, each with all that is exempt in it.
Zones = Mapping[str, tuple[Zone, frozenset[str]]]


@dataclass(frozen=True, slots=True)
class Told:
    """What Postfix is told of a domain in a zone.

    `answer`: the reply. `would_be`: were it not for an exemption or a zone that observes, "" where
    these change nothing. `exempt`: the entry that exempts the domain, "" where none does.
    """

    zone: str
    answer: str
    would_be: str = ""
    exempt: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A domain that needs somebody.

    `what`: in a few words. `why`: the cause, as the log gives it. `since`, `end`: when it began,
    and when the policy in force ends; None where nobody knows, or none is in force.
    """

    domain: str
    what: str
    why: str
    since: float | None
    end: float | None = None


def in_force(entry: Entry | None, now: float) -> bool:
    """Say whether the policy of an entry is in force (RFC 8461 §3.2, max_age)."""
    return entry is not None and now < entry.end


def told(
    domain: str,
    entry: Entry | None,
    zones: Zones,
    unknown: Mapping[str, Fault],
    dane: Mapping[str, DaneState | None],
    now: float,
) -> list[Told]:
    """Return what Postfix is told in each zone, by what is known now.

    `unknown`: for which fault mail waits, by zone. `dane`: the states known of the domain as a next
    hop, by zone.
    """
    policy = entry.policy if entry is not None and in_force(entry, now) else None
    found = []
    for name, (zone, exempt) in zones.items():
        reply = answer(policy, domain, zone)
        state = dane.get(name)
        if zone.dane and state is not None and reply.startswith(b"OK "):
            reply = WITH_DANE[state.verdict][0] if state.verdict in WITH_DANE else reply
        text = f"TEMP {unknown[name].value}" if name in unknown else reply.decode()
        by = exempted_by(domain, exempt) or ""
        passed_over = text != "NOTFOUND " and (by or zone.observe)
        shown = "NOTFOUND " if passed_over else text
        found.append(Told(name, shown, text if passed_over else "", by))
    return found


def failing(entry: Entry, now: float) -> Trouble | None:
    """Return the trouble of a domain whose policy cannot be renewed, or has ended; None without."""
    mode = entry.policy.mode
    if mode is Mode.NONE:
        return None
    if not in_force(entry, now):
        if entry.policy.max_age == 0:
            # Withdrawn by its owner (RFC 8461 §8.3).
            return None
        why = entry.failure or "it was not renewed"
        return Trouble(entry.domain, f"policy expired: {mode}", why, entry.end)
    if not entry.failed:
        return None
    what = f"policy in force cannot be renewed: {mode}"
    return Trouble(entry.domain, what, entry.failure or "unknown", entry.failed, entry.end)


def setback(one: Setback) -> Trouble:
    """Return the trouble of a domain whose policy got weaker."""
    if one.after is None:
        return Trouble(one.domain, f"policy expired: {one.before}", one.why, one.at)
    text = f"policy got weaker: {one.before} -> {one.after}"
    return Trouble(one.domain, text, "its owner has published another one", one.at)


def troubles(entries: Iterable[Entry], setbacks: Iterable[Setback], now: float) -> list[Trouble]:
    """Return all troubles, one a domain: those first whose policy ends first."""
    found = {one.domain: setback(one) for one in setbacks}
    for entry in entries:
        trouble = failing(entry, now)
        if trouble is not None:
            found[entry.domain] = trouble
        elif (
            in_force(entry, now) and entry.domain in found and "expired" in found[entry.domain].what
        ):
            del found[entry.domain]
    return sorted(found.values(), key=_urgency)


def _urgency(trouble: Trouble) -> tuple[bool, float, str]:
    when = trouble.end if trouble.end is not None else -(trouble.since or 0.0)
    return trouble.end is None, when, trouble.domain
