"""What is in force: the table "Keeping it" of RFC 8461 (§3.1, §3.3, §5.1, §8, §10.2).

No network and no waiting: a world of our own answers the lookups, and its clock is set by hand.
"""

import logging
import threading
from collections import Counter
from dataclasses import replace

import pytest

from stsresolver.cache.clock import STEADY, SteadyClock
from stsresolver.cache.entry import Entry
from stsresolver.cache.layered import LayeredStore
from stsresolver.cache.memory import MemoryStore
from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.policies.decision import FAULT_PAUSE, MAX_NEGATIVE_TTL
from stsresolver.policies.faults import Fault
from stsresolver.policies.in_force import Policies
from stsresolver.policies.misses import FETCH_PAUSE, Pause
from stsresolver.policies.renewal_times import RenewalTimes
from stsresolver.policies.steps import Refresh
from tests.support.clock import Clock
from tests.support.policies import DAY, WEEK, policy

GRACE = 60.0
DOMAIN = "example.com"

NO_RECORD = NoPolicy(Cause.NO_RECORD)
DNS_FAILS = Failure(Cause.DNS, "SERVFAIL")
UNFETCHABLE = Failure(Cause.STATUS, "404")


class World(Clock):
    """Clock, resolver and listener in one; counts what it is asked."""

    def __init__(self, record=NO_RECORD, served=UNFETCHABLE, **options):
        super().__init__()
        self.record = record
        self.served = served
        self.asked = Counter()
        self.behind = []
        self.changed = []
        self.store = MemoryStore(1000)
        self.policies = Policies(
            self.store,
            lambda timeout: self,
            times=RenewalTimes(options.pop("grace", GRACE), **options),
            behind=self.behind.append,
            flush=lambda: None,
            changed=self.changed.append,
            clock=self,
        )

    def resolve(self, domain, *known_ids):
        found = self.policy_id(domain)
        if not isinstance(found, str):
            return found
        if found in known_ids:
            return NotChanged(found)
        policy = self.fetch(domain)
        return replace(policy, id=found) if isinstance(policy, Failure) else Found(policy, found)

    def policy_id(self, domain):
        self.asked["record"] += 1
        return self.record

    def fetch(self, domain):
        self.asked["policy"] += 1
        return self.served

    def begin_resolve(self, domain, known_ids, done):
        done(self.resolve(domain, *known_ids))

    def begin_policy_id(self, domain, done):
        done(self.policy_id(domain))

    def begin_fetch(self, domain, done):
        done(self.fetch(domain))

    def ask(self, domain=DOMAIN, timeout=4.0):
        results = []
        self.policies.ask(domain, timeout, results.append)
        (result,) = results
        return result

    def refresh(self, domain, timeout, unused_after):
        outcomes = []
        self.policies.refresh(domain, timeout, unused_after, outcomes.append)
        (outcome,) = outcomes
        return outcome

    def mode(self, domain=DOMAIN):
        found = self.ask(domain).policy
        return found.mode if found else None

    def run_behind(self):
        jobs, self.behind[:] = list(self.behind), []
        for job in jobs:
            job()
        return len(jobs)

    def counted(self):
        asked, self.asked = self.asked, Counter()
        return asked["record"], asked["policy"]


def published(**options):
    return World("1", policy(**options))


# When the daemon ends

LOST = Failure(Cause.PROCESS, "no such process is running")


@pytest.mark.parametrize(
    ("record", "served", "days", "reason"),
    [(LOST, policy(), 0, "the record's lookup"), ("2", LOST, 0, "that of a new policy"),
     ("1", LOST, 2, "that of the same one")],
)  # fmt: skip
def test_a_lookup_lost_by_the_end_is_no_failure(caplog, record, served, days, reason):
    world = published()
    world.ask()
    before = world.store.get(DOMAIN)
    world.later(days * DAY + 2 * GRACE)
    world.record, world.served = record, served
    world.policies.close()
    caplog.clear()
    world.refresh(DOMAIN, 4.0, WEEK)
    assert world.store.get(DOMAIN) == before
    assert world.ask().policy == policy()
    assert world.run_behind() == (days > 0)
    assert world.store.get(DOMAIN).failure == ""
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


# Found, and answered again


def test_a_policy_is_found():
    world = published()
    assert world.ask().policy == policy()
    assert world.counted() == (1, 1)


@pytest.mark.requirement("WIRE-10")
def test_within_grace_nothing_is_asked():
    world = published()
    world.ask()
    world.counted()
    result = world.later(GRACE - 1).ask()
    assert result.policy == policy()
    assert result.until == world.ticks + 1, "may be repeated until grace is over"
    assert world.counted() == (0, 0)


@pytest.mark.requirement("KEEP-2")
def test_after_grace_the_id_is_checked_and_nothing_fetched():
    world = published()
    world.ask()
    world.counted()
    assert world.later(GRACE).ask().until == world.ticks + GRACE
    assert world.counted() == (1, 0), "no GET while the id is unchanged and the policy young"


@pytest.mark.requirement("KEEP-2", "APPLY-9")
def test_a_new_id_is_fetched_before_answering():
    world = published()
    world.ask()
    world.counted()
    world.record, world.served = "0", policy(mx=("other.example.com",))
    assert world.later(GRACE).ask().policy.mx == ("other.example.com",), "ids have no order"
    assert world.counted() == (1, 1)


@pytest.mark.requirement("KEEP-10")
def test_the_body_may_still_be_the_old_one_and_heals_at_the_renewal():
    """§8.1: id and policy do not change at the same moment."""
    world = published()
    world.ask()
    world.record = "2"
    world.later(GRACE).ask()
    world.served = policy(Mode.NONE)
    world.later(DAY).ask()
    assert world.run_behind() == 1
    assert world.mode() is Mode.NONE


# Expiry


@pytest.mark.requirement("KEEP-1")
def test_expiry_counts_from_the_fetch_whatever_the_id_says():
    world = published(max_age=1000)
    world.ask()
    world.served = UNFETCHABLE
    for _ in range(9):
        assert world.later(100).mode() is Mode.ENFORCE
    assert world.later(100).mode() is None


@pytest.mark.requirement("KEEP-1", "WIRE-10")
def test_an_answer_is_not_repeated_past_the_end():
    world = published(max_age=30)
    assert world.ask().until == world.ticks + 15, "until the renewal"
    assert world.later(15).ask().until == world.ticks + 15, "until the end"
    assert world.later(15).ask().policy == policy(max_age=30), "expired, and found again"
    assert world.counted() == (2, 2)


@pytest.mark.requirement("KEEP-1")
def test_max_age_0_is_in_force_for_one_answer():
    world = published(max_age=0)
    result = world.ask()
    assert result.policy is not None
    assert result.until == world.ticks
    world.served = UNFETCHABLE
    assert world.mode() is None


# Renewal


@pytest.mark.requirement("KEEP-6")
@pytest.mark.parametrize(
    ("max_age", "due", "why"),
    [
        (WEEK, DAY, "24 hours"),
        (DAY, DAY / 2, "half of max_age, where that is less: a policy of one day never lapses"),
        (1000, 500, "half of max_age"),
    ],
)
def test_renewal_behind_the_answer(max_age, due, why):
    world = published(max_age=max_age)
    world.ask()
    world.counted()
    world.later(due - 1).ask()
    assert not world.behind, f"before {why}"
    world.later(1).ask()
    assert len(world.behind) == 1, why
    assert world.counted()[1] == 0, "nobody waits for it"
    world.run_behind()
    assert world.counted()[1] == 1
    assert world.store.get(DOMAIN).fetched == world.now


@pytest.mark.requirement("KEEP-6")
def test_one_renewal_at_a_time():
    world = published()
    world.ask()
    for _ in range(3):
        world.later(DAY).ask()
    assert len(world.behind) == 1


@pytest.mark.requirement("KEEP-6")
@pytest.mark.parametrize("record", [NO_RECORD, DNS_FAILS, NoPolicy(Cause.BAD_RECORD)])
def test_renewal_does_not_care_for_the_record(record):
    world = published()
    world.ask()
    world.record = record
    for _ in range(30):
        world.later(DAY).ask()
        world.run_behind()
    assert world.mode() is Mode.ENFORCE
    assert world.store.get(DOMAIN).id == "1", "the id stays the last one seen"


def test_a_failed_renewal_pauses_and_the_policy_stays():
    world = published()
    world.ask()
    world.served = UNFETCHABLE
    world.later(DAY).ask()
    world.run_behind()
    world.later(FETCH_PAUSE - 1)
    assert world.mode() is Mode.ENFORCE
    assert not world.behind
    world.later(1)
    assert world.mode() is Mode.ENFORCE
    assert len(world.behind) == 1


def test_a_renewal_that_comes_after_a_change_is_dropped():
    world = published()
    world.ask()
    world.later(DAY).ask()
    world.record, world.served = "2", policy(Mode.NONE)
    world.later(GRACE).ask()
    world.served = policy()
    world.run_behind()
    assert world.store.get(DOMAIN).id == "2"


@pytest.mark.parametrize("record", ["1", "2", NO_RECORD])
def test_a_renewal_that_outlasts_the_policy_counts(record):
    """What was fetched is in force, and not thrown away because what it renews has just ended."""
    world = published(max_age=1000)
    world.ask()
    world.later(999)
    world.record = record
    world.fetch = lambda domain: (world.later(2), policy(max_age=40))[1]
    if isinstance(record, str):
        assert world.refresh(DOMAIN, 4.0, DAY) is Refresh.CHANGED
    else:
        world.ask()
        world.run_behind()
    world.record = world.served = DNS_FAILS
    assert world.ask().policy == policy(max_age=40)
    assert world.store.get(DOMAIN).fetched == world.now


def test_a_renewal_does_not_follow_a_newer_policy_that_has_ended():
    """One with max_age 0, which mail found meanwhile, stays withdrawn."""
    world = published()
    world.ask()
    world.later(DAY).ask()

    def fetch(domain):
        gone = policy(max_age=0)
        world.store.put(Entry(domain, "2", gone, world.now, world.now, 0.0, 0.0), world.now)
        return policy()

    world.fetch = fetch
    world.run_behind()
    assert world.store.get(DOMAIN).policy.max_age == 0


# Discovery or fetch fails


@pytest.mark.requirement("KEEP-3")
@pytest.mark.parametrize(
    ("record", "served"),
    [
        (NO_RECORD, policy()),
        (NoPolicy(Cause.BAD_RECORD), policy()),
        (NoPolicy(Cause.SEVERAL_RECORDS), policy()),
        (DNS_FAILS, policy()),
        ("2", UNFETCHABLE),
        ("2", Failure(Cause.SYNTAX, "line 1")),
    ],
)
def test_what_fails_leaves_a_cached_policy_in_force(record, served):
    world = published()
    world.ask()
    world.record, world.served = record, served
    for _ in range(24):
        assert world.later(3600).mode() is Mode.ENFORCE


@pytest.mark.requirement("KEEP-4", "KEEP-5")
@pytest.mark.parametrize("record", ["1", NO_RECORD, DNS_FAILS, NoPolicy(Cause.BAD_RECORD)])
def test_without_a_cached_policy_mail_flows(record):
    assert World(record, UNFETCHABLE).ask().policy is None


@pytest.mark.requirement("KEEP-8")
def test_the_same_id_is_not_fetched_again_for_five_minutes():
    world = World("1", UNFETCHABLE)
    world.ask()
    for _ in range(4):
        world.later(GRACE).ask()
    assert world.counted() == (5, 1), "DNS is asked, HTTPS is not"
    world.later(GRACE).ask()
    assert world.counted() == (1, 1), "five minutes are over"


@pytest.mark.requirement("KEEP-8")
def test_a_new_id_is_fetched_at_once():
    world = World("1", UNFETCHABLE)
    world.ask()
    world.counted()
    world.record, world.served = "2", policy()
    assert world.later(GRACE).mode() is Mode.ENFORCE
    assert world.counted() == (1, 1)


@pytest.mark.requirement("KEEP-8")
def test_the_pause_outlives_a_moment_without_dns():
    world = World("1", UNFETCHABLE)
    world.ask()
    world.record = DNS_FAILS
    world.later(GRACE).ask()
    world.record = "1"
    world.later(GRACE).ask()
    assert world.counted() == (3, 1)


def test_a_pause_holds_with_a_cached_policy_too():
    world = published()
    world.ask()
    world.counted()
    world.record, world.served = "2", UNFETCHABLE
    world.later(GRACE).ask()
    world.later(GRACE).ask()
    assert world.counted() == (2, 1)


# One question


@pytest.fixture
def questions(monkeypatch):
    """Return the known ids of each question, in order."""
    found = []

    real = World.resolve

    def resolve(self, domain, *known_ids):
        found.append(known_ids)
        return real(self, domain, *known_ids)

    monkeypatch.setattr(World, "resolve", resolve)
    return found


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (Found(policy(), "1"), policy()),
        (Failure(Cause.STATUS, "404", "1"), None),
        (Failure(Cause.PROCESS), None),
        (DNS_FAILS, None),
        (NO_RECORD, None),
    ],
)
def test_a_first_answer_takes_one_question(result, found):
    world = World()
    world.policy_id = world.fetch = None
    world.resolve = lambda domain: result
    assert world.ask().policy == found


def test_ids_in_force_and_ids_that_rest_are_known(questions):
    world = published()
    world.ask()
    world.served = UNFETCHABLE
    for world.record in "2", "3", "1":
        world.later(GRACE).ask()
    world.later(FETCH_PAUSE - 2 * GRACE).ask()
    assert questions == [(), ("1",), ("1", "2"), ("1", "2", "3"), ("1", "3")]
    world.ask(timeout=8.0)
    assert len(questions) == 5, "nothing is asked within grace, with any timeout"
    world.later(GRACE).ask(timeout=8.0)
    assert questions[5:] == [("1",)], "what rests with one timeout may be had with another"


def meanwhile_ended(world):
    world.later(1000)


def meanwhile_removed(world):
    gone = policy(max_age=0)
    world.store.put(Entry(DOMAIN, "2", gone, world.now, world.now, 0.0, 0.0), world.now)


def meanwhile_renewed(world):
    """Another zone's mail has seen a new id, and put it in force."""
    now = world.now
    other = policy(Mode.TESTING, max_age=1000)
    world.store.put(Entry(DOMAIN, "2", other, now, now, now, now), now)


@pytest.mark.parametrize("happens", [meanwhile_ended, meanwhile_removed, meanwhile_renewed])
def test_a_known_id_whose_policy_is_gone_meanwhile_is_fetched_after_all(happens):
    world = published(max_age=1000)
    world.ask()
    world.served = policy(Mode.NONE)
    world.counted()
    resolve = world.resolve

    def slow(domain, *known_ids):
        result = resolve(domain, *known_ids)
        assert result == NotChanged("1")
        happens(world)
        return result

    world.resolve = slow
    assert world.later(GRACE).mode() is Mode.NONE
    assert world.counted() == (1, 1)
    assert world.store.get(DOMAIN).id == "1"


def test_an_id_whose_pause_is_over_meanwhile_is_fetched_after_all():
    world = World("1", UNFETCHABLE)
    world.ask()
    world.served = policy()
    resolve = world.resolve
    world.resolve = lambda *of: (resolve(*of), world.later(2))[0]
    assert world.later(FETCH_PAUSE - 1).ask().policy == policy()
    assert world.counted() == (2, 2)


@pytest.mark.parametrize("served", [policy(Mode.NONE), UNFETCHABLE])
def test_an_id_that_another_zone_put_in_force_meanwhile_counts_as_checked(served):
    world = World("2", served)
    resolve = world.resolve
    world.resolve = lambda *of: (resolve(*of), meanwhile_renewed(world))[0]
    assert world.mode() is Mode.TESTING
    assert world.store.get(DOMAIN).failure == ""


@pytest.mark.parametrize("known", [False, True])
def test_a_slow_lookup_does_not_put_what_it_found_over_what_another_zone_found_meanwhile(known):
    world = published()
    if known:
        world.record = "0"
        world.ask()
        world.record = "1"
        world.later(GRACE)
    resolve = world.resolve

    def slow(*of):
        result = resolve(*of)
        assert isinstance(result, Found)
        meanwhile_renewed(world)
        return result

    world.resolve = slow
    assert world.mode() is Mode.TESTING
    assert world.store.get(DOMAIN).id == "2"
    world.resolve = resolve
    assert world.later(GRACE).mode() is Mode.ENFORCE, "what the record says decides"


def test_a_renewal_that_failed_says_nothing_of_what_mail_found_meanwhile():
    world = published()
    world.ask()
    world.record = "2"
    world.later(GRACE)

    def slow(domain):
        meanwhile_renewed(world)
        return UNFETCHABLE

    world.fetch = slow
    assert world.refresh(DOMAIN, 4.0, WEEK) is Refresh.LEFT
    assert world.store.get(DOMAIN).failure == ""
    del world.fetch
    world.later(1000)
    assert world.mode() is Mode.ENFORCE, "its id does not rest"


def test_a_policy_that_was_just_fetched_is_in_force_though_a_renewal_of_it_failed_meanwhile():
    world = published()
    resolve = world.resolve

    def slow(domain, *known_ids):
        result = resolve(domain, *known_ids)
        pause = Pause("1", UNFETCHABLE, world.ticks + FETCH_PAUSE)
        world.policies._misses.pause((DOMAIN, 4.0), pause)
        return result

    world.resolve = slow
    assert world.ask().policy == policy()


def test_a_failed_fetch_leaves_the_record_working(caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    world = World(DNS_FAILS, UNFETCHABLE)
    world.ask()
    world.record = "1"
    caplog.clear()
    world.later(GRACE).ask()
    first, second = caplog.messages
    assert "the MTA-STS record can be looked up again" in first
    assert "404" in second


# Remembering that there is none


@pytest.mark.requirement("DNS-3", "DNS-4")
@pytest.mark.parametrize(
    ("result", "seconds", "why"),
    [
        (NoPolicy(Cause.NO_RECORD, ttl=900), 900, "the SOA's negative TTL"),
        (NoPolicy(Cause.NO_RECORD, ttl=86400), MAX_NEGATIVE_TTL, "half an hour at most"),
        (NoPolicy(Cause.NO_RECORD, ttl=5), GRACE, "grace at least"),
        (NoPolicy(Cause.NO_RECORD), GRACE, "no SOA"),
        (NoPolicy(Cause.BAD_RECORD), GRACE, "a malformed record"),
        (DNS_FAILS, GRACE, "a failed lookup: a dead zone does not cost every mail the timeout"),
    ],
)
def test_a_miss_is_remembered(result, seconds, why):
    world = World(result)
    assert world.ask().until == world.ticks + min(seconds, GRACE), why
    world.later(seconds - 1).ask()
    assert world.counted()[0] == 1, why
    world.later(1).ask()
    assert world.counted()[0] == 1, why


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize("grace", [GRACE, DAY])
def test_what_the_store_holds_is_in_force_as_soon_as_it_can_be_read(grace):
    world = World(NoPolicy(Cause.NO_RECORD, ttl=1800), grace=grace)
    world.store.unread_since = world.ticks
    assert world.ask().until == world.ticks + FAULT_PAUSE
    assert world.later(FAULT_PAUSE).ask().policy is None
    assert world.counted() == (1, 0), "DNS is not asked again for each mail"
    now = world.later(FAULT_PAUSE).now
    world.store.unread_since = None
    world.store.put(Entry(DOMAIN, "1", policy(), now - 100, now - 100, now, now + DAY), now)
    assert world.mode() is Mode.ENFORCE
    assert world.counted() == (0, 0)


def test_a_store_that_is_back_while_it_is_read_was_not_read():
    """One read gives nothing because the store is away, and another then finds it back."""
    world = World(DNS_FAILS)
    world.store.unread_since = world.ticks

    reads = []

    def get(domain, *, asked):
        reads.append(domain)
        if len(reads) == 2:
            world.store.unread_since = None

    world.store.get = get
    assert world.ask().unknown is Fault.STORE


def test_requests_for_which_it_is_not_known_are_counted():
    world = World(Failure(Cause.PROCESS))
    for _ in range(3):
        world.later(FAULT_PAUSE).ask()
    assert world.policies.unknown.read() == dict.fromkeys(Fault, 0) | {Fault.PROCESS: 3}
    assert world.policies.faults() == dict.fromkeys(Fault, 0.0) | {Fault.PROCESS: 2 * FAULT_PAUSE}


def test_a_lookup_lost_by_the_end_is_no_fault_of_the_resolver_process(caplog):
    world = World(Failure(Cause.PROCESS))
    world.policies.close()
    assert world.ask().unknown is Fault.CLOSING
    assert world.policies.faults()[Fault.PROCESS] == 0
    assert not caplog.records


@pytest.mark.requirement("DNS-4")
def test_the_soa_does_not_delay_the_check_of_a_cached_policy():
    world = published()
    world.ask()
    world.record = NoPolicy(Cause.NO_RECORD, ttl=1800)
    assert world.later(GRACE).ask().until == world.ticks + GRACE


@pytest.mark.requirement("KEEP-12")
def test_misses_do_not_push_policies_out():
    world = published()
    world.ask()
    world.record = NO_RECORD
    for number in range(1000):
        world.ask(f"{number}.example.net")
    world.counted()
    assert world.mode() is Mode.ENFORCE
    assert world.counted() == (0, 0)


# Modes


@pytest.mark.requirement("KEEP-11")
def test_mode_none_replaces_an_older_policy_at_once():
    world = published()
    world.ask()
    world.record, world.served = "2", policy(Mode.NONE)
    assert world.later(GRACE).mode() is Mode.NONE
    world.record = NO_RECORD
    assert world.later(GRACE).mode() is Mode.NONE, "cached like any policy"


# Zones


def test_zones_share_policies_but_not_failures():
    world = World("1", UNFETCHABLE)
    world.ask(timeout=1.0)
    world.served = policy()
    assert world.ask(timeout=8.0).policy == policy(), "the longer timeout finds it"
    world.counted()
    assert world.ask(timeout=1.0).policy == policy(), "and the other zone has it as well"
    assert world.counted() == (0, 0)


@pytest.mark.requirement("APPLY-2")
def test_subdomains_do_not_inherit():
    world = published()
    world.ask()
    world.record = NO_RECORD
    assert world.ask(f"mail.{DOMAIN}").policy is None


# One lookup at a time


@pytest.mark.requirement("KEEP-12")
def test_one_lookup_and_the_others_share_its_result():
    world = published()
    inside, go_on = threading.Event(), threading.Event()
    fetch = world.fetch

    def slow(domain):
        inside.set()
        assert go_on.wait(10)
        return fetch(domain)

    world.fetch = slow
    results = []
    first = threading.Thread(target=world.policies.ask, args=(DOMAIN, 4.0, results.append))
    first.start()
    assert inside.wait(10)
    for _ in range(60):
        world.policies.ask(DOMAIN, 4.0, results.append)
    assert not results, "who asks meanwhile has its thread back, and no answer yet"
    go_on.set()
    first.join(10)
    assert [result.policy for result in results] == [policy()] * 61
    assert world.counted() == (1, 1)


def test_a_lookup_that_is_a_bug_ends_in_an_answer(caplog):
    world = published()
    world.ask()
    world.policy_id = lambda domain: 1 / 0
    assert world.later(GRACE).mode() is Mode.ENFORCE, "what is in force stays so"
    answer = world.ask("example.net")
    assert (answer.policy, answer.unknown) == (None, Fault.BUG), "mail waits"
    assert "internal error" in caplog.text


def test_one_answer_that_cannot_be_given_does_not_stop_the_others(caplog):
    world = published()
    results = []

    def broken(_):
        raise RuntimeError("broken pipe")

    def fetch(domain):
        world.policies.ask(DOMAIN, 4.0, broken)
        world.policies.ask(DOMAIN, 4.0, results.append)
        return policy()

    world.fetch = fetch
    world.ask()
    assert len(results) == 1
    assert "broken pipe" in caplog.text


# Ready replies


def test_changes_are_announced_and_counted():
    world = published()
    first = world.ask()
    assert world.changed == [DOMAIN]
    assert first.change == world.policies.changes
    world.later(GRACE).ask()
    assert world.changed == [DOMAIN], "nothing changed"
    world.record, world.served = "2", policy(Mode.NONE)
    result = world.later(GRACE).ask()
    assert world.changed == [DOMAIN] * 2
    assert first.change != world.policies.changes == result.change


def test_expiry_is_announced():
    world = published(max_age=1000)
    world.later(STEADY).ask()
    world.record = NO_RECORD
    world.later(1000).ask()
    assert world.changed == [DOMAIN] * 2


def test_cached_looks_nothing_up():
    world = published(max_age=1000)
    assert world.policies.cached(DOMAIN, 4.0) is None
    world.ask()
    world.counted()
    world.later(999)
    assert world.policies.cached(DOMAIN, 4.0).policy == policy(max_age=1000), (
        "in force, if unchecked"
    )
    assert world.later(1) and world.policies.cached(DOMAIN, 4.0) is None
    assert world.counted() == (0, 0)


# Clocks


@pytest.mark.requirement("KEEP-13")
@pytest.mark.parametrize("back", [7200, DAY, 400 * DAY])
def test_a_clock_set_back_and_right_again_makes_nothing_expire(back):
    world = published(max_age=1000)
    world.ask()
    world.now -= back
    assert world.mode() is Mode.ENFORCE
    assert world.counted() == (2, 1)
    assert world.run_behind() == 0, "its times stay as they are"
    world.record = DNS_FAILS
    assert world.later(STEADY - 1).mode() is Mode.ENFORCE
    assert world.refresh(DOMAIN, 4.0, 0.0) is Refresh.LEFT
    world.now = 1_800_000_000.0 + 999
    assert world.mode() is Mode.ENFORCE, "it ends when it would have ended anyway"
    assert world.later(1).mode() is None


def test_a_clock_is_steady_an_hour_after_its_last_jump():
    world = World()
    clock = SteadyClock(world.time(), world.monotonic())

    def steady():
        return clock.is_steady(world.time(), world.monotonic())

    assert not steady(), "it may have started wrong"
    assert world.later(STEADY) and steady()
    world.now += 299
    assert steady(), "no jump"
    world.now -= DAY
    assert not steady()
    assert clock.since == world.now
    assert world.later(STEADY - 1) and not steady()
    assert world.later(1) and steady()


def test_a_policy_fetched_since_the_last_jump_ends_for_certain():
    """Its age does not depend on which time it is: no mail waits for its policy host."""
    world = published(max_age=1000)
    world.ask()
    world.record = DNS_FAILS
    answer = world.later(1000).ask()
    assert (answer.policy, answer.unknown) == (None, None)


def test_a_clock_that_stays_back_for_an_hour_is_believed():
    world = published()
    world.ask()
    world.now -= DAY
    assert world.mode() is Mode.ENFORCE
    world.later(STEADY).mode()
    assert world.run_behind() == 1, "the policy is due at once"
    assert world.store.get(DOMAIN).fetched == world.now


def test_a_clock_that_starts_years_behind_loses_nothing():
    """As on a host without a clock of its own, until somebody tells it the time."""
    right = 1_800_000_000.0
    world = World(DNS_FAILS)
    world.store.put(Entry(DOMAIN, "1", policy(), right, right, right, right), right)
    world.now = 0.0
    world.policies = Policies(
        world.store,
        lambda timeout: world,
        times=RenewalTimes(GRACE),
        behind=world.behind.append,
        flush=lambda: None,
        changed=world.changed.append,
        clock=world,
    )
    assert world.mode() is Mode.ENFORCE
    world.now = right + WEEK - 1
    assert world.later(0).mode() is Mode.ENFORCE


@pytest.mark.requirement("KEEP-13")
def test_a_time_from_the_future_does_not_live_for_ever():
    world = World(NO_RECORD)
    entry = Entry(DOMAIN, "1", policy(max_age=1000), world.now + WEEK, world.now + WEEK, 0.0, 0.0)
    world.store.put(entry, world.now)
    world.later(STEADY)
    assert world.mode() is Mode.ENFORCE
    assert world.store.due(world.now, 1), "it is due at once"
    assert world.later(499).mode() is Mode.ENFORCE
    assert world.later(1).mode() is None, "of its 1000 seconds, half count as gone"


@pytest.mark.requirement("KEEP-13")
def test_a_check_from_the_future_does_not_count():
    world = published()
    entry = Entry(DOMAIN, "1", policy(), world.now, world.now + 3600, 0.0, 0.0)
    world.store.put(entry, world.now)
    world.ask()
    assert world.counted() == (1, 0)


# What several failures do together


@pytest.mark.requirement("KEEP-8")
def test_each_id_has_a_pause_of_its_own():
    """A new id that cannot be fetched, while the renewal of the old one fails too."""
    world = published()
    world.ask()
    world.record, world.served = "2", UNFETCHABLE
    world.later(DAY)
    world.counted()
    for _ in range(10):
        world.later(GRACE).ask()
        world.run_behind()
    assert world.counted()[1] <= 4, "twice for each id in ten minutes"


def test_a_moment_without_dns_leaves_no_trace_in_the_pause(caplog):
    world = published()
    world.ask()
    world.record, world.served = "2", UNFETCHABLE
    world.later(GRACE).ask()
    world.record = DNS_FAILS
    world.later(GRACE).ask()
    world.record = "2"
    caplog.clear()
    world.later(GRACE).ask()
    assert "SERVFAIL" not in caplog.text
    assert "404" in world.store.get(DOMAIN).failure


@pytest.mark.requirement("KEEP-6")
def test_a_long_grace_does_not_hold_up_a_renewal():
    world = World("1", policy(max_age=DAY), grace=DAY)
    world.ask()
    world.served = UNFETCHABLE
    tries = 0
    for _ in range(20):
        world.later(DAY / 2 if not tries else FETCH_PAUSE)
        assert world.ask().until <= world.ticks + FETCH_PAUSE
        tries += world.run_behind()
    assert tries == 20


def test_a_long_grace_does_not_hide_a_new_id_after_a_failed_fetch():
    world = World("1", UNFETCHABLE, grace=DAY)
    assert world.ask().until == world.ticks + FETCH_PAUSE
    world.record, world.served = "2", policy()
    assert world.later(FETCH_PAUSE).mode() is Mode.ENFORCE


def test_a_miss_of_one_zone_does_not_hold_up_the_check_of_what_another_found():
    world = World(NoPolicy(Cause.NO_RECORD, ttl=1800))
    world.ask(timeout=1.0)
    world.record, world.served = "1", policy()
    world.ask(timeout=8.0)
    world.record, world.served = "2", policy(Mode.NONE)
    assert world.later(GRACE).ask(timeout=1.0).policy.mode is Mode.NONE


def test_cached_knows_that_there_is_none():
    world = World(NoPolicy(Cause.NO_RECORD, ttl=900))
    assert world.policies.cached(DOMAIN, 4.0) is None, "nobody knows yet"
    world.ask()
    assert world.policies.cached(DOMAIN, 4.0).policy is None
    assert world.later(900).policies.cached(DOMAIN, 4.0) is None


def test_a_cache_that_is_a_bug_still_gives_answers(caplog):
    world = published()
    world.store.get = world.store.peek = lambda domain: 1 / 0
    assert world.ask().unknown is Fault.BUG
    assert "internal error" in caplog.text


# The log


def logged(caplog, level=logging.INFO):
    lines = [record for record in caplog.records if record.levelno >= level]
    caplog.clear()
    return [(record.levelname, record.getMessage()) for record in lines]


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "stsresolver")
    return caplog


@pytest.mark.requirement("KEEP-9")
def test_a_failure_is_warned_about_once(log):
    world = published()
    world.ask()
    logged(log)
    world.record = DNS_FAILS
    for _ in range(5):
        world.later(GRACE).ask()
    ((level, line),) = logged(log)
    assert level == "WARNING"
    assert DOMAIN in line
    assert "SERVFAIL" in line
    assert "enforce" in line
    world.record = "1"
    world.later(GRACE).ask()
    ((level, line),) = logged(log)
    assert level == "INFO"
    assert "again" in line
    world.record = DNS_FAILS
    world.later(GRACE).ask()
    assert len(logged(log)) == 1, "a new change of state"


@pytest.mark.requirement("KEEP-9")
def test_another_cause_is_another_state(log):
    world = World("1", UNFETCHABLE)
    world.ask()
    world.later(FETCH_PAUSE).ask()
    assert len(logged(log, logging.WARNING)) == 1
    world.served = Failure(Cause.SYNTAX, "line 3: no field")
    world.later(FETCH_PAUSE).ask()
    assert "line 3" in logged(log, logging.WARNING)[0][1]


@pytest.mark.requirement("KEEP-9")
def test_no_warning_where_the_cached_mode_is_none(log):
    world = published(mode=Mode.NONE)
    world.ask()
    world.record = DNS_FAILS
    world.later(GRACE).ask()
    world.record, world.served = "2", UNFETCHABLE
    world.later(GRACE).ask()
    assert not logged(log, logging.WARNING)


def test_a_domain_without_a_policy_is_nothing_to_tell(log):
    world = World(NO_RECORD)
    world.ask()
    world.later(GRACE).ask()
    assert not logged(log)


def test_a_repeated_answer_logs_nothing(log):
    world = published()
    world.ask()
    logged(log)
    for _ in range(10):
        world.later(GRACE / 2).ask()
    assert not logged(log)


@pytest.mark.parametrize(
    ("before", "after", "weaker"),
    [
        (Mode.ENFORCE, Mode.TESTING, True),
        (Mode.ENFORCE, Mode.NONE, True),
        (Mode.TESTING, Mode.NONE, True),
        (Mode.TESTING, Mode.ENFORCE, False),
        (Mode.NONE, Mode.ENFORCE, False),
    ],
)
def test_a_weaker_policy_is_a_warning_with_both_states(log, before, after, weaker):
    world = published(mode=before)
    world.ask()
    logged(log)
    world.record, world.served = "2", policy(after)
    world.later(GRACE).ask()
    warnings = logged(log, logging.WARNING)
    assert bool(warnings) is weaker
    if weaker:
        assert f"{before} -> {after}" in warnings[0][1]


def test_gone_at_expiry_is_a_warning_with_both_states(log):
    world = published(max_age=1000)
    world.later(STEADY).ask()
    world.record = NO_RECORD
    world.later(500).ask()
    logged(log)
    world.later(500).ask()
    ((_, line),) = logged(log, logging.WARNING)
    assert "enforce -> no policy" in line
    world.later(500).ask()
    assert not logged(log, logging.WARNING), "once"


def test_expired_and_found_weaker_is_a_warning(log):
    world = published(max_age=1000)
    world.ask()
    logged(log)
    world.served = policy(Mode.NONE)
    world.later(1000).ask()
    assert "enforce -> none" in logged(log, logging.WARNING)[0][1]


def test_expired_and_found_again_is_no_warning(log):
    world = published(max_age=1000)
    world.ask()
    world.later(1000).ask()
    assert not logged(log, logging.WARNING)


def test_expiry_while_the_fetch_fails_is_one_warning(log):
    world = published(max_age=1000)
    world.later(STEADY).ask()
    world.served = UNFETCHABLE
    logged(log)
    world.later(1000).ask()
    ((_, line),) = logged(log, logging.WARNING)
    assert "enforce -> no policy" in line
    assert "404" in line


def test_expiry_is_told_though_nobody_asks(log):
    world = published(max_age=1000)
    world.later(STEADY).ask()
    logged(log)
    world.later(1000).refresh(DOMAIN, 4.0, WEEK)
    assert "enforce -> no policy" in logged(log, logging.WARNING)[0][1]


@pytest.mark.parametrize("max_age", [0, 1])
def test_a_policy_found_again_and_again_is_told_once(log, max_age):
    world = published(max_age=max_age)
    for _ in range(5):
        world.ask()
        world.later(max_age + 1)
    assert len(logged(log)) == 1


def test_zones_do_not_flap(log):
    """What one timeout finds and another does not is told once for each."""
    world = published()
    world.ask()
    logged(log)
    for _ in range(5):
        world.record = DNS_FAILS
        world.later(GRACE).ask(timeout=1.0)
        world.record = "1"
        world.ask(timeout=8.0)
    assert len(logged(log)) == 1


def test_an_address_that_cannot_be_looked_up_is_no_failing_record(log):
    world = published()
    world.ask()
    logged(log)
    world.record, world.served = "2", Failure(Cause.ADDRESS, "SERVFAIL")
    for _ in range(10):
        world.later(GRACE).ask()
    assert len(logged(log)) == 1


# BY HAND


def two_processes():
    """Return two worlds on one store, each with a memory of its own in front of it."""
    first, second = published(), published()
    shared = MemoryStore(1000)
    for world in (first, second):
        world.store = LayeredStore(MemoryStore(1000), shared, grace=GRACE, clock=world)
        world.policies._store = world.store
    return first, second, shared


def test_a_forgotten_policy_is_looked_up_anew():
    world = published()
    assert world.mode() is Mode.ENFORCE
    world.record = NO_RECORD
    world.policies.forget(DOMAIN)
    assert world.changed[-1] == DOMAIN, "ready replies go"
    assert world.store.get(DOMAIN) is None
    assert world.mode() is None


def test_a_forgotten_miss_is_looked_up_anew():
    world = World(NoPolicy(Cause.NO_RECORD, ttl=1800), policy())
    assert world.mode() is None
    world.record = "1"
    assert world.mode() is None, "it is remembered"
    world.policies.forget(DOMAIN)
    assert world.mode() is Mode.ENFORCE


def test_a_forgotten_id_is_fetched_again():
    world = World("1", UNFETCHABLE)
    world.ask()
    world.served = policy()
    world.policies.forget(DOMAIN)
    assert world.mode() is Mode.ENFORCE


def test_a_policy_from_the_future_can_be_forgotten():
    world = published()
    world.ask()
    world.later(-DAY)
    world.policies.forget(DOMAIN)
    assert world.store.get(DOMAIN) is None


def test_other_processes_on_the_store_forget_too_and_nobody_writes_it_back():
    first, second, shared = two_processes()
    for world in (first, second):
        assert world.mode() is Mode.ENFORCE
    second.later(1)
    first.later(1)
    for world in (first, second):
        world.record = NO_RECORD
    first.policies.forget(DOMAIN)
    assert second.mode() is Mode.ENFORCE, "within grace it has not noticed"
    second.policies.notice_revoked()
    assert second.changed[-1] == DOMAIN
    assert second.mode() is None
    assert shared.get(DOMAIN) is None
    again = len(second.changed)
    second.policies.notice_revoked()
    assert len(second.changed) == again, "it is news once"


def test_what_was_revoked_is_not_taken_for_lost():
    """A process that has not noticed yet does not put it back, whatever mail asks."""
    first, second, shared = two_processes()
    for world in (first, second):
        world.ask()
        world.later(1)
        world.record = NO_RECORD
    first.policies.forget(DOMAIN)
    second.later(GRACE)
    assert second.mode() is None
    assert shared.get(DOMAIN) is None


def test_what_another_process_fetched_since_stays():
    first, second, shared = two_processes()
    second.ask()
    first.later(1)
    first.policies.forget(DOMAIN)
    first.later(1).ask()
    second.later(3)
    second.policies.notice_revoked()
    assert shared.get(DOMAIN).fetched == first.time()
    assert second.mode() is Mode.ENFORCE


def test_a_store_that_does_not_take_it_is_told(monkeypatch):
    world, _, shared = two_processes()
    world.ask()

    def fails(*_):
        raise StoreError("away")

    monkeypatch.setattr(shared, "revoke", fails)
    with pytest.raises(StoreError, match="away"):
        world.policies.forget(DOMAIN)
    assert world.store.peek(DOMAIN) is None
    assert world.changed[-1] == DOMAIN


def look_again(world):
    results = []
    world.policies.look_again(DOMAIN, 4.0, results.append)
    (result,) = results
    return result.policy


def test_a_look_again_finds_what_was_published_under_the_same_id():
    world = published()
    world.ask()
    world.served = policy(Mode.NONE)
    world.later(GRACE)
    assert world.mode() is Mode.ENFORCE, "the id is the same"
    assert look_again(world).mode is Mode.NONE
    assert world.mode() is Mode.NONE


def test_a_look_again_ends_a_miss_and_a_pause():
    world = World("1", UNFETCHABLE)
    world.ask()
    world.served = policy()
    assert world.mode() is None
    assert look_again(world).mode is Mode.ENFORCE
    assert world.mode() is Mode.ENFORCE


def test_a_look_again_that_fails_leaves_the_policy_in_force():
    world = published()
    world.ask()
    world.record = DNS_FAILS
    assert look_again(world).mode is Mode.ENFORCE
    entry, misses = world.policies.known(DOMAIN)
    assert entry.failure == str(DNS_FAILS)
    assert [(key, miss.result) for key, miss in misses] == [((DOMAIN, 4.0), DNS_FAILS)]


def test_all_that_is_known():
    world = published()
    world.ask()
    world.record = NO_RECORD
    world.ask("none.example")
    entries, misses = world.policies.all_known()
    assert [entry.domain for some in entries for entry in some] == [DOMAIN]
    assert [key for key, _ in misses] == [("none.example", 4.0)]
