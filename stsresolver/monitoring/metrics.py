"""The daemon's metrics in Prometheus' text format.

The parts count for themselves (`counters`) and know nothing of this. They are read when a scrape
comes, on its thread; nothing here is on the way of an answer. Names follow Prometheus' own rules.
docs/metrics.rst says what each means, and a test compares the two.

The number of series is bounded: labels are zones of the configuration and our own words, never text
of a client or a domain. Importing this module needs the extra `metrics`.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ..cache.layered import LayeredStore
from ..cache.memory import MemoryStore
from ..config.settings import CacheSettings
from ..counters import BOUNDS, Durations
from ..lookup.messages import STEPS
from ..mta_sts.policy import Mode
from ..policies.faults import Fault
from ..policies.steps import Refresh
from ..version import __version__
from .census import Census
from .health import Health
from .http_server import Make, Page, Request
from .parts import Parts


class Metrics:
    """The page /metrics of a service. `cache`: where it keeps policies."""

    def __init__(self, service: Parts, cache: CacheSettings) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Parts(service, cache))
        ProcessCollector(registry=self._registry)
        ProcessCollector(
            namespace="mta_sts_resolver",
            # No process has the number 0: then there is nothing to tell.
            pid=lambda: service.resolver.pid or 0,
            registry=self._registry,
        )

    def page(self, _: Request) -> Page:
        """Return what Prometheus asks for."""
        return Page(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


# The pages that say in a word how the daemon does.
PROBES = ("/healthz",)


def pages(service: Parts, cache: CacheSettings) -> Mapping[str, Make]:
    """Return what is shown of a service, by path. `cache`: where it keeps policies."""
    health = Health(service.server, service.proactive, service.resolver)
    return {"/metrics": Metrics(service, cache).page, "/healthz": health.page}


class _Parts(Collector):
    def __init__(self, service: Parts, cache: CacheSettings) -> None:
        self._service = service
        self._backend = cache.kind
        held = service.cache
        self._layered = held if isinstance(held, LayeredStore) else None
        memory = held.memory if isinstance(held, LayeredStore) else held
        assert isinstance(memory, MemoryStore)
        self._memory = memory
        self._census = Census(memory)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: `collect` tells what is there."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric but those of the processes."""
        info = _gauge("mta_sts_build_info", "1, with the versions as labels.", "version", "python")
        info.add_metric((__version__, platform.python_version()), 1)
        yield info
        yield from self._requests()
        yield from self._faults()
        yield from self._server()
        yield from self._lookups()
        yield from self._resolver()
        yield from self._reads()
        yield from self._policies()
        yield from self._proactive()

    def _requests(self) -> Iterator[Metric]:
        asked = _counter("mta_sts_requests", "Requests answered.", "zone", "outcome")
        again = _counter(
            "mta_sts_ready_replies", "Requests answered by a ready reply.", "zone", "outcome"
        )
        for zone, counts in self._service.replies.read().items():
            for outcome, count in counts.items():
                ready = count.again
                asked.add_metric((zone, outcome.value), count.first + ready)
                again.add_metric((zone, outcome.value), ready)
        yield asked
        yield again
        took = _histogram(
            "mta_sts_answer_duration_seconds", "Time to an answer that was not ready."
        )
        _add(took, (), self._service.server.seconds)
        yield took

    def _faults(self) -> Iterator[Metric]:
        policies = self._service.policies
        unknown = _counter(
            "mta_sts_unknown_answers", "Requests that a fault of ours left open.", "fault"
        )
        lasting = _gauge("mta_sts_fault_seconds", "For how long a fault of ours lasts.", "fault")
        counts, seconds = policies.unknown.read(), policies.faults()
        for fault in Fault:
            unknown.add_metric((fault.name.lower(),), counts[fault])
            lasting.add_metric((fault.name.lower(),), seconds[fault])
        yield unknown
        yield lasting

    def _server(self) -> Iterator[Metric]:
        load = self._service.server.load()
        yield _one("mta_sts_connections_open", "Connections from Postfix.", load.connections)
        yield _one("mta_sts_connections_limit", "Connections that may be open.", load.limit)
        yield _total("mta_sts_connections_accepted", "Connections accepted.", load.accepted)
        yield _one("mta_sts_workers_busy", "Workers at work.", load.busy)
        yield _one("mta_sts_workers_limit", "Workers that there may be.", load.workers)
        yield _one("mta_sts_requests_in_line", "Requests that wait for a worker.", load.queued)
        yield _total(
            "mta_sts_requests_overdue", "Requests for which no worker came free.", load.overdue
        )
        yield _one("mta_sts_jobs_waiting", "Renewals that wait for a worker.", load.behind)
        flights, waiters = self._service.policies.flights()
        yield _one("mta_sts_domains_in_flight", "Domains that workers find out about.", flights)
        yield _one("mta_sts_flight_waiters", "Requests that wait for another's lookup.", waiters)
        yield _total(
            "mta_sts_flight_joins",
            "Requests that took part in another's lookup.",
            self._service.policies.joined,
        )
        text = "Next hops whose DANE state is remembered."
        yield _one("mta_sts_dane_states", text, len(self._service.dane))
        yield _total(
            "mta_sts_policy_changes",
            "Policies that came, changed or ended.",
            self._service.policies.changes,
        )

    def _lookups(self) -> Iterator[Metric]:
        resolver = self._service.resolver
        ended = _counter("mta_sts_lookups", "Lookups ended.", "step", "result", "cause")
        for ending, number in resolver.endings.read().items():
            cause = ending.cause.name.lower() if ending.cause else ""
            ended.add_metric((STEPS[ending.what], ending.result, cause), number)
        yield ended
        took = _histogram("mta_sts_lookup_duration_seconds", "Time that lookups took.", "step")
        for what, seconds in resolver.seconds.items():
            _add(took, (STEPS[what],), seconds)
        yield took

    def _resolver(self) -> Iterator[Metric]:
        resolver = self._service.resolver
        up = int(resolver.pid is not None)
        yield _one("mta_sts_resolver_up", "Whether there is a resolver process.", up)
        text = "Resolver processes that run."
        yield _one("mta_sts_resolver_processes", text, resolver.running)
        text = "Seconds since a resolver process took lookups, 0 while one does."
        yield _one("mta_sts_resolver_absence_seconds", text, resolver.absence)
        yield _total(
            "mta_sts_resolver_restarts",
            "Times that the resolver process was lost.",
            resolver.losses,
        )

    def _reads(self) -> Iterator[Metric]:
        hits = _counter("mta_sts_cache_hits", "Reads of a cache that found an entry.", "backend")
        misses = _counter("mta_sts_cache_misses", "Reads of a cache that found none.", "backend")
        failures = _counter("mta_sts_cache_failures", "Reads of a store that failed.", "backend")
        up = _gauge("mta_sts_cache_store_up", "Whether reading or writing works.", "backend", "way")
        hits.add_metric(("memory",), self._memory.hits)
        misses.add_metric(("memory",), self._memory.misses)
        if self._layered is not None:
            reads = self._layered.reads.read()
            hits.add_metric((self._backend,), reads["hit"])
            misses.add_metric((self._backend,), reads["miss"])
            failures.add_metric((self._backend,), reads["failed"])
            up.add_metric((self._backend, "read"), self._layered.readable)
            up.add_metric((self._backend, "write"), self._layered.writable)
        yield from (hits, misses, failures, up)

    def _policies(self) -> Iterator[Metric]:
        count = self._census.read()
        cached = _gauge("mta_sts_cached_policies", "Policies in memory.", "mode")
        failing = _gauge(
            "mta_sts_failing_policies", "Policies in memory whose last check failed.", "mode"
        )
        ends = _gauge(
            "mta_sts_failing_policies_next_expiry_timestamp_seconds",
            "When the first policy ends whose last check failed.",
            "mode",
        )
        for mode in Mode:
            cached.add_metric((mode.value,), count.policies[mode])
            failing.add_metric((mode.value,), count.failing[mode])
            if count.failing_end[mode] < math.inf:
                ends.add_metric((mode.value,), count.failing_end[mode])
        yield from (cached, failing, ends)
        end = _gauge(
            "mta_sts_cached_policies_next_expiry_timestamp_seconds",
            "When the first policy in memory ends.",
        )
        if count.end < math.inf:
            end.add_metric((), count.end)
        yield end

    def _proactive(self) -> Iterator[Metric]:
        proactive = self._service.proactive
        enabled = int(proactive.settings.enabled)
        yield _one("mta_sts_proactive_enabled", "Whether policies are renewed unasked.", enabled)
        yield _total("mta_sts_proactive_rounds", "Rounds of the scheduler.", proactive.rounds)
        yield _total(
            "mta_sts_proactive_round_failures", "Rounds that a bug ended.", proactive.failures
        )
        looked_at = _counter("mta_sts_proactive_looks", "Policies looked at unasked.", "result")
        for result in Refresh:
            looked_at.add_metric((result.name.lower(),), proactive.looked_at[result])
        yield looked_at
        seen = _gauge(
            "mta_sts_proactive_last_seen_timestamp_seconds", "When the scheduler came round last."
        )
        if proactive.silence < math.inf:
            seen.add_metric((), time.time() - proactive.silence)
        yield seen


def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, what, labels=labels)


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, labels=labels)


def _histogram(name: str, what: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, what, labels=labels)


def _one(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)


def _total(name: str, what: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, what, value=value)


def _add(family: HistogramMetricFamily, labels: Sequence[str], seconds: Durations) -> None:
    """Add durations to a histogram: there, each bucket holds all that are shorter."""
    numbers, total = seconds.read()
    buckets, sum_so_far = [], 0
    for bound, number in zip((*BOUNDS, math.inf), numbers, strict=True):
        sum_so_far += number
        buckets.append(("+Inf" if bound == math.inf else str(bound), sum_so_far))
    family.add_metric(labels, buckets, total)
