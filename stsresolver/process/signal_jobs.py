"""Runs what signals ask for on a thread of its own, so that no other thread waits for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class SignalJobs:
    """Does one job after the other, from `start` on."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._obey, name="orders", daemon=True)

    def give(self, job: Callable[[], None]) -> None:
        """Have a job done. May be called in a signal handler."""
        self._jobs.put(job)

    def start(self) -> None:
        """Begin with what has been given so far."""
        self._thread.start()

    def _obey(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:
                log.exception("internal error after a signal")
