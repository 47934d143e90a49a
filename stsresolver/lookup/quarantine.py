"""Looks up the domains that a resolver process may have died of, one at a time.

They have a process of their own. So a domain that makes it die costs the others a second and no
answer. `suspects` decides which domains these are. The process is started for the first of them and
ends after the last.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable

from ..mta_sts.results import Cause, Failure
from .messages import Result
from .questions import Wanted
from .supervisor import Died, ResolverProcess, StartError, finish
from .suspects import Suspects, Treatment

log = logging.getLogger(__name__)

# Why the lookup of a domain fails that is left alone.
LEFT_ALONE = "it ends when it looks this domain up, which is not tried for some minutes"
# Seconds in line after which a lookup is not made any more: its request has been answered.
_PATIENCE = 20.0


class Quarantine:
    """Looks suspects up, each after the result of the one before. Any thread may use it.

    `make`: returns a process that was started and asks each question once. It calls its argument
    when it dies. Raises `StartError`.
    `losses`: how often a process of this kind ended by itself or was killed.
    """

    def __init__(self, make: Callable[[Died], ResolverProcess]) -> None:
        self.losses = 0
        self._make = make
        self._suspects = Suspects()
        # Guards the attributes below, and each change of the suspects.
        self._lock = threading.Lock()
        # With the time when each came (monotonic). None ends the thread.
        self._line = queue.SimpleQueue[tuple[Wanted, float] | None]()
        self._process: ResolverProcess | None = None
        self._changed = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def treatment(self, domain: str, now: float) -> Treatment:
        """Return how to look up a domain. Takes no lock."""
        return self._suspects.treatment(domain, now)

    def died(self, domains: Iterable[str]) -> None:
        """Note that a process died that was looking up all these domains."""
        with self._lock:
            self._suspects.died(domains)

    def answered(self, domain: str) -> None:
        """Note that a process came to a result for a domain."""
        if domain in self._suspects:
            with self._lock:
                self._suspects.answered(domain)

    def ask(self, wanted: Wanted) -> None:
        """Make a lookup when its turn comes, unless its domain is to be left alone by then."""
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("no such process is running")
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="quarantine", daemon=True)
                    thread.start()
                    self._thread = thread
                self._line.put((wanted, time.monotonic()))
        except RuntimeError as error:
            # Without a thread as well.
            finish(wanted, Failure(Cause.PROCESS, str(error)))

    def change(self) -> None:
        """Make the lookups in line with a new process. The one under way goes on."""
        self._changed = True

    def close(self) -> None:
        """End the process. Lookups in line, and later ones, end as failures."""
        with self._lock:
            self._closed = True
            process, thread = self._process, self._thread
            self._line.put(None)
        if process is not None:
            process.close()
        if thread is not None:
            thread.join()

    # ON ITS OWN THREAD

    def _run(self) -> None:
        while (item := self._line.get()) is not None:
            wanted, came = item
            try:
                result = self._look_up(wanted, came)
            except Exception as error:
                log.exception("%s: internal error in a lookup", wanted.domain)
                result = Failure(Cause.PROCESS, f"{type(error).__name__}: {error}")
            finish(wanted, result)
            if self._line.empty():
                self._end_process()

    def _look_up(self, wanted: Wanted, came: float) -> Result:
        now = time.monotonic()
        if self.treatment(wanted.domain, now) is Treatment.NOT_NOW:
            return Failure(Cause.PROCESS, LEFT_ALONE)
        if now > came + _PATIENCE:
            return Failure(Cause.PROCESS, "other domains that it may have ended of came first")
        if self._changed:
            self._end_process()
        try:
            process = self._running_process()
        except StartError as error:
            return Failure(Cause.PROCESS, str(error))
        results = queue.SimpleQueue[Result]()
        process.ask(*wanted[:-1], results.put)
        process.flush()
        result = results.get()
        if isinstance(result, Failure) and result.cause is Cause.PROCESS:
            # The next one gets another process, without a pause.
            self._end_process()
        return result

    def _running_process(self) -> ResolverProcess:
        """Return the process. Raise `StartError` if there is none, and no more is to be started."""
        with self._lock:
            if self._closed:
                raise StartError("no such process is running")
            if self._process is None:
                self._changed = False
                self._process = self._make(self._died_alone)
            return self._process

    def _end_process(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()
            self.losses += process.losses

    # ON THE LISTENING THREAD OF THE PROCESS

    def _died_alone(self, domains: Iterable[str], lost: Iterable[Wanted]) -> None:
        for domain in domains:
            with self._lock:
                self._suspects.died_alone(domain, time.monotonic())
            log.error(
                "%s: the resolver process ends when it looks this domain up: not looking it up for"
                " five minutes, and its mail waits: report this as a bug",
                domain,
            )
        for wanted in lost:
            finish(wanted, Failure(Cause.PROCESS, LEFT_ALONE))
