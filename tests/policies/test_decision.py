"""The table "Keeping it" (RFC 8461 §3.1, §3.3, §5.1, §8, §10.2), a line a rule, on the pure part.

A case is what is known, what happened, what follows, and the effects in their order. The clock is
a value. `test_in_force` tries the same with a store, callbacks and a clock that moves.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stsresolver.cache.entry import Entry
from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.policies import decision
from stsresolver.policies.faults import HOUR, Fault
from stsresolver.policies.misses import FETCH_PAUSE, Miss, Pause
from stsresolver.policies.renewal_times import DAY, UNASKED_PAUSE, RenewalTimes
from stsresolver.policies.steps import (
    Announce,
    Answer,
    CheckRecord,
    Fetch,
    Known,
    Lapse,
    LookAgain,
    Now,
    Put,
    Refetch,
    Refresh,
    Remember,
    RenewBehind,
    Resolve,
    Rest,
    TellChanged,
    TellFailed,
    TellLapsed,
    TellUnknown,
    TellWorks,
    Touch,
)
from tests.policies.test_in_force import DNS_FAILS, NO_RECORD, UNFETCHABLE
from tests.support.policies import WEEK, policy

DOMAIN = "example.com"
GRACE = 60.0
FAULT_PAUSE = decision.FAULT_PAUSE
NOW = Now(wall=1_800_000_000.0, monotonic=5_000.0)
UNSTEADY = NOW._replace(steady=False)
SINCE = NOW._replace(steady=False, since=NOW.wall - WEEK)
TIMES = RenewalTimes(GRACE)
UNUSED = 180 * DAY

ENFORCE, OTHER, NONE = policy(), policy(mx=("other.example.com",)), policy(Mode.NONE)
LOST = Failure(Cause.PROCESS)
WITH_ID = replace(UNFETCHABLE, id="2")


def entry(age=0.0, checked=0.0, served=ENFORCE, policy_id="1", **changes):
    """An entry fetched `age` seconds ago, whose record was seen `checked` seconds ago."""
    wall = NOW.wall
    made = Entry(DOMAIN, policy_id, served, wall - age, wall - checked, NOW.day, wall + DAY)
    return replace(made, due=min(made.due, made.end), **changes)


YOUNG = entry(GRACE, GRACE)
OLD = entry(DAY, GRACE)
ENDED = entry(WEEK, GRACE)
FUTURE = entry(-DAY, -DAY)


def miss(seconds_left, at=10.0, result=NO_RECORD):
    return Miss(result, NOW.monotonic - at, NOW.monotonic + seconds_left)


def pause(policy_id="1"):
    return Pause(policy_id, UNFETCHABLE, NOW.monotonic + FETCH_PAUSE)


def known(one=None, **more):
    return Known(DOMAIN, one, **more)


def answer(served, seconds, unknown=None):
    return Answer(served, NOW.monotonic + seconds, unknown)


def follows(step, then, effects):
    """What follows is `then`, and the effects are of these classes, or these very ones."""
    assert step.then == then
    assert len(step.effects) == len(effects), step.effects
    for done, expected in zip(step.effects, effects, strict=True):
        assert done == expected if not isinstance(expected, type) else type(done) is expected


ASKED = [
    (known(), Resolve(()), [], "nothing is known: look it up"),
    (known(entry(1, 1)), answer(ENFORCE, GRACE - 1), [], "the record was seen within grace"),
    (known(YOUNG), Resolve(("1",)), [], "after grace the record is checked, with the id known"),
    (known(entry(DAY, 1)), answer(ENFORCE, GRACE - 1), [RenewBehind()],
     "§3.3: an old policy is renewed behind the answer: nobody waits for it"),
    (known(entry(DAY, 1), pauses=(pause(),)), answer(ENFORCE, GRACE - 1), [],
     "but not while its id is paused"),
    (known(ENDED), Resolve(()), [Touch(ENDED.over()), Lapse(Mode.ENFORCE), Announce()],
     "§3.2: past max_age, counted from the fetch, no policy is in force"),
    (known(entry(WEEK, 0)), Resolve(()), [Touch, Lapse, Announce],
     "a check of the record does not extend it"),
    (known(entry(999, 1, policy(max_age=1000))), answer(policy(max_age=1000), 1), [RenewBehind()],
     "an answer is not repeated past the end"),
    (known(miss=miss(5)), answer(None, 5), [], "a miss is repeated to its end"),
    (known(miss=miss(-1)), Resolve(()), [], "and no longer"),
    (known(YOUNG, miss=miss(1000)), answer(ENFORCE, GRACE - 10), [],
     "with a policy in force, a miss holds for grace: the SOA does not delay the check"),
    (known(YOUNG, miss=miss(1000, at=GRACE)), Resolve(("1",)), [], "and no longer"),
    (known(YOUNG, pauses=(pause("2"), pause("3"))), Resolve(("1", "2", "3")), [],
     "ids in force and paused ids need no fetch"),
    (known(pauses=(pause("2"),)), Resolve(("2",)), [], "a paused id alone"),
    (known(entry(60, -3600)), Resolve(("1",)), [], "a check from the future is none"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "then", "effects", "why"), ASKED)
def test_asked(before, then, effects, why):
    follows(decision.asked(before, NOW, TIMES), then, effects)


@pytest.mark.parametrize("before", [known(), known(YOUNG), known(miss=miss(1000))])
def test_a_look_again_asks_whatever_is_known(before):
    follows(decision.look_again(before, NOW, TIMES), LookAgain(), [])


FAILED_TOUCH = Touch(replace(YOUNG, asked=NOW.day, failed=NOW.wall, failure=str(DNS_FAILS)))
CHECKED = replace(YOUNG, checked=NOW.wall)

CAME = [
    # To mail, nothing in force before.
    (Resolve(()), Found(ENFORCE, "1"), known(), answer(ENFORCE, GRACE),
     [TellWorks, Remember(None), Lapse(None), Put, TellWorks, TellChanged, Announce()],
     "a policy is found and put in force before the answer"),
    (Resolve(()), NO_RECORD, known(), answer(None, GRACE), [Remember, Lapse(None), TellFailed],
     "no policy: mail flows"),
    (Resolve(()), DNS_FAILS, known(), answer(None, GRACE), [Remember, Lapse(None), TellFailed],
     "§3.3, ours for DNS: without a cached policy mail flows"),
    (Resolve(()), WITH_ID, known(), answer(None, GRACE),
     [TellWorks, Rest, Remember, Lapse(None), TellFailed],
     "§3.3: nor does a failed fetch hold mail up; the same id rests for five minutes"),
    (Resolve(()), LOST, known(), answer(None, FAULT_PAUSE, Fault.PROCESS),
     [Remember, TellUnknown(LOST, Fault.PROCESS)],
     "a lookup lost with the resolver process says nothing of its domain, and is made again"),
    (Resolve(("1",)), LOST, known(YOUNG), answer(ENFORCE, FAULT_PAUSE),
     [Remember, Touch, TellFailed], "what is in force stays in force"),
    (Resolve(("2",)), NotChanged("2"), known(pauses=(pause("2"),)), answer(None, GRACE),
     [TellWorks, Remember, Lapse, TellFailed], "a paused id is not fetched"),
    (Resolve(("2",)), NotChanged("2"), known(), Fetch("2"), [TellWorks],
     "unless its pause ended meanwhile"),
    (Fetch("2"), OTHER, known(), answer(OTHER, GRACE),
     [Remember(None), Lapse(None), Put, TellWorks, TellChanged, Announce()], "it is fetched then"),
    (Fetch("2"), UNFETCHABLE, known(), answer(None, GRACE), [Rest, Remember, Lapse, TellFailed],
     "or fails again"),
    (Fetch("2"), LOST, known(), answer(None, FAULT_PAUSE, Fault.PROCESS), [Remember, TellUnknown],
     "an id does not rest for what was not its domain's fault"),
    # To mail, a policy in force.
    (Resolve(("1",)), NotChanged("1"), known(YOUNG), answer(ENFORCE, GRACE),
     [TellWorks, Touch(replace(CHECKED, due=TIMES.due(CHECKED)))],
     "§3.1: an unchanged id needs no fetch"),
    (Resolve(("1",)), NotChanged("1"), known(OLD), answer(ENFORCE, GRACE),
     [TellWorks, Touch, RenewBehind()], "§10.2: an old policy is renewed whatever the id says"),
    (Resolve(("1",)), Found(OTHER, "0"), known(YOUNG), answer(OTHER, GRACE),
     [TellWorks, Remember(None), Lapse(None), Put, TellWorks,
      TellChanged(Mode.ENFORCE, OTHER, again=False), Announce()],
     "another id, of whatever order, replaces the policy before the answer"),
    (Resolve(("1",)), Found(ENFORCE, "2"), known(YOUNG), answer(ENFORCE, GRACE),
     [TellWorks, Remember, Lapse, Put, TellWorks], "the same policy under a new id is no change"),
    (Resolve(("1",)), Found(NONE, "2"), known(YOUNG), answer(NONE, GRACE),
     [TellWorks, Remember, Lapse, Put, TellWorks, TellChanged, Announce()],
     "§5: mode none replaces an older policy at once, and is cached like any"),
    (Resolve(("1",)), NO_RECORD, known(YOUNG), answer(ENFORCE, GRACE),
     [Remember, Touch, TellFailed], "§3.1: without its record a policy stays in force"),
    (Resolve(("1",)), DNS_FAILS, known(YOUNG), answer(ENFORCE, GRACE),
     [Remember, FAILED_TOUCH, TellFailed(DNS_FAILS, YOUNG)], "and without DNS"),
    (Resolve(("1",)), NO_RECORD, known(OLD), answer(ENFORCE, GRACE),
     [RenewBehind(), Remember, Touch, TellFailed], "and is renewed all the same"),
    (Resolve(("1",)), WITH_ID, known(YOUNG), answer(ENFORCE, GRACE),
     [TellWorks, Rest, Remember, Touch, TellFailed], "§5.1: and where the new policy fails"),
    (Resolve(("1",)), NotChanged("1"), known(ENDED), Fetch("1"),
     [Touch, Lapse, Announce, TellWorks], "one that ended during the lookup is fetched"),
    (Resolve(()), Found(ENFORCE, "1"), known(ENDED, lapsed=None), answer(ENFORCE, GRACE),
     [Touch, Lapse, Announce, TellWorks, Remember, Lapse, Put, TellWorks,
      TellChanged(Mode.ENFORCE, ENFORCE, again=True), Announce()],
     "and one that was found again is told with what was before"),
    (Resolve(()), NO_RECORD, known(lapsed=Mode.ENFORCE), answer(None, GRACE),
     [Remember, Lapse(None), TellFailed(NO_RECORD, None, Mode.ENFORCE)],
     "that none follows a policy which ended is told once"),
    # Other mail, with another timeout, looked it up meanwhile.
    (Resolve(()), Found(OTHER, "2"), known(YOUNG), answer(ENFORCE, 0.0), [TellWorks],
     "which of two policies is newer shows at the next lookup"),
    (Resolve(()), Failure(Cause.STATUS, "404", "1"), known(YOUNG), answer(ENFORCE, GRACE),
     [TellWorks, Touch], "an id that was put in force meanwhile counts as checked"),
    # To an administrator.
    (LookAgain(), Found(OTHER, "1"), known(YOUNG, pauses=(pause("1"),)), answer(OTHER, GRACE),
     [Remember(None), Lapse(None), Put, TellWorks, TellChanged, Announce()],
     "a look again takes the policy that is served, whatever the id says"),
    (LookAgain(), Found(ENFORCE, "1"), known(YOUNG), answer(ENFORCE, GRACE),
     [Remember(None), Lapse(None), Put, TellWorks], "the same policy begins anew"),
    (LookAgain(), NO_RECORD, known(YOUNG), answer(ENFORCE, GRACE), [Remember, Touch, TellFailed],
     "§3.1: what is in force stays in force"),
    (LookAgain(), DNS_FAILS, known(), answer(None, GRACE), [Remember, Lapse(None), TellFailed],
     "a failure is remembered as for mail"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "result", "before", "then", "effects", "why"), CAME)
def test_came(question, result, before, then, effects, why):
    follows(decision.came(question, result, before, NOW, TIMES), then, effects)


@pytest.mark.parametrize(
    ("result", "grace", "seconds", "why"),
    [
        (NoPolicy(Cause.NO_RECORD, ttl=900), GRACE, 900, "the zone's negative TTL"),
        (NoPolicy(Cause.NO_RECORD, ttl=86400), GRACE, 1800, "half an hour at most"),
        (NoPolicy(Cause.NO_RECORD, ttl=5), GRACE, GRACE, "grace at least"),
        (NoPolicy(Cause.BAD_RECORD), GRACE, GRACE, "a malformed record"),
        (DNS_FAILS, DAY, DAY, "a failing zone"),
        (WITH_ID, DAY, FETCH_PAUSE, "a new id is seen soon, however long the grace"),
    ],
)  # fmt: skip
def test_how_long_a_miss_is_remembered(result, grace, seconds, why):
    times = RenewalTimes(grace)
    step = decision.came(Resolve(()), result, known(), NOW, times)
    (remembered,) = (one.miss for one in step.effects if isinstance(one, Remember))
    assert remembered.until == NOW.monotonic + seconds
    # A process that shares the store may put one there.
    assert step.then == answer(None, min(seconds, grace))


# Faults of ours, with nothing known to be in force. `test_faults` has the whole table.

AWAY = {Fault.STORE: NOW.monotonic - 10}
AWAY_LONG = {Fault.STORE: NOW.monotonic - HOUR}
GONE = known(lapsed=Mode.ENFORCE)


@pytest.mark.parametrize(
    ("result", "before", "now", "then", "effects", "why"),
    [
        (DNS_FAILS, known(faults=AWAY), NOW, answer(None, FAULT_PAUSE, Fault.STORE),
         [Remember, TellUnknown(DNS_FAILS, Fault.STORE)],
         "the store may hold a policy, and DNS does not say that there is none"),
        (NoPolicy(Cause.NO_RECORD, ttl=900), known(faults=AWAY), NOW, answer(None, FAULT_PAUSE),
         [Remember, Lapse, TellFailed],
         "DNS says so; the answer is short, so that the store is seen when it is back"),
        (DNS_FAILS, known(YOUNG, faults=AWAY), NOW, answer(ENFORCE, GRACE),
         [Remember, Touch, TellFailed], "what memory knows is in force"),
        (DNS_FAILS, known(faults=AWAY_LONG), NOW, answer(None, FAULT_PAUSE),
         [Remember, Lapse, TellFailed], "after an hour mail flows"),
        (DNS_FAILS, known(replace(ENDED, policy=NONE)), UNSTEADY, answer(None, GRACE),
         [Remember, Lapse, TellFailed], "a policy of mode none asked for nothing"),
        (DNS_FAILS, GONE, NOW, answer(None, GRACE), [Remember, Lapse, TellFailed],
         "it has ended by a clock that is right"),
        (DNS_FAILS, GONE, UNSTEADY, answer(None, GRACE), [Remember, Lapse, TellFailed],
         "or by one that was right then"),
        (DNS_FAILS, known(ENDED), UNSTEADY, answer(None, FAULT_PAUSE, Fault.CLOCK),
         [Remember, TellUnknown],
         "it has ended by a clock that may be ahead; the entry stays in case that goes back"),
        (DNS_FAILS, known(ENDED), SINCE, answer(None, GRACE),
         [Touch(ENDED.over()), Lapse(Mode.ENFORCE), Announce, Remember, Lapse(None),
          TellFailed(DNS_FAILS, None, Mode.ENFORCE)],
         "but not if the clock has not jumped since the policy was fetched"),
        (NO_RECORD, known(ENDED), UNSTEADY, answer(None, GRACE),
         [Remember, Lapse(None), TellFailed(NO_RECORD, None, None)],
         "no clock makes a record vanish; that it has ended is told when it is certain"),
        (DNS_FAILS, known(ENDED, faults={Fault.CLOCK: NOW.monotonic - HOUR}), UNSTEADY,
         answer(None, GRACE), [Remember, Lapse, TellFailed], "an hour at most"),
    ],
)  # fmt: skip
def test_a_lookup_that_fails_by_a_fault_of_ours(result, before, now, then, effects, why):
    follows(decision.came(Resolve(()), result, before, now, TIMES), then, effects)


@pytest.mark.parametrize(
    ("one", "faults", "then", "why"),
    [
        (miss(50, at=0.5, result=LOST), {}, answer(None, 1, Fault.PROCESS),
         "it is said again for a moment"),
        (miss(50, at=FAULT_PAUSE, result=LOST), {}, Resolve(()), "and no longer"),
        (miss(50, result=DNS_FAILS), AWAY, Resolve(()), "the store is away since"),
        (miss(50, result=DNS_FAILS), AWAY_LONG, answer(None, FAULT_PAUSE),
         "a failed lookup is not repeated then, but the store is read again soon"),
        (miss(50, result=DNS_FAILS), {}, answer(None, 50), "the store is back and holds nothing"),
        (miss(50), AWAY, answer(None, FAULT_PAUSE), "no record"),
    ],
)  # fmt: skip
def test_a_miss_while_something_of_ours_fails(one, faults, then, why):
    assert decision.asked(known(miss=one, faults=faults), NOW, TIMES).then == then


def test_when_the_store_is_back_its_policy_is_answered_at_once():
    before = known(YOUNG, miss=miss(DAY, result=DNS_FAILS))
    step = decision.asked(before, NOW, RenewalTimes(DAY))
    assert step.then.policy == ENFORCE


WITHDRAWN = entry(0, 0, served=policy(max_age=0), policy_id="2", asked=NOW.day).over()


@pytest.mark.requirement("KEEP-17")
@pytest.mark.parametrize("before", [known(), known(YOUNG)])
def test_max_age_0_is_in_force_for_one_answer_and_is_kept(before):
    step = decision.came(Resolve(("1",)), Found(WITHDRAWN.policy, "2"), before, NOW, TIMES)
    effects = [TellWorks, Remember, Lapse(None), Put(WITHDRAWN), Lapse(Mode.ENFORCE), TellWorks]
    follows(step, answer(WITHDRAWN.policy, 0.0), [*effects, TellChanged, Announce])


@pytest.mark.requirement("KEEP-17")
@pytest.mark.parametrize("kept", [WITHDRAWN, ENDED.over()])
def test_what_is_only_kept_counts_as_nothing(kept):
    follows(decision.asked(known(kept), NOW, TIMES), Resolve(()), [])
    follows(decision.due(known(kept), NOW, TIMES, UNUSED), Refresh.LEFT, [Touch(kept)])
    assert decision.cached(known(kept), NOW) is None


def again(entry_, policy_id="1"):
    return Refetch(policy_id, entry_)


WEEK_AGO = entry(3600, 3600, asked=NOW.day - UNUSED - DAY)

DUE = [
    (known(YOUNG), CheckRecord(YOUNG), [], "the record of a policy that is due is looked up"),
    (known(WEEK_AGO), Refresh.LEFT, [Touch(replace(WEEK_AGO, due=WEEK_AGO.end))],
     "one that mail no longer asks for is left alone to its end"),
    (known(ENDED), Refresh.LEFT, [Touch, Lapse, Announce, Lapse(None), TellLapsed],
     "that a policy ended is told though no mail asks"),
    (known(entry(600, 1, policy(max_age=600))), Refresh.LEFT,
     [Touch, Lapse(Mode.ENFORCE), Announce, Lapse(None)],
     "unless it is so short that nothing renews it where no mail asks"),
    (known(), Refresh.LEFT, [], "there is none any more"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "then", "effects", "why"), DUE)
def test_due(before, then, effects, why):
    follows(decision.due(before, NOW, TIMES, UNUSED), then, effects)


RENEW = [
    (known(OLD), again(OLD), [], "§3.3: it is fetched again, whatever the record says"),
    (known(OLD, pauses=(pause(),)), Refresh.LEFT,
     [Touch(replace(OLD, due=NOW.wall + UNASKED_PAUSE))],
     "its id rests: later"),
    (known(ENDED), Refresh.LEFT, [Touch, Lapse, Announce], "it has ended meanwhile"),
    (known(), Refresh.LEFT, [], "it was withdrawn meanwhile"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "then", "effects", "why"), RENEW)
def test_renew(before, then, effects, why):
    follows(decision.renew(before, NOW, TIMES), then, effects)


NEWER = entry(policy_id="2", served=OTHER)

LOOKED = [
    (CheckRecord(YOUNG), "1", known(YOUNG), Refresh.CHECKED, [TellWorks, Touch],
     "an unchanged id of a young policy"),
    (CheckRecord(YOUNG), "2", known(YOUNG), again(YOUNG, "2"), [TellWorks], "a new id is fetched"),
    (CheckRecord(OLD), "1", known(OLD), again(OLD), [TellWorks], "so is an old policy"),
    (CheckRecord(YOUNG), DNS_FAILS, known(YOUNG), Refresh.FAILED, [Touch, TellFailed],
     "the record cannot be looked up: later"),
    (CheckRecord(OLD), DNS_FAILS, known(OLD), again(OLD), [Touch, TellFailed],
     "§3.3: the fetch does not need the record"),
    (CheckRecord(YOUNG), "2", known(YOUNG, pauses=(pause("2"),)), Refresh.LEFT, [TellWorks, Touch],
     "an id that rests is not fetched"),
    (CheckRecord(YOUNG), "1", known(NEWER), Refresh.LEFT, [], "mail saw a newer policy meanwhile"),
    (again(OLD), ENFORCE, known(OLD), Refresh.FETCHED,
     [Remember, Lapse, Put, TellWorks], "renewed: its time begins anew"),
    (again(OLD), OTHER, known(OLD), Refresh.CHANGED,
     [Remember, Lapse, Put, TellWorks, TellChanged, Announce],
     "§8.1: a body that was still the old one heals at the renewal"),
    (again(OLD), UNFETCHABLE, known(OLD), Refresh.FAILED, [Rest, Touch, TellFailed],
     "§5.1: a failed renewal leaves the policy in force, and its id rests"),
    (again(OLD), LOST, known(OLD), Refresh.FAILED, [Touch, TellFailed],
     "it does not rest where the lookup was lost"),
    (again(OLD), ENFORCE, known(NEWER), Refresh.LEFT, [], "mail saw a newer policy meanwhile"),
    (again(OLD), ENFORCE, known(), Refresh.LEFT, [], "mail saw it withdrawn meanwhile"),
    (again(ENDED), OTHER, known(ENDED), Refresh.CHANGED,
     [Touch, Lapse, Announce, Remember, Lapse, Put, TellWorks, TellChanged, Announce],
     "one that ended during its renewal is followed by what was fetched"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "result", "before", "then", "effects", "why"), LOOKED)
def test_looked_at_though_no_mail_asks(question, result, before, then, effects, why):
    follows(decision.came(question, result, before, NOW, TIMES), then, effects)


def test_a_renewal_keeps_the_day_when_mail_asked_last():
    asked = NOW.day - 30 * DAY
    old = replace(OLD, asked=asked)
    step = decision.came(again(old), ENFORCE, known(old), NOW, TIMES)
    (put,) = (one for one in step.effects if isinstance(one, Put))
    assert (put.entry.asked, put.entry.fetched) == (asked, NOW.wall)


# Clocks: a time in the future comes from one that was wrong.

FUTURE_TODAY = replace(FUTURE, fetched=NOW.wall - DAY, checked=0.0, due=NOW.wall)


@pytest.mark.parametrize(
    ("before", "now", "then", "effects", "why"),
    [
        (FUTURE, UNSTEADY, Resolve(("1",)), [], "which clock is not known: its times stay"),
        (FUTURE, NOW, Resolve(("1",)), [Put(FUTURE_TODAY)],
         "the entry's was: it is as old as makes it due at once"),
        (replace(FUTURE, policy=policy(max_age=0)), NOW, Resolve(()),
         [], "one that was withdrawn stays so"),
        (entry(-299, -299), NOW, answer(ENFORCE, GRACE + 299), [],
         "five minutes are no wrong clock"),
    ],
)  # fmt: skip
def test_times_from_the_future(before, now, then, effects, why):
    follows(decision.asked(known(before), now, TIMES), then, effects)


@pytest.mark.requirement("KEEP-16")
def test_with_an_unsteady_clock_a_policy_that_has_ended_is_left_as_it_is():
    follows(decision.asked(known(ENDED), UNSTEADY, TIMES), Resolve(()), [])
    follows(decision.due(known(ENDED), UNSTEADY, TIMES, UNUSED), Refresh.LEFT, [])


def test_with_an_unsteady_clock_a_policy_from_the_future_is_not_looked_at():
    follows(decision.due(known(FUTURE), UNSTEADY, TIMES, UNUSED), Refresh.LEFT, [])


# The daemon closes.


@pytest.mark.parametrize(
    ("question", "before", "then"),
    [
        (Resolve(("1",)), known(YOUNG), answer(ENFORCE, 0.0)),
        (Fetch("1"), known(), answer(None, 0.0, Fault.CLOSING)),
        (CheckRecord(YOUNG), known(YOUNG), Refresh.FAILED),
        (again(OLD), known(OLD), Refresh.FAILED),
    ],
)
def test_a_lookup_lost_by_the_end_is_no_failure(question, before, then):
    follows(decision.lost(question, before, NOW), then, [])


def test_a_result_that_answers_another_question_is_refused():
    with pytest.raises(TypeError):
        decision.came(CheckRecord(YOUNG), ENFORCE, known(YOUNG), NOW, TIMES)


# What needs no lookup.


@pytest.mark.parametrize(
    ("before", "then", "why"),
    [
        (known(), None, "nothing is known"),
        (known(OLD), answer(ENFORCE, 0.0), "in force, if unchecked"),
        (known(ENDED), None, "past its end"),
        (known(miss=miss(5)), answer(None, 0.0), "there is none"),
        (known(miss=miss(-1)), None, "there was none"),
        (known(miss=miss(1, result=LOST)), answer(None, 0.0, Fault.PROCESS), "not known"),
    ],
)
def test_cached(before, then, why):
    assert decision.cached(before, NOW) == then
