"""Proactive fetching: renews policies in force even if no mail asks for them.

A policy of one day does not lapse while its policy host works, and mail stays protected when
somebody tampers with DNS or HTTPS later (RFC 8461 §3.3, §10.2). Each entry carries the time when it
is due, as `renewal_times` computed it. A thread asks the store for the due entries and has
`Policies.refresh` look at each of them. At most `concurrency_limit` looks are under way at once,
and none of them delays an answer. Of several processes that share a store, the one that holds its
lease does this.

The same thread does the housekeeping of every process. It writes what could not be written to the
store, and removes entries that ended a month ago. It removes
nothing within an hour after a jump of the clock, because a clock that is ahead would empty the
store. No entry can end the thread.
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

from ..cache.clock import Clock, SteadyClock
from ..cache.entry import KEPT
from ..cache.store import Cache
from ..config.settings import ProactiveSettings
from .in_force import Policies
from .steps import Refresh

log = logging.getLogger(__name__)

# Seconds between two looks at the store when nothing is due. Short enough to renew a policy of
# some minutes in time.
TICK = 10.0
# Seconds to the next look when more is due.
PAUSE = 1.0
# Seconds. A holder that misses three looks is gone.
_LEASE = 3 * TICK
# Seconds between two removals of what has ended.
_PURGE_PAUSE = 3600.0
# Entries read at once: a large policy takes half a megabyte. More are read where so many stay due.
_BATCH = 100
_MAX_BATCH = 3200
# Entries removed at once.
_PURGE = 1000


class Proactive:
    """The scheduler of renewals, on a thread of its own from `start` to `stop`.

    `settings`: may be changed at any time; if not enabled, only ended entries are removed.
    `behind`: runs a job on another thread some time later.
    `timeout`: seconds that DNS may take for a domain, and HTTPS as well; may be changed too.
    `also`: called for each domain that is looked at.
    `rounds`: rounds so far.
    `failures`: rounds that ended in an internal error.
    `looked_at`: domains looked at so far, by outcome.
    """

    def __init__(
        self,
        store: Cache,
        policies: Policies,
        *,
        settings: ProactiveSettings,
        behind: Callable[[Callable[[], None]], None],
        timeout: float,
        also: Callable[[str], None] = lambda domain: None,
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
        self._also = also
        self._clock = clock
        self._steady = SteadyClock(clock.time(), clock.monotonic())
        self._next_purge = clock.monotonic()
        self._purged = 0
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._free = threading.Condition()
        self._running = 0
        self._leased = 0.0
        self._seen = clock.monotonic()
        # The counts of the last summary.
        self._told: Counter[Refresh] = Counter()
        self._summary = clock.monotonic() + settings.interval
        # Whether a run over all policies was asked for and has not begun.
        self._asked = False
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="proactive", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no more renewals. Those under way may end or not: no entry is half written."""
        self._stopped = True
        self._woken.set()
        with self._free:
            self._free.notify_all()

    @property
    def silence(self) -> float:
        """Seconds since the scheduler was last seen at work; inf where it does not run."""
        if not self._thread.is_alive():
            return math.inf
        return self._clock.monotonic() - self._seen

    def run_now(self) -> None:
        """Look at every policy now, due or not, and even if proactive fetching is not enabled."""
        self._asked = True
        self._woken.set()

    def round(self) -> bool:
        """Do one round; return whether more is left to remove."""
        self._store.catch_up()
        more = self._purge()
        asked, self._asked = self._asked, False
        if asked:
            log.info("proactive fetching: a run over all policies")
            self._store.make_due(self._clock.time())
        if asked or self.settings.enabled:
            self._look_at_due()
        if asked or self._clock.monotonic() >= self._summary:
            self._summarise()
        return more

    def _purge(self) -> bool:
        """Remove some of what has ended; return whether more is left."""
        now, monotonic = self._clock.time(), self._clock.monotonic()
        if not self._steady.is_steady(now, monotonic) or monotonic < self._next_purge:
            return False
        removed = self._store.purge(now - KEPT, _PURGE)
        self._purged += removed
        if removed >= _PURGE:
            return True
        if self._purged:
            log.info("removed %d policies that ended more than a month ago", self._purged)
        self._purged = 0
        self._next_purge = self._clock.monotonic() + _PURGE_PAUSE
        return False

    def _look_at_due(self) -> None:
        """Have each domain that is due looked at once."""
        seen: set[str] = set()
        limit = _BATCH
        while not self._stopped and self._has_lease():
            found = [entry.domain for entry in self._store.due(self._clock.time(), limit)]
            domains = [domain for domain in found if domain not in seen]
            for domain in domains:
                self._begin(domain)
            self._wait_until(lambda: self._running == 0)
            seen.update(domains)
            if len(found) < limit:
                break
            if not domains:
                # These stay due, because the clock is in doubt or the store cannot be written.
                if limit >= _MAX_BATCH:
                    break
                limit *= 2

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
                log.exception("internal error in proactive fetching")
                pause = TICK

    def _has_lease(self) -> bool:
        self._leased = self._seen = self._clock.monotonic()
        return self._store.lease(self._holder, _LEASE, self._clock.time())

    def _begin(self, domain: str) -> None:
        """Have a domain looked at once fewer than the limit are under way."""
        self._wait_until(lambda: self._running < self.settings.concurrency_limit)
        if self._stopped:
            return
        with self._free:
            self._running += 1
        self._behind(lambda: self._look(domain))

    def _look(self, domain: str) -> None:
        """Look at a domain. Runs on a worker."""
        unused_after = self.settings.unused_after
        self._policies.refresh(domain, self.timeout, unused_after, self._looked)
        self._also(domain)

    def _looked(self, result: Refresh) -> None:
        """Count the outcome of a look, on the thread where it ended."""
        with self._free:
            self._running -= 1
            self.looked_at[result] += 1
            self._free.notify_all()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns true, or for the stop; keep the lease meanwhile."""
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
