"""The decision: what is in force for a domain, and what is to be done about it.

Pure: no lock, no store, no thread, no log. What is known of a domain (`Known`) and the time (`Now`)
come in, together with what happened. A `Step` comes out: what is in force, or the question that
has to be answered first, and what is to be done (`Effect`). `in_force` carries it out.

    mail asks ------> asked ---> answer
                        |
                      Resolve ---> came ---> answer
                                     |
                                   Fetch ---> came ---> answer

    a renewal behind
    an answer ------> renew ----> Refetch ---> came ---> outcome
                                    ^
    proactive run --> due           |
                        |           |
                      CheckRecord ---> came ---> outcome

A lookup that waits for the network is a `Question`, not a thread. What is known is read anew when
its result comes, because mail with another timeout may have changed it meanwhile.

The rules are those of RFC 8461 §3.1, §3.3, §5.1, §8 and §10.2. `RenewalTimes` has those of time,
and `faults` says what a lookup that failed means where nothing is known.
"""

from __future__ import annotations

from dataclasses import replace

from ..cache.entry import CLOCK_SKEW, Entry
from ..mta_sts.policy import Mode, Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .faults import OF_CAUSE, PATIENCE, Fault, waits_for
from .misses import FETCH_PAUSE, Miss, Pause
from .renewal_times import DAY, UNASKED_PAUSE, RenewalTimes
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
    TellChanged,
    TellFailed,
    TellLapsed,
    TellUnknown,
    TellWorks,
    Touch,
)

# "There is no policy" is remembered at most this long (seconds) on the word of the zone's SOA.
MAX_NEGATIVE_TTL = 1800.0
# Seconds for which an answer is repeated that a fault of ours may have made wrong.
FAULT_PAUSE = 1.0


# WHAT HAPPENED


def asked(known: Known, now: Now, times: RenewalTimes) -> Step:
    """Mail asks for a domain: answer from what is known, or look it up."""
    known, effects = _present(known, now)
    entry, miss = known.entry, known.miss
    if entry is not None and now.wall < entry.checked + times.grace:
        answer = _in_force(entry, now, times)
    elif miss is not None and now.monotonic < _believed(miss, known, now, times):
        answer = _missing(miss, known, now, times)
    else:
        # With these ids the record alone has to be looked up.
        ids = (entry.id,) if entry is not None else ()
        return Step(Resolve((*ids, *(pause.id for pause in known.pauses))), effects)
    return Step(answer, (*effects, *_renewal(known, now)))


def due(known: Known, now: Now, times: RenewalTimes, unused_after: float) -> Step:
    """A policy in force is due, though no mail asks for it (RFC 8461 §10.2).

    `unused_after`: seconds. One that mail has not asked for in that time is left alone.
    """
    stored = known.entry
    known, effects = _present(known, now)
    entry = known.entry
    if entry is None:
        if stored is not None and stored.is_over:
            return Step(Refresh.LEFT, (Touch(stored.over()),))
        if known.lapsed is None or known.doubtful is not None:
            return Step(Refresh.LEFT, effects)
        if stored is not None and times.ends_unrenewed(stored):
            return Step(Refresh.LEFT, (*effects, Lapse(None)))
        why = "no mail asked for it, or it could not be renewed"
        return Step(Refresh.LEFT, (*effects, Lapse(None), TellLapsed(known.lapsed, why)))
    if not entry.checked and not now.steady:
        # Its times are the clock's or from the future: the truth shows later.
        return Step(Refresh.LEFT, effects)
    if now.wall > entry.asked + DAY + unused_after:
        return Step(Refresh.LEFT, (*effects, Touch(replace(entry, due=entry.end))))
    return Step(CheckRecord(entry), effects)


def renew(known: Known, now: Now, times: RenewalTimes) -> Step:
    """A renewal begins behind an answer: fetch again whatever the record says (§3.3)."""
    known, effects = _present(known, now)
    if known.entry is None:
        return Step(Refresh.LEFT, effects)
    return _fetch_again(known, known.entry, known.entry.id, now).after(*effects)


def look_again(known: Known, now: Now, times: RenewalTimes) -> Step:
    """An administrator wants the record and the policy looked up, whatever is known."""
    _, effects = _present(known, now)
    return Step(LookAgain(), effects)


def came(question: Question, result: Result, known: Known, now: Now, times: RenewalTimes) -> Step:
    """The result of a question came. Raise `TypeError` if it answers another one."""
    known, effects = _present(known, now)
    match question, result:
        case Resolve(known_ids), Found() | NotChanged() | NoPolicy() | Failure():
            step = _resolved(known_ids, result, known, now, times)
        case LookAgain(), Found(policy, policy_id):
            step = _found(policy_id, policy, now.day, known, now, times)
        case LookAgain(), NoPolicy() | Failure():
            step = _missed(result, known, now, times)
        case Fetch(policy_id), Policy() | Failure():
            step = _fetched(policy_id, result, known, now, times)
        case CheckRecord(entry), str() | NoPolicy() | Failure():
            step = _record_checked(entry, result, known, now, times)
        case Refetch(policy_id, entry), Policy() | Failure():
            step = _refetched(policy_id, entry, result, known, now, times)
        case _:
            raise TypeError(f"{question} cannot end in {result}")
    return step.after(*effects)


def lost(question: Question, known: Known, now: Now) -> Step:
    """A lookup was lost because the daemon closes: that is no failure of the domain."""
    known, effects = _present(known, now)
    if isinstance(question, CheckRecord | Refetch):
        return Step(Refresh.FAILED, effects)
    if known.entry is not None:
        return Step(Answer(known.entry.policy, now.monotonic), effects)
    return Step(Answer(None, now.monotonic, Fault.CLOSING), effects)


def cached(known: Known, now: Now) -> Answer | None:
    """Return what is known to be in force without any lookup; None where nothing is known."""
    known, _ = _present(known, now)
    if known.entry is not None:
        return Answer(known.entry.policy, now.monotonic)
    if known.miss is not None and now.monotonic < known.miss.until:
        return Answer(None, now.monotonic, _fault(known.miss.result, known, now))
    return None


# THE RULES


def _present(known: Known, now: Now) -> tuple[Known, tuple[Effect, ...]]:
    """Return what is known with the entry as of now: None past its end (§3.2, max_age).

    A time from the future comes from a clock that was wrong. While it is not known which clock,
    the entry stays as it is. After that its age is unknown, and it is taken as old enough to be
    fetched again at once. For the same reason the end of a policy is noted and announced only by a
    clock that is believed.
    """
    entry = known.entry
    if entry is None:
        return known, ()
    if entry.policy.max_age == 0:
        # It was in force for one answer.
        return known._replace(entry=None), ()
    effects: tuple[Effect, ...] = ()
    if entry.fetched > now.wall + CLOCK_SKEW:
        if not now.steady:
            return known._replace(entry=replace(entry, fetched=now.wall, checked=0.0)), ()
        fetched = now.wall - (entry.renewal - entry.fetched)
        entry = replace(entry, fetched=fetched, checked=0.0, due=now.wall)
        effects = (Put(entry),)
    elif entry.checked > now.wall + CLOCK_SKEW:
        entry = replace(entry, checked=0.0)
    if now.wall < entry.end:
        return known._replace(entry=entry), effects
    if entry.is_over:
        return known._replace(entry=None), effects
    mode = entry.policy.mode
    if not now.steady and entry.fetched < now.since:
        # A clock that is ahead may go back, and then the policy is in force still.
        return known._replace(entry=None, doubtful=mode), effects
    ended = (*effects, Touch(entry.over()), Lapse(mode), Announce())
    return known._replace(entry=None, lapsed=mode), ended


def _resolved(
    known_ids: tuple[str, ...], result: Lookup, known: Known, now: Now, times: RenewalTimes
) -> Step:
    """The lookup for mail ended. `known_ids`: those for which nothing was to be fetched."""
    entry = known.entry
    if isinstance(result, NoPolicy) or (isinstance(result, Failure) and not result.id):
        # §3.1, §5.1: a cached policy stays in force whatever happened to its record.
        return _missed(result, known, now, times).after(*_renewal(known, now))
    works = TellWorks(by_record=True)
    if entry is not None and entry.id == result.id:
        # §3.1: an unchanged id needs no fetch. It does not extend the policy either.
        entry = _checked(entry, now.day, now, times)
        effects = (works, Touch(entry), *_renewal(known, now))
        return Step(_in_force(entry, now, times), effects)
    match result:
        case Found(policy, policy_id):
            if entry is not None and entry.id not in known_ids:
                # Fetched for other mail meanwhile. Which is newer shows at the next lookup.
                return Step(_in_force(entry, now, times), (works,))
            return _found(policy_id, policy, now.day, known, now, times).after(works)
        case NotChanged(policy_id):
            failure = known.paused(policy_id)
            if failure is not None:
                return _missed(failure, known, now, times).after(works)
            # The entry or the pause for which the id was known has ended meanwhile.
            return Step(Fetch(policy_id), (works,))
        case Failure():
            return _fetched(result.id, result, known, now, times).after(works)


def _fetched(
    policy_id: str, result: Policy | Failure, known: Known, now: Now, times: RenewalTimes
) -> Step:
    """The fetch for mail ended."""
    if isinstance(result, Failure):
        return _missed(result, known, now, times).after(*_pause(policy_id, result, now))
    return _found(policy_id, result, now.day, known, now, times)


def _found(
    policy_id: str, policy: Policy, asked_on: float, known: Known, now: Now, times: RenewalTimes
) -> Step:
    """Put a policy that was just fetched in force (§3.3, §5.1)."""
    before = known.entry
    entry = Entry(
        known.domain, policy_id, policy, fetched=now.wall, checked=now.wall, asked=asked_on, due=0.0
    )
    effects: list[Effect] = [Remember(None), Lapse(None)]
    if policy.max_age > 0:
        effects.append(Put(replace(entry, due=times.due(entry))))
    else:
        # In force for this once: it ends before any mail can ask again. It is stored, so that no
        # process puts back what it has replaced.
        effects += [Put(entry.over()), Lapse(policy.mode)]
    effects.append(TellWorks(by_record=False))
    if before is None or before.policy != policy:
        mode = before.policy.mode if before is not None else known.lapsed or known.doubtful
        effects += [TellChanged(mode, policy, again=before is None), Announce()]
    return Step(_in_force(entry, now, times), tuple(effects))


def _missed(result: NoPolicy | Failure, known: Known, now: Now, times: RenewalTimes) -> Step:
    """Remember that a lookup gave no policy; a cached one stays in force (§5.1)."""
    seconds = times.grace
    if isinstance(result, NoPolicy):
        seconds = max(seconds, min(MAX_NEGATIVE_TTL, result.ttl))
    elif result.cause is Cause.PROCESS:
        seconds = min(seconds, FAULT_PAUSE)
    elif not result.cause.by_record:
        # A new id is to be seen soon, however long the grace.
        seconds = min(seconds, FETCH_PAUSE)
    if Fault.STORE in known.faults:
        # There may be a policy in force that cannot be seen just now.
        seconds = min(seconds, times.grace)
    miss = Miss(result, now.monotonic, now.monotonic + seconds)
    entry = known.entry
    effects: tuple[Effect, ...]
    if entry is not None:
        tried = replace(entry, asked=now.day, failed=now.wall, failure=str(result))
        effects = (Touch(tried), TellFailed(result, entry))
    elif fault := _fault(result, known, now):
        effects = (TellUnknown(result, fault),)
    else:
        effects = (Lapse(None), TellFailed(result, None, known.lapsed))
    return Step(_missing(miss, known, now, times), (Remember(miss), *effects))


def _record_checked(
    entry: Entry, result: str | NoPolicy | Failure, known: Known, now: Now, times: RenewalTimes
) -> Step:
    """The record of an entry that no mail asked for was looked up."""
    if _is_superseded(entry, known, now):
        return Step(Refresh.LEFT)
    renewable = times.is_renewable(entry, now.wall)
    if isinstance(result, str):
        works = TellWorks(by_record=True)
        if result == entry.id and not renewable:
            checked = _checked(entry, entry.asked, now, times)
            return Step(Refresh.CHECKED, (works, Touch(checked)))
        return _fetch_again(known, entry, result, now).after(works)
    failed = _failed(entry, result, now, times)
    if renewable:
        # §3.3: the fetch does not need the record.
        return _fetch_again(known, entry, entry.id, now).after(*failed)
    return Step(Refresh.FAILED, failed)


def _fetch_again(known: Known, entry: Entry, policy_id: str, now: Now) -> Step:
    """Fetch the policy of an entry again, unless the id is paused after a failed fetch."""
    if known.paused(policy_id) is not None:
        again = min(now.wall + UNASKED_PAUSE, entry.end)
        return Step(Refresh.LEFT, (Touch(replace(entry, due=again)),))
    return Step(Refetch(policy_id, entry))


def _refetched(
    policy_id: str,
    entry: Entry,
    result: Policy | Failure,
    known: Known,
    now: Now,
    times: RenewalTimes,
) -> Step:
    """The fetch of a policy in force ended, that no mail waited for."""
    if _is_superseded(entry, known, now):
        return Step(Refresh.LEFT)
    if isinstance(result, Failure):
        effects = (*_pause(policy_id, result, now), *_failed(entry, result, now, times))
        return Step(Refresh.FAILED, effects)
    outcome = Refresh.FETCHED if result == entry.policy else Refresh.CHANGED
    return replace(_found(policy_id, result, entry.asked, known, now, times), then=outcome)


def _is_superseded(entry: Entry, known: Known, now: Now) -> bool:
    """Say whether mail saw what is newer than `entry` while it was looked at.

    An entry that came to its end by itself is followed by what was fetched for it.
    """
    return known.entry.id != entry.id if known.entry is not None else now.wall < entry.end


def _failed(
    entry: Entry, result: NoPolicy | Failure, now: Now, times: RenewalTimes
) -> tuple[Effect, ...]:
    """A look at an entry that no mail asked for failed: the next one comes after a longer pause."""
    again = times.due_after_failure(entry, now.wall)
    tried = replace(entry, due=again, failed=now.wall, failure=str(result))
    return Touch(tried), TellFailed(result, entry)


def _pause(policy_id: str, failure: Failure, now: Now) -> tuple[Effect, ...]:
    """Leave the policy of this id alone (§3.3), if it is the domain's fault that it failed."""
    fault = OF_CAUSE.get(failure.cause)
    if fault is not None and PATIENCE[fault] > 0:
        return ()
    return (Rest(Pause(policy_id, failure, now.monotonic + FETCH_PAUSE)),)


def _renewal(known: Known, now: Now) -> tuple[Effect, ...]:
    """Have a policy fetched again if it is time, without making mail wait (§3.3)."""
    entry = known.entry
    if entry is None or now.wall < entry.renewal or known.paused(entry.id) is not None:
        return ()
    return (RenewBehind(),)


def _checked(entry: Entry, asked_on: float, now: Now, times: RenewalTimes) -> Entry:
    """Return an entry whose record was just seen to have its id still."""
    entry = replace(entry, checked=now.wall, asked=asked_on)
    if now.wall < entry.renewal:
        entry = replace(entry, due=times.due(entry), failed=0.0, failure="")
    return entry


def _in_force(entry: Entry, now: Now, times: RenewalTimes) -> Answer:
    """Answer with an entry's policy."""
    return Answer(entry.policy, now.monotonic + times.repeatable(entry, now.wall))


def _missing(miss: Miss, known: Known, now: Now, times: RenewalTimes) -> Answer:
    """Answer with what a miss leaves in force: the entry's policy to its end, or none."""
    entry = known.entry
    if entry is not None:
        end = now.monotonic + max(0.0, entry.end - now.wall)
        return Answer(entry.policy, min(times.end_of(miss, entry), end))
    fault = _fault(miss.result, known, now)
    if fault is None and Fault.STORE not in known.faults:
        # Another process may have found one and put it into the store.
        return Answer(None, min(miss.until, now.monotonic + times.grace))
    # Once the store can be read, what it holds is answered.
    return Answer(None, min(miss.until, now.monotonic + FAULT_PAUSE), fault)


def _believed(miss: Miss, known: Known, now: Now, times: RenewalTimes) -> float:
    """Return the monotonic time until which a miss is believed."""
    end = times.end_of(miss, known.entry)
    if known.entry is None and _fault(miss.result, known, now) is not None:
        return min(end, miss.at + FAULT_PAUSE)
    return end


def _fault(result: NoPolicy | Failure, known: Known, now: Now) -> Fault | None:
    """Return why `result` does not say whether there is a policy, None if it does."""
    ended = known.doubtful not in (None, Mode.NONE)
    return waits_for(result, known.faults, now.monotonic, ended_by_doubtful_clock=ended)
