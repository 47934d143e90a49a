"""Outages: which faults of ours last, since when, and what the log says of them.

A fault lasts from the first lookup that shows it to the first that shows that it is over. The log
has a line when it begins, when mail no longer waits because of it, and when it is over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from ..mta_sts.policy import Policy
from ..mta_sts.results import Lookup
from .faults import HOUR, PATIENCE, Fault, begun_by, ended_by
from .rate_limit import RateLimiter

log = logging.getLogger(__name__)

# Lines within an hour of a fault that comes and goes.
_LINES = 5


class Outages:
    """The faults that last. Times are monotonic seconds. May be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced and never changed, so that it is read without the lock.
        self._lasting: Mapping[Fault, float] = {}
        self._given_up: frozenset[Fault] = frozenset()
        self._now = 0.0
        self._limiter = RateLimiter[Fault](_LINES, HOUR, len(Fault), lambda: self._now)

    def lasting(self, now: float) -> Mapping[Fault, float]:
        """Return the faults that last, each with its beginning."""
        lasting = self._lasting
        for fault, since in lasting.items():
            if fault not in self._given_up and now >= since + PATIENCE[fault]:
                self._give_up(fault, now)
        return lasting

    def looked_up(self, result: Lookup | Policy | str, now: float) -> None:
        """Note what the result of a lookup shows."""
        fault = begun_by(result)
        if fault is not None:
            self.begin(fault, now, str(result))
        if self._lasting:
            for over in ended_by(result):
                self.end(over, now)

    def begin(self, fault: Fault, since: float, why: str = "") -> None:
        """Note that a fault lasts. `why`: for the log; empty where the log says it already."""
        if fault in self._lasting:
            return
        with self._lock:
            if fault in self._lasting:
                # Another thread has noted it meanwhile.
                return
            self._lasting = {fault: since, **self._lasting}
            waits = PATIENCE[fault] > 0
            self._given_up |= frozenset() if waits else {fault}
            level = self._level(fault, since)
        if why and waits:
            text = "%s, so mail waits where it is not known whether there is a policy: %s"
            log.log(level, text, fault.value, why)
        elif why:
            text = "%s, so domains whose policy is not known count as having none: %s"
            log.log(level, text, fault.value, why)

    def end(self, fault: Fault, now: float) -> None:
        """Note that a fault is over."""
        if fault not in self._lasting:
            return
        with self._lock:
            if fault not in self._lasting:
                return
            since = self._lasting[fault]
            self._lasting = {one: at for one, at in self._lasting.items() if one is not fault}
            self._given_up -= {fault}
        log.info("over after %d s: %s", now - since, fault.value)

    def _give_up(self, fault: Fault, now: float) -> None:
        with self._lock:
            if fault in self._given_up or fault not in self._lasting:
                return
            self._given_up |= {fault}
            level = self._level(fault, now)
        text = "%s for too long, so domains whose policy is not known count as having none"
        log.log(level, text, fault.value)

    def _level(self, fault: Fault, now: float) -> int:
        """Return the level of a line, with the lock held: an error, if there were not too many."""
        self._now = now
        admitted, _ = self._limiter.admits(fault, logging.ERROR)
        return logging.ERROR if admitted else logging.DEBUG
