"""What holds for a domain with a policy: what Postfix is told, and whether somebody has to act.

Pure: entries, zones and the time (wall-clock seconds) come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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

    `answer`: the reply, "" where it is looked up first.
    `would_be`: the reply without an exemption, and in a zone that observes without that, "" where
    these change nothing. `exempt`: the entry that exempts the domain, "" where none does.
    """

    zone: str
    answer: str
    would_be: str = ""
    exempt: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A domain that needs somebody.

    `what`: in a few words. `why`: the cause, as the log gives it. `since`: when it began, or when
    this daemon noticed. `end`: when the policy in force ends, None where none is.
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
    missed: Mapping[str, Fault | None],
    dane: Mapping[str, DaneState | None],
    now: float,
) -> list[Told]:
    """Return what Postfix is told in each zone, by what is known now.

    `missed`: zones in which a lookup gave no policy and is believed, and the fault for which mail
    waits.
    `dane`: the states known of the domain as a next hop, by zone.
    """
    policy = entry.policy if entry is not None and in_force(entry, now) else None
    found = []
    for name, (zone, exempt) in zones.items():
        text = answer(policy, domain, zone).decode()
        if policy is None:
            fault = missed.get(name)
            text = text if name in missed else ""
            text = f"TEMP {fault.value}" if fault else text
        elif zone.dane and text.startswith("OK "):
            state = dane.get(name)
            text = "" if state is None else _with_dane(state, text)
        by = exempted_by(domain, exempt) or ""
        passed_over = text != "NOTFOUND " and (by or zone.observe)
        shown = "NOTFOUND " if passed_over else text
        found.append(Told(name, shown, text if passed_over else "", by))
    return found


def _with_dane(state: DaneState, otherwise: str) -> str:
    return WITH_DANE[state.verdict][0].decode() if state.verdict in WITH_DANE else otherwise


def failing(entry: Entry, since: float | None, now: float) -> Trouble | None:
    """Return the trouble of a domain whose policy cannot be renewed, or has ended; None without.

    `since`: when that began, None if it is not known. A policy that nobody tried to renew has ended
    because no mail went there, which needs nobody.
    """
    mode = entry.policy.mode
    # A max_age of 0 is a policy that its owner has withdrawn (RFC 8461 §8.3).
    if mode is Mode.NONE or not entry.failed or entry.policy.max_age == 0:
        return None
    why = entry.failure or "unknown"
    if not in_force(entry, now):
        return Trouble(entry.domain, f"policy expired: {mode}", why, entry.end)
    began = entry.failed if since is None else since
    what = f"policy in force could not be renewed: {mode}"
    return Trouble(entry.domain, what, why, began, entry.end)


def setback(one: Setback) -> Trouble:
    """Return the trouble of a domain whose policy got weaker."""
    if one.after is None:
        return Trouble(one.domain, f"policy expired: {one.before}", one.why, one.at)
    text = f"policy got weaker: {one.before} -> {one.after}"
    return Trouble(one.domain, text, "its owner has published another one", one.at)


def troubles(
    entries: Iterable[Entry],
    setbacks: Iterable[tuple[Setback, Entry | None]],
    since: Callable[[str], float | None],
    now: float,
) -> list[Trouble]:
    """Return all troubles, one a domain: those first whose policy ends first.

    `setbacks`: each with what is known of its domain now: another daemon may have renewed it.
    `since`: when a domain's trouble began.
    """
    found = {}
    for one, known in setbacks:
        if known is None or not in_force(known, now) or not one.is_over(known.policy.mode):
            found[one.domain] = setback(one)
    for entry in entries:
        trouble = failing(entry, since(entry.domain), now)
        if trouble is not None:
            found[entry.domain] = trouble
    return sorted(found.values(), key=_urgency)


def _urgency(trouble: Trouble) -> tuple[bool, float, str]:
    when = trouble.end if trouble.end is not None else -(trouble.since or 0.0)
    return trouble.end is None, when, trouble.domain
