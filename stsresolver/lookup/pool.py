"""A pool of resolver processes that grows under load.

A process computes on one core at a time (the GIL). So the pool starts more of them, at most one a
core, when those that run compute most of the time. While lookups only wait, one process is enough.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from ..counters import Durations, Tally
from .client import ENDINGS, LookupClient, endings
from .messages import FETCH, POLICY_ID, RESOLVE, Result
from .supervisor import ResolverProcess, StartError

log = logging.getLogger(__name__)

# Processes at most. Further cores are left to the rest of the host.
_MOST = 4
# Another process is started when each has `_MANY` lookups under way, and has used the share `_BUSY`
# of a core since CPU time was read last, at least `_LOOK` seconds ago.
_MANY = 8
_BUSY = 0.6
_LOOK = 0.2


class ResolverPool:
    """Spreads lookups over resolver processes. Argument and methods are as in `ResolverProcess`.

    `endings`: how the lookups so far ended, record and policy counted apart.
    `seconds`: how long they took, by type of question.
    """

    def __init__(self, resolver: Mapping[str, object]) -> None:
        self.endings = Tally(ENDINGS)
        self.seconds = {what: Durations() for what in (RESOLVE, POLICY_ID, FETCH)}
        self._resolver = resolver
        self._most = min(_MOST, len(os.sched_getaffinity(0)))
        self._processes = [ResolverProcess(resolver)]
        self._lock = threading.Lock()
        self._starting = False
        self._closed = False
        # When the CPU time of the processes was read last (monotonic), and the sum (seconds).
        self._looked = 0.0
        self._used = 0.0

    def lookups(self, timeout: float) -> LookupClient:
        """Return a client whose lookups have a time limit, in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the first process. Raise `StartError` if it cannot be started."""
        self._processes[0].start()

    def change(self, resolver: Mapping[str, object]) -> None:
        """Replace the processes if the arguments differ. Lookups under way are asked once more."""
        with self._lock:
            self._resolver = resolver
            for process in self._processes:
                process.change(resolver)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.close()

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
        return sum(process.losses for process in self._processes)

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
            done(result)

        ready = [process for process in self._processes if process.ready]
        process = min(ready or self._processes, key=lambda one: one.under_way)
        # While one is being started, nobody knows yet whether it is enough.
        may_grow = len(ready) == len(self._processes) < self._most
        if process.under_way >= _MANY and may_grow and self._busy(began):
            self._start_another()
        process.ask(what, domain, timeout, known_ids, counted)

    def flush(self) -> None:
        """Send the questions that were not sent yet."""
        for process in self._processes:
            process.flush()

    def _busy(self, now: float) -> bool:
        """Return whether the processes compute most of the time rather than wait."""
        seconds = now - self._looked
        if seconds < _LOOK:
            return False
        used = sum(process.cpu for process in self._processes)
        before, self._looked, self._used = self._used, now, used
        return used - before > _BUSY * seconds * len(self._processes)

    def _start_another(self) -> None:
        """Start one more process, on a thread of its own. It gets questions once it is ready."""
        if not (self._starting or self._closed):
            self._starting = True
            try:
                threading.Thread(target=self._grow, daemon=True).start()
            except RuntimeError as error:
                self._no_more(f"the resolver process cannot be started: {error}")

    def _grow(self) -> None:
        process = ResolverProcess(self._resolver)
        try:
            process.start()
        except StartError as error:
            self._no_more(str(error))
            return
        with self._lock:
            if self._closed:
                process.close()
            else:
                process.change(self._resolver)
                self._processes = [*self._processes, process]
            self._starting = False

    def _no_more(self, why: str) -> None:
        log.warning("%s: not starting more resolver processes", why)
        self._most = len(self._processes)
        self._starting = False
