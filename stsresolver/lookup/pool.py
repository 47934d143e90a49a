"""The resolver processes as one: another is started when those that there are have much to do.

A process computes on one core at a time (the GIL), so a mail host with several is better served by
several; one that looks little up keeps one, and so does one whose lookups only wait.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping

from ..counters import Durations, Tally
from .client import ENDINGS, LookupClient, endings
from .messages import FETCH, POLICY_ID, RESOLVE, Result
from .supervisor import ResolverProcess, StartError

log = logging.getLogger(__name__)

# More cores than these are left to the rest of the host.
_MOST = 4
# Another one is started when each has so many lookups under way, and they have used this share of a
# core each, since a look that many seconds ago at least.
_MANY = 8
_BUSY = 0.6
_LOOK = 0.2


class ResolverPool:
    """Looks up policies in processes, each with `workers` threads and `resolver` as arguments.

    For the arguments and methods see `ResolverProcess`. `endings`: what the lookups so far ended
    in, each of record and policy for itself. `seconds`: how long they took, by what was asked.
    """

    def __init__(self, workers: int, resolver: Mapping[str, object]) -> None:
        self.endings = Tally(ENDINGS)
        self.seconds = {what: Durations() for what in (RESOLVE, POLICY_ID, FETCH)}
        self._settings = workers, resolver
        self._most = min(_MOST, len(os.sched_getaffinity(0)))
        self._processes = [ResolverProcess(workers, resolver)]
        self._lock = threading.Lock()
        self._closed = False
        # When it was looked at last what they use (monotonic), and how much it was (seconds).
        self._looked = 0.0
        self._used = 0.0

    def lookups(self, timeout: float) -> LookupClient:
        """Return lookups with a time limit in seconds."""
        return LookupClient(self, timeout)

    def start(self) -> None:
        """Start the first process. Raise `StartError` where that is not possible."""
        self._processes[0].start()

    def change(self, workers: int, resolver: Mapping[str, object]) -> None:
        """Start processes with other settings, if they differ; they take over what is under way."""
        with self._lock:
            self._settings = workers, resolver
            for process in self._processes:
                process.change(workers, resolver)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.close()

    @property
    def pid(self) -> int | None:
        """The process id of the first that runs, None while there is none."""
        return next((pid for process in self._processes if (pid := process.pid)), None)

    @property
    def running(self) -> int:
        """How many processes there are just now."""
        return sum(process.pid is not None for process in self._processes)

    @property
    def losses(self) -> int:
        """How often one ended though nobody wanted it to, or could not be started."""
        return sum(process.losses for process in self._processes)

    def ask(self, what: str, domain: str, timeout: float, *known_ids: str) -> Result:
        """Return what a lookup ended in, by the process that has the least to do."""
        began = time.monotonic()
        ready = [process for process in self._processes if process.ready]
        process = min(ready or self._processes, key=lambda one: one.under_way)
        # While one is being started, it is not known yet whether that was enough.
        may_grow = len(ready) == len(self._processes) < self._most
        if process.under_way >= _MANY and may_grow and self._busy():
            self._start_another()
        result = process.ask(what, domain, timeout, *known_ids)
        self.seconds[what].add(time.monotonic() - began)
        for ending in endings(what, result):
            self.endings.add(ending)
        return result

    def _busy(self) -> bool:
        """Say whether the processes compute for most of the time, and not wait."""
        now = time.monotonic()
        seconds = now - self._looked
        if seconds < _LOOK:
            return False
        used = sum(process.cpu for process in self._processes)
        before, self._looked, self._used = self._used, now, used
        return used - before > _BUSY * seconds * len(self._processes)

    def _start_another(self) -> None:
        """Start one more process; it is asked when it is ready."""
        # Who comes while somebody else does it has a lookup to make.
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._closed or len(self._processes) >= self._most:
                return
            process = ResolverProcess(*self._settings)
            process.start()
            self._processes.append(process)
        except StartError as error:
            log.warning("%s: there will be no more than there are", error)
            self._most = len(self._processes)
        finally:
            self._lock.release()
