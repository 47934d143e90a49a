"""Reads what the running daemon does and knows. It changes nothing, and asks the store at most.

A look at the memory takes its entries in steps, with pauses, so that no other thread waits long for
the memory or the GIL. One look for troubles holds for `EVERY` seconds.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from collections import Counter
from typing import Protocol

from ..cache.entry import Entry
from ..cache.layered import LayeredStore
from ..cache.memory import MemoryStore
from ..cache.store import StoreError
from ..config.settings import CacheSettings
from ..lookup.client import Ending
from ..monitoring.census import in_steps
from ..monitoring.health import Health
from ..monitoring.parts import Parts
from ..mta_sts.next_hop import parse_next_hop
from ..mta_sts.policy import Mode
from ..policies.event_log import Observed
from ..policies.in_force import InForce
from ..policies.misses import Miss
from ..policies.setbacks import Setback
from ..version import __version__
from .domains import Trouble, Zones, in_force, told, troubles
from .history import SPAN, History
from .state import PAGE, Detail, Listing, Missed, Overview, StoreState

# Seconds that one look for troubles holds.
EVERY = 10.0
# Seconds of which it is said how much was asked lately.
_LATELY = 60.0


class Configured(Parts, Protocol):
    """The parts, and what is said of their configuration."""

    loaded: float
    kept: list[str]

    def zones(self) -> Zones:
        """Return the zones by name, each with all that is exempt in it."""

    def observed(self) -> list[Observed]:
        """Return what zones that observe would have answered."""


class Reader:
    """Reads `service`, whose configuration comes from `source`. May be used by several threads."""

    def __init__(self, service: Configured, cache: CacheSettings, source: str) -> None:
        self._service = service
        self._kind = cache.kind
        self._source = source
        self._started = time.time()
        held = service.cache
        self._layered = held if isinstance(held, LayeredStore) else None
        memory = held.memory if isinstance(held, LayeredStore) else held
        assert isinstance(memory, MemoryStore)
        self._memory = memory
        self._health = Health(service.server, service.proactive, service.resolver)
        self.history = History(self._counts)
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._troubled: list[Entry] = []
        self._modes: Counter[Mode] = Counter()

    def overview(self) -> Overview:
        """Return how the daemon does. Takes up to `Health.problems`'s time."""
        service = self._service
        troubled, modes = self._look()
        now = time.time()
        lookups_for, ended = self.history.within(SPAN)
        lately_for, lately = self.history.within(_LATELY)
        counts, load = service.replies.read(), service.server.load()
        zones = {
            zone: {outcome: one.first + one.again for outcome, one in of.items()}
            for zone, of in counts.items()
        }
        resolver, proactive = service.resolver, service.proactive
        return Overview(
            now=now,
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            source=self._source,
            loaded=service.loaded,
            kept=tuple(service.kept),
            problems=tuple(self._health.problems()),
            faults={one: last for one, last in service.policies.faults().items() if last},
            troubles=self._troubles(troubled, service.policies.setbacks.read(), now),
            zones=zones,
            total=sum(sum(of.values()) for of in zones.values()),
            ready=sum(one.again for of in counts.values() for one in of.values()),
            lately=lately["first"] + lately["again"],
            lately_ready=lately["again"],
            lately_for=lately_for,
            connections=load.connections,
            connections_limit=load.limit,
            lookups=_sorted(ended),
            lookups_for=lookups_for,
            processes=resolver.running,
            pid_of_resolver=resolver.pid,
            losses=resolver.losses,
            absence=resolver.absence,
            store=self._store(),
            modes={mode: modes[mode] for mode in Mode},
            proactive=proactive.settings.enabled,
            seen=now - proactive.silence,
            looked_at={one.name.lower(): count for one, count in proactive.looked_at.items()},
            observed=service.observed(),
        )

    def listing(self, query: str, after: str) -> Listing:
        """Return the first `PAGE` policies in memory whose domain contains `query`."""
        found, first = 0, list[Entry]()
        for entries in in_steps(self._memory):
            some = [entry for entry in entries if query in entry.domain]
            found += len(some)
            later = [entry for entry in some if entry.domain > after]
            first = heapq.nsmallest(PAGE + 1, [*first, *later], key=lambda entry: entry.domain)
        return Listing(query, after, found, first[:PAGE], len(first) > PAGE)

    def detail(self, domain: str) -> Detail:
        """Return what is known of a domain (A-labels); what memory has not, the store is asked."""
        service = self._service
        held, entry, why = self._memory.get(domain, asked=False), None, ""
        if held is None and self._layered is not None:
            try:
                entry = self._layered.look(domain)
            except StoreError as error:
                why = str(error)
        entry = held or entry
        now, zones = time.time(), service.zones()
        next_hop = parse_next_hop(domain.encode())
        dane = {
            name: service.dane.cached(next_hop, zone.timeout)
            for name, (zone, _) in zones.items()
            if zone.dane and next_hop is not None
        }
        seen = {
            name: service.policies.seen(domain, zone.timeout) for name, (zone, _) in zones.items()
        }
        missed = {
            name: one[1].unknown
            for name, one in seen.items()
            if one is not None and one[1] is not None
        }
        setbacks = [one for one in service.policies.setbacks.read() if one.domain == domain]
        found = self._troubles([entry] if entry else [], setbacks, now)
        return Detail(
            domain,
            now,
            entry,
            held is not None,
            why,
            told(domain, entry, zones, missed, dane, now),
            found[0] if found else None,
            [_missed(zone, *one) for zone, one in seen.items() if one is not None],
        )

    def _troubles(self, entries: list[Entry], setbacks: list[Setback], now: float) -> list[Trouble]:
        noted = self._service.policies.setbacks
        known = [(one, self._memory.get(one.domain, asked=False)) for one in setbacks]
        return troubles(entries, known, noted.failing_since, now)

    def _look(self) -> tuple[list[Entry], Counter[Mode]]:
        """Return the entries that may be in trouble, and how many policies of each mode there are.

        One thread looks for all of them.
        """
        with self._lock:
            if time.monotonic() >= self._looked + EVERY:
                troubled, modes = [], Counter[Mode]()
                now = time.time()
                for entries in in_steps(self._memory):
                    for entry in entries:
                        if entry.failed or not in_force(entry, now):
                            troubled.append(entry)
                        if in_force(entry, now):
                            modes[entry.policy.mode] += 1
                self._troubled, self._modes = troubled, modes
                self._looked = time.monotonic()
            return self._troubled, self._modes

    def _store(self) -> StoreState:
        layered, memory = self._layered, self._memory
        since = layered.unread_since if layered is not None else None
        return StoreState(
            self._kind,
            {} if layered is None else {"read": layered.readable, "write": layered.writable},
            None if since is None else time.monotonic() - since,
            {} if layered is None else layered.reads.read(),
            len(memory),
            memory.size,
            memory.hits,
            memory.misses,
        )

    def _counts(self) -> dict[object, int]:
        """Return what `history` samples."""
        found: dict[object, int] = dict(self._service.resolver.endings.read().items())
        replies = [one for of in self._service.replies.read().values() for one in of.values()]
        found["first"] = sum(one.first for one in replies)
        found["again"] = sum(one.again for one in replies)
        return found


def _sorted(ended: Counter[object]) -> list[tuple[Ending, int]]:
    found = [(one, count) for one, count in ended.items() if isinstance(one, Ending)]
    return sorted(found, key=lambda one: (one[0].what, one[0].result, -one[1], str(one[0].cause)))


def _missed(zone: str, miss: Miss, known: InForce | None) -> Missed:
    left = miss.until - time.monotonic() if known is not None else 0.0
    return Missed(zone, str(miss.result), max(left, 0.0))
