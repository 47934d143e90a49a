"""The resolver as a library: the four results of a lookup, threads, import, pickling."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stsresolver import Cause, Failure, Found, Mode, NoPolicy, NotChanged, Policy, Resolver
from tests.support.hostile_dns import (
    NameServer,
    addresses,
    after,
    alias,
    code,
    nodata,
    nxdomain,
    txt,
)
from tests.support.hostile_dns import silence as no_answer
from tests.support.hostile_https import POLICY, Ending, Listener, PolicyHost, page, raw, silence

LIMIT, GRACE = 1.0, 0.5
THREADS = 32


@pytest.fixture
def dns() -> Iterator[NameServer]:
    """A nameserver where example.com has a record, and every host is 127.0.0.1."""
    zone = {"_mta-sts.example.com TXT": txt("v=STSv1; id=1")}
    with NameServer(zone, otherwise=addresses("127.0.0.1")) as server:
        yield server


@pytest.fixture
def resolver(dns, tmp_path):
    """Return what makes a resolver for a policy host."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")

    def make(host: Listener, timeout: float = LIMIT) -> Resolver:
        return Resolver(
            timeout=timeout,
            resolv_conf=str(resolv_conf),
            dns_port=dns.port,
            https_port=host.port,
        )

    return make


@pytest.fixture
def host(authority) -> Iterator[PolicyHost]:
    with PolicyHost(page(), authority.server("mta-sts.example.com")) as server:
        yield server


# The four results


def test_found(resolver, host):
    result = resolver(host).resolve("example.com")
    assert isinstance(result, Found)
    assert result.id == "1"
    policy = result.policy
    assert (policy.mode, policy.mx, policy.max_age) == (Mode.ENFORCE, ("mail.example.com",), 604800)
    assert policy.mode == "enforce"
    assert policy.matches("MAIL.example.com.")
    assert not policy.matches("example.com")


@pytest.mark.requirement("KEEP-2")
def test_known_id_is_not_fetched_again(resolver, host):
    for known in ("1",), ("1", "2"), ("2", "0", "1"):
        assert resolver(host).resolve("example.com", *known) == NotChanged("1")
    assert host.connections == 0


@pytest.mark.requirement("KEEP-2")
@pytest.mark.parametrize("known", [["2"], [""], ["01"], ["1 "], [], ["0", "2"]])
def test_any_other_id_is_fetched(resolver, host, known):
    result = resolver(host).resolve("example.com", *known)
    assert isinstance(result, Found)
    assert result.id == "1"
    assert host.connections == 1


@pytest.mark.requirement("KEEP-2")
def test_ids_differ_in_case(resolver, host, dns):
    dns.zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=A")
    assert isinstance(resolver(host).resolve("example.com", "a"), Found)
    assert resolver(host).resolve("example.com", "A") == NotChanged("A")


NOTHING = [
    pytest.param(nxdomain(ttl=300), Cause.NO_RECORD, 300, id="no such name"),
    pytest.param(nodata(minimum=200), Cause.NO_RECORD, 200, id="no TXT"),
    pytest.param(code("NXDOMAIN"), Cause.NO_RECORD, 0, id="no SOA"),
    pytest.param(txt("v=spf1 -all"), Cause.NO_RECORD, 0, id="no STS record"),
    pytest.param(txt("v=STSv1; id=a-b"), Cause.BAD_RECORD, 0, id="malformed"),
    pytest.param(txt("v=STSv1; id=1", "v=STSv1; id=2"), Cause.SEVERAL_RECORDS, 0, id="two"),
    pytest.param(alias("x.example.", then=nxdomain()), Cause.NO_RECORD, 900, id="dangling alias"),
]


@pytest.mark.requirement("TXT-11", "TXT-14")
@pytest.mark.parametrize(("behaviour", "cause", "ttl"), NOTHING)
@pytest.mark.parametrize("known", [None, "1"])
def test_no_policy(resolver, host, dns, *, behaviour, cause, ttl, known):
    dns.zone["_mta-sts.example.com TXT"] = behaviour
    result = resolver(host).resolve("example.com", known)
    assert isinstance(result, NoPolicy)
    assert (result.cause, result.ttl) == (cause, ttl)
    assert host.connections == 0, "fetched without a record"


@pytest.mark.requirement("KEEP-5")
@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
@pytest.mark.parametrize("known", [None, "1"])
def test_failing_dns_is_not_the_same_as_no_record(resolver, host, dns, rcode, known):
    dns.zone["_mta-sts.example.com TXT"] = code(rcode)
    result = resolver(host).resolve("example.com", known)
    assert isinstance(result, Failure)
    assert (result.cause, result.id) == (Cause.DNS, "")
    assert host.connections == 0


FETCHES = [
    pytest.param(page(status="404 Not Found"), Cause.STATUS, id="404"),
    pytest.param(page(kind="text/html"), Cause.MEDIA_TYPE, id="HTML"),
    pytest.param(page(POLICY * 1000), Cause.SIZE, id="too large"),
    pytest.param(page(b"version: STSv2\n"), Cause.SYNTAX, id="malformed"),
    pytest.param(raw(b"rubbish"), Cause.HTTP, id="no HTTP"),
    pytest.param(raw(Ending.OPEN), Cause.DEADLINE, id="silence"),
]


@pytest.mark.parametrize(("reply", "cause"), FETCHES)
def test_failed_fetch_has_the_id_of_the_record(authority, resolver, reply, cause):
    with PolicyHost(reply, authority.server("mta-sts.example.com")) as host:
        result = resolver(host).resolve("example.com", "0")
        assert isinstance(result, Failure)
        assert (result.cause, result.id) == (cause, "1")
        alone = resolver(host, 0.3).fetch("example.com")
        assert isinstance(alone, Failure)
        assert (alone.cause, alone.id) == (cause, "")


@pytest.mark.requirement("APPLY-11")
def test_bad_certificate_has_the_id_of_the_record(authority, resolver):
    with PolicyHost(page(), authority.server("www.example.com")) as host:
        result = resolver(host).resolve("example.com")
    assert isinstance(result, Failure)
    assert (result.cause, result.id) == (Cause.CERTIFICATE, "1")
    assert result.cause.tlsrpt == "sts-webpki-invalid"


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (nxdomain(), Cause.NO_ADDRESS),
        (nodata(), Cause.NO_ADDRESS),
        (code("SERVFAIL"), Cause.ADDRESS),
    ],
)
def test_policy_host_without_address_has_the_id_of_the_record(
    resolver, host, dns, behaviour, cause
):
    dns.zone["mta-sts.example.com A"] = dns.zone["mta-sts.example.com AAAA"] = behaviour
    result = resolver(host).resolve("example.com")
    assert isinstance(result, Failure)
    assert (result.cause, result.id) == (cause, "1")


def test_refused_connection_has_the_id_of_the_record(authority, resolver):
    with PolicyHost(page(), authority.server("mta-sts.example.com")) as host:
        pass
    result = resolver(host).resolve("example.com")
    assert isinstance(result, Failure)
    assert (result.cause, result.id) == (Cause.CONNECT, "1")


@pytest.mark.requirement("TXT-13")
def test_alias_of_the_record_leaves_the_policy_host(resolver, host, dns):
    dns.zone["_mta-sts.example.com TXT"] = alias("_mta-sts.example.net.", then=txt("v=STSv1; id=9"))
    result = resolver(host).resolve("example.com")
    assert isinstance(result, Found)
    assert result.id == "9"
    assert host.server_names == ["mta-sts.example.com"]


@pytest.mark.requirement("KEEP-11")
def test_mode_none_is_a_policy(authority, resolver):
    body = b"version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n"
    with PolicyHost(page(body), authority.server("mta-sts.example.com")) as host:
        result = resolver(host).resolve("example.com")
    assert isinstance(result, Found)
    assert (result.policy.mode, result.policy.mx) == (Mode.NONE, ())


# Time


@pytest.mark.requirement("LIB-1")
def test_dns_and_https_have_a_limit_each(resolver, dns):
    dns.zone["_mta-sts.example.com TXT"] = after(0.2, txt("v=STSv1; id=1"))
    with Listener(silence) as host:
        started = time.monotonic()
        result = resolver(host).resolve("example.com")
        seconds = time.monotonic() - started
    assert isinstance(result, Failure)
    assert (result.cause, result.id) == (Cause.DEADLINE, "1")
    assert 1.1 < seconds < 1.2 + GRACE


@pytest.mark.requirement("HTTPS-13")
@pytest.mark.parametrize("timeout", [0.1, 0.3])
def test_a_short_limit_holds_too(resolver, dns, timeout):
    dns.zone["_mta-sts.example.com TXT"] = no_answer
    with Listener(silence) as host:
        for lookup in (Resolver.policy_id, Resolver.fetch):
            started = time.monotonic()
            assert isinstance(lookup(resolver(host, timeout), "example.com"), Failure)
            assert time.monotonic() - started < timeout + GRACE


# Names


NO_DOMAINS = [
    "",
    ".",
    "..",
    "a..b",
    ".example.com",
    "example.com..",
    "localhost",
    "192.0.2.1",
    "[192.0.2.1]",
    "[2001:db8::1]",
    "2001:db8::1",
    "example.com:443",
    "[example.com]",
    "https://example.com/",
    "example.com/x",
    "user@example.com",
    "*.example.com",
    "exa mple.com",
    " example.com",
    "example.com\n",
    "example.com\0",
    "_mta-sts.example.com",
    "-a.example",
    f"{'a' * 64}.example",
    ".".join(["a" * 50] * 6),
    "\u00fc" * 64 + ".example",
    "\ud800.example",
    "example\u3002",
]


@pytest.mark.parametrize("text", NO_DOMAINS, ids=ascii)
@pytest.mark.parametrize("lookup", [Resolver.resolve, Resolver.policy_id, Resolver.fetch])
def test_text_that_is_no_domain_name(lookup, text):
    """Nothing is asked either: DNS and HTTPS would be on ports of this host where nobody is."""
    with pytest.raises(ValueError, match="domain"):
        lookup(Resolver(dns_port=1, https_port=1), text)


@pytest.mark.requirement("DNS-10")
def test_longest_domain_never_raises(resolver, host):
    domain = ".".join(["a" * 49] * 5)
    assert isinstance(resolver(host).resolve(domain), NoPolicy)
    assert isinstance(resolver(host).fetch(domain), Failure)


# Threads


def answer(request: bytes):
    """Serve each domain a policy of its own, told by the Host field."""
    domain = request.split(b"Host: mta-sts.")[1].split(b"\r\n")[0]
    return page(POLICY.replace(b"mail.example.com", b"mail." + domain))(request)


@pytest.mark.requirement("LIB-3")
@pytest.mark.parametrize("rounds", [3])
def test_many_threads_share_a_resolver(authority, resolver, dns, rounds):
    """Each thread asks for domains of its own, all at once, and gets what is theirs."""
    domains = [f"d{number}.example" for number in range(THREADS)]
    for number, domain in enumerate(domains):
        dns.zone[f"_mta-sts.{domain} TXT"] = txt(f"v=STSv1; id={number}")
    names = [f"mta-sts.{domain}" for domain in domains]
    together = threading.Barrier(THREADS)
    with PolicyHost(answer, authority.server(*names)) as host:
        shared = resolver(host, 10.0)

        def look_up(number: int) -> None:
            together.wait(10)
            for step in range(rounds):
                mine = (number + 7 * step) % THREADS
                result = shared.resolve(domains[mine])
                assert isinstance(result, Found), result
                assert result.id == str(mine)
                assert result.policy.mx == (f"mail.{domains[mine]}",)

        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for future in [pool.submit(look_up, number) for number in range(THREADS)]:
                future.result()
    assert sorted(set(host.server_names)) == sorted(names)
    assert host.connections == THREADS * rounds


@pytest.mark.requirement("LIB-2")
def test_resolv_conf_that_changes_under_many_threads(resolver, host, dns, tmp_path):
    """Whoever asks meanwhile gets an answer, from the old file or from the new one."""
    shared = resolver(host, 5.0)
    resolv_conf = tmp_path / "resolv.conf"
    stop = threading.Event()

    def change() -> None:
        for count in itertools.count():
            if stop.is_set():
                return
            new = tmp_path / "new"
            new.write_text(f"# {count}\nnameserver 127.0.0.1\n")
            new.replace(resolv_conf)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(max_workers=8) as pool:
            results = list(pool.map(shared.policy_id, ["example.com"] * 100))
    finally:
        stop.set()
        changer.join()
    assert results == ["1"] * 100


# Import and plain data


IMPORT = """
import logging, sys, threading
import stsresolver
assert logging.getLogger().handlers == [], logging.getLogger().handlers
assert logging.getLogger().level == logging.WARNING
for name in [name for name in logging.root.manager.loggerDict if name.startswith("stsresolver")]:
    logger = logging.getLogger(name)
    assert all(isinstance(h, logging.NullHandler) for h in logger.handlers), name
    assert logger.level == logging.NOTSET and logger.propagate, name
assert threading.active_count() == 1, threading.enumerate()
for face in ("daemon", "server", "config", "query"):
    assert f"stsresolver.{face}" not in sys.modules, face
"""


def test_import_sets_nothing_up():
    """No handler, no level, no thread, no output, and no part of the daemon."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


POLICY_DATA = Policy(
    Mode.TESTING, ("a.example", "*.b.example"), 86400, "version: STSv1\nmode: testing"
)


@pytest.mark.parametrize(
    "result",
    [
        Found(POLICY_DATA, "1"),
        NotChanged("1"),
        NoPolicy(Cause.BAD_RECORD, "no id", 300),
        Failure(Cause.CERTIFICATE, "expired", "1"),
        *[Failure(cause) for cause in Cause],
        POLICY_DATA,
    ],
    ids=repr,
)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_results_go_through_pickle(result, protocol):
    copy = pickle.loads(pickle.dumps(result, protocol))
    assert copy == result
    assert hash(copy) == hash(result)


def test_results_are_frozen():
    with pytest.raises(AttributeError):
        NotChanged("1").id = "2"
