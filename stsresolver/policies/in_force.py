"""The policies in force: what applies to a domain now, and when it is looked up again.

The one place that decides (RFC 8461 §3.1, §3.3, §5.1, §8, §10.2): answer from what is known, check
the TXT record's id, fetch, keep the policy in force, give up. It raises nothing for what the world
does. What it decides from is passed in: the store, the resolver, the clock.

A domain whose record was looked up less than `grace` seconds ago is answered from its entry, and
one that has none from its `Miss`. Otherwise one thread looks the domain up; who asks meanwhile gets
its result without waiting in a thread. Lookups and misses are kept by (domain, timeout), because a
zone with a longer timeout may find what another did not; policies are kept by domain.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
import zlib
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Protocol

import cachetools

from ..cache.clock import Clock, SteadyClock
from ..cache.entry import CLOCK_SKEW, Entry
from ..cache.store import Cache
from ..mta_sts.policy import Mode, Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .event_log import EventLog
from .negative_cache import FETCH_PAUSE, Key, Miss, NegativeCache

log = logging.getLogger(__name__)

# "There is no policy" is remembered at most this long (seconds) on the word of the zone's SOA.
MAX_NEGATIVE_TTL = 1800.0
# Seconds after which a lookup that was lost with the resolver process is made again.
PROCESS_PAUSE = 1.0
# A domain is looked at again between this share of the interval and all of it, each at its own, so
# that those found together do not stay together.
_EARLIEST = 0.8
# Domains whose policy has come to its end, until they are asked for again.
_MAX_LAPSED = 20_000
_DAY = 86_400.0


class Lookups(Protocol):
    """What is asked of a `Resolver`."""

    def resolve(self, domain: str, *known_ids: str) -> Lookup:
        """Return the domain's policy, unless its TXT record carries a known id."""

    def policy_id(self, domain: str) -> str | NoPolicy | Failure:
        """Return the id in the domain's TXT record."""

    def fetch(self, domain: str) -> Policy | Failure:
        """Fetch the domain's policy."""


@dataclass(frozen=True, slots=True)
class InForce:
    """What applies to a domain.

    `policy`: None where there is none. `until`: the monotonic time up to which this may be answered
    again without asking. `change`: the value of `Policies.changes` when this was true; while the
    two are equal it still is.
    """

    policy: Policy | None
    until: float
    change: int


class Refresh(enum.Enum):
    """What came of looking at a domain that nobody asked for."""

    CHECKED = "checked"
    FETCHED = "fetched"
    CHANGED = "changed"
    FAILED = "failed"
    LEFT = "left alone"


_Answer = Callable[[InForce], None]


class Policies:
    """Answers what policy is in force, and keeps the store up to date.

    `resolver`: gives the resolver for a timeout in seconds. `grace`: seconds. `behind`: runs a
    job on another thread some time later. `changed`: is told each domain whose policy has
    changed, on the thread that noticed. `interval`: seconds in which a policy in force is to be
    looked at once though nobody asks; no sooner than after `interval / grace_ratio`.
    """

    def __init__(
        self,
        store: Cache,
        resolver: Callable[[float], Lookups],
        *,
        grace: float,
        behind: Callable[[Callable[[], None]], None],
        changed: Callable[[str], None],
        interval: float = _DAY,
        grace_ratio: float = 2.0,
        clock: Clock = time,
    ) -> None:
        self.changes = 0
        # Requests so far that waited for a lookup which another one had begun.
        self.joined = 0
        self._store = store
        self._resolver = resolver
        self._behind = behind
        self._changed = changed
        self._clock = clock
        self._steady = SteadyClock(clock)
        self.set_times(grace, interval, grace_ratio)
        self._notices = EventLog()
        self._lock = threading.Lock()
        self._flights: dict[Key, list[_Answer]] = {}
        self._renewals: set[str] = set()
        self._misses = NegativeCache(clock)
        # Modes of policies that came to their end, until a lookup says what follows.
        self._lapsed: MutableMapping[str, Mode] = cachetools.LRUCache(_MAX_LAPSED)
        self._closing = False

    def close(self) -> None:
        """Expect the resolver to end: lookups lost by that are no failures of their domains."""
        self._closing = True

    def set_times(self, grace: float, interval: float, grace_ratio: float) -> None:
        """Go by other times, of the meanings above, from now on."""
        self._grace = grace
        self._interval = interval
        self._earliest = max(_EARLIEST, 1 / grace_ratio)

    def ask(self, domain: str, timeout: float, answer: _Answer) -> None:
        """Call `answer` once with what is in force for `domain` (A-labels).

        That is now, or, where another thread is looking the domain up already, later and there.
        `timeout`: seconds that DNS may take, and HTTPS as well.
        """
        key = domain, timeout
        with self._lock:
            if key in self._flights:
                self._flights[key].append(answer)
                self.joined += 1
                return
            self._flights[key] = [answer]
        result = self._safely(key)
        with self._lock:
            waiting = self._flights.pop(key)
        for one in waiting:
            try:
                one(result)
            except Exception:
                log.exception("%s: the answer could not be given", domain)

    def _safely(self, key: Key) -> InForce:
        """Return what is in force, after a lookup if need be, whatever happens."""
        domain = key[0]
        try:
            entry, change = self._entry(domain)
            return self._known(key, entry, change) or self._look_up(key, entry)
        except Exception:
            log.exception("%s: the lookup ended in a bug of this program", domain)
        try:
            known = self.at_hand(*key)
        except Exception:
            log.exception("%s: the cache ended in a bug of this program", domain)
            known = None
        return known or InForce(None, self._clock.monotonic(), self.changes)

    def at_hand(self, domain: str, timeout: float) -> InForce | None:
        """Return what is in force if that takes no waiting, None where it is not known."""
        change = self.changes
        now = self._clock.monotonic()
        entry = self._store.peek(domain)
        if entry is not None and self._clock.time() < entry.end:
            return InForce(entry.policy, now, change)
        miss = self._misses.get((domain, timeout))
        return InForce(None, now, change) if miss is not None and now < miss.until else None

    def flights(self) -> tuple[int, int]:
        """Return how many domains are being asked about, and how many requests joined in that."""
        with self._lock:
            flights = len(self._flights)
            return flights, sum(map(len, self._flights.values())) - flights

    def refresh(self, domain: str, timeout: float, unused_after: float) -> Refresh:
        """Look at a policy in force though nobody asks for it.

        Its record is looked up, and it is fetched again if the id is new or the renewal due. One
        that mail has not asked for in `unused_after` seconds is left alone until its end.
        """
        key = domain, timeout
        entry, _ = self._entry(domain)
        if entry is None:
            with self._lock:
                lapsed = self._lapsed.pop(domain, None)
            if lapsed is not None:
                self._notices.lapsed(key, lapsed, "nobody asked for it, or it could not be renewed")
            return Refresh.LEFT
        if not entry.checked and not self._steady.is_steady():
            # Its times are the clock's or from the future: what is true shows later.
            return Refresh.LEFT
        if not self._begin_renewal(domain):
            return Refresh.LEFT
        try:
            if self._clock.time() > entry.asked + _DAY + unused_after:
                self._store.touch(replace(entry, due=entry.end))
                return Refresh.LEFT
            found = self._resolver(timeout).policy_id(domain)
            now = self._clock.time()
            if isinstance(found, str):
                self._notices.works(key, by_record=True)
                if found == entry.id and not self._renewable(entry, now):
                    self._checked(entry, entry.asked)
                    return Refresh.CHECKED
                return self._fetch_again(key, entry, found)
            self._failed(key, entry, found)
            if self._renewable(entry, now):
                return self._fetch_again(key, entry, entry.id)
            return Refresh.FAILED
        finally:
            self._end_renewal(domain)

    def _known(self, key: Key, entry: Entry | None, change: int) -> InForce | None:
        """Return what may be answered without a lookup."""
        miss = self._misses.get(key)
        if entry is not None and self._clock.time() < entry.checked + self._grace:
            result = self._in_force(entry, change)
        elif miss is not None and self._clock.monotonic() < self._end_of(miss, entry):
            result = self._missing(miss, entry, change)
        else:
            return None
        self._renew_behind(key, entry)
        return result

    def _look_up(self, key: Key, entry: Entry | None) -> InForce:
        """Look up the record, fetch the policy if its id is new; return what is in force then.

        `entry`: what was in force before.
        """
        domain, timeout = key
        resolver = self._resolver(timeout)
        paused_ids = self._misses.paused_ids(key)
        known_ids = [entry.id] if entry else []
        result = resolver.resolve(domain, *known_ids, *paused_ids)
        # Another thread may have changed it meanwhile.
        entry, change = self._entry(domain)
        if isinstance(result, NoPolicy) or (isinstance(result, Failure) and not result.id):
            self._renew_behind(key, entry)
            return self._miss(key, result)

        self._notices.works(key, by_record=True)
        if entry is not None and entry.id == result.id:
            entry = self._checked(entry, _day(self._clock.time()))
            self._renew_behind(key, entry)
            return self._in_force(entry, change)

        policy: Policy | Failure
        match result:
            case Found():
                if entry is not None and entry.id not in known_ids:
                    # Fetched by another meanwhile. Which is newer shows at the next lookup.
                    return self._in_force(entry, change)
                policy = result.policy
            case NotChanged():
                failure = self._misses.paused(key, result.id)
                if failure is not None:
                    return self._miss(key, failure)
                # The entry or the pause for which it was known has ended meanwhile.
                policy = resolver.fetch(domain)
            case Failure():
                policy = result
        if isinstance(policy, Failure):
            self._pause(key, result.id, policy)
            return self._miss(key, policy)
        return self._found(key, result.id, policy, _day(self._clock.time()))

    def _found(self, key: Key, policy_id: str, policy: Policy, asked: float) -> InForce:
        """Put a policy that was just fetched in force."""
        domain = key[0]
        known, change = self._entry(domain)
        now = self._clock.time()
        entry = Entry(domain, policy_id, policy, fetched=now, checked=now, asked=asked, due=now)
        entry = replace(entry, due=self._due(entry))
        self._misses.forget(key)
        with self._lock:
            before = self._lapsed.pop(domain, known.policy.mode if known else None)
        # A max_age of 0 is in force for this once: it ends before anybody can ask again.
        if policy.max_age > 0:
            self._store.put(entry, now)
        else:
            if known is not None:
                self._store.remove(known)
            with self._lock:
                self._lapsed[domain] = policy.mode
        self._notices.works(key, by_record=False)
        if known is None or known.policy != policy:
            self._notices.changed(domain, before, policy, again=known is None)
            change = self._announce(domain)
        return self._in_force(entry, change)

    def _miss(self, key: Key, result: NoPolicy | Failure) -> InForce:
        """Remember that a lookup gave no policy; return what is in force all the same."""
        domain = key[0]
        entry, change = self._entry(domain)
        if self._lost_by_closing(result):
            return InForce(entry.policy if entry else None, self._clock.monotonic(), change)
        seconds = self._grace
        if isinstance(result, NoPolicy):
            seconds = max(seconds, min(MAX_NEGATIVE_TTL, result.ttl))
        elif result.cause is Cause.PROCESS:
            seconds = min(seconds, PROCESS_PAUSE)
        elif not result.cause.by_record:
            # A new id is to be seen soon, however long the grace.
            seconds = min(seconds, FETCH_PAUSE)
        if not self._store.whole:
            # There may be a policy in force that cannot be seen just now.
            seconds = min(seconds, self._grace)
        miss = self._misses.remember(key, result, seconds)
        with self._lock:
            lapsed = self._lapsed.pop(domain, None) if entry is None else None
        if entry is not None:
            wall = self._clock.time()
            self._store.touch(replace(entry, asked=_day(wall), failed=wall, failure=str(result)))
        self._notices.failed(key, result, entry, lapsed)
        return self._missing(miss, entry, change)

    def _checked(self, entry: Entry, asked: float) -> Entry:
        """Note that the record of an entry still has its id."""
        now = self._clock.time()
        entry = replace(entry, checked=now, asked=asked)
        if now < entry.renewal:
            entry = replace(entry, due=self._due(entry), failed=0.0, failure="")
        self._store.touch(entry)
        return entry

    def _failed(self, key: Key, entry: Entry, result: NoPolicy | Failure) -> None:
        """Note that looking at an entry though nobody asked failed; the pauses grow."""
        if self._lost_by_closing(result):
            return
        now = self._clock.time()
        pause = 2 * (now - entry.failed) if entry.failed else 0.0
        # However long it fails, there are some more tries before the end.
        pause = max(FETCH_PAUSE, min(pause, self._interval, (entry.end - now) / 4))
        due = min(now + pause, entry.end)
        self._store.touch(replace(entry, due=due, failed=now, failure=str(result)))
        self._notices.failed(key, result, entry)

    def _lost_by_closing(self, result: NoPolicy | Failure) -> bool:
        return self._closing and result.cause is Cause.PROCESS

    def _renew_behind(self, key: Key, entry: Entry | None) -> None:
        """Have a policy fetched again if it is time, without making anybody wait (§3.3)."""
        if entry is None or self._clock.time() < entry.renewal:
            return
        if self._misses.paused(key, entry.id) is None and self._begin_renewal(entry.domain):
            self._behind(lambda: self._renew(key))

    def _renew(self, key: Key) -> None:
        """Fetch a policy in force again, whatever its TXT record says; the id stays as it was."""
        try:
            entry, _ = self._entry(key[0])
            if entry is not None:
                self._fetch_again(key, entry, entry.id)
        finally:
            self._end_renewal(key[0])

    def _fetch_again(self, key: Key, entry: Entry, policy_id: str) -> Refresh:
        """Fetch the policy of an entry again, and put what comes in force under this id."""
        domain, timeout = key
        if self._misses.paused(key, policy_id) is not None:
            self._store.touch(replace(entry, due=self._clock.time() + FETCH_PAUSE))
            return Refresh.LEFT
        policy = self._resolver(timeout).fetch(domain)
        known, _ = self._entry(domain)
        # What came to its end while it was fetched again is followed by what was fetched.
        newer = known.id != entry.id if known else self._clock.time() < entry.end
        if newer:
            # Mail asked meanwhile, and saw what is newer.
            return Refresh.LEFT
        if isinstance(policy, Failure):
            self._pause(key, policy_id, policy)
            self._failed(key, entry, policy)
            return Refresh.FAILED
        self._found(key, policy_id, policy, entry.asked)
        return Refresh.FETCHED if policy == entry.policy else Refresh.CHANGED

    def _pause(self, key: Key, policy_id: str, failure: Failure) -> None:
        """Let the policy of this id rest (§3.3), if it is the domain's fault that it failed."""
        if failure.cause is not Cause.PROCESS:
            self._misses.pause(key, policy_id, failure)

    def _begin_renewal(self, domain: str) -> bool:
        """Say whether nobody renews the policy of `domain` already; from now on somebody does."""
        with self._lock:
            if domain in self._renewals:
                return False
            self._renewals.add(domain)
            return True

    def _end_renewal(self, domain: str) -> None:
        with self._lock:
            self._renewals.discard(domain)

    def _due(self, entry: Entry) -> float:
        """Return when an entry is to be looked at though nobody asks."""
        own = zlib.crc32(entry.domain.encode()) / 0xFFFFFFFF
        share = self._earliest + (1 - self._earliest) * own
        renewal = entry.fetched + share * (entry.renewal - entry.fetched)
        return min(renewal, entry.checked + share * self._interval)

    def _renewable(self, entry: Entry, now: float) -> bool:
        """Say whether an entry looked at now is fetched as well, to save another look soon."""
        return now >= entry.fetched + self._earliest * (entry.renewal - entry.fetched)

    def _in_force(self, entry: Entry, change: int) -> InForce:
        """Return an entry's policy, to be repeated until it is to be checked, renewed, or over."""
        now = self._clock.time()
        renewal = entry.renewal if now < entry.renewal else now + FETCH_PAUSE
        end = min(entry.checked + self._grace, entry.end, renewal)
        return InForce(entry.policy, self._clock.monotonic() + max(0.0, end - now), change)

    def _missing(self, miss: Miss, entry: Entry | None, change: int) -> InForce:
        """Return what a miss leaves in force: the entry's policy to its end, or none."""
        if entry is None:
            return InForce(None, miss.until, change)
        over = self._clock.monotonic() + max(0.0, entry.end - self._clock.time())
        return InForce(entry.policy, min(self._end_of(miss, entry), over), change)

    def _end_of(self, miss: Miss, entry: Entry | None) -> float:
        """Return how long a miss holds: a policy in force is checked after `grace` seconds."""
        return miss.until if entry is None else min(miss.until, miss.at + self._grace)

    def _entry(self, domain: str) -> tuple[Entry | None, int]:
        """Return the entry of `domain`, if its policy is in force, and `changes` before reading."""
        change = self.changes
        entry = self._store.get(domain)
        if entry is None:
            return None, change
        now = self._clock.time()
        if entry.fetched > now + CLOCK_SKEW:
            if not self._steady.is_steady():
                # Which clock was wrong is not known yet: the policy stays as it is.
                return replace(entry, fetched=now, checked=0.0), change
            # Its age is not known: it is taken as old enough to be fetched again at once.
            fetched = now - (entry.renewal - entry.fetched)
            entry = replace(entry, fetched=fetched, checked=0.0, due=now)
            self._store.put(entry, now)
        elif entry.checked > now + CLOCK_SKEW:
            entry = replace(entry, checked=0.0)
        if now < entry.end:
            return entry, change
        self._store.remove(entry)
        with self._lock:
            self._lapsed[domain] = entry.policy.mode
        return None, self._announce(domain)

    def _announce(self, domain: str) -> int:
        """Say that the policy of `domain` has changed; return the number of this change."""
        with self._lock:
            self.changes += 1
            change = self.changes
        self._changed(domain)
        return change


def _day(now: float) -> float:
    return now // _DAY * _DAY
