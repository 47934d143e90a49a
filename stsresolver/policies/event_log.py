"""Log of domain events: a line for each change of a domain's state, not one for each mail.

Debug: nobody has to act. Info: a policy was found, changed or works again. Warning: an
administrator may have to act, or mail is less protected than before.

A domain's state is kept by (domain, timeout), as its lookups are: a longer timeout finds more.

A domain whose state keeps changing gets five lines an hour for each event and cause. The lines
beyond are logged at debug, and a later line gives their number.

Each record carries `domain` and `event`, and where they apply `cause`, `mode` and `before`, for
programs that read the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import cachetools

from ..cache.entry import Entry
from ..dane.states import DaneHost, Verdict
from ..mta_sts.policy import Mode, Policy
from ..mta_sts.results import Cause, Failure, NoPolicy
from .faults import Fault
from .misses import Key
from .rate_limit import RateLimiter
from .setbacks import STRENGTH

log = logging.getLogger("stsresolver.notices")

# Remembered states; a domain whose state is dropped may be warned about again.
_MAX_STATES = 20_000
_DAY = 86_400.0
# Lines of a domain and a kind within an hour (seconds).
_LINES = 5
_HOUR = 3600.0
_LEFT_OUT = "%s: keeps changing: %d lines left out within an hour (%s)"


class Observed(NamedTuple):
    """What a zone that observes would have answered last, for a next hop."""

    zone: str
    next_hop: str
    answer: str


class EventLog:
    """Logs events of domains; may be used by many threads. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        # By key, and whether the record or the fetch failed: cause, and whether a policy was there.
        self._failing: MutableMapping[tuple[Key, bool], tuple[Cause, bool]]
        self._failing = cachetools.LRUCache(_MAX_STATES)
        # By domain, and event with its cause.
        self._limiter = RateLimiter[tuple[str, str]](_LINES, _HOUR, _MAX_STATES, clock)
        self._exempt = RateLimiter[str](1, _DAY, _MAX_STATES, clock)
        # What was said last in place of an answer, by zone and next hop.
        self._observed: cachetools.LRUCache[tuple[str, str], str]
        self._observed = cachetools.LRUCache(_MAX_STATES)

    def failed(
        self,
        key: Key,
        result: NoPolicy | Failure,
        entry: Entry | None,
        lapsed: Mode | None = None,
    ) -> None:
        """Log that a lookup gave no policy.

        `entry`: the one that stays in force, if any.
        `lapsed`: the mode of a policy that has just ended.
        """
        domain = key[0]
        harmless = entry is None or entry.policy.mode is Mode.NONE
        if STRENGTH[lapsed]:
            self.lapsed(key, lapsed, str(result))
        if harmless and result.cause is Cause.NO_RECORD:
            log.debug("%s: %s", domain, result)
            return
        state = result.cause, entry is not None
        with self._lock:
            repeated = self._failing.get((key, result.cause.by_record)) == state
            self._failing[key, result.cause.by_record] = state
        if repeated or STRENGTH[lapsed]:
            level = logging.DEBUG
        elif entry is None:
            level = logging.INFO if result.cause is Cause.DNS else logging.WARNING
        else:
            level = logging.INFO if harmless else logging.WARNING
        fields = {"event": "failed", "cause": result.cause.name}
        if entry is None:
            self._log(level, domain, fields, "no policy: %s", result)
        else:
            end = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(entry.end))
            text = "%s; the cached policy (%s) stays in force until %s"
            mode = entry.policy.mode
            self._log(level, domain, fields | {"mode": mode}, text, result, mode, end)

    def unknown(self, key: Key, result: NoPolicy | Failure, fault: Fault) -> None:
        """Log that a lookup failed by a fault of ours. `Outages` says so once for all domains."""
        text = "%s: not known whether there is a policy: %s (%s)"
        log.debug(text, key[0], result, fault.value)

    def works(self, key: Key, *, by_record: bool) -> None:
        """Log that the record, or else the fetch, works again after it failed."""
        with self._lock:
            failed = self._failing.pop((key, by_record), None)
        if failed is not None:
            fields = {"event": "works", "cause": failed[0].name}
            what = (
                "the MTA-STS record can be looked up" if by_record else "the policy can be fetched"
            )
            self._log(logging.INFO, key[0], fields, "%s again", what)

    def changed(self, domain: str, before: Mode | None, policy: Policy, *, again: bool) -> None:
        """Log a policy that was not in force before.

        `before`: the mode of the policy that was in force last.
        `again`: that one had ended, so a policy of the same mode is no news.
        """
        fields = {"mode": policy.mode, "before": before}
        if STRENGTH[policy.mode] < STRENGTH[before]:
            weaker = {"event": "weaker", **fields}
            text = "policy got weaker: %s -> %s"
            self._log(logging.WARNING, domain, weaker, text, before, policy.mode)
        mx = ", ".join(policy.mx[:8]) + (", ..." if len(policy.mx) > 8 else "")
        event = "found" if before is None or again else "changed"
        level = logging.DEBUG if again and before is policy.mode else logging.INFO
        text = "policy %s: %s, mx %s, max_age %d s"
        values = event, policy.mode, mx or "none", policy.max_age
        self._log(level, domain, {"event": event, **fields}, text, *values)

    def lapsed(self, key: Key, before: Mode | None, why: str) -> None:
        """Log a policy that has ended with none to follow."""
        level = logging.WARNING if STRENGTH[before] else logging.DEBUG
        fields = {"event": "expired", "before": before}
        text = "policy expired: %s -> no policy (%s)"
        self._log(level, key[0], fields, text, before, why)

    def exempt(self, domain: str, entry: str) -> None:
        """Warn once a day that a domain has no protection, by this entry of the configuration."""
        with self._lock:
            admitted, _ = self._exempt.admits(domain, logging.WARNING)
        if admitted:
            text = "exempt by %s, so its mail is not protected"
            self._log(logging.WARNING, domain, {"event": "exempt"}, text, entry)

    def observed(self, zone: str, next_hop: str, answer: str) -> None:
        """Log what would be answered in a zone that observes, where that is news."""
        with self._lock:
            before = self._observed.get((zone, next_hop))
            self._observed[zone, next_hop] = answer
        if answer != before:
            text = "zone %s observes, would be: %s"
            self._log(logging.INFO, next_hop, {"event": "observed"}, text, zone, answer)

    def all_observed(self) -> list[Observed]:
        """Return what zones that observe would have answered, by zone and next hop."""
        with self._lock:
            table = self._observed
            # LRUCache's own way to read would make them all used.
            found = [(where, cachetools.Cache.__getitem__(table, where)) for where in table]
        return sorted(Observed(*where, answer) for where, answer in found)

    def dane(self, key: Key, verdict: Verdict, why: str, *, first: bool) -> None:
        """Log what DANE says of a next hop where that is news.

        `key`: with the next hop, as Postfix writes it, in place of the domain.
        `first`: nothing was known before, so that the policy is no news.
        """
        level = logging.DEBUG if first and verdict is Verdict.POLICY else logging.INFO
        text = "verified by DANE from now on" if verdict is Verdict.DANE else "no DANE: by policy"
        self._log(level, key[0], {"event": "dane"}, f"{text} (%s)", why)

    def dane_unknown(self, key: Key, why: str) -> None:
        """Log that DNS does not say whether DANE applies, so that mail waits."""
        text = "not known whether DANE applies, mail waits: %s"
        self._log(logging.WARNING, key[0], {"event": "dane unknown"}, text, why)

    def dane_hosts(self, key: Key, hosts: Sequence[DaneHost]) -> None:
        """Warn of hosts that mail cannot go to, because others have TLSA records."""
        text = "verified by DANE, so mail goes to none of these hosts: %s"
        some = ", ".join(map(str, hosts[:4])) + (", ..." if len(hosts) > 4 else "")
        self._log(logging.WARNING, key[0], {"event": "dane hosts"}, text, some)

    def _log(
        self, level: int, domain: str, fields: Mapping[str, str | None], text: str, *values: object
    ) -> None:
        """Log an event of a domain, within its share of the log."""
        given = {name: value for name, value in fields.items() if value is not None}
        if level > logging.DEBUG:
            kind = " ".join(filter(None, (given["event"], given.get("cause"))))
            with self._lock:
                admitted, left_out = self._limiter.admits((domain, kind), level)
            for (other, event), count, highest in left_out:
                extra = {"domain": other, "event": "left out", "count": count}
                log.log(highest, _LEFT_OUT, other, count, event, extra=extra)
            if not admitted:
                level = logging.DEBUG
        log.log(level, f"%s: {text}", domain, *values, extra={"domain": domain, **given})
