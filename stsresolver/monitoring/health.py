"""Does the daemon do its work: does it serve, does the scheduler run, are domains looked up?

A live process proves little. The serving thread must run a callback in time. The scheduler and a
resolver process must have run lately.
"""

from __future__ import annotations

import math
import threading
from http import HTTPStatus

from ..lookup.absence import LIMIT as RESOLVER_LIMIT
from ..lookup.pool import ResolverPool
from ..policies.proactive import Proactive
from ..socketmap.server import SocketmapServer
from .http_server import Page, Request

# Seconds that the serving thread may take for a sign of life. It waits for nothing but its poll.
SERVING_LIMIT = 1.0
# Seconds since the scheduler came round. It comes every ten, but the store may keep it waiting.
SCHEDULER_LIMIT = 120.0


class Health:
    """Looks after these parts of the daemon. May be used by several threads at once."""

    def __init__(
        self, server: SocketmapServer, proactive: Proactive, resolver: ResolverPool
    ) -> None:
        self._server = server
        self._proactive = proactive
        self._resolver = resolver
        self._lock = threading.Lock()
        self._sign = threading.Event()
        self._sign.set()

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each. Takes up to `SERVING_LIMIT` seconds."""
        problems = []
        if not self._serves():
            problems.append(f"the serving thread gave no sign of life for {SERVING_LIMIT:.0f} s")
        silence = self._proactive.silence
        if silence == math.inf:
            problems.append("the scheduler does not run")
        elif silence > SCHEDULER_LIMIT:
            problems.append(f"the scheduler did not come round for {silence:.0f} s")
        absence = self._resolver.absence
        if absence >= RESOLVER_LIMIT:
            problems.append(f"no resolver process has run for {absence:.0f} s")
        return problems

    def page(self, _: Request) -> Page:
        """Return the page /healthz: status 200, or 503 with what is wrong."""
        problems = self.problems()
        if not problems:
            return Page(b"alive\n")
        text = "".join(f"{problem}\n" for problem in problems)
        return Page(text.encode(), HTTPStatus.SERVICE_UNAVAILABLE)

    def _serves(self) -> bool:
        """Say whether the serving thread does what it is asked to; ask one thing at a time."""
        with self._lock:
            sign = self._sign
            if sign.is_set():
                self._sign = sign = threading.Event()
                self._server.soon(sign.set)
        return sign.wait(SERVING_LIMIT)
