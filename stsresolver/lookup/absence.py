"""Tells when there has been no resolver process for minutes, so that this does not last unseen.

After `LIMIT` seconds the log says so every minute. Where a service manager starts the daemon anew,
the daemon ends once: a new one may find what this one lacks, such as a Python that was upgraded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

# Seconds without a resolver process after which the daemon does not do its work any more.
LIMIT = 300.0
# Seconds between two lines in the log.
_AGAIN = 60.0
# Seconds between two looks.
_LOOK = 5.0


class AbsenceWatch:
    """Looks every few seconds, on a thread of its own from `start` to `stop`.

    `absence`: returns the seconds since there was a resolver process.
    `give_up`: ends the daemon; None where nobody would start it anew.
    """

    def __init__(
        self, absence: Callable[[], float], give_up: Callable[[], None] | None = None
    ) -> None:
        self._absence = absence
        self._give_up = give_up
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="absence", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        next_line = LIMIT
        while not self._stopped.wait(_LOOK):
            absence = self._absence()
            if absence < LIMIT:
                next_line = LIMIT
            elif absence >= next_line:
                next_line = absence + _AGAIN
                self._tell(absence)

    def _tell(self, absence: float) -> None:
        log.error(
            "no resolver process has run for %.0f s, and mail to new domains waits: the lines"
            " before say why",
            absence,
        )
        if self._give_up is not None:
            log.critical("stopping, to be started anew: no resolver process runs")
            self._give_up()
            self._stopped.set()
