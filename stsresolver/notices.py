"""What the log says of a domain: once for each change of its state, not once for each mail.

Debug: nothing to do for anybody. Info: a policy came, changed or works again. Warning: an
administrator may have to act, or mail is less protected than before.

A domain's state is kept by (domain, timeout), as its lookups are: with a longer timeout more works.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import MutableMapping

import cachetools

from .cache import Entry
from .misses import Key
from .results import Cause, Failure, NoPolicy
from .sts import Mode, Policy

log = logging.getLogger(__name__)

# States that are remembered; a domain whose state is dropped may be warned about again.
_MAX_STATES = 20_000
_STRENGTH = {None: 0, Mode.NONE: 0, Mode.TESTING: 1, Mode.ENFORCE: 2}


class Notices:
    """Logs events of domains, whatever thread they come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By key, and whether it was the record that failed: cause, and whether there was an entry.
        self._failing: MutableMapping[tuple[Key, bool], tuple[Cause, bool]]
        self._failing = cachetools.LRUCache(_MAX_STATES)

    def failed(
        self,
        key: Key,
        result: NoPolicy | Failure,
        entry: Entry | None,
        lapsed: Mode | None = None,
    ) -> None:
        """Log that a lookup gave no policy.

        `entry` is what is in force all the same, `lapsed` the mode of a policy that has just come
        to its end.
        """
        domain = key[0]
        harmless = entry is None or entry.policy.mode is Mode.NONE
        if _STRENGTH[lapsed]:
            self.lapsed(key, lapsed, str(result))
        if harmless and result.cause is Cause.NO_RECORD:
            log.debug("%s: %s", domain, result)
            return
        state = result.cause, entry is not None
        with self._lock:
            repeated = self._failing.get((key, result.cause.by_record)) == state
            self._failing[key, result.cause.by_record] = state
        if repeated or _STRENGTH[lapsed]:
            level = logging.DEBUG
        elif entry is None:
            level = logging.INFO if result.cause is Cause.DNS else logging.WARNING
        else:
            level = logging.INFO if harmless else logging.WARNING
        if entry is None:
            log.log(level, "%s: no policy: %s", domain, result)
        else:
            end = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(entry.end))
            text = "%s: %s; the cached policy (%s) stays in force until %s"
            log.log(level, text, domain, result, entry.policy.mode, end)

    def works(self, key: Key, *, by_record: bool) -> None:
        """Log that the record, or else the fetch, works again after it failed."""
        with self._lock:
            failed = self._failing.pop((key, by_record), None)
        if failed is not None:
            what = "the MTA-STS record" if by_record else "the policy"
            log.info("%s: %s can be had again", key[0], what)

    def changed(self, domain: str, before: Mode | None, policy: Policy, *, again: bool) -> None:
        """Log a policy that was not in force so far.

        `before`: the mode of the one that was in force last. `again`: that one had come to its
        end, so one of the same mode is no news.
        """
        if _STRENGTH[policy.mode] < _STRENGTH[before]:
            log.warning("%s: policy got weaker: %s -> %s", domain, before, policy.mode)
        mx = ", ".join(policy.mx[:8]) + (", ..." if len(policy.mx) > 8 else "")
        event = "found" if before is None or again else "changed"
        level = logging.DEBUG if again and before is policy.mode else logging.INFO
        text = "%s: policy %s: %s, mx %s, max_age %d s"
        log.log(level, text, domain, event, policy.mode, mx or "none", policy.max_age)

    def lapsed(self, key: Key, before: Mode | None, why: str) -> None:
        """Log a policy that has come to its end with none to follow."""
        level = logging.WARNING if _STRENGTH[before] else logging.DEBUG
        log.log(level, "%s: policy expired: %s -> no policy (%s)", key[0], before, why)
