"""mta-sts-query cache beside real daemons: in memory, on an sqlite file, and on a Redis."""

import contextlib
import json
import sys
import time

import pytest

from .lab import CHECKOUT
from .namespace import wait_until
from .test_stores import NOT_FOUND, Redis, SqliteFile, secure

GRACE = 1


class Memory:
    settings = ""

    def __init__(self, _lab, _stack):
        pass


@pytest.fixture(params=[SqliteFile, Redis, Memory], ids=lambda kind: kind.__name__)
def store(lab, request):
    with contextlib.ExitStack() as stack:
        made = request.param(lab, stack)
        if isinstance(made, Redis):
            made.start()
        yield made


def control(lab, number=1):
    return f"control:\n  path: {lab.directory}/control-{number}\n"


def cache(lab, daemon, *arguments, status=0):
    """Run the tool with the configuration of a daemon; return its output."""
    done = lab._namespace.run(
        *("env", f"SSL_CERT_FILE={lab._certificates.authority}", f"PYTHONPATH={CHECKOUT}"),
        *("PYTHONWARNINGS=error", sys.executable, "-m", "stsresolver.query", "cache"),
        *("-c", lab.directory / f"{daemon.name}.yml", *arguments),
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


def test_repaired_domain_need_not_wait(lab, store):
    """A record that was not found is remembered as the zone's SOA says; dnsmasq has none."""
    domain = f"repaired-{type(store).__name__}.cache.example".lower()
    with lab.quick_daemon(store.settings + control(lab), grace=3600) as daemon:
        assert daemon.ask(domain) == [NOT_FOUND]
        lab.publish_policies({domain: "version: STSv1\nmode: enforce\nmx: a.b\nmax_age: 86400\n"})
        assert daemon.ask(domain) == [NOT_FOUND], "it is remembered"
        assert f"{domain} " in cache(lab, daemon, "list")
        assert "not found" in cache(lab, daemon, "show", domain)
        output = cache(lab, daemon, "refresh", domain)
        assert "now:\n  policy 1: mode enforce" in output
        assert daemon.ask(domain) == [secure("a.b")]
        table = lab.directory / "exported"
        table.write_text(cache(lab, daemon, "export"))
        told = secure("a.b").removeprefix("OK ")
        assert lab.mta.query(domain, f"texthash:{table}") == (0, f"{told}\n", "")


def test_forgotten_policy_is_forgotten_everywhere(lab, store):
    """In the daemon that is asked at once, in one beside it within cache_grace, for good."""
    domain = f"forgotten-{type(store).__name__}.cache.example".lower()
    lab.publish_policies({domain: "version: STSv1\nmode: enforce\nmx: a.b\nmax_age: 86400\n"})
    settings = store.settings
    with (
        lab.quick_daemon(settings + control(lab), grace=GRACE) as first,
        lab.second_daemon(settings + control(lab, 2), grace=GRACE) as second,
    ):
        assert first.ask(domain) == second.ask(domain) == [secure("a.b")]
        lab.remove_record(domain)
        assert first.ask(domain) == [secure("a.b")]
        assert "forgotten" in cache(lab, first, "forget", "--yes", domain)
        assert first.ask(domain) == [NOT_FOUND]
        if not settings:
            return
        wait_until(lambda: second.ask(domain) == [NOT_FOUND], "the other daemon", 3 * GRACE)
        over = time.monotonic() + 2 * GRACE
        wait_until(lambda: first.ask(domain) and time.monotonic() > over, "two looks at the store")
        assert [first.ask(domain), second.ask(domain)] == [[NOT_FOUND]] * 2, "nobody puts it back"
        assert domain not in store.domains()


def test_without_a_control_socket_the_store_is_changed(lab, store):
    domain = f"direct-{type(store).__name__}.cache.example".lower()
    text = "version: STSv1\nmode: enforce\nmx: {}\nmax_age: 86400\n"
    lab.publish_policies({domain: text.format("a.b")})
    with lab.quick_daemon(store.settings, grace=GRACE) as daemon:
        assert daemon.ask(domain) == [secure("a.b")]
        if not store.settings:
            cache(lab, daemon, "list", status=69)
            return
        assert f"{domain} " in cache(lab, daemon, "list")
        lab.policy_hosts.serve(domain, text.format("c.d"))
        assert "mx c.d" in cache(lab, daemon, "refresh", domain)
        wait_until(lambda: daemon.ask(domain) == [secure("c.d")], "the new policy", 3 * GRACE)
        lab.remove_record(domain)
        cache(lab, daemon, "forget", "--yes", domain)
        wait_until(lambda: daemon.ask(domain) == [NOT_FOUND], "it to be forgotten", 3 * GRACE)
        assert cache(lab, daemon, "show", domain, status=1)


def test_look_with_the_cache_of_a_running_daemon(lab):
    domain = "seen.cache.example"
    lab.publish(domain)
    with lab.quick_daemon(control(lab)) as daemon:
        daemon.ask(domain)
        lab.take_down_policy_host(domain)
        done = lab._namespace.run(
            *("env", f"SSL_CERT_FILE={lab._certificates.authority}", f"PYTHONPATH={CHECKOUT}"),
            *(sys.executable, "-m", "stsresolver.query", "--json"),
            *("--config", lab.directory / f"{daemon.name}.yml", domain),
            check=False,
        )
    seen = json.loads(done.stdout)
    assert (done.returncode, seen["cause"]) == (2, "connect")
    assert seen["entry"]["id"] == "1"
    assert seen["answer"] == secure(f"mx.{domain}")
