"""The policies in force: asks, remembers and announces what `decision` decides.

A request is answered from the store or the negative cache, or becomes a lookup, which others that
ask for the same domain join (`single_flight`). No thread waits for a lookup: what follows it is a
continuation, run when its result is there. Where the store may block (disk, network), each step
runs on a thread for that; else on the calling thread.

Nothing is raised for what the world does. Lookups and misses are kept by (domain, timeout), because
a zone with a longer timeout may find what another did not; policies are kept by domain.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from ..cache.clock import Clock, SteadyClock
from ..cache.entry import Entry
from ..cache.store import Cache, StoreError
from ..counters import Tally
from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Lookup, NoPolicy
from . import decision
from .event_log import EventLog
from .faults import Fault
from .misses import Key, Miss
from .negative_cache import NegativeCache
from .outages import Outages
from .renewal_times import RenewalTimes
from .revocations import Revocations
from .setbacks import Setbacks
from .single_flight import Flights, Renewals
from .steps import (
    Announce,
    Answer,
    CheckRecord,
    Effect,
    Fetch,
    Known,
    Lapse,
    LookAgain,
    Now,
    Put,
    Question,
    Refetch,
    Refresh,
    Remember,
    RenewBehind,
    Resolve,
    Rest,
    Result,
    Step,
    Tell,
    TellChanged,
    TellFailed,
    TellLapsed,
    TellUnknown,
    TellWorks,
    Touch,
)

log = logging.getLogger(__name__)

# Renewals behind answers at once; beyond them, the next answer tries again.
_MOST_RENEWALS = 100
# Entries read at once.
_SOME = 500

Job: TypeAlias = Callable[[], None]
Decide: TypeAlias = Callable[[Known, Now, RenewalTimes], Step]


class Lookups(Protocol):
    """What is asked of the resolver processes, as of a `Resolver`, but by callback.

    `done` is called once with the result: at once, or later on another thread.
    """

    def begin_resolve(
        self, domain: str, known_ids: tuple[str, ...], done: Callable[[Lookup], None]
    ) -> None:
        """Look up the domain's policy, unless its TXT record carries a known id."""

    def begin_policy_id(
        self, domain: str, done: Callable[[str | NoPolicy | Failure], None]
    ) -> None:
        """Look up the id in the domain's TXT record."""

    def begin_fetch(self, domain: str, done: Callable[[Policy | Failure], None]) -> None:
        """Fetch the domain's policy."""


class InForce(NamedTuple):
    """What applies to a domain.

    `policy`: None where there is none, or where it is not known.
    `until`: the monotonic time up to which this may be answered again without asking.
    `change`: the value of `Policies.changes` when this was true; while the two are equal it is.
    `unknown`: why it is not known whether there is a policy, None where it is known.
    """

    policy: Policy | None
    until: float
    change: int
    unknown: Fault | None = None


class _Task(NamedTuple):
    """A chain of steps for one domain; `end` is called with what the last one comes to.

    `asked`: whether mail asked for the domain.
    """

    key: Key
    asked: bool
    end: Callable[[Answer | Refresh, int], None]
    failed: Job


class Policies:
    """Answers what policy is in force, and keeps the store up to date.

    `lookups`: gives the lookups with a timeout in seconds.
    `times`: see `RenewalTimes`; may be replaced at any time.
    `blocking`: runs a job on a thread that may block; None for a store that never does.
    `behind`: runs a job some time later, behind the answers.
    `flush`: sends the lookups that were begun.
    `changed`: is told each domain whose policy has changed, on the thread that noticed.
    `setbacks`: domains whose policy got weaker, or has ended.
    `unknown`: requests so far for which it was not known whether there is a policy, by the reason.
    """

    def __init__(
        self,
        store: Cache,
        lookups: Callable[[float], Lookups],
        *,
        times: RenewalTimes,
        behind: Callable[[Job], None],
        flush: Job,
        blocking: Callable[[Job], None] | None = None,
        changed: Callable[[str], None],
        clock: Clock = time,
    ) -> None:
        self.changes = 0
        self.unknown = Tally(Fault)
        self.times = times
        self._store = store
        self._lookups = lookups
        self._behind = behind
        self._flush = flush
        self._blocking = blocking
        self._changed = changed
        self._clock = clock
        self._steady = SteadyClock(clock.time(), clock.monotonic())
        self._events = EventLog()
        self.setbacks = Setbacks()
        self._outages = Outages()
        self._flights = Flights[InForce]()
        self._renewals = Renewals()
        self._misses = NegativeCache()
        self._revocations = Revocations(clock.time())
        self._lock = threading.Lock()
        self._closing = False

    def close(self) -> None:
        """Expect the resolver to end: lookups lost by that are no failures of their domains."""
        self._closing = True

    @property
    def joined(self) -> int:
        """Requests so far that took part in another's lookup."""
        return self._flights.joined

    def flights(self) -> tuple[int, int]:
        """Return how many domains are being asked about, and how many requests joined in that."""
        return self._flights.counts()

    def ask(self, domain: str, timeout: float, answer: Callable[[InForce], None]) -> None:
        """Call `answer` once with what is in force for `domain` (A-labels), now or later.

        `timeout`: seconds that DNS may take, and HTTPS as well. A lookup is sent with the caller's
        next `flush`, unless the store may block.
        """
        key = domain, timeout
        if self._flights.join(key, answer):
            task = _Task(
                key, True, partial(self._answer, key), partial(self._answer_from_cache, key)
            )
            if self._blocking is None:
                self._take(task, decision.asked)
            else:
                self._go_on(task, decision.asked)

    def cached(self, domain: str, timeout: float) -> InForce | None:
        """Return what is in force if that takes no waiting, None where it is not known."""
        change = self.changes
        now = self._now()
        entry, unread = self._store.peek(domain), self._store.unread_since
        known = self._known((domain, timeout), entry, unread, now)
        answer = decision.cached(known, now)
        return _in_force(answer, change) if answer is not None else None

    def faults(self) -> dict[Fault, float]:
        """Return for how many seconds each fault has lasted, 0 for those that do not."""
        now = self._clock.monotonic()
        lasting = self._outages.lasting(now)
        return {fault: now - lasting.get(fault, now) for fault in Fault}

    def refresh(
        self, domain: str, timeout: float, unused_after: float, done: Callable[[Refresh], None]
    ) -> None:
        """Look at a policy in force that no mail asks for; call `done` once with the outcome.

        One that mail has not asked for in `unused_after` seconds is left alone until its end.
        """
        if self._renewals.begin(domain):
            task = self._renewal(domain, timeout, done, asked=False)
            self._take_and_flush(task, partial(decision.due, unused_after=unused_after))
        else:
            done(Refresh.LEFT)

    # BY HAND: what an administrator asks for. The store may block the calling thread.

    def known(self, domain: str) -> tuple[Entry | None, list[tuple[Key, Miss]]]:
        """Return what is stored of a domain, and which lookups of it gave no policy."""
        misses = [one for one in self._misses.scan() if one[0][0] == domain]
        return self._store.get(domain), misses

    def seen(self, domain: str, timeout: float) -> tuple[Miss, InForce | None] | None:
        """Return the last lookup that gave no policy, for somebody who only looks.

        And what follows from it for a domain without an entry, None if it is not believed any more.
        """
        miss = self._misses.look_at((domain, timeout))
        if miss is None:
            return None
        now = self._now()
        faults = self._faults(self._store.unread_since, now)
        answer = decision.cached(Known(domain, miss=miss, faults=faults), now)
        return miss, None if answer is None else _in_force(answer, self.changes)

    def all_known(self) -> tuple[Iterator[list[Entry]], list[tuple[Key, Miss]]]:
        """Return all that is stored, in parts, and all lookups that gave no policy."""
        return self._store.scan(_SOME), self._misses.scan()

    def forget(self, domain: str) -> None:
        """Forget all that is known of a domain, in every process on the same store.

        Raise `StoreError` if the store does not take it; then this process alone has forgotten.
        """
        entry = self._store.get(domain)
        now = self._clock.time()
        try:
            # A time from the future comes from a clock that was wrong.
            self._store.revoke(domain, now if entry is None else max(now, entry.fetched))
        finally:
            self._drop(domain)

    def look_again(self, domain: str, timeout: float, done: Callable[[InForce], None]) -> None:
        """Look a domain up, whatever is known; call `done` once with what is in force then."""
        self._misses.forget(domain)
        key = domain, timeout

        def end(answer: Answer | Refresh, change: int) -> None:
            assert isinstance(answer, Answer)
            # What was answered for want of a policy may be out of date.
            self._announce(domain)
            done(_in_force(answer, change))

        def failed() -> None:
            done(InForce(None, self._clock.monotonic(), self.changes, Fault.BUG))

        self._take_and_flush(_Task(key, True, end, failed), decision.look_again)

    def notice_revoked(self) -> None:
        """Forget what another process on the same store has revoked."""
        found = self._store.revoked(self._revocations.since)
        for domain, until in self._revocations.news(found, self._clock.time()):
            try:
                self._store.revoke(domain, until)
            except StoreError as error:
                log.debug("%s", error)
            self._drop(domain)

    def _drop(self, domain: str) -> None:
        """Forget what this process alone knows of a domain."""
        self._misses.forget(domain)
        self.setbacks.forget(domain)
        self._announce(domain)
        log.info("%s: forgotten, as it was asked for", domain)

    # STEPS

    def _go_on(self, task: _Task, decide: Decide) -> None:
        """Take one step of a task, on a thread that may block if the store may."""
        if self._blocking is None:
            self._take_and_flush(task, decide)
        else:
            self._blocking(partial(self._take_and_flush, task, decide))

    def _take_and_flush(self, task: _Task, decide: Decide) -> None:
        if self._take(task, decide):
            self._flush()

    def _take(self, task: _Task, decide: Decide) -> bool:
        """Take one step of a task: decide, carry it out, and ask or end. Return whether it asks."""
        try:
            change = self.changes
            now = self._now()
            step = decide(self._read(task, now), now, self.times)
            for effect in step.effects:
                change = self._carry_out(effect, task, change)
            if not isinstance(step.then, Answer | Refresh):
                self._ask(task, step.then)
                return True
            task.end(step.then, change)
        except Exception:
            log.exception("%s: internal error while looking up the policy", task.key[0])
            task.failed()
        return False

    def _ask(self, task: _Task, question: Question) -> None:
        domain, timeout = task.key
        lookups = self._lookups(timeout)
        done = partial(self._came, task, question)
        match question:
            case Resolve(known_ids):
                lookups.begin_resolve(domain, known_ids, done)
            case LookAgain():
                lookups.begin_resolve(domain, (), done)
            case CheckRecord():
                lookups.begin_policy_id(domain, done)
            case Fetch() | Refetch():
                lookups.begin_fetch(domain, done)

    def _came(self, task: _Task, question: Question, result: Result) -> None:
        """Go on with a task when the result of its question is there."""
        if self._closing and isinstance(result, Failure) and result.cause is Cause.PROCESS:
            self._go_on(task, lambda known, now, times: decision.lost(question, known, now))
        else:
            self._outages.looked_up(result, self._clock.monotonic())
            self._go_on(task, partial(decision.came, question, result))

    def _read(self, task: _Task, now: Now) -> Known:
        """Read what is known from the store."""
        unread = self._store.unread_since
        entry = self._store.get(task.key[0], asked=task.asked)
        if unread is None:
            unread = self._store.unread_since
        # Else another thread has just read it for the first time again, but this one has not.
        return self._known(task.key, entry, unread, now)

    def _known(self, key: Key, entry: Entry | None, unread: float | None, now: Now) -> Known:
        miss, pauses, lapsed = self._misses.get(key, now.monotonic)
        return Known(key[0], entry, miss, pauses, lapsed, self._faults(unread, now))

    def _faults(self, unread: float | None, now: Now) -> Mapping[Fault, float]:
        """Return the faults that last. `unread`: since when the store cannot be read."""
        if unread is not None:
            self._outages.begin(Fault.STORE, unread)
        lasting = self._outages.lasting(now.monotonic)
        if not lasting:
            return lasting
        if unread is None:
            self._outages.end(Fault.STORE, now.monotonic)
        if now.steady:
            self._outages.end(Fault.CLOCK, now.monotonic)
        return self._outages.lasting(now.monotonic)

    def _now(self) -> Now:
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        return Now(wall, monotonic, self._steady.is_steady(wall, monotonic), self._steady.since)

    # EFFECTS

    def _carry_out(self, effect: Effect, task: _Task, change: int) -> int:
        """Do one thing that was decided; return the number of the last change then."""
        key = task.key
        domain = key[0]
        match effect:
            case Put(entry):
                self._store.put(entry, self._clock.time(), asked=task.asked)
            case Touch(entry):
                self._store.touch(entry)
            case Lapse(mode):
                self._misses.lapse(domain, mode)
            case Remember(miss):
                self._misses.remember(key, miss)
            case Rest(pause):
                self._misses.pause(key, pause)
            case RenewBehind():
                self._renew_behind(key)
            case Announce():
                return self._announce(domain)
            case TellFailed() | TellUnknown() | TellWorks() | TellChanged() | TellLapsed():
                self._tell(effect, key)
        return change

    def _tell(self, effect: Tell, key: Key) -> None:
        """Log what was decided to be told."""
        match effect:
            case TellFailed(result, entry, lapsed):
                self._events.failed(key, result, entry, lapsed)
                if lapsed is not None:
                    self.setbacks.note(key[0], self._clock.time(), lapsed, None, str(result))
                if entry is not None:
                    by_record = result.cause.by_record
                    self.setbacks.note_failing(key[0], self._clock.time(), by_record=by_record)
            case TellUnknown(result, fault):
                self._outages.begin(fault, self._clock.monotonic(), str(result))
                self._events.unknown(key, result, fault)
            case TellWorks(by_record):
                self._events.works(key, by_record=by_record)
                self.setbacks.note_working(key[0], by_record=by_record)
            case TellChanged(before, policy, again):
                self._events.changed(key[0], before, policy, again=again)
                self.setbacks.note(key[0], self._clock.time(), before, policy.mode)
            case TellLapsed(before, why):
                self._events.lapsed(key, before, why)
                self.setbacks.note(key[0], self._clock.time(), before, None, why)

    def _announce(self, domain: str) -> int:
        """Announce that the policy of `domain` has changed; return the number of this change."""
        with self._lock:
            self.changes += 1
            change = self.changes
        self._changed(domain)
        return change

    def _renew_behind(self, key: Key) -> None:
        if self._renewals.begin(key[0], _MOST_RENEWALS):
            task = self._renewal(*key, lambda outcome: None, asked=True)
            self._behind(partial(self._take_and_flush, task, decision.renew))

    # ENDS

    def _answer(self, key: Key, answer: Answer | Refresh, change: int) -> None:
        """Answer every request that waits for this lookup."""
        assert isinstance(answer, Answer)
        result = _in_force(answer, change)
        for callback in self._flights.land(key):
            if answer.unknown is not None:
                self.unknown.add(answer.unknown)
            try:
                callback(result)
            except Exception:
                log.exception("%s: internal error while giving an answer", key[0])

    def _answer_from_cache(self, key: Key) -> None:
        """Answer from what is in memory, after an error of ours."""
        try:
            known = self.cached(*key)
        except Exception:
            log.exception("%s: internal error while reading the cache", key[0])
            known = None
        known = known or InForce(None, self._clock.monotonic(), self.changes, Fault.BUG)
        self._answer(key, Answer(known.policy, known.until, known.unknown), known.change)

    def _renewal(
        self, domain: str, timeout: float, done: Callable[[Refresh], None], *, asked: bool
    ) -> _Task:
        """Return the task of a renewal that has begun; `done` is called when it has ended."""

        def end(outcome: Answer | Refresh, _: int) -> None:
            assert isinstance(outcome, Refresh)
            self._renewals.end(domain)
            done(outcome)

        return _Task((domain, timeout), asked, end, lambda: end(Refresh.FAILED, 0))


def _in_force(answer: Answer, change: int) -> InForce:
    return InForce(answer.policy, answer.until, change, answer.unknown)
