"""Proactive fetching: what is due is looked at, what is not is left, nothing ends the loop."""

import logging
import threading

import pytest

from stsresolver.cache.entry import KEPT
from stsresolver.config.settings import ProactiveSettings
from stsresolver.mta_sts.policy import Mode
from stsresolver.policies.misses import FETCH_PAUSE
from stsresolver.policies.proactive import Proactive
from stsresolver.policies.renewal_times import UNASKED_PAUSE
from tests.policies.test_in_force import DNS_FAILS, NO_RECORD, UNFETCHABLE, World
from tests.support.policies import DAY, WEEK, policy
from tests.support.socketmap_client import DEADLINE, wait_for

UNUSED = 180 * DAY
HOUR = 3600
DOMAIN = "example.com"


def scheduler(world, behind=lambda job: job(), **options):
    settings = ProactiveSettings(**({"enabled": True, "interval": DAY} | options))
    return Proactive(
        world.store, world.policies, settings=settings, behind=behind, timeout=4.0, clock=world
    )


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "stsresolver")
    return caplog


def asked(**options):
    """A world where mail has asked for a domain with a policy."""
    world = World("1", policy(**options))
    world.ask()
    world.counted()
    return world


def run(world, proactive, seconds, step=600):
    """Let time pass in steps, with a round after each."""
    for _ in range(int(seconds // step)):
        world.later(step)
        proactive.round()


def test_nothing_is_due_after_mail_has_asked():
    world = asked()
    scheduler(world).round()
    assert world.counted() == (0, 0)


@pytest.mark.requirement("KEEP-7")
def test_every_domain_is_looked_at_once_an_interval():
    world = asked(max_age=30 * DAY)
    run(world, scheduler(world), 7 * DAY)
    record, fetched = world.counted()
    assert 7 <= record <= 10, "once a day, at the latest"
    assert 7 <= fetched <= 10, "and no policy grows older than a day"


@pytest.mark.requirement("KEEP-7")
def test_a_policy_that_mail_has_not_asked_for_in_a_week_is_renewed_as_half_of_it_passes():
    """Else its policy host would hear from us daily, for half a year after one mail."""
    world = asked(max_age=40 * DAY)
    proactive = scheduler(world)
    run(world, proactive, 9 * DAY)
    world.counted()
    for _ in range(10):
        run(world, proactive, 10 * DAY)
        assert world.policies.cached(DOMAIN, 4.0) is not None
    record, fetched = world.counted()
    assert 5 <= fetched <= 7
    assert record == fetched
    world.ask()
    world.run_behind()
    world.counted()
    run(world, proactive, 7 * DAY)
    assert 7 <= world.counted()[0] <= 10, "mail asked again"


def test_a_failing_source_that_mail_does_not_ask_for_is_not_bothered_daily():
    world = asked(max_age=365 * DAY)
    proactive = scheduler(world, unused_after=1000 * DAY)
    run(world, proactive, 9 * DAY)
    world.served = UNFETCHABLE
    world.counted()
    run(world, proactive, 360 * DAY, step=3600)
    assert 8 <= world.counted()[1] <= 25
    assert world.policies.cached(DOMAIN, 4.0) is not None
    world.served = policy(max_age=365 * DAY)
    run(world, proactive, 3 * DAY)
    assert world.store.get(DOMAIN).fetched > world.now - 3 * DAY, "in time after all"


@pytest.mark.parametrize("max_age", [25, 600])
def test_a_short_policy_ends_without_mail_and_without_a_warning(max_age, log):
    """Else strangers could have us fetch theirs all the time, for half a year after one mail."""
    world = World("1", policy(max_age=max_age))
    proactive = scheduler(world)
    run(world, proactive, 3 * HOUR)
    for number in range(100):
        world.ask(f"{number}.example.com")
    world.counted()
    run(world, proactive, 2 * HOUR, step=10)
    assert world.counted() == (0, 0)
    assert world.policies.cached("1.example.com", 4.0) is None
    assert [one for one in log.records if one.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("max_age", [700, 1000, 1300])
def test_no_policy_is_renewed_more_often_than_every_ten_minutes(max_age):
    world = asked(max_age=max_age)
    run(world, scheduler(world, interval=1), HOUR, step=10)
    assert 5 <= world.counted()[1] <= 6


def test_a_failed_renewal_is_not_tried_again_before_ten_minutes():
    world = asked(max_age=DAY)
    world.served = UNFETCHABLE
    proactive = scheduler(world)
    run(world, proactive, DAY / 2, step=60)
    world.counted()
    run(world, proactive, HOUR, step=60)
    assert world.counted()[1] <= 6


def test_a_short_interval_checks_and_does_not_fetch():
    world = World("1", policy(max_age=30 * DAY), interval=3600)
    world.ask()
    world.counted()
    run(world, scheduler(world, interval=3600), 10 * 3600, step=60)
    record, fetched = world.counted()
    assert 10 <= record <= 13
    assert fetched == 0


@pytest.mark.requirement("KEEP-7")
def test_a_policy_of_one_day_never_lapses():
    world = asked(max_age=DAY)
    proactive = scheduler(world)
    for _ in range(30):
        run(world, proactive, DAY)
        assert world.policies.cached(DOMAIN, 4.0) is not None
    assert world.counted()[1] >= 59, "fetched every half day"


@pytest.mark.requirement("KEEP-7")
def test_a_policy_of_some_minutes_never_lapses():
    world = asked(max_age=700)
    proactive = scheduler(world)
    for _ in range(100):
        run(world, proactive, 60, step=10)
        assert world.policies.cached(DOMAIN, 4.0) is not None


def test_what_mail_asks_for_is_not_looked_at_as_well():
    world = asked(max_age=30 * DAY)
    proactive = scheduler(world)
    for _ in range(20):
        run(world, proactive, 3600)
        world.ask()
        world.counted()
        world.run_behind()
    proactive.round()
    assert world.counted() == (0, 0)


@pytest.mark.requirement("KEEP-7")
def test_a_new_id_is_fetched():
    world = asked()
    world.record, world.served = "2", policy(Mode.NONE)
    run(world, scheduler(world), DAY)
    assert world.policies.cached(DOMAIN, 4.0).policy.mode is Mode.NONE
    assert world.changed == [DOMAIN] * 2, "and ready replies go"


@pytest.mark.requirement("KEEP-7")
@pytest.mark.parametrize("record", [NO_RECORD, DNS_FAILS])
def test_the_record_does_not_stop_the_renewal(record):
    world = asked(max_age=WEEK)
    world.record = record
    run(world, scheduler(world), 30 * DAY)
    assert world.policies.cached(DOMAIN, 4.0) is not None
    assert world.store.get(DOMAIN).id == "1"


def test_a_failing_source_is_retried_with_a_growing_pause(log):
    world = asked(max_age=30 * DAY)
    world.served = UNFETCHABLE
    run(world, scheduler(world), DAY)
    world.counted()
    run(world, scheduler(world), 6 * DAY, step=60)
    assert 8 <= world.counted()[1] <= 16, "minutes at first, then a day"
    warnings = [one for one in log.records if one.levelno >= logging.WARNING]
    assert len(warnings) == 1, "warned about once"
    assert "404" in warnings[0].getMessage()
    world.served = policy(max_age=30 * DAY)
    run(world, scheduler(world), DAY)
    assert world.store.get(DOMAIN).failure == ""


def test_an_old_failure_does_not_let_a_policy_lapse():
    """Mail met a moment without DNS hours ago; one failure now is no reason to wait for ever."""
    world = asked(max_age=DAY)
    world.record = DNS_FAILS
    world.later(3600).ask()
    proactive = scheduler(world)
    world.served = UNFETCHABLE
    run(world, proactive, 12 * 3600)
    world.record, world.served = "1", policy(max_age=DAY)
    for _ in range(10):
        run(world, proactive, DAY)
        assert world.policies.cached(DOMAIN, 4.0) is not None


def test_a_source_that_is_well_again_late_is_in_time():
    world = asked(max_age=DAY)
    world.served = UNFETCHABLE
    proactive = scheduler(world)
    run(world, proactive, 22 * 3600)
    world.served = policy(max_age=DAY)
    run(world, proactive, 2 * 3600)
    assert world.policies.cached(DOMAIN, 4.0) is not None


def test_what_stays_due_does_not_make_it_spin():
    world = World("1", policy(max_age=DAY))
    for number in range(150):
        world.ask(f"{number}.example.com")
    world.later(DAY / 2)
    world.store.touch = world.store.put = lambda *_: None
    world.counted()
    proactive = scheduler(world, unused_after=0.0)
    world.later(DAY / 4)
    proactive.round()
    assert sum(world.counted()) <= 2 * 200


@pytest.mark.requirement("KEEP-8")
def test_the_pause_of_a_failed_fetch_holds():
    world = asked(max_age=30 * DAY)
    world.record, world.served = "2", UNFETCHABLE
    world.later(DAY).ask()
    world.counted()
    proactive = scheduler(world)
    run(world, proactive, FETCH_PAUSE - 10, step=10)
    assert world.counted()[1] == 0
    run(world, proactive, UNASKED_PAUSE, step=10)
    assert world.counted()[1] == 1


def test_what_nobody_asks_for_is_no_longer_renewed():
    world = asked(max_age=DAY)
    proactive = scheduler(world, unused_after=10 * DAY)
    run(world, proactive, 10 * DAY)
    assert world.policies.cached(DOMAIN, 4.0) is not None
    run(world, proactive, 2 * DAY)
    assert world.policies.cached(DOMAIN, 4.0) is None
    run(world, proactive, KEPT)
    assert world.store.get(DOMAIN) is None, "and it is removed"


def test_a_renewal_is_no_use_of_what_memory_holds():
    """Else what mail needs would be pushed out by what no mail asks for."""
    world = World("1", policy(max_age=DAY))
    for name in ("a", "b"):
        world.ask(f"{name}.example")
    reads = world.store.hits, world.store.misses
    for _ in range(3):
        run(world, scheduler(world), DAY)
    assert world.counted()[1] > 4
    assert (world.store.hits, world.store.misses) == reads
    assert [one.domain[0] for (one,) in world.store.scan(1)] == ["a", "b"]


def test_without_fetching_only_the_expired_go():
    world = asked(max_age=DAY)
    run(world, scheduler(world, enabled=False), DAY + KEPT)
    assert world.counted() == (0, 0)
    assert world.store.get(DOMAIN) is None


def test_domains_found_together_do_not_stay_together():
    world = World("1", policy(max_age=30 * DAY))
    for number in range(200):
        world.ask(f"{number}.example.com")
    dues = sorted(one.due - world.now for one in world.store.due(world.now + DAY, 1000))
    assert len(dues) == 200
    assert dues[0] < 0.83 * DAY
    assert dues[-1] > 0.97 * DAY
    assert dues[0] >= DAY / 2, "not before interval / grace_ratio"


def test_one_bad_entry_does_not_end_the_loop(log):
    world = World("1", policy(max_age=DAY))
    for number in range(10):
        world.ask(f"{number}.example.com")
    world.counted()
    fetch = world.fetch
    world.fetch = lambda domain: 1 / 0 if domain.startswith("3") else fetch(domain)
    world.later(DAY / 2)
    scheduler(world).round()
    assert world.counted()[1] == 9
    assert "internal error" in log.text


def test_no_more_than_the_limit_at_once():
    world = World("1", policy(max_age=DAY))
    for number in range(20):
        world.ask(f"{number}.example.com")
    world.later(DAY / 2)
    lock, most, now_running = threading.Lock(), [0], [0]
    gate = threading.Semaphore(0)
    fetch = world.fetch

    def counted(domain):
        with lock:
            now_running[0] += 1
            most[0] = max(most[0], now_running[0])
        assert gate.acquire(timeout=DEADLINE)
        with lock:
            now_running[0] -= 1
        return fetch(domain)

    world.fetch = counted
    proactive = scheduler(
        world, behind=lambda job: threading.Thread(target=job).start(), concurrency_limit=3
    )
    round_ = threading.Thread(target=proactive.round)
    round_.start()
    wait_for(lambda: now_running[0] == 3, "three at once")
    gate.release(20)
    round_.join(DEADLINE)
    assert most[0] == 3
    assert all(world.store.get(f"{n}.example.com").fetched == world.now for n in range(20))


def test_who_has_no_lease_does_nothing():
    world = asked(max_age=DAY)
    world.store.lease = lambda *_: False
    run(world, scheduler(world), DAY)
    assert world.counted() == (0, 0)


def test_one_summary_an_interval(log):
    world = asked(max_age=30 * DAY)
    proactive = scheduler(world)
    run(world, proactive, 3 * DAY)
    lines = [one.getMessage() for one in log.records if "proactive" in one.getMessage()]
    assert len(lines) == 3
    assert "1 fetched, 0 changed, 0 failed" in lines[-1]


def test_stop_does_not_wait_for_what_hangs():
    world = asked(max_age=DAY)
    world.later(DAY / 2)
    proactive = scheduler(world, behind=lambda job: None)
    proactive.start()
    proactive.stop()
    proactive._thread.join(10)
    assert not proactive._thread.is_alive()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_run_that_is_asked_for_looks_at_everything_once(log, enabled):
    world = asked(max_age=30 * DAY)
    proactive = scheduler(world, enabled=enabled)
    world.later(60)
    proactive.run_now()
    proactive.round()
    assert world.counted() == (1, 0)
    assert "proactive fetching: 1 checked, 0 fetched, 0 changed, 0 failed" in log.messages
    world.later(60)
    proactive.round()
    assert world.counted() == (0, 0)


def test_a_run_that_is_asked_for_does_not_wait_for_the_next_round():
    world = asked(max_age=30 * DAY)
    world.later(60)
    looked = threading.Event()

    def behind(job):
        job()
        looked.set()

    proactive = scheduler(world, behind)
    proactive.start()
    try:
        proactive.run_now()
        assert looked.wait(5)
    finally:
        proactive.stop()


def test_settings_may_change_between_rounds():
    world = asked(max_age=30 * DAY)
    proactive = scheduler(world, enabled=False)
    run(world, proactive, 2 * DAY)
    assert world.counted() == (0, 0)
    proactive.settings = ProactiveSettings(enabled=True)
    proactive.round()
    assert world.counted()[0] == 1
