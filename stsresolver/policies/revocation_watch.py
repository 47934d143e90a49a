"""Notices within `cache_grace` what another process on the same store has revoked.

On a thread of its own: a run of renewals, which may take minutes, must not delay it.
"""

from __future__ import annotations

import logging
import threading

from .in_force import Policies

log = logging.getLogger(__name__)

# Seconds between two looks at the store: half of `cache_grace`, within these.
MOST, LEAST = 10.0, 0.2


class RevocationWatch:
    """Looks at the store again and again, from `start` to `stop`."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="revocations", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                self._policies.notice_revoked()
            except Exception:
                log.exception("internal error while looking for what was revoked")

    def _pause(self) -> float:
        return min(MOST, max(LEAST, self._policies.times.grace / 2))
