"""Lookups of resolver processes as a `Resolver` has them: each waits for its result."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from stsresolver.lookup.client import LookupClient
from stsresolver.mta_sts.next_hop import NextHop

# Seconds: longer than any lookup of a test takes.
LONG = 60.0


class Waited:
    """The methods of a `Resolver` and a `DaneResolver`, done by a process or a pool of them."""

    def __init__(self, processes, timeout: float) -> None:
        self._processes = processes
        self._client = LookupClient(processes, timeout)

    def resolve(self, domain: str, *known_ids: str):
        return self._wait(lambda done: self._client.begin_resolve(domain, known_ids, done))

    def policy_id(self, domain: str):
        return self._wait(lambda done: self._client.begin_policy_id(domain, done))

    def fetch(self, domain: str):
        return self._wait(lambda done: self._client.begin_fetch(domain, done))

    def dane(self, next_hop: NextHop, *, whole: bool = False):
        return self._wait(lambda done: self._client.begin_dane(next_hop, done, whole=whole))

    def _wait(self, begin: Callable[[Callable[[Any], None]], None]):
        results = queue.SimpleQueue[Any]()
        begin(results.put)
        self._processes.flush()
        return results.get(timeout=LONG)
