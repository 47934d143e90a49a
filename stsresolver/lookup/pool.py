"""A pool of resolver processes that grows under load.

A process computes on one core at a time (the GIL). So the pool starts more of them, at most one a
core, when those that run compute nearly all the time. Until then one more gives no answer sooner,
and its start takes CPU from the others.

A change of the settings starts a new process for what is asked from then on. The old ones drain.
Domains that processes have died of are looked up apart from the others (`quarantine`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from ..counters import Durations, Tally
from ..mta_sts.results import Cause, Failure
from .client import ENDINGS, LookupClient, endings
from .messages import DANE, FETCH, POLICY_ID, RESOLVE, WHOLE_DANE, Result
from .quarantine import LEFT_ALONE, Quarantine
from .questions import Wanted
from .supervisor import Died, ResolverProcess, StartError, Watch
from .suspects import Treatment

log = logging.getLogger(__name__)

# Processes at most. Further cores are left to the rest of the host.
_MOST = 4
# Another process is started when each has `_MANY` lookups under way, and has used the share `_BUSY`
# of a core since CPU time was read last, at least `_LOOK` seconds ago. A process of lookups with a
# policy uses all of it; for those without one the serving thread is what is full first.
_MANY = 8
_BUSY = 0.9
_LOOK = 0.2
# Seconds until that is tried again, if there was no thread for it.
_AGAIN = 60.0
# Processes that may drain when the settings change once more. Beyond them, the change waits.
_MOST_DRAINING = 4
_QUESTIONS = (RESOLVE, POLICY_ID, FETCH, DANE, WHOLE_DANE)


class ResolverPool:
    """Spreads lookups over resolver processes. The arguments are as in `ResolverProcess`.

    `endings`: how the lookups so far ended, record and policy counted apart.
    `seconds`: how long they took, by type of question.
    """

    def __init__(self, resolver: Mapping[str, object], watch: Watch | None = None) -> None:
        self.endings = Tally(ENDINGS)
        self.seconds = {what: Durations() for what in _QUESTIONS}
        self._resolver = resolver
        self._watch = watch
        self._most = min(_MOST, len(os.sched_getaffinity(0)))
        # Guards the attributes below. They are read without it.
        self._lock = threading.Lock()
        self._processes = [ResolverProcess(resolver, self._died, watch=watch)]
        self._draining: list[ResolverProcess] = []
        self._closed = False
        # The losses of those that have drained, and when one of them was ready (monotonic).
        self._past_losses = 0
        self._last_ready = time.monotonic()
        self._quarantine = Quarantine(self._start_alone)
        # When another process may be started, and when the CPU time of the processes was read
        # last (monotonic); the sum (seconds).
        self._not_before = 0.0
        self._looked = 0.0
        self._used = 0.0

    def lookups(self, timeout: float) -> LookupClient:
        """Return a client whose lookups have a time limit, in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the first process. Raise `StartError` if it cannot be started."""
        self._processes[0].start(persist=False)

    def change(self, resolver: Mapping[str, object]) -> None:
        """Make the lookups asked from now on with other arguments of `Resolver`, if they differ.

        Those under way end in the old processes. Waits while many of these are left. Only one
        thread may call this at a time.
        """
        if resolver == self._resolver:
            return
        self._forget_drained()
        while len(self._draining) >= _MOST_DRAINING:
            self._draining[0].join()
            self._forget_drained()
        process = ResolverProcess(resolver, self._died, watch=self._watch)
        try:
            process.start()
        except StartError as error:
            log.error("%s: lookups go on by the old configuration: reload again", error)
            return
        with self._lock:
            self._last_ready = self._seen_ready()
            old, self._processes = self._processes, [process]
            self._draining = [*self._draining, *old]
            self._resolver = resolver
            if self._closed:
                process.close()
        for one in old:
            for wanted in one.drain():
                self._ask(wanted)
        self.flush()
        self._quarantine.change()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            processes = [*self._processes, *self._draining]
        for process in processes:
            process.close()
        self._quarantine.close()

    @property
    def pid(self) -> int | None:
        """The id of the first process that runs, None while none runs."""
        return next((pid for process in self._processes if (pid := process.pid)), None)

    @property
    def running(self) -> int:
        """How many processes run."""
        return sum(process.pid is not None for process in self._processes)

    @property
    def losses(self) -> int:
        """How often a process ended by itself, was killed, or could not be started."""
        with self._lock:
            processes = [*self._processes, *self._draining]
            past = self._past_losses + self._quarantine.losses
        return past + sum(process.losses for process in processes)

    @property
    def absence(self) -> float:
        """Seconds since a process took questions, 0 while one does."""
        return max(0.0, time.monotonic() - self._seen_ready())

    def ask(
        self,
        what: str,
        domain: str,
        timeout: float,
        known_ids: tuple[str, ...],
        done: Callable[[Result], None],
    ) -> None:
        """Ask the process with the fewest lookups under way. See `ResolverProcess.ask`."""
        began = time.monotonic()

        def counted(result: Result) -> None:
            self.seconds[what].add(time.monotonic() - began)
            for ending in endings(what, result):
                self.endings.add(ending)
            if not (isinstance(result, Failure) and result.cause is Cause.PROCESS):
                self._quarantine.answered(domain)
            done(result)

        wanted = Wanted(what, domain, timeout, known_ids, counted)
        match self._quarantine.treatment(domain, began):
            case Treatment.TOGETHER:
                if self._ask(wanted).under_way > _MANY and self._may_grow(began):
                    self._start_another()
            case Treatment.ALONE:
                self._quarantine.ask(wanted)
            case Treatment.NOT_NOW:
                counted(Failure(Cause.PROCESS, LEFT_ALONE))

    def flush(self) -> None:
        """Send the questions that were not sent yet."""
        for process in self._processes:
            process.flush()

    def _ask(self, wanted: Wanted) -> ResolverProcess:
        """Ask the process with the least to do; return it."""
        while True:
            processes = self._processes
            ready = [process for process in processes if process.ready]
            process = min(ready or processes, key=lambda one: one.under_way)
            # It refuses if it began to drain just now.
            if process.ask(*wanted):
                return process

    def _may_grow(self, now: float) -> bool:
        """Return whether to start another process."""
        if len(self._processes) >= self._most or now < max(self._not_before, self._looked + _LOOK):
            return False
        # While one is being started, nobody knows yet whether it is enough.
        return all(process.ready for process in self._processes) and self._busy(now)

    def _busy(self, now: float) -> bool:
        """Return whether the processes compute nearly all the time."""
        seconds = now - self._looked
        used = sum(process.cpu for process in self._processes)
        before, self._looked, self._used = self._used, now, used
        return used - before > _BUSY * seconds * len(self._processes)

    def _start_another(self) -> None:
        """Start one more process. It gets questions once it is ready."""
        with self._lock:
            if self._closed or len(self._processes) >= self._most:
                return
            process = ResolverProcess(self._resolver, self._died, watch=self._watch)
            try:
                process.start()
            except StartError as error:
                self._not_before = time.monotonic() + _AGAIN
                log.warning("%s: not starting one more for a minute", error)
                return
            self._processes = [*self._processes, process]

    def _start_alone(self, died: Died) -> ResolverProcess:
        """Return a process for the quarantine."""
        process = ResolverProcess(self._resolver, died, tries=1)
        process.start()
        return process

    def _died(self, domains: frozenset[str], lost: list[Wanted]) -> None:
        """Look up alone what was under way at two deaths in a row."""
        self._quarantine.died(domains)
        for wanted in lost:
            self._quarantine.ask(wanted)

    def _seen_ready(self) -> float:
        """Return when a process took questions (monotonic)."""
        return max(self._last_ready, *(process.last_ready for process in self._processes))

    def _forget_drained(self) -> None:
        with self._lock:
            gone = [process for process in self._draining if process.ended]
            self._past_losses += sum(process.losses for process in gone)
            self._draining = [process for process in self._draining if not process.ended]
