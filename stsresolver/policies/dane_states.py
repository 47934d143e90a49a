"""The DANE states of next hops: what DNS said last, and for how long that holds (RFC 7672 §2.2).

They are kept apart from the policies, by next hop, port and timeout, in memory: a state holds for
the shortest time to live of the answers that it was made of. Requests that need the same one share
a lookup, and no thread waits for it. Where DNS cannot be asked there is no state, and mail waits:
a failed lookup is no proof that there are no TLSA records (RFC 7672 §2.1).

The first host with TLSA records ends a lookup. Once a day all hosts are looked at, for the warning
that mail cannot go to some of them. Nothing is raised for what the world does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cachetools

from ..cache.clock import Clock
from ..dane.states import Dane, Verdict
from ..mta_sts.next_hop import NextHop
from ..mta_sts.results import Failure
from .event_log import EventLog
from .misses import Key
from .rate_limit import RateLimiter
from .single_flight import Flights

log = logging.getLogger(__name__)

# Domains with states, and states of each: the least recently used is dropped. Postfix has few next
# hops of a domain, but a client may name any port.
_MAX_DOMAINS, _MAX_NEXT_HOPS = 20_000, 16
# Seconds until a failed lookup is tried again, doubled with each failure in a row; after one that
# was lost with the resolver process.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
_LOST_PAUSE = 1.0
_DAY = 86_400


class DaneLookups(Protocol):
    """What is asked of the resolver processes. `done` is called once, at once or later."""

    def begin_dane(
        self, next_hop: NextHop, done: Callable[[Dane | Failure], None], *, whole: bool = False
    ) -> None:
        """Look at what DNS says of DANE for `next_hop`; `whole`: at every host."""


@dataclass(frozen=True, slots=True)
class DaneState:
    """What is known of DANE for a next hop.

    `verdict`: what follows for its mail.
    `why`: a sentence, which may hold text that a stranger chose.
    `until`: the monotonic time up to which it holds.
    `known`: the last verdict that was not `UNKNOWN`, None if there was none.
    `failures`: lookups in a row that failed.
    """

    next_hop: NextHop
    verdict: Verdict
    why: str
    until: float
    known: Verdict | None = None
    failures: int = 0


def following(
    next_hop: NextHop, before: DaneState | None, result: Dane | Failure, now: float
) -> DaneState:
    """Return the state after the result of a lookup. Pure; `now`: monotonic seconds."""
    if isinstance(result, Dane) and result.verdict is not Verdict.UNKNOWN:
        verdict = result.verdict
        return DaneState(next_hop, verdict, str(result), now + min(result.ttl, _DAY), verdict)
    if before is not None and before.verdict is not Verdict.UNKNOWN and now < before.until:
        return before
    known = before.known if before is not None else None
    failures = before.failures if before is not None else 0
    if isinstance(result, Failure):
        pause = _LOST_PAUSE
    else:
        # The exponent is bounded for the sake of the number.
        pause = min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE)
        failures += 1
    return DaneState(next_hop, Verdict.UNKNOWN, str(result), now + pause, known, failures)


class DaneStates:
    """Finds out the DANE states of next hops and remembers them. Any thread may use it.

    `lookups`: gives the lookups with a timeout in seconds.
    `flush`: sends the lookups that were begun.
    """

    def __init__(
        self,
        lookups: Callable[[float], DaneLookups],
        *,
        flush: Callable[[], None],
        clock: Clock = time,
    ) -> None:
        self._lookups = lookups
        self._flush = flush
        self._clock = clock
        self._flights = Flights[DaneState]()
        self._events = EventLog(clock.monotonic)
        # Guards the attributes below.
        self._lock = threading.Lock()
        self._domains: MutableMapping[str, MutableMapping[Key, DaneState]]
        self._domains = cachetools.LRUCache(_MAX_DOMAINS)
        # Admits one look at all hosts of a next hop a day.
        self._daily = RateLimiter[Key](1, _DAY, _MAX_DOMAINS, clock.monotonic)

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._domains.values()))

    def cached(self, next_hop: NextHop, timeout: float) -> DaneState | None:
        """Return the state that holds now, None where it has to be found out."""
        with self._lock:
            state = self._domains.get(next_hop.domain, {}).get((str(next_hop), timeout))
        return state if state is not None and self._clock.monotonic() < state.until else None

    def ask(self, next_hop: NextHop, timeout: float, answer: Callable[[DaneState], None]) -> None:
        """Call `answer` once with the state of a next hop, now or later and on another thread.

        `timeout`: seconds for all questions to DNS.
        """
        state = self.cached(next_hop, timeout)
        if state is not None:
            answer(state)
        elif self._flights.join((str(next_hop), timeout), answer):
            self._begin(next_hop, timeout)

    def renew(self, domain: str) -> None:
        """Find out again what is remembered of a domain (A-labels), though it may still hold."""
        with self._lock:
            states = dict(self._domains.get(domain, {}))
        for key, state in states.items():
            if self._flights.join(key, lambda state: None):
                self._begin(state.next_hop, key[1])

    def forget(self, domain: str) -> None:
        """Forget the states of all next hops with this domain (A-labels)."""
        with self._lock:
            self._domains.pop(domain, None)

    def clear(self) -> None:
        """Forget all states: other name servers may say something else."""
        with self._lock:
            self._domains.clear()

    def _begin(self, next_hop: NextHop, timeout: float) -> None:
        self._lookups(timeout).begin_dane(next_hop, partial(self._came, next_hop, timeout))
        self._flush()

    def _came(self, next_hop: NextHop, timeout: float, result: Dane | Failure) -> None:
        """Remember what a lookup found, and answer all that wait for it."""
        key = str(next_hop), timeout
        with self._lock:
            states = self._domains.get(next_hop.domain)
            if states is None:
                states = self._domains[next_hop.domain] = cachetools.LRUCache(_MAX_NEXT_HOPS)
            before = states.get(key)
            state = states[key] = following(next_hop, before, result, self._clock.monotonic())
        try:
            self._tell(key, before, state)
            if state.verdict is Verdict.DANE and isinstance(result, Dane):
                self._look_at_all(key, state, result)
        except Exception:
            log.exception("%s: internal error after a look at DANE", key[0])
        for answer in self._flights.land(key):
            try:
                answer(state)
            except Exception:
                log.exception("%s: internal error while giving an answer", key[0])

    def _tell(self, key: Key, before: DaneState | None, state: DaneState) -> None:
        """Log what has changed."""
        if state.verdict is Verdict.UNKNOWN:
            if before is None or before.verdict is not Verdict.UNKNOWN:
                self._events.dane_unknown(key, state.why)
        elif state.verdict is not (before.known if before is not None else None):
            self._events.dane(key, state.verdict, state.why, first=before is None)

    def _look_at_all(self, key: Key, state: DaneState, result: Dane) -> None:
        """Once a day, look at all hosts and warn of those that mail cannot go to."""
        with self._lock:
            admitted, _ = self._daily.admits(key, logging.WARNING)
        if not admitted:
            return
        if result.is_whole:
            self._warn(key, result)
        else:
            done = partial(self._warn, key)
            self._lookups(key[1]).begin_dane(state.next_hop, done, whole=True)
            self._flush()

    def _warn(self, key: Key, result: Dane | Failure) -> None:
        if isinstance(result, Dane) and result.unusable_hosts:
            self._events.dane_hosts(key, result.unusable_hosts)
