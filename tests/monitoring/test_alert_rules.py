"""What is shipped for Prometheus and Grafana, held against promtool and a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stsresolver.cache.entry import Entry
from stsresolver.mta_sts.policy import Mode
from tests.monitoring.test_metrics import documented
from tests.support.missing import not_installed
from tests.support.policies import policy
from tests.support.redis_server import free_port
from tests.support.socketmap_client import DEADLINE, wait_for
from tests.support.watched import store, watching

ETC = Path(__file__).parent.parent.parent / "etc"
RULES = ETC / "prometheus" / "mta-sts.rules.yml"
SCRAPE = ETC / "prometheus" / "scrape.yml"
DASHBOARD = ETC / "grafana" / "mta-sts.json"
WHO = '{instance="a",job="mta-sts"}'
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "4s", "$instance": ".*", "$zone": ".*"}
# Seconds that a Prometheus may take to start and to look twice.
START = 60.0

RULE_LIST = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PANELS = json.loads(DASHBOARD.read_text())["panels"]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or not_installed("promtool")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def names(query: str) -> set[str]:
    """Return the metrics that a query speaks of."""
    return set(re.findall(r"\b(?:mta_sts|process)_[a-z_]+|\bup\b", re.sub('"[^"]*"', "", query)))


def known() -> set[str]:
    """Return every name that a sample may have."""
    histograms = {name for name in documented() if name.endswith("_duration_seconds")}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return documented().keys() | parts | {"up"}


# THE RULES


def test_rules_are_valid():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_scrape_configuration_is_valid(tmp_path):
    for file in (RULES, SCRAPE):
        shutil.copy(file, tmp_path)
    done = promtool("check", "config", tmp_path / SCRAPE.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(SCRAPE.read_text())["scrape_configs"][0]["job_name"] == "mta-sts"


@pytest.mark.parametrize("rule", RULE_LIST, ids=[rule["alert"] for rule in RULE_LIST])
def test_rule_has_a_reason_and_a_remedy(rule):
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert names(rule["expr"]) <= known()
    before = RULES.read_text().partition(f"- alert: {rule['alert']}\n")[0].splitlines()
    assert before[-2].lstrip().startswith("# "), "the comment above says why"


# Series as promtool writes them: a value, and by how much it grows a minute for so many minutes.
FIRES = [
    # alert, series, whether it fires, why
    ("MtaStsDaemonDown", {"up": "0x60"}, True, "it does not answer"),
    ("MtaStsDaemonDown", {"up": "1x60"}, False, "it answers"),
    ("MtaStsManyTemporary", {"policy": "0+60x60", "temporary": "0+6x60"}, True, "one in ten"),
    ("MtaStsManyTemporary", {"policy": "0+6000x60", "temporary": "0+6x60"}, False, "a few"),
    ("MtaStsManyTemporary", {"policy": "0x60", "temporary": "0x60"}, False, "nobody asks"),
    ("MtaStsMailWaits", {"unknown": "0+1x60"}, True, "all the time"),
    ("MtaStsMailWaits", {"unknown": "0x43 5x17"}, False, "for a moment"),
    ("MtaStsMailUnprotected", {"fault": "700+60x60"}, True, "for more than an hour"),
    ("MtaStsMailUnprotected", {"fault": "0+60x60"}, False, "for less"),
    ("MtaStsLineLong", {"mta_sts_requests_in_line": "5x60"}, True, "all the time"),
    ("MtaStsLineLong", {"mta_sts_requests_in_line": "0 9 9 0x57"}, False, "a burst"),
    (
        "MtaStsConnectionsNearLimit",
        {"mta_sts_connections_open": "95x60", "mta_sts_connections_limit": "100x60"},
        True,
        "nearly all",
    ),
    (
        "MtaStsConnectionsNearLimit",
        {"mta_sts_connections_open": "60x60", "mta_sts_connections_limit": "100x60"},
        False,
        "some are left",
    ),
    ("MtaStsResolverDown", {"mta_sts_resolver_absence_seconds": "0+60x60"}, True, "there is none"),
    ("MtaStsResolverDown", {"mta_sts_resolver_absence_seconds": "0x60"}, False, "there is one"),
    ("MtaStsResolverRestarts", {"mta_sts_resolver_restarts_total": "0+1x60"}, True, "each minute"),
    ("MtaStsResolverRestarts", {"mta_sts_resolver_restarts_total": "0 1x59"}, False, "once"),
    # promtool's clock begins at 0.
    ("MtaStsPolicyRunsOut", {"ends": "86400x60"}, True, "within a day"),
    ("MtaStsPolicyRunsOut", {"ends": "345600x60"}, False, "in four days"),
    ("MtaStsPolicyRunsOut", {"cached": "7200x60"}, False, "it ends and does not fail"),
    ("MtaStsCertificates", {"certificate": "0+9x60", "https": "0+1x60"}, True, "nearly all"),
    ("MtaStsCertificates", {"certificate": "0+1x60", "https": "0+9x60"}, False, "a domain's own"),
    ("MtaStsCertificates", {"certificate": "0 1 2 3x57", "https": "0x60"}, False, "too few"),
    ("MtaStsDns", {"no dns": "0+9x60", "dns": "0+1x60"}, True, "nearly all"),
    ("MtaStsDns", {"no dns": "0+1x60", "dns": "0+9x60"}, False, "a domain's own"),
    ("MtaStsStoreUnreachable", {"store": "0x60"}, True, "for an hour"),
    ("MtaStsStoreUnreachable", {"store": "1 0 0 1x57"}, False, "for two minutes"),
    ("MtaStsProactiveNotRunning", {"seen": "0x60"}, True, "long ago"),
    ("MtaStsProactiveNotRunning", {"seen": "0+60x60", "enabled": "1x60"}, False, "just now"),
    ("MtaStsProactiveNotRunning", {"enabled": "1x60"}, True, "its thread has ended"),
    ("MtaStsProactiveFails", {"bugs": "0+1x60"}, True, "a bug"),
    ("MtaStsProactiveFails", {"failed": "0+9x60", "checked": "0+1x60"}, True, "nearly all"),
    ("MtaStsProactiveFails", {"failed": "0+1x60", "checked": "0+9x60"}, False, "some"),
    ("MtaStsProactiveFails", {"bugs": "0x60", "failed": "0x60"}, False, "nothing to do"),
]  # fmt: skip
SERIES = {
    "policy": 'mta_sts_requests_total{outcome="policy"}',
    "temporary": 'mta_sts_requests_total{outcome="temporary"}',
    "unknown": 'mta_sts_unknown_answers_total{fault="process"}',
    "fault": 'mta_sts_fault_seconds{fault="store"}',
    "ends": 'mta_sts_failing_policies_next_expiry_timestamp_seconds{mode="enforce"}',
    "cached": "mta_sts_cached_policies_next_expiry_timestamp_seconds",
    "certificate": 'mta_sts_lookups_total{step="https",result="failure",cause="certificate"}',
    "https": 'mta_sts_lookups_total{step="https",result="found",cause=""}',
    "no dns": 'mta_sts_lookups_total{step="dns",result="failure",cause="dns"}',
    "dns": 'mta_sts_lookups_total{step="dns",result="found",cause=""}',
    "store": 'mta_sts_cache_store_up{backend="redis",way="read"}',
    "seen": "mta_sts_proactive_last_seen_timestamp_seconds",
    "enabled": "mta_sts_proactive_enabled",
    "bugs": "mta_sts_proactive_round_failures_total",
    "failed": 'mta_sts_proactive_looks_total{result="failed"}',
    "checked": 'mta_sts_proactive_looks_total{result="checked"}',
}


def series(name: str) -> str:
    """Return a series of SERIES, or of this name, with the labels that Prometheus adds."""
    text = SERIES.get(name, name)
    return text.replace("{", WHO[:-1] + ",") if "{" in text else text + WHO


@pytest.mark.parametrize(
    ("alert", "given", "fires", "why"), FIRES, ids=[f"{case[0]}-{case[-1]}" for case in FIRES]
)
def test_rule_fires_when_it_should(tmp_path, alert, given, fires, why):
    """promtool looks after 50 minutes."""
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    test = {
        "interval": "1m",
        "input_series": [{"series": series(name), "values": given[name]} for name in given],
        "promql_expr_test": [
            {
                "expr": f"count({firing}) or vector(0)",
                "eval_time": "50m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [test]}))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, f"{why}: {done.stdout}{done.stderr}"


def test_every_rule_is_seen_to_fire_and_not_to():
    for fires in (True, False):
        tried = {case[0] for case in FIRES if case[2] is fires}
        assert tried == {rule["alert"] for rule in RULE_LIST}


# THE DASHBOARD


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each query, with its panel's title."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"]
            for name, text in VARIABLES.items():
                query = query.replace(name, text)
            yield panel["title"], query


def test_dashboard_is_whole():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] and panel["targets"] for panel in PANELS)
    for title, query in expressions():
        assert "$" not in query, f"{title}: a variable that is not set"
        assert names(query), title
        assert names(query) <= known(), title


def test_dashboard_shows_every_metric():
    shown = set().union(*(names(query) for _, query in expressions()))
    left = {name for name in documented() if not any(one.startswith(name) for one in shown)}
    # The processes' details are for those who look for them.
    assert {name for name in left if "process_" not in name} == set()


class Prometheus:
    """A real one, on a loopback port, that looks at `target` each second."""

    def __init__(self, directory: Path, target: int) -> None:
        program = shutil.which("prometheus") or not_installed("prometheus")
        shutil.copy(RULES, directory)
        config = yaml.safe_load(SCRAPE.read_text())
        config["global"] = {"evaluation_interval": "1s"}
        config["scrape_configs"][0]["scrape_interval"] = "1s"
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"127.0.0.1:{free_port()}"
        self.log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={self.url}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
        )

    def get(self, path: str, **query: str) -> list:
        """Return the data of an API answer."""
        url = f"http://{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def looked(self, times: int) -> bool:
        """Say whether it has looked so often, with success."""
        assert self.process.poll() is None, Path(self.log.name).read_text()
        try:
            found = self.get("query", query='sum_over_time(up{job="mta-sts"}[1m])')
        except OSError:
            return False
        return bool(found["result"]) and float(found["result"][0]["value"][1]) >= times

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> Iterator[Prometheus]:
    """A Prometheus that has looked at a service with something of everything."""
    directory = tmp_path_factory.mktemp("prometheus")
    shutil.which("prometheus") or not_installed("prometheus")
    with pytest.MonkeyPatch.context() as patch, watching(patch) as start:
        watched = start(store(directory), process=True)
        now = time.time()
        bad = Entry("a.example", "1", policy(Mode.ENFORCE), now, now, now, now, now, "away")
        watched.service.cache.put(bad, now)
        wait_for(lambda: watched.service.resolver.pid, "the resolver process")
        one = Prometheus(directory, watched.port)
        try:
            end = time.monotonic() + START
            while not one.looked(3):
                assert time.monotonic() < end, "no Prometheus in time"
                watched.ask("zone enforce.example", "zone no-record.example")
                time.sleep(0.2)
            yield one
        finally:
            one.close()


def test_prometheus_takes_every_metric(prometheus):
    there = set(prometheus.get("label/__name__/values"))
    assert known() - {name for name in documented() if name.endswith("_duration_seconds")} <= there
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_each_query_of_the_dashboard_has_a_result(prometheus):
    empty = []
    for title, query in expressions():
        if not prometheus.get("query", query=query)["result"]:
            empty.append((title, query))
    assert empty == []


def test_alerts_are_evaluated_and_none_fires(prometheus):
    def evaluated() -> bool:
        rules = prometheus.get("rules")["groups"][0]["rules"]
        return all(rule["health"] != "unknown" for rule in rules)

    wait_for(evaluated, "the rules to be evaluated")
    (group,) = prometheus.get("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == {rule["alert"] for rule in RULE_LIST}
    assert [rule for rule in group["rules"] if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
