"""Proactive fetching: policies in force are looked at though no mail asks for them.

So a policy of a day does not lapse while its source is well, and what protects mail is there when
somebody tampers with DNS or HTTPS later (RFC 8461 §3.3, §10.2). What is due, and when, is stored
with each entry by `policies`: this module asks the store and has the work done, at most
`concurrency_limit` domains at once, on the workers that serve requests, when those are free. Where
several processes share a store, the one that has its lease works.

It also removes entries past their end. Nothing that one entry does ends the loop.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from ..cache.clock import Clock
from ..cache.store import Cache
from ..config.settings import ProactiveSettings
from .in_force import Policies, Refresh

log = logging.getLogger(__name__)

# Seconds from one look at the store to the next, when nothing is left to do. A policy of some
# minutes is still renewed in time.
TICK = 10.0
# Seconds to the next look when there is more to do.
PAUSE = 1.0
# A holder that says nothing for three looks has gone.
_LEASE = 3 * TICK
# Seconds past its end after which an entry is removed; most are seen to end by `policies`.
_MARGIN = 86_400.0
# Entries asked for at a time: a large policy takes half a megabyte.
_BATCH = 100
# Entries removed at a time.
_PURGE = 1000


class Proactive:
    """The scheduler. `start` runs it on a thread of its own, `stop` ends that.

    `settings`: may be changed at any time; where they are not enabled, only entries past their
    end are removed. `behind`: runs a job on another thread some time later. `timeout`: seconds that
    DNS may take for a domain, and HTTPS as well; may be changed too.

    `rounds`: how many there were so far, of which `failures` ended in a bug of this program.
    `looked_at`: what came of looking at domains so far.
    """

    def __init__(
        self,
        store: Cache,
        policies: Policies,
        *,
        settings: ProactiveSettings,
        behind: Callable[[Callable[[], None]], None],
        timeout: float,
        clock: Clock = time,
    ) -> None:
        self.settings = settings
        self.timeout = timeout
        self.rounds = 0
        self.failures = 0
        self.looked_at: Counter[Refresh] = Counter()
        self._store = store
        self._policies = policies
        self._behind = behind
        self._clock = clock
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._free = threading.Condition()
        self._running = 0
        self._progress = 0
        self._leased = 0.0
        self._seen = clock.monotonic()
        # What the last summary told already.
        self._told: Counter[Refresh] = Counter()
        self._summary = clock.monotonic() + settings.interval
        # Whether a run over everything was asked for, and is not over.
        self._asked = False
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="proactive", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more. What is under way may end or not: no entry is half written."""
        self._stopped = True
        self._woken.set()
        with self._free:
            self._free.notify_all()

    @property
    def silence(self) -> float:
        """Seconds since the scheduler came round last; inf where it does not run."""
        if not self._thread.is_alive():
            return math.inf
        return self._clock.monotonic() - self._seen

    def run_now(self) -> None:
        """Look at every policy now, whether it is due or not, and whether that is enabled."""
        self._asked = True
        self._woken.set()

    def round(self) -> bool:
        """Do what is to be done now, and return whether there is more."""
        more = self._store.purge(self._clock.time() - _MARGIN, _PURGE) >= _PURGE
        asked, self._asked = self._asked, False
        if asked:
            log.info("proactive fetching: a run over all policies")
            self._store.make_due(self._clock.time())
        if asked or self.settings.enabled:
            self._look_at_what_is_due()
        if asked or self._clock.monotonic() >= self._summary:
            self._summarise()
        return more

    def _look_at_what_is_due(self) -> None:
        while not self._stopped and self._has_lease():
            domains = [entry.domain for entry in self._store.due(self._clock.time(), _BATCH)]
            before = self._progress
            for domain in domains:
                self._begin(domain)
            self._wait_until(lambda: self._running == 0)
            if len(domains) < _BATCH or self._progress == before:
                break

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped:
            self._woken.wait(pause)
            self._woken.clear()
            self._seen = self._clock.monotonic()
            self.rounds += 1
            try:
                pause = PAUSE if self.round() else TICK
            except Exception:
                self.failures += 1
                log.exception("proactive fetching met a bug of this program")
                pause = TICK

    def _has_lease(self) -> bool:
        self._leased = self._seen = self._clock.monotonic()
        return self._store.lease(self._holder, _LEASE, self._clock.time())

    def _begin(self, domain: str) -> None:
        """Have a domain looked at, as soon as fewer than the limit are under way."""
        self._wait_until(lambda: self._running < self.settings.concurrency_limit)
        if self._stopped:
            return
        with self._free:
            self._running += 1
        self._behind(lambda: self._look(domain))

    def _look(self, domain: str) -> None:
        """Look at a domain. Runs on a worker."""
        try:
            result = self._policies.refresh(domain, self.timeout, self.settings.unused_after)
        except Exception:
            log.exception("%s: proactive fetching met a bug of this program", domain)
            result = Refresh.FAILED
        with self._free:
            self._running -= 1
            self.looked_at[result] += 1
            self._progress += result is not Refresh.LEFT
            self._free.notify_all()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until what is under way lets `ready` hold, or for the stop; keep the lease."""
        while True:
            with self._free:
                if self._free.wait_for(lambda: ready() or self._stopped, TICK):
                    break
            self._has_lease()
        if self._clock.monotonic() > self._leased + TICK:
            self._has_lease()

    def _summarise(self) -> None:
        self._summary = self._clock.monotonic() + self.settings.interval
        with self._free:
            done = self.looked_at - self._told
            self._told = self.looked_at.copy()
        if not self.settings.enabled and not done:
            return
        log.info(
            "proactive fetching: %d checked, %d fetched, %d changed, %d failed",
            sum(done.values()) - done[Refresh.LEFT],
            done[Refresh.FETCHED] + done[Refresh.CHANGED],
            done[Refresh.CHANGED],
            done[Refresh.FAILED],
        )
