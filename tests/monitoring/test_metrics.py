"""Metrics and health: what is counted, what the pages say, and what they cost nobody."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import logging
import math
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cachetools
import pytest

from stsresolver.cache.entry import Entry
from stsresolver.cache.memory import MemoryStore
from stsresolver.cache.store import StoreError
from stsresolver.config.effective import effective
from stsresolver.config.keys import ConfigError, MetricsSettings, parse
from stsresolver.counters import BOUNDS, Durations, Tally
from stsresolver.monitoring import census, health, http_server
from stsresolver.monitoring.census import Census
from stsresolver.monitoring.http_server import Page, PageServer
from stsresolver.mta_sts.policy import Mode
from stsresolver.mta_sts.results import Cause
from stsresolver.policies.faults import Fault
from tests.support.clock import Clock
from tests.support.crowd import Crowd
from tests.support.policies import policy
from tests.support.redis_server import free_port
from tests.support.socketmap_client import DEADLINE, Client, frame, wait_for
from tests.support.watched import Resolver, samples, store, value, watching

ROOT = Path(__file__).parent.parent.parent
DAEMON = [sys.executable, "-m", "stsresolver.daemon"]
ANY = "[192.0.2.1]"


@pytest.fixture
def watch(monkeypatch):
    with watching(monkeypatch) as start:
        yield start


# WHAT IS COUNTED

ASKED = [
    # requests, zone, outcome, in all, ready, why
    (["postfix enforce.example"], "default_zone", "policy", 1, 0, "a policy"),
    (["postfix enforce.example"] * 3, "default_zone", "policy", 3, 2, "said again"),
    (["a enforce.example"] * 2, "a", "policy", 2, 1, "in a zone"),
    (["A enforce.example"], "default_zone", "policy", 1, 0, "names of zones are as they are"),
    (["a testing.example"], "a", "none", 1, 0, "only tested"),
    (["strict testing.example"], "strict", "policy", 1, 0, "a zone that enforces it"),
    (["a no-record.example"] * 2, "a", "none", 2, 1, "no policy"),
    (["a certificate.example"], "a", "none", 1, 0, "not found out"),
    ([f"a {ANY}"] * 2, "a", "none", 2, 1, "no lookup by its form"),
    ([f"default_zone {ANY}"], "default_zone", "none", 1, 0, "not a zone's name"),
    (["a é..example"], "a", "none", 1, 0, "no domain after all"),
    (["nothing"] * 2, "default_zone", "malformed", 2, 1, "no request"),
    (["a process.example"], "a", "temporary", 1, 0, "the lookup was lost"),
]


@pytest.mark.parametrize(
    ("requests", "zone", "outcome", "number", "ready", "why"), ASKED, ids=[row[-1] for row in ASKED]
)
def test_requests_by_zone_and_outcome(watch, requests, zone, outcome, number, ready, why):
    watched = watch("zones: {a: {}, strict: {strict_testing: yes}}")
    watched.ask(*requests)
    found = watched.samples()
    labels = {"zone": zone, "outcome": outcome}
    assert value(found, "mta_sts_requests_total", **labels) == number
    assert value(found, "mta_sts_ready_replies_total", **labels) == ready
    for name, total in ("mta_sts_requests_total", number), ("mta_sts_ready_replies_total", ready):
        assert sum(found[one] for one in found if one[0] == name) == total, "and nothing else"


def test_no_name_that_is_asked_for_becomes_a_label(watch):
    watched = watch("zones: {a: {}}")
    before = watched.samples().keys()
    watched.ask(*(f"zone{number} {number}.enforce.example" for number in range(50)))
    assert watched.samples().keys() == before


def test_pipelined_requests_count_each(watch):
    watched = watch()
    with watched.client() as client:
        client.send(frame(f"zone {ANY}".encode()) * 10)
        client.replies(10)
    found = watched.samples()
    labels = {"zone": "default_zone", "outcome": "none"}
    assert value(found, "mta_sts_requests_total", **labels) == 10
    assert value(found, "mta_sts_ready_replies_total", **labels) == 9


def test_counts_outlive_a_reload(watch):
    watched = watch("zones: {a: {}}")
    watched.ask("a enforce.example")
    watched.service.reload(parse("zones: {b: {}}", "config"), None)
    wait_for(lambda: b"a" not in watched.server.source._maps, "the other zones")
    watched.ask("a enforce.example", "b enforce.example")
    found = watched.samples()
    for zone in ("a", "b", "default_zone"):
        assert value(found, "mta_sts_requests_total", zone=zone, outcome="policy") == 1


def test_metrics_are_named_by_a_reload_that_cannot_change_them(watch):
    assert watch().service.reload(parse("metrics: {port: 1}", "config"), None) == ["metrics"]


# Of a lookup that was lost nobody knows how far it came.
RECORD_CAUSES = ("no_record", "bad_record", "several_records", "dns", "process")


@pytest.mark.parametrize("cause", list(Cause), ids=[cause.name for cause in Cause])
def test_lookups_by_result_and_cause(watch, cause):
    watched = watch()
    before = watched.samples()
    watched.ask(f"zone {cause.name.lower().replace('_', '-')}.example")
    after = watched.samples()
    name = "mta_sts_lookups_total"
    risen = {
        labels
        for one, labels in after
        if one == name and after[one, labels] > before.get((one, labels), math.nan)
    }
    by_record = cause.name.lower() in RECORD_CAUSES
    none = by_record and cause not in (Cause.DNS, Cause.PROCESS)
    failed = {
        "step": "dns" if by_record else "https",
        "result": "none" if none else "failure",
        "cause": cause.name.lower(),
    }
    found = {"step": "dns", "result": "found", "cause": ""}
    wanted = [failed] if by_record else [found, failed]
    assert risen == {frozenset(one.items()) for one in wanted}
    for step, number in ("resolve", 1), ("dns", 0), ("https", 0):
        assert value(after, "mta_sts_lookup_duration_seconds_count", step=step) == number


WAITS = [
    # domain, what grows, to what, why
    (b"held.example", "mta_sts_domains_in_flight", 1, "the first is looked up"),
    (b"held.example", "mta_sts_flight_waiters", 1, "the second joins it"),
    (b"held.a.example", "mta_sts_domains_in_flight", 2, "the third is another one"),
]


def test_requests_that_a_fault_of_ours_left_open(watch):
    watched = watch()
    watched.ask("zone process.example", "zone process.a.example", "zone certificate.example")
    found = watched.samples()
    assert value(found, "mta_sts_unknown_answers_total", fault="process") == 2
    assert value(found, "mta_sts_fault_seconds", fault="process") == 0, "a lookup ended since"
    watched.ask("zone process.b.example")
    assert value(watched.samples(), "mta_sts_fault_seconds", fault="process") > 0
    assert value(watched.samples(), "mta_sts_fault_seconds", fault="store") == 0


def test_requests_that_wait(watch):
    watched = watch("workers: 2")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(watched.client()) for _ in range(3)]
        for client, (domain, name, number, why) in zip(clients, WAITS, strict=True):
            client.send(frame(b"zone " + domain))
            wait_for(functools.partial(in_part, watched, name, number), why)
        found = watched.samples()
        assert value(found, "mta_sts_flight_waiters") == 1
        assert value(found, "mta_sts_workers_busy") == 0, "a lookup holds no worker"
        assert value(found, "mta_sts_connections_open") == 3
        assert value(found, "mta_sts_connections_accepted_total") == 3
        Resolver.released.set()
        for client in clients:
            assert client.reply()
    wait_for(lambda: value(watched.samples(), "mta_sts_connections_open") == 0, "the end")
    found = watched.samples()
    assert value(found, "mta_sts_flight_joins_total") >= 1
    assert value(found, "mta_sts_answer_duration_seconds_count") == 3


def test_jobs_that_wait_for_a_worker(watch):
    watched = watch("workers: 1")
    gate = threading.Event()
    for _ in range(3):
        watched.server.hand(lambda: gate.wait(DEADLINE))
    wait_for(functools.partial(in_part, watched, "mta_sts_requests_in_line", 2), "two that wait")
    found = watched.samples()
    assert value(found, "mta_sts_workers_busy") == 1
    assert value(found, "mta_sts_workers_limit") == 1
    gate.set()
    wait_for(lambda: value(watched.samples(), "mta_sts_workers_busy") == 0, "their end")


def in_part(watched, name: str, number: int) -> bool:
    return value(watched.samples(), name) >= number


def test_request_that_is_not_answered_in_time(watch, monkeypatch):
    monkeypatch.setattr("stsresolver.socketmap.server.ANSWER_LIMIT", 0.05)
    watched = watch()
    assert watched.ask("zone held.example") == [b"TEMP no answer in time"]
    found = watched.samples()
    assert value(found, "mta_sts_requests_overdue_total") == 1
    labels = {"zone": "default_zone", "outcome": "temporary"}
    assert value(found, "mta_sts_requests_total", **labels) == 1


def test_reads_of_the_cache_by_backend(watch, tmp_path):
    watched = watch(store(tmp_path) + "cache_grace: 0")
    watched.ask("zone enforce.example")
    first = watched.samples()
    assert value(first, "mta_sts_cache_hits_total", backend="memory") == 0
    assert value(first, "mta_sts_cache_hits_total", backend="sqlite") == 0
    assert value(first, "mta_sts_cache_misses_total", backend="sqlite") > 0
    watched.ask("zone enforce.example")
    second = watched.samples()
    assert value(second, "mta_sts_cache_hits_total", backend="memory") > 0
    assert value(second, "mta_sts_cache_hits_total", backend="sqlite") > 0


def test_store_that_fails(watch, tmp_path, monkeypatch):
    watched = watch(store(tmp_path))
    cache = watched.service.cache

    def fails(*_):
        raise StoreError("the disk is gone")

    for way in ("read", "write"):
        labels = {"backend": "sqlite", "way": way}
        assert value(watched.samples(), "mta_sts_cache_store_up", **labels) == 1
    monkeypatch.setattr(cache._store, "get", fails)
    monkeypatch.setattr(cache._store, "put", fails)
    cache.put(entry("a.example"), 1_800_000_000.0)
    watched.ask("zone other.example")
    found = watched.samples()
    assert value(found, "mta_sts_cache_failures_total", backend="sqlite") == 1
    for way in ("read", "write"):
        assert value(found, "mta_sts_cache_store_up", backend="sqlite", way=way) == 0


def test_memory_alone_has_no_store_that_could_fail(watch):
    assert not [name for name, _ in watch().samples() if name == "mta_sts_cache_store_up"]


def test_proactive_fetching(watch):
    watched = watch("proactive_policy_fetching: {enabled: yes}")
    watched.ask("zone enforce.example")
    before = watched.samples()
    assert value(before, "mta_sts_proactive_enabled") == 1
    watched.service.run_now()

    def looked() -> bool:
        return value(watched.samples(), "mta_sts_proactive_looks_total", result="checked") == 1

    wait_for(looked, "a look at the policy")
    after = watched.samples()
    rounds = "mta_sts_proactive_rounds_total"
    assert value(after, rounds) == value(before, rounds) + 1
    seen = "mta_sts_proactive_last_seen_timestamp_seconds"
    assert value(after, seen) > value(before, seen)
    assert value(after, "mta_sts_proactive_round_failures_total") == 0


def test_round_that_fails(watch, monkeypatch):
    watched = watch()
    wait_for(lambda: watched.service.proactive.rounds, "the first round")
    monkeypatch.setattr(watched.service.cache, "catch_up", lambda: 1 / 0)
    watched.service.proactive._woken.set()
    wait_for(lambda: in_part(watched, "mta_sts_proactive_round_failures_total", 1), "a failure")


def test_resolver_process_that_ends(watch, monkeypatch):
    watched = watch(process=True)
    resolver = watched.service.resolver
    wait_for(lambda: resolver.pid, "the process")
    assert value(watched.samples(), "mta_sts_resolver_up") == 1
    assert value(watched.samples(), "mta_sts_resolver_restarts_total") == 0
    os.kill(resolver.pid, signal.SIGKILL)
    wait_for(lambda: in_part(watched, "mta_sts_resolver_restarts_total", 1), "its end")


def test_without_a_resolver_process_it_has_no_figures(watch):
    found = watch().samples()
    assert value(found, "mta_sts_resolver_up") == 0
    assert not [name for name, _ in found if name.startswith("mta_sts_resolver_process_")]


# THE MEMORY


def entry(domain, mode=Mode.ENFORCE, max_age=1000, **more):
    now = Clock().now
    made = Entry(domain, "1", policy(mode, max_age), now, now, now, now)
    return dataclasses.replace(made, **more)


def filled(*entries):
    memory = MemoryStore(100_000)
    for one in entries:
        memory.put(one, Clock().now)
    return memory


def test_policies_in_memory_by_mode_and_end():
    memory = filled(
        entry("a.example", max_age=500),
        entry("b.example", max_age=300, failed=Clock().now, failure="it is away"),
        entry("c.example", max_age=400, failed=Clock().now, failure="it is away"),
        entry("d.example", Mode.TESTING, max_age=700),
        entry("over.example", max_age=0),
    )
    count = Census(memory, Clock()).read()
    assert count.policies == {Mode.ENFORCE: 3, Mode.TESTING: 1}
    assert count.failing == {Mode.ENFORCE: 2}
    assert count.end == count.failing_end[Mode.ENFORCE] == Clock().now + 300
    assert count.failing_end[Mode.TESTING] == math.inf


def test_policies_are_counted_once_a_minute():
    clock, memory = Clock(), filled(entry("a.example"))
    counted = Census(memory, clock)
    assert counted.read().policies.total() == 1
    memory.put(entry("b.example"), Clock().now)
    clock.ticks += census.EVERY - 1
    assert counted.read().policies.total() == 1
    clock.ticks += 1
    assert counted.read().policies.total() == 2


def test_scan_holds_the_lock_for_some_only():
    memory = filled(*(entry(f"{number}.example") for number in range(10)))
    sizes = []
    for some in memory.scan(4):
        sizes.append(len(some))
        assert memory.get("0.example") or len(sizes) > 2, "nobody waits meanwhile"
        if len(sizes) == 2:
            memory.purge(math.inf, 10)
    assert sizes == [4, 4, 0]


def test_scan_uses_nothing():
    """What was used last stays in memory, though somebody counted."""
    memory = MemoryStore(2)
    for domain in ("a.example", "b.example"):
        memory.put(entry(domain), Clock().now)
    memory.get("a.example")
    assert len([one for some in memory.scan(10) for one in some]) == 2
    memory.put(entry("c.example"), Clock().now)
    assert memory.peek("a.example") is not None
    assert memory.peek("b.example") is None
    assert isinstance(memory._entries, cachetools.LRUCache)


def test_a_peek_is_no_read_of_the_cache():
    memory = filled(entry("a.example"))
    for domain in ("a.example", "b.example"):
        memory.peek(domain)
    assert (memory.hits, memory.misses) == (0, 0)


# NUMBERS


def test_bucket_of_a_duration():
    durations = Durations()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        durations.add(seconds)
    numbers, total = durations.read()
    assert (numbers[0], numbers[1], numbers[-2], numbers[-1]) == (2, 1, 1, 1)
    assert sum(numbers) == 5
    assert total == pytest.approx(BOUNDS[0] * 2.01 + BOUNDS[-1] * 2 + 1)


def test_histogram_is_cumulative(watch):
    watched = watch()
    watched.server.seconds.add(0.002)
    watched.server.seconds.add(3.0)
    watched.server.seconds.add(1000.0)
    found = watched.samples()
    name = "mta_sts_answer_duration_seconds"
    buckets = {
        dict(labels)["le"]: number
        for (one, labels), number in found.items()
        if one == f"{name}_bucket"
    }
    assert list(buckets) == [*map(str, BOUNDS), "+Inf"]
    assert (buckets["0.001"], buckets["0.0025"], buckets["5.0"], buckets["+Inf"]) == (0, 1, 2, 3)
    assert value(found, f"{name}_count") == 3
    assert value(found, f"{name}_sum") == pytest.approx(1003.002)


def test_tally_from_many_threads():
    tally = Tally(["never"])
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [tally.add("x") for _ in range(2000)]) for _ in range(8)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(switching)
    assert tally.read() == {"never": 0, "x": 16_000}


# THE PAGE OF THE DOCUMENTATION


def documented() -> dict[str, set[str]]:
    """Return the labels of each metric that docs/metrics.rst has, by its name."""
    found = {}
    for line in (ROOT / "docs" / "metrics.rst").read_text().splitlines():
        if re.match("``(mta_sts|process)_", line):
            for name, labels in re.findall(r"``([a-z_]+)(?:\{([a-z, ]+)\})?``", line):
                assert name not in found, f"{name} stands there twice"
                found[name] = set(labels.split(", ")) if labels else set()
    return found


def test_page_and_exposition_agree(watch, tmp_path):
    watched = watch(store(tmp_path), process=True)
    now = time.time()
    bad = entry("a.example", max_age=10**6, fetched=now, checked=now, failed=now, failure="away")
    watched.service.cache.put(bad, now)
    wait_for(lambda: watched.service.resolver.pid, "the resolver process")
    shown: dict[str, set[str]] = {}
    for name, labels in watched.samples():
        base = re.sub("_(bucket|sum|count)$", "", name)
        shown.setdefault(base, set()).update({label for label, _ in labels} - {"le"})
    assert documented() == shown


def test_every_word_of_ours_is_on_the_page():
    page = (ROOT / "docs" / "metrics.rst").read_text()
    words = ["policy", "none", "temporary", "malformed", "found", "failure", "dns", "https"]
    words += ["checked", "fetched", "changed", "failed", "left", "memory", "sqlite", "redis"]
    words += ["default_zone", "read", "write", *map(str, Mode)]
    words += [fault.name.lower() for fault in Fault]
    assert [word for word in words if f"``{word}``" not in page] == []


# HEALTH


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_healthy(watch):
    assert get(watch().port, "/healthz") == (200, "alive\n")


def test_serving_thread_that_hangs(watch, monkeypatch):
    monkeypatch.setattr(health, "SERVING_LIMIT", 0.05)
    watched, release = watch(), threading.Event()
    watched.server.soon(lambda: release.wait(DEADLINE))
    for _ in range(3):
        status, text = get(watched.port, "/healthz")
        assert (status, text) == (503, "the serving thread gave no sign of life for 0 s\n")
    assert len(watched.server._messages) <= 1, "one question is enough"
    monkeypatch.setattr(health, "SERVING_LIMIT", DEADLINE)
    release.set()
    assert get(watched.port, "/healthz")[0] == 200


def test_no_resolver_process(watch, monkeypatch):
    watched = watch()
    assert get(watched.port, "/healthz")[0] == 200, "for a while, as at the start"
    monkeypatch.setattr(health, "RESOLVER_LIMIT", 0.0)
    status, text = get(watched.port, "/healthz")
    assert status == 503
    assert re.fullmatch(r"no resolver process has run for \d+ s\n", text)


def test_scheduler_that_has_ended(watch):
    watched = watch()
    watched.service.proactive.stop()
    watched.service.proactive._thread.join(DEADLINE)
    assert get(watched.port, "/healthz") == (503, "the scheduler does not run\n")
    assert "last_seen_timestamp_seconds 1" not in watched.text()


def test_scheduler_that_hangs(watch, monkeypatch):
    watched = watch()
    proactive = watched.service.proactive
    wait_for(lambda: proactive.rounds, "the first round")
    monkeypatch.setattr(proactive, "_seen", proactive._seen - health.SCHEDULER_LIMIT - 1)
    status, text = get(watched.port, "/healthz")
    assert status == 503
    assert re.fullmatch(r"the scheduler did not come round for 12\d s\n", text)


# THE PAGES OVER HTTP


@pytest.fixture
def served():
    """Start page servers with made-up pages."""
    running = []

    def start(**made) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        made = {f"/{name}": make for name, make in made.items()}
        pages = {"/a": lambda _: Page(b"text"), **made}
        running.append(PageServer(listener, pages, ("/a", "/alive")))
        running[-1].start()
        return listener.getsockname()[1]

    yield start
    for one in running:
        one.close()


GOT = [
    # method, path, status, text, why
    ("GET", "/a", 200, "text", "a page"),
    ("GET", "/a?x=1", 200, "text", "the query does not count"),
    ("HEAD", "/a", 200, "", "the head alone"),
    ("GET", "/", 404, "There is /a.\n", "what there is"),
    ("GET", "/a/", 404, "There is /a.\n", "not nearly"),
    ("GET", "http://127.0.0.1/a", 404, "There is /a.\n", "this is no proxy"),
    ("POST", "/a", 501, None, "nothing can be changed"),
    ("DELETE", "/a", 501, None, "nor removed"),
]


@pytest.mark.parametrize(("method", "path", "status", "text", "why"), GOT)
def test_page(served, method, path, status, text, why):
    found = get(served(), path, method)
    assert found[0] == status, why
    assert text is None or found[1] == text


def test_page_with_a_bug(served, caplog):
    port = served(bug=lambda _: 1 / 0)
    assert get(port, "/bug") == (500, "The log says what is wrong.\n")
    assert "internal error while serving '/bug'" in caplog.text
    assert get(port, "/a")[0] == 200


GARBAGE = [
    (b"\0\xff\r\n\r\n", "no HTTP"),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.0\r\n\r\n", "a long line"),
    (b"GET /a HTTP/1.0\r\n" + b"a: b\r\n" * 200 + b"\r\n", "many fields"),
    (b"GET /a HTTP/9.9\r\n\r\n", "a version to come"),
    (b"GET /a\r\n", "HTTP/0.9"),
    (b"", "nothing at all"),
]


@pytest.mark.parametrize(("data", "why"), GARBAGE, ids=[why for _, why in GARBAGE])
def test_garbage(served, caplog, data, why):
    port = served()
    client = socket.create_connection(("127.0.0.1", port), DEADLINE)
    with client, contextlib.suppress(ConnectionError):
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert get(port, "/a") == (200, "text"), why
    assert [one for one in caplog.records if one.levelno > logging.DEBUG] == []


class Greedy(Crowd):
    """Connections that hold what they get, each opened anew as soon as it ends."""

    def __init__(self, port: int, number: int, request: bytes) -> None:
        super().__init__([functools.partial(self._hold, port, request)] * number)
        self.renewed = 0

    def _hold(self, port: int, request: bytes) -> None:
        while not self.ended.is_set():
            client = socket.create_connection(("127.0.0.1", port), DEADLINE)
            with client, contextlib.suppress(ConnectionError):
                client.sendall(request)
                client.settimeout(0.05)
                more = True
                while more and not self.ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        more = client.recv(4096) != b""
            self.renewed += 1


GREEDY = [
    (4, b"", "silent: one for each place that there was"),
    (40, b"", "silent, and far more than there are places"),
    (40, b"GET /", "in the midst of a request"),
    (40, b"GET /a HTTP/1.0\r\nX: ", "in the midst of a field"),
    (40, b"GET /slow HTTP/1.0\r\n\r\n", "each waits for a page that is long in the making"),
    (40, b"GET /alive HTTP/1.0\r\n\r\n", "probes themselves"),
]


@pytest.mark.parametrize(("number", "request_", "why"), GREEDY, ids=[why for *_, why in GREEDY])
def test_nobody_keeps_probes_out(served, number, request_, why):
    over = threading.Event()

    def slow(_) -> Page:
        over.wait(DEADLINE)
        return Page(b"at last")

    port = served(slow=slow, alive=lambda _: Page(b"alive"))
    with Greedy(port, number, request_) as greedy:
        wait_for(lambda: number < 40 or greedy.renewed > 2 * number, "all to be at it")
        for _ in range(13):
            assert get(port, "/alive") == (200, "alive"), why
        over.set()


def test_a_long_page_is_made_for_a_few_at_once(served):
    over, made = threading.Event(), []

    def slow(_) -> Page:
        made.append(threading.get_ident())
        over.wait(DEADLINE)
        return Page(b"at last")

    port = served(slow=slow)
    with ThreadPoolExecutor(http_server.LONG_PAGES) as some:
        waiting = [some.submit(get, port, "/slow") for _ in range(http_server.LONG_PAGES)]
        wait_for(lambda: len(made) == http_server.LONG_PAGES, "some to wait for the page")
        assert get(port, "/slow") == (503, "Others are asking for it.\n")
        over.set()
        assert {one.result() for one in waiting} == {(200, "at last")}
    assert get(port, "/slow") == (200, "at last")


def test_a_handful_of_threads_and_no_more(served):
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        port = served()
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            for _ in range(10 * http_server.PLACES)
        ]
        # Each gives way to the next one.
        for client in clients[: -http_server.PLACES]:
            assert client.recv(1) == b""
            assert threading.active_count() <= before + 1 + http_server.PLACES


def test_a_client_that_does_not_take_its_answer_gives_way(served, monkeypatch):
    # So that only the total time ends it.
    monkeypatch.setattr(http_server._Handler, "timeout", 10 * DEADLINE)
    monkeypatch.setattr(http_server, "TOTAL_LIMIT", 0.0)
    port = served(alive=lambda _: Page(b"x" * (32 << 20)))
    with contextlib.ExitStack() as stack:
        for _ in range(2 * http_server.PLACES):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            client.sendall(b"GET /alive HTTP/1.0\r\n\r\n")
        assert get(port, "/a") == (200, "text")


def test_places_are_given_back(served):
    port = served()
    for _ in range(5 * http_server.PLACES):
        assert get(port, "/a")[0] == 200


def test_out_of_descriptors_it_waits(served, monkeypatch):
    """It does not spin, and goes on when there are descriptors again."""
    monkeypatch.setattr(http_server, "_PAUSE", 0.02)
    calls, accept = [], socket.socket.accept

    def fails(self):
        calls.append(time.monotonic())
        if len(calls) < 4:
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fails)
    assert get(served(), "/a")[0] == 200
    assert len(calls) == 4
    assert calls[-1] - calls[0] >= 3 * http_server._PAUSE


def test_close_cuts_who_is_there():
    listener = socket.create_server(("127.0.0.1", 0))
    server = PageServer(listener, {})
    server.start()
    with socket.create_connection(listener.getsockname(), DEADLINE) as client:
        wait_for(lambda: server._places, "the connection")
        server.close()
        assert client.recv(1) == b""
    wait_for(lambda: not server._places, "its thread to end")


# THE DAEMON


class Daemon:
    def __init__(self, directory: Path, text: str, program: list[str]) -> None:
        config = directory / "config.yml"
        config.write_text(f"path: {directory}/socket\n{text}")
        self.log = directory / "log"
        self.socket = str(directory / "socket")
        command = [*program, "-c", str(config), "-l", str(self.log)]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def listens(self) -> None:
        def condition() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return self.log.exists() and "listening on" in self.log.read_text()

        wait_for(condition, "the daemon to listen")

    def ends(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors


@pytest.fixture
def daemon(tmp_path):
    running = []

    def start(text: str, program: list[str] = DAEMON) -> Daemon:
        running.append(Daemon(tmp_path, text, program))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.communicate()


def test_daemon_with_a_port(daemon):
    port = free_port()
    started = daemon(f"metrics: {{port: {port}}}")
    started.listens()
    with Client(started.socket) as client:
        assert client.ask(f"zone {ANY}".encode()) == b"NOTFOUND "
    status, text = get(port, "/metrics")
    labels = {"zone": "default_zone", "outcome": "none"}
    assert status == 200
    assert value(samples(text), "mta_sts_requests_total", **labels) == 1
    assert get(port, "/healthz") == (200, "alive\n")
    assert f"metrics and health at 127.0.0.1:{port}" in started.log.read_text()
    started.process.terminate()
    assert started.ends()[0] == 0
    with pytest.raises(ConnectionError):
        get(port, "/healthz")


def test_daemon_with_a_path(daemon, tmp_path):
    path = tmp_path / "metrics"
    started = daemon(f"metrics: {{path: {path}, mode: 0640}}")
    started.listens()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nalive\n")
    started.process.terminate()
    assert started.ends()[0] == 0
    assert not path.exists()


def test_address_that_is_taken(daemon):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, errors = daemon(f"metrics: {{port: {port}}}").ends()
    assert status == 69
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in errors


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
from stsresolver import daemon
sys.exit(daemon.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("options", [[], ["--check-config"]])
def test_without_prometheus_client(daemon, options):
    program = [sys.executable, "-c", WITHOUT, *options]
    status, errors = daemon("metrics: {port: 0}", program).ends()
    assert status == 78
    assert re.search(
        "config.yml:2: metrics: .*prometheus_client.*:"
        f" {re.escape(sys.executable)} -m pip install 'stsresolver.metrics.'",
        errors,
    )


def test_who_wants_no_metrics_loads_nothing_for_them(daemon):
    started = daemon("", [sys.executable, "-c", WITHOUT])
    started.listens()
    started.process.terminate()
    assert started.ends()[0] == 0


CONFIGURATIONS = [
    ("metrics:", None, "off, as without the key"),
    ("metrics: {port: 8462}", MetricsSettings(port=8462), "loopback unless told"),
    ("metrics: {host: '::1', port: 1}", MetricsSettings("::1", 1), "another address"),
    ("metrics: {path: /a, mode: 0660}", MetricsSettings(path="/a", mode=0o660), "a socket"),
]


@pytest.mark.parametrize(("text", "wanted", "why"), CONFIGURATIONS)
def test_configuration(text, wanted, why):
    found = parse(text, "file")
    assert found.metrics == wanted, why
    assert parse("\n".join(effective(found, "file", {})), "output").metrics == wanted


FAULTS = [
    ("metrics: {}", "port is missing, and so is path", "nowhere to listen"),
    ("metrics: {host: a}", "port is missing, and so is path", "half an address"),
    ("metrics: 8462", "a section of KEY: VALUE lines", "not a number"),
    ("metrics: {port: 65536}", "metrics.port", "not a port"),
    ("metrics: {prot: 1}", "did you mean port?", "misspelt"),
]


@pytest.mark.parametrize(("text", "message", "why"), FAULTS, ids=[row[-1] for row in FAULTS])
def test_configuration_that_is_wrong(text, message, why):
    with pytest.raises(ConfigError) as caught:
        parse(text, "file")
    assert message in str(caught.value)
