"""The way out through an HTTP proxy: how it is named, proxies that misbehave, and a real one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from stsresolver import Cause, Failure, Inspector, Policy, Resolver, query
from stsresolver.lookup.supervisor import ResolverProcess
from stsresolver.net import tunnel
from stsresolver.net.proxy import (
    Proxy,
    ProxyError,
    from_environment,
    goes_through,
    parse_no_proxy,
    parse_proxy,
)
from tests.support.authority import Authority
from tests.support.hostile_dns import NameServer, addresses, code, nxdomain, txt
from tests.support.hostile_dns import silence as no_answer
from tests.support.hostile_https import (
    POLICY,
    BlackHole,
    Listener,
    PolicyHost,
    hang_up,
    has_ipv6_loopback,
    page,
    reset,
    silence,
)
from tests.support.missing import unavailable
from tests.support.socketmap_client import DEADLINE, wait_for
from tests.support.waited import Waited

# The time limit of a fetch, and what it may take beyond, in seconds.
LIMIT, GRACE = 1.0, 0.5
# "Aladdin" and "open sesame", the example of RFC 7617 §2.
CREDENTIALS = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="

needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 loopback (::1) here")


# HOW IT IS NAMED

GOOD = [
    ("http://proxy.example:3128", Proxy("proxy.example", 3128), "the usual form"),
    ("http://proxy.example:3128/", Proxy("proxy.example", 3128), "with a path of nothing"),
    ("HTTP://Proxy.Example.:3128", Proxy("proxy.example", 3128), "in the one form of a name"),
    ("proxy.example:3128", Proxy("proxy.example", 3128), "without a scheme, as curl takes it"),
    ("http://proxy.example", Proxy("proxy.example", 80), "the port of the scheme"),
    ("http://münchen.example:1", Proxy("xn--mnchen-3ya.example", 1), "U-labels"),
    ("http://192.0.2.1:8080", Proxy("192.0.2.1", 8080), "an IPv4 address"),
    ("http://[2001:DB8::1]:8080", Proxy("2001:db8::1", 8080), "an IPv6 address"),
    ("http://LocalHost:8888", Proxy("localhost", 8888), "the one name without a dot"),
    (
        "http://Aladdin:open%20sesame@proxy.example:1",
        Proxy("proxy.example", 1, CREDENTIALS),
        "user and password",
    ),
    (
        "http://a%40b:%3a%2f%C3%A9@proxy.example:1",
        Proxy("proxy.example", 1, "Basic YUBiOjovw6k="),
        "what is written with percent signs",
    ),
    ("http://user@proxy.example:1", Proxy("proxy.example", 1, "Basic dXNlcjo="), "no password"),
]


@pytest.mark.parametrize(("url", "expected", "reason"), GOOD)
def test_url_of_a_proxy(url, expected, reason):
    assert parse_proxy(url) == expected, reason


BAD = [
    ("", "nothing"),
    ("http://", "no host"),
    ("http://:3128", "no host"),
    ("https://user:secret@proxy.example", "TLS to the proxy"),
    ("socks5://user:secret@proxy.example", "no HTTP proxy"),
    ("http://user:secret@proxy", "a name that only a search list completes"),
    ("http://user:secret@proxy.example:", "a colon and no port"),
    ("http://user:secret@proxy.example:0", "no port to connect to"),
    ("http://user:secret@proxy.example:65536", "beyond the last port"),
    ("http://user:secret@proxy.example:port", "no number"),
    ("http://user:secret@proxy.example/path", "a path"),
    ("http://user:sec/ret@proxy.example", "a slash that ends the authority"),
    ("http://user:secret@@proxy.example", "an @ that needs %40"),
    ("http://us%3Aer:secret@proxy.example", "a colon in the user (RFC 7617 §2)"),
    ("http://user:secret@proxy.example\r\nX: y", "control characters"),
    ("http://user:secret @proxy.example", "a space"),
    ("http://user:secret@[::1", "half a bracket"),
    ("http://user:secret@[fe80::1%25eth0]:1", "an address with a zone"),
    ("http://user:secret@1.2.3:1", "no address, and no name (RFC 3696 §2)"),
    ("http://user:secret@-.example:1", "no name"),
]


@pytest.mark.parametrize(("url", "reason"), BAD)
def test_url_that_cannot_be_used_is_not_shown(url, reason):
    with pytest.raises(ProxyError) as caught:
        parse_proxy(url)
    assert "found " in str(caught.value), reason
    assert "; allowed: http://HOST:PORT " in str(caught.value), reason
    assert "sec" not in str(caught.value), reason


@pytest.mark.parametrize("show", [str, repr])
def test_password_is_not_shown(show):
    assert "QWxh" not in show(parse_proxy("http://Aladdin:open%20sesame@proxy.example:1"))


def test_proxy_in_a_message():
    assert str(Proxy("proxy.example", 1)) == "proxy.example:1"
    assert str(Proxy("::1", 1)) == "[::1]:1"


# (no_proxy, whether mta-sts.a.example goes through the proxy)
NO_PROXY = [
    ("", True, "no exceptions"),
    ("a.example", False, "a parent"),
    (".a.example", False, "with a dot, as others write it"),
    ("*.a.example", False, "with a star, as others write it"),
    ("mta-sts.a.example", False, "the name itself"),
    ("MTA-STS.A.Example.", False, "in the one form of a name"),
    ("a.example:443", False, "with the port that is used"),
    ("a.example:8443", True, "another port"),
    ("example", False, "a top-level domain"),
    ("s.a.example", True, "the end of the text, but not of the labels"),
    ("b.mta-sts.a.example", True, "a child"),
    ("localhost, 127.0.0.1,10.0.0.0/8 ::1", True, "what is no policy host"),
    ("b.example a.example", False, "white space between"),
    (",, ,a.example,", False, "too many commas"),
    (".", True, "nothing but a dot"),
]


@pytest.mark.parametrize(("text", "through", "reason"), NO_PROXY)
def test_no_proxy(text, through, reason):
    proxy = Proxy("proxy.example", 1, no_proxy=parse_no_proxy(text))
    assert goes_through(proxy, "mta-sts.a.example") is through, reason


def test_no_proxy_in_u_labels():
    assert parse_no_proxy("München.example") == ("xn--mnchen-3ya.example",)


P = Proxy("p.example", 1)
Q = Proxy("q.example", 1)
ONE = "http://p.example:1"
ENVIRONMENTS = [
    ({}, None, None, None, "nothing said"),
    ({"https_proxy": ONE}, None, None, P, "the variable"),
    ({"HTTPS_PROXY": ONE}, None, None, P, "in capitals"),
    ({"https_proxy": ONE, "HTTPS_PROXY": "http://q.example:1"}, None, None, P, "small letters win"),
    ({"https_proxy": "", "HTTPS_PROXY": ONE}, None, None, None, "even where they say nothing"),
    ({"https_proxy": f" {ONE} "}, None, None, P, "white space around"),
    ({"http_proxy": ONE, "all_proxy": ONE, "ALL_PROXY": ONE}, None, None, None, "others"),
    ({"https_proxy": ONE}, Q, None, Q, "the key wins"),
    ({"https_proxy": "nonsense"}, Q, None, Q, "the key wins, and nobody looks"),
    ({"https_proxy": ONE, "no_proxy": "*"}, None, None, None, "everything directly"),
    ({"https_proxy": ONE, "NO_PROXY": "a,*"}, None, None, None, "everything directly"),
    ({"https_proxy": ONE}, None, ("*",), None, "everything directly, by the key"),
    ({"no_proxy": "*"}, Q, (), Q, "the key says no exceptions"),
    (
        {"https_proxy": ONE, "no_proxy": "a.example"},
        None,
        None,
        Proxy("p.example", 1, no_proxy=("a.example",)),
        "exceptions",
    ),
    (
        {"no_proxy": "a.example"},
        Q,
        None,
        Proxy("q.example", 1, no_proxy=("a.example",)),
        "the key says nothing of exceptions",
    ),
    (
        {"no_proxy": "a.example"},
        Q,
        ("b.example",),
        Proxy("q.example", 1, no_proxy=("b.example",)),
        "the key for exceptions wins",
    ),
]


@pytest.mark.parametrize(("environment", "proxy", "no_proxy", "expected", "reason"), ENVIRONMENTS)
def test_key_and_environment(environment, proxy, no_proxy, expected, reason):
    assert from_environment(environment, proxy, no_proxy) == expected, reason


def test_variable_that_cannot_be_used():
    with pytest.raises(ProxyError, match="found the scheme https; allowed"):
        from_environment({"https_proxy": "https://user:secret@proxy.example"})


# PROXIES ON LOOPBACK


class Gate(Listener):
    """A proxy. It reads a request, notes it in `heads`, and does as `behave` does."""

    def __init__(
        self, behave: Callable[[socket.socket, threading.Event], None], address: str = "127.0.0.1"
    ) -> None:
        super().__init__(self._serve, address)
        self.heads: list[bytes] = []
        self._behave = behave

    def _serve(self, connection: socket.socket, stopped: threading.Event) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                return
            head += byte
        self.heads.append(head)
        self._behave(connection, stopped)

    def proxy(self, **options) -> Proxy:
        return Proxy("127.0.0.1", self.port, **options)


Behave = Callable[[socket.socket, threading.Event], None]
OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


def says(*pieces: bytes, then: Behave = silence) -> Behave:
    """Return what sends pieces as datagrams of their own, and goes on with `then`."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        for piece in pieces:
            connection.sendall(piece)
            stopped.wait(0.01)
        then(connection, stopped)

    return behave


def endless(data: bytes, pause: float = 0.0) -> Behave:
    """Return what sends `data` again and again."""

    def behave(connection: socket.socket, stopped: threading.Event) -> None:
        while not stopped.wait(pause):
            connection.sendall(data)

    return behave


def to(port: int, *, answer: bytes = OPEN) -> Behave:
    """Return what answers so, and is a wire to `port` from then on."""

    def behave(connection: socket.socket, _stopped: threading.Event) -> None:
        connection.sendall(answer)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as onward:
            back = threading.Thread(target=_copy, args=(onward, connection))
            back.start()
            _copy(connection, onward)
            back.join()

    return behave


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class World:
    """A name server that knows the proxy by name, and no policy host; and a trusted authority."""

    def __init__(self, directory: Path, dns: NameServer) -> None:
        self.authority = Authority(directory)
        self.dns = dns
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text("nameserver 127.0.0.1\n")

    def host(self, *names: str) -> PolicyHost:
        context = self.authority.server(*(names or ("mta-sts.example.com",)))
        return PolicyHost(page(POLICY), context)

    def settings(self, port: int, proxy: Proxy | None) -> dict[str, object]:
        return {
            "resolv_conf": str(self.resolv_conf),
            "dns_port": self.dns.port,
            "https_port": port,
            "proxy": proxy,
        }

    def fetch(self, proxy: Proxy, port: int = 443, limit: float = LIMIT) -> Policy | Failure:
        """Fetch the policy of example.com, within the time limit."""
        resolver = Resolver(limit, **self.settings(port, proxy))
        started = time.monotonic()
        result = resolver.fetch("example.com")
        assert time.monotonic() - started < limit + GRACE
        return result


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    zone = {
        "_mta-sts.example.com TXT": txt("v=STSv1; id=1"),
        "proxy.example A": addresses("127.0.0.1"),
        "broken.example A": code("SERVFAIL"),
        "slow.example A": no_answer,
    }
    with NameServer(zone, otherwise=nxdomain()) as dns:
        world = World(tmp_path, dns)
        monkeypatch.setenv("SSL_CERT_FILE", str(world.authority.bundle))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-directory"))
        yield world


def test_policy_comes_through_the_proxy(world):
    """The proxy gets the name of the policy host, and nobody here looks it up."""
    with world.host() as host, Gate(to(host.port)) as gate:
        result = world.fetch(gate.proxy(), host.port, DEADLINE)
    assert isinstance(result, Policy), result
    name = f"mta-sts.example.com:{host.port}"
    assert gate.heads == [f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()]
    assert host.server_names == ["mta-sts.example.com"]
    assert b"\r\nHost: mta-sts.example.com\r\n" in host.heads[0]
    assert world.dns.queries == []


def test_credentials_are_for_the_proxy_alone(world):
    with world.host() as host, Gate(to(host.port)) as gate:
        result = world.fetch(gate.proxy(authorization=CREDENTIALS), host.port, DEADLINE)
    assert isinstance(result, Policy), result
    assert f"\r\nProxy-Authorization: {CREDENTIALS}\r\n".encode() in gate.heads[0]
    assert b"authorization" not in host.heads[0].lower()


@pytest.mark.parametrize(
    ("name", "listens"),
    [
        ("proxy.example", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        pytest.param("localhost", "::1", marks=needs_ipv6),
        pytest.param("::1", "::1", marks=needs_ipv6),
    ],
)
def test_where_the_proxy_may_be(world, name, listens):
    with world.host() as host, Gate(to(host.port), listens) as gate:
        result = world.fetch(Proxy(name, gate.port), host.port, DEADLINE)
    assert isinstance(result, Policy), result
    assert {asked for asked, *_ in world.dns.queries} <= {"proxy.example"}


def test_exception_is_reached_directly(world):
    world.dns.zone["mta-sts.example.com A"] = addresses("127.0.0.1")
    with world.host() as host, Gate(hang_up) as gate:
        result = world.fetch(gate.proxy(no_proxy=("example.com",)), host.port, DEADLINE)
    assert isinstance(result, Policy), result
    assert gate.connections == 0


def test_resolver_does_not_read_the_environment(world, monkeypatch):
    """A library is told by its caller; and requests, beneath, is kept from reading it."""
    world.dns.zone["mta-sts.example.com A"] = addresses("127.0.0.1")
    with world.host() as host, Gate(hang_up) as gate:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{gate.port}")
        result = world.fetch(None, host.port, DEADLINE)
    assert isinstance(result, Policy), result
    assert gate.connections == 0


ACCEPTED = [
    (b"HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0"),
    (b"HTTP/1.1 200\r\n\r\n", "no reason and no space"),
    (b"HTTP/1.1 200 \r\n\r\n", "no reason (RFC 9112 §4)"),
    (b"HTTP/1.1 200 OK\n\n", "LF alone (RFC 9112 §2.2)"),
    (b"HTTP/1.1 201 Created\r\n\r\n", "any 2xx (RFC 9110 §9.3.6)"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "a length that is to be ignored (§9.3.6)"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "so is this (§9.3.6)"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OPEN, "1xx (§15.2)"),
]


@pytest.mark.parametrize(("answer", "reason"), ACCEPTED)
def test_answers_that_open_the_tunnel(world, answer, reason):
    with world.host() as host, Gate(to(host.port, answer=answer)) as gate:
        result = world.fetch(gate.proxy(), host.port, DEADLINE)
    assert isinstance(result, Policy), (reason, result)


HUGE = b"X: " + b"x" * 1000 + b"\r\n"
NO_ANSWER = "no answer within the time limit"
NO_HTTP = "it does not speak HTTP: "
TOO_LONG = "its answer to CONNECT is longer than 16384 bytes"
CLOSED = "it closed the connection without an answer to CONNECT"
ITS_OWN = "it sent something of its own behind its answer to CONNECT"
REFUSED = "it answered CONNECT with"
MISBEHAVING = [
    (silence, NO_ANSWER, "says nothing"),
    (hang_up, CLOSED, "closes"),
    (reset, "Connection reset by peer", "resets"),
    (says(b"HTTP/1.1 200 OK\r\n"), NO_ANSWER, "half an answer"),
    (says(b"HTTP/1.1 200 OK\r\n", then=hang_up), CLOSED, "half an answer, and closes"),
    (endless(b"H", 0.01), NO_ANSWER, "a byte now and then"),
    (says(b"HTTP/1.1 200 OK\r\n", then=endless(HUGE)), TOO_LONG, "endless headers"),
    (says(b"HTTP/1.1 200 OK\r\nA: ", then=endless(b"x" * 4096)), TOO_LONG, "an endless header"),
    (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), TOO_LONG, "endless interim answers"),
    (endless(b"x" * 4096), TOO_LONG, "endless garbage"),
    (says(b"220 mail.example ESMTP\r\n\r\n"), f"{NO_HTTP}b'220", "another protocol"),
    (says(b"HTTP/2 200 OK\r\n\r\n"), NO_HTTP, "another version"),
    (says(b"HTTP/1.1 OK 200\r\n\r\n"), NO_HTTP, "words in the wrong place"),
    (says(b"HTTP/1.1 2000 OK\r\n\r\n"), NO_HTTP, "a status of four digits"),
    (says(b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n"), NO_HTTP, "a bare CR"),
    (says(b"\r\n\r\n" + OPEN), NO_HTTP, "empty lines first"),
    (says(b"\x15\x03\x01\x00\x02\x02\x28\n\n"), NO_HTTP, "a TLS alert: a port for TLS"),
    (says(b"HTTP/1.1 301 Moved\r\nLocation: http://a.example\r\n\r\n"), f"{REFUSED} 301", "moved"),
    (says(b"HTTP/1.1 403 Forbidden\r\n\r\n"), f"{REFUSED} 403 Forbidden (does it", "forbids it"),
    (says(b"HTTP/1.1 407 Who?\r\n\r\n"), f"{REFUSED} 407 Who? (the URL in", "credentials"),
    (says(b"HTTP/1.1 407 Who?\r\n\r\n<html>"), f"{REFUSED} 407 Who? (the URL", "with a page"),
    (says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), f"{REFUSED} 502 Bad Gateway", "no way on"),
    (says(b"HTTP/1.1 502 \x1b[2J\xff\r\n\r\n"), rf"{REFUSED} 502 \x1b[2J\xff", "hostile text"),
    (says(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n"), ITS_OWN, "a page behind the answer"),
    (says(b"HTTP/1.1 101 TLS\r\n\r\n"), NO_ANSWER, "an interim answer and no more"),
]


@pytest.mark.parametrize(("behave", "detail", "reason"), MISBEHAVING)
def test_proxy_that_misbehaves(world, behave, detail, reason):
    with Gate(behave) as gate:
        result = world.fetch(gate.proxy(authorization=CREDENTIALS))
    assert isinstance(result, Failure), reason
    assert result.cause is Cause.PROXY, (reason, result)
    assert f"127.0.0.1:{gate.port}: {detail}" in result.detail, reason
    assert result.detail.isprintable(), reason
    assert len(result.detail) < 300, reason
    assert "QWxh" not in result.detail, reason
    assert len(gate.heads) == 1, reason


def test_longest_answer(world):
    limit = tunnel._MAX_ANSWER - len(b"HTTP/1.1 200 OK\r\nA: \r\n\r\n")
    for size, cause in ((limit, None), (limit + 1, Cause.PROXY)):
        answer = b"HTTP/1.1 200 OK\r\nA: " + b"x" * size + b"\r\n\r\n"
        with world.host() as host, Gate(to(host.port, answer=answer)) as gate:
            result = world.fetch(gate.proxy(), host.port, DEADLINE)
        assert getattr(result, "cause", None) is cause, result


# What comes after the answer is the policy host's, as far as anybody can tell.
BEHIND = [
    (says(OPEN), Cause.DEADLINE, "says no more"),
    (says(OPEN, then=hang_up), Cause.TLS, "closes"),
    (says(OPEN, then=reset), Cause.TLS, "resets"),
    (
        lambda connection, stopped: (
            connection.sendall(OPEN),
            connection.recv(65536),
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            silence(connection, stopped),
        ),
        Cause.TLS,
        "garbage in place of TLS",
    ),
]


@pytest.mark.parametrize(("behave", "cause", "reason"), BEHIND)
def test_tunnel_that_leads_nowhere(world, behave, cause, reason):
    with Gate(behave) as gate:
        result = world.fetch(gate.proxy())
    assert isinstance(result, Failure), reason
    assert result.cause is cause, (reason, result)


@pytest.mark.parametrize(
    ("names", "is_trusted"),
    [
        pytest.param(["www.example.com"], True, id="a certificate of another name"),
        pytest.param(["proxy.example", "127.0.0.1"], True, id="a certificate of the proxy's own"),
        pytest.param(["mta-sts.example.com"], False, id="an authority that is not trusted"),
    ],
)
def test_proxy_cannot_stand_in_for_the_policy_host(world, tmp_path, names, is_trusted):
    authority = world.authority if is_trusted else Authority(tmp_path)
    with PolicyHost(page(POLICY), authority.server(*names)) as host, Gate(to(host.port)) as gate:
        result = world.fetch(gate.proxy(), host.port, DEADLINE)
    assert isinstance(result, Failure)
    assert result.cause is Cause.CERTIFICATE, result


NOT_THERE = [
    ("127.0.0.1", "no connection: 127.0.0.1: Connection refused", "nobody listens"),
    ("nobody.example", "DNS has no address for it: nobody.example", "NXDOMAIN"),
    ("broken.example", "its address could not be looked up in DNS: ", "SERVFAIL"),
]


@pytest.mark.parametrize(("name", "detail", "reason"), NOT_THERE)
def test_proxy_that_is_not_there(world, name, detail, reason):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        result = world.fetch(Proxy(name, port, CREDENTIALS))
    assert isinstance(result, Failure)
    assert result.cause is Cause.PROXY, reason
    assert result.detail.startswith(f"{name}:{port}: {detail}"), (reason, result)
    assert str(result).startswith("no way to the policy host through the proxy: "), reason


def test_proxy_that_does_not_answer_a_syn(world):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    started = time.monotonic()
    with BlackHole("127.0.0.1", port):
        result = world.fetch(Proxy("127.0.0.1", port))
    assert time.monotonic() - started > 0.8 * LIMIT, "its only address gets all the time there is"
    assert isinstance(result, Failure)
    assert result.cause is Cause.PROXY, result


def test_proxy_whose_name_server_is_silent(world):
    result = world.fetch(Proxy("slow.example", 1))
    assert isinstance(result, Failure)
    assert result.cause is Cause.PROXY, result


def test_daemons_resolver_process_uses_the_proxy(world):
    with world.host() as host, Gate(to(host.port)) as gate:
        settings = world.settings(host.port, None)
        proxy = asdict(gate.proxy(authorization=CREDENTIALS))
        process = ResolverProcess({**settings, "proxy": proxy})
        process.start()
        try:
            result = Waited(process, DEADLINE).fetch("example.com")
        finally:
            process.close()
    assert isinstance(result, Policy), result
    assert CREDENTIALS.encode() in gate.heads[0]


def test_daemon_says_which_proxy_it_uses(tmp_path):
    """Without the password; here from a key, which wins over the environment."""
    config, log = tmp_path / "config.yml", tmp_path / "log"
    config.write_text("port: 0\nhttps_proxy: http://user:secret@192.0.2.1:3128\n")
    command = [sys.executable, "-m", "stsresolver.daemon", "-c", config, "-l", log]
    environment = {**os.environ, "https_proxy": "nonsense", "no_proxy": ""}
    with subprocess.Popen(list(map(str, command)), env=environment) as process:
        try:
            wait_for(lambda: log.exists() and "listening on" in log.read_text(), "the daemon")
            process.terminate()
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
    assert "INFO policies are fetched through the proxy 192.0.2.1:3128\n" in log.read_text()
    assert "secret" not in log.read_text()


def test_daemon_with_a_variable_that_cannot_be_used(tmp_path):
    config = tmp_path / "config.yml"
    config.write_text("port: 0\n")
    run = subprocess.run(
        [sys.executable, "-m", "stsresolver.daemon", "-c", config, "-v", "fatal"],
        env={**os.environ, "https_proxy": "https://user:secret@proxy.example"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert run.returncode == 78
    assert run.stderr.startswith(
        "mta-sts-daemon: https_proxy in the environment: found the scheme https; allowed: http://"
    )
    assert "secret" not in run.stderr


# TINYPROXY


class Tinyproxy:
    """A real proxy, for which mta-sts.example.com is this host. `options`: configuration lines."""

    def __init__(self, directory: Path, *options: str) -> None:
        if os.geteuid() != 0:
            unavailable("needs root: gives tinyproxy an /etc/hosts of its own")
        for program in ("tinyproxy", "unshare"):
            if shutil.which(program) is None:
                unavailable(f"not installed: {program}")
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.port = bound.getsockname()[1]
        self._log = directory / "tinyproxy.log"
        hosts = directory / "hosts"
        hosts.write_text("127.0.0.1 localhost mta-sts.example.com\n")
        file = directory / "tinyproxy.conf"
        lines = [
            f"Port {self.port}",
            "Listen 127.0.0.1",
            "Timeout 20",
            "MaxClients 10",
            *options,
        ]
        file.write_text("".join(f"{line}\n" for line in lines))
        script = 'mount --bind "$1" /etc/hosts && exec tinyproxy -d -c "$2"'
        self._command = ["unshare", "--mount", "sh", "-c", script, "sh", str(hosts), str(file)]

    def __enter__(self) -> Tinyproxy:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_for(self._answers, "tinyproxy to listen")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), DEADLINE).close()
            return True
        return False


def test_tinyproxy(world, tmp_path):
    with world.host() as host, Tinyproxy(tmp_path, f"ConnectPort {host.port}") as tinyproxy:
        proxy = Proxy("127.0.0.1", tinyproxy.port)
        result = world.fetch(proxy, host.port, DEADLINE)
        assert isinstance(result, Policy), result
        assert host.server_names == ["mta-sts.example.com"]
        assert world.dns.queries == []

        elsewhere = world.fetch(proxy, 443, DEADLINE)
        assert isinstance(elsewhere, Failure)
        assert elsewhere.cause is Cause.PROXY
        assert "403" in elsewhere.detail


def test_tinyproxy_that_finds_no_policy_host(world, tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with Tinyproxy(tmp_path, f"ConnectPort {port}") as tinyproxy:
            result = world.fetch(Proxy("127.0.0.1", tinyproxy.port), port, DEADLINE)
    assert isinstance(result, Failure)
    assert result.cause is Cause.PROXY
    assert f"127.0.0.1:{tinyproxy.port}: it answered CONNECT with 5" in result.detail


def test_query_through_tinyproxy_with_a_password(world, tmp_path, monkeypatch, capsys):
    options = "BasicAuth Aladdin open_sesame"
    with world.host() as host, Tinyproxy(tmp_path, options) as tinyproxy:
        settings = world.settings(host.port, None)
        del settings["proxy"]
        monkeypatch.setattr(query, "Inspector", partial(Inspector, **settings))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        # The policy does not name the domain itself, which has no MX records.
        for password, status in (("open_sesame", 3), ("wrong", 2)):
            url = f"http://Aladdin:{password}@127.0.0.1:{tinyproxy.port}"
            monkeypatch.setenv("https_proxy", url)
            assert query.main(["-t", "10", "example.com"]) == status
    output = capsys.readouterr().out
    policy, _, refused = " ".join(output.split()).partition("Verdict")
    assert "counts, id 1" in policy
    assert "Policy mode enforce" in policy
    assert f"through the proxy: 127.0.0.1:{tinyproxy.port}: it answered CONNECT with 40" in refused
    assert "(the URL in https_proxy has to hold the right user and password)" in refused
    assert "wrong" not in refused
