"""The fetch of a policy against policy hosts that misbehave (RFC 8461 §3.3).

Every case has a time limit, and must be over within it and half a second.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from authority import Authority, only_tls_1_1
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hostile_dns import NameServer, addresses, after, alias, by_type, code, nodata, nxdomain
from hostile_dns import silence as no_answer
from hostile_https import (
    POLICY,
    BlackHole,
    Ending,
    Listener,
    PolicyHost,
    chunk,
    dribble,
    hang_up,
    hang_up_after_hello,
    has_ipv6_loopback,
    head,
    page,
    raw,
    reset,
    say,
    silence,
    slow_handshake,
    slow_record,
)

from stsresolver import Cause, Failure, Mode, Policy, Resolver

# What a case may take beyond its time limit, in seconds.
GRACE = 0.5
# The time limit of a case that should end by itself, and of one that should not.
QUICK, SLOW = 2.0, 1.0
# Bytes: more than the limits and all buffers between hold, far less than what flows in QUICK.
READ_AT_MOST = 4_000_000

needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 loopback (::1) here")


class World:
    """An authority that is trusted, a nameserver, and resolvers that use both."""

    def __init__(self, directory: Path, dns: NameServer):
        self.authority = Authority(directory)
        self.dns = dns
        self._resolv_conf = directory / "resolv.conf"
        self._resolv_conf.write_text("nameserver 127.0.0.1\n")

    def context(self) -> ssl.SSLContext:
        return self.authority.server("mta-sts.example.com")

    def host(self, reply, address="127.0.0.1", port=0) -> PolicyHost:
        return PolicyHost(reply, self.context(), address, port)

    def resolver(self, https_port: int, timeout: float) -> Resolver:
        return Resolver(
            timeout=timeout,
            resolv_conf=str(self._resolv_conf),
            dns_port=self.dns.port,
            https_port=https_port,
        )

    def fetch(self, host: Listener, timeout: float = QUICK, domain="example.com"):
        """Fetch the policy of `domain` from `host`, within the time limit."""
        resolver = self.resolver(host.port, timeout)
        started = time.monotonic()
        result = resolver.fetch(domain)
        assert time.monotonic() - started < timeout + GRACE
        return result


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    with NameServer(otherwise=addresses("127.0.0.1")) as dns, pytest.MonkeyPatch.context() as patch:
        world = World(directory, dns)
        patch.setenv("SSL_CERT_FILE", str(world.authority.bundle))
        patch.setenv("SSL_CERT_DIR", str(directory / "no-directory"))
        yield world


@pytest.fixture
def zone(world) -> Iterator[dict]:
    """The nameserver's zone, empty again after the test."""
    yield world.dns.zone
    world.dns.zone.clear()


def check(result: Policy | Failure, causes: Iterable[Cause]) -> None:
    """Assert that the policy came (no causes), or that it failed for one of `causes`."""
    if causes:
        assert isinstance(result, Failure)
        assert result.cause in causes, result
        assert result.detail.isprintable(), "a stranger's control characters"
        assert len(result.detail) < 1000
        assert result.id == ""
    else:
        assert isinstance(result, Policy), result
        assert (result.mode, result.mx, result.max_age) == (
            Mode.ENFORCE,
            ("mail.example.com",),
            604800,
        )


def row(reason: str, what: object, *causes: Cause):
    """Return a case of a table; no causes: the policy is accepted."""
    return pytest.param(what, causes, id=reason)


def padded(size: int) -> bytes:
    """Return a policy of exactly `size` bytes."""
    line = b"note: " + b"x" * 250 + b"\n"
    count, rest = divmod(size - len(POLICY), len(line))
    rest += len(line)  # the last line is a long one, so that there is room for its key
    return POLICY + line * (count - 1) + b"note: " + b"x" * (rest - len(b"note: \n")) + b"\n"


def chunks(data: bytes, size: int) -> bytes:
    """Return `data` in chunks of `size` bytes, without the last, empty one."""
    return b"".join(chunk(data[at : at + size]) for at in range(0, len(data), size))


CHUNKED = head("Transfer-Encoding: chunked")
UNFRAMED = head()
LENGTH = head(f"Content-Length: {len(POLICY)}")
ONE_CHUNK = chunk(POLICY) + chunk(b"")


# Status, media type, framing, size


STATUSES = (
    "201 Created",
    "202 Accepted",
    "203 Non-Authoritative Information",
    "206 Partial Content",
    "300 Multiple Choices",
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "407 Proxy Authentication Required",
    "410 Gone",
    "429 Too Many Requests",
    "500 Internal Server Error",
    "503 Service Unavailable",
    "999 Nonsense",
)


@pytest.mark.parametrize("status", STATUSES)
def test_status_other_than_200_is_no_policy(world, status):
    with world.host(page(status=status)) as host:
        result = world.fetch(host)
    check(result, [Cause.STATUS])
    assert status[:3] in result.detail


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_status_without_body_is_no_policy(world, status):
    with world.host(raw(head(status=status))) as host:
        check(world.fetch(host), [Cause.STATUS])


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
def test_target_of_redirect_is_never_contacted(world, status):
    with world.host(page()) as target:
        location = f"Location: https://mta-sts.example.com:{target.port}/.well-known/mta-sts.txt"
        with world.host(page(status=f"{status} Elsewhere", extra=[location])) as host:
            check(world.fetch(host), [Cause.STATUS])
        assert (host.connections, target.connections) == (1, 0)


def test_challenge_is_not_answered(world):
    challenge = page(status="401 Unauthorized", extra=['WWW-Authenticate: Basic realm="policy"'])
    with world.host(challenge) as host:
        check(world.fetch(host), [Cause.STATUS])
    assert host.connections == 1


MEDIA_TYPES = [
    row("text/plain", "text/plain"),
    row("any case", "TEXT/Plain"),
    row("charset", "text/plain; charset=utf-8"),
    row("a charset that is a lie", "text/plain; charset=utf-16"),
    row("no space before the parameter", "text/plain;charset=utf-8"),
    row("space before the parameter", "text/plain ; charset=utf-8"),
    row("any parameters", 'text/plain; format=flowed; a="b; c"; text/html'),
    row("another subtype", "text/html", Cause.MEDIA_TYPE),
    row("a longer subtype", "text/plainish", Cause.MEDIA_TYPE),
    row("another type", "application/text/plain", Cause.MEDIA_TYPE),
    row("no subtype", "text", Cause.MEDIA_TYPE),
    row("space inside", "text / plain", Cause.MEDIA_TYPE),
    row("only a parameter", "; charset=utf-8", Cause.MEDIA_TYPE),
    row("two types", "text/plain, text/html", Cause.MEDIA_TYPE),
    row("empty", "", Cause.MEDIA_TYPE),
    row("missing", None, Cause.MEDIA_TYPE),
]


@pytest.mark.parametrize(("kind", "causes"), MEDIA_TYPES)
def test_media_type(world, kind, causes):
    with world.host(page(kind=kind)) as host:
        check(world.fetch(host), causes)


def test_two_media_types_in_two_fields_are_none(world):
    with world.host(page(extra=["Content-Type: text/html"])) as host:
        check(world.fetch(host), [Cause.MEDIA_TYPE])


BODIES = [
    row("Content-Length", page()),
    row("chunks", raw(CHUNKED, ONE_CHUNK)),
    row("many small chunks", raw(CHUNKED, chunks(POLICY, 1), chunk(b""))),
    row("chunk extensions", raw(CHUNKED, ONE_CHUNK.replace(b"\r", b';a="b"\r', 1))),
    row("trailers", raw(CHUNKED, chunk(POLICY), b"0\r\nETag: x\r\n\r\n")),
    row("chunks in capitals", raw(head("Transfer-Encoding: Chunked"), chunk(POLICY), chunk(b""))),
    row("without framing, ended by close_notify", raw(UNFRAMED, POLICY)),
    row("HTTP/1.0", page(version="HTTP/1.0")),
    row("HTTP/1.0 without framing", raw(head(version="HTTP/1.0"), POLICY)),
    row("no reason phrase", page(status="200")),
    row("more than Content-Length", raw(LENGTH, POLICY, b"mx: evil.example\n" * 9)),
    row("FIN without close_notify after a whole body", raw(LENGTH, POLICY, Ending.CUT)),
    row("the same after the last chunk", raw(CHUNKED, ONE_CHUNK, Ending.CUT)),
    row("never closed", raw(LENGTH, POLICY, Ending.OPEN)),
    row("never closed after chunks", raw(CHUNKED, ONE_CHUNK, Ending.OPEN)),
    row("100 Continue first", raw(b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH, POLICY)),
    row("slow, and in time", lambda _: (LENGTH, *dribble(POLICY, 0.005))),
    row("shorter than Content-Length", raw(LENGTH, POLICY[:-1]), Cause.HTTP),
    row("the same with FIN", raw(LENGTH, POLICY[:-1], Ending.CUT), Cause.HTTP),
    row("the same with RST", raw(LENGTH, POLICY[:-1], Ending.RESET), Cause.HTTP),
    row("nothing of Content-Length", raw(LENGTH), Cause.HTTP),
    row("Content-Length no number", raw(head("Content-Length: abc"), POLICY), Cause.HTTP),
    row("Content-Length negative", raw(head("Content-Length: -1"), POLICY), Cause.HTTP),
    row("two lengths", page(extra=["Content-Length: 9"]), Cause.HTTP),
    row("cut inside a chunk", raw(CHUNKED, ONE_CHUNK[:-9]), Cause.HTTP),
    row("cut before the last chunk", raw(CHUNKED, chunk(POLICY)), Cause.HTTP),
    row("the same with FIN", raw(CHUNKED, chunk(POLICY), Ending.CUT), Cause.HTTP),
    row("cut in a chunk size", raw(CHUNKED, chunk(POLICY), b"1"), Cause.HTTP),
    row("no framing and FIN: perhaps cut", raw(UNFRAMED, POLICY, Ending.CUT), Cause.HTTP),
    row("no framing and RST: perhaps cut", raw(UNFRAMED, POLICY, Ending.RESET), Cause.HTTP),
    row("chunk size missing", raw(CHUNKED, b"\r\n", POLICY), Cause.HTTP),
    row("chunk size no number", raw(CHUNKED, b"zz\r\n", POLICY), Cause.HTTP),
    row("chunk size -1", raw(CHUNKED, b"-1\r\n", POLICY, chunk(b"")), Cause.HTTP),
    row("chunk size -5", raw(CHUNKED, b"-5\r\n", POLICY, chunk(b"")), Cause.HTTP),
    row(
        "chunk size of 80 bits",
        raw(CHUNKED, b"f" * 20 + b"\r\n", POLICY),
        Cause.HTTP,
        Cause.SIZE,
    ),
    row(
        "chunk longer than its size",
        raw(CHUNKED, b"1\r\n" + POLICY, b"\r\n", chunk(b"")),
        Cause.HTTP,
    ),
    row("gzip", page(gzip.compress(POLICY), extra=["Content-Encoding: gzip"]), Cause.HTTP),
    row("gzip that is none", page(extra=["Content-Encoding: gzip"]), Cause.HTTP),
    row("br", page(extra=["Content-Encoding: br"]), Cause.HTTP),
    row("deflate and gzip", page(extra=["Content-Encoding: deflate, gzip"]), Cause.HTTP),
    row(
        "gzip as transfer coding",
        raw(head("Transfer-Encoding: gzip, chunked"), chunk(gzip.compress(POLICY)), chunk(b"")),
        Cause.HTTP,
    ),
    row(
        "a bomb: 48 kB that become 50 MB",
        page(gzip.compress(POLICY + b"\n" * 50_000_000), extra=["Content-Encoding: gzip"]),
        Cause.HTTP,
    ),
    row("empty body", page(b""), Cause.SYNTAX),
    row("an HTML page as text/plain", page(b"<html>Not here</html>\n"), Cause.SYNTAX),
    row("UTF-16", page(POLICY.decode().encode("utf-16")), Cause.SYNTAX),
    row("BOM", page(b"\xef\xbb\xbf" + POLICY), Cause.SYNTAX),
    row("HTTP/0.9", raw(POLICY), Cause.HTTP),
    row("garbage", raw(b"\x00\xff\x16\x03" * 64), Cause.HTTP),
    row("an HTTP/2 frame", raw(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), Cause.HTTP),
    row("HTTP/2 in the status line", page(version="HTTP/2"), Cause.HTTP),
    row("a status of four digits", page(status="2000 OK"), Cause.HTTP),
    row("a status that is no number", page(status="OK"), Cause.HTTP),
    row("not a word after the request", raw(), Cause.HTTP),
    row("the same with FIN", raw(Ending.CUT), Cause.HTTP),
    row("the same with RST", raw(Ending.RESET), Cause.HTTP),
    row("cut in the status line", raw(b"HTTP/1.1 2"), Cause.HTTP),
    row(
        "a header line without colon",
        raw(b"HTTP/1.1 200 OK\r\nno field\r\nContent-Type: text/plain\r\n\r\n", POLICY),
        Cause.HTTP,
        Cause.MEDIA_TYPE,
    ),
]


CONTROLS = "\x1b[31m\x07\x9b"
HOSTILE_TEXTS = [
    row("status", raw(f"HTTP/1.1 {CONTROLS}\r\n\r\n".encode()), Cause.HTTP),
    row("version", raw(f"{CONTROLS} 200 OK\r\n\r\n".encode()), Cause.HTTP),
    row("reason", page(status=f"404 {CONTROLS}"), Cause.STATUS),
    row("media type", page(kind=f"text/plain{CONTROLS}"), Cause.MEDIA_TYPE),
    row("long media type", page(kind="x" * 60000), Cause.MEDIA_TYPE),
    row("coding", page(extra=[f"Content-Encoding: {CONTROLS}"]), Cause.HTTP),
    row("length", raw(head(f"Content-Length: 1{CONTROLS}"), POLICY), Cause.HTTP),
    row("framing", raw(head(f"Transfer-Encoding: {CONTROLS}"), POLICY), Cause.HTTP),
    row("chunk size", raw(CHUNKED, CONTROLS.encode() + b"\r\n" + POLICY), Cause.HTTP),
    row("policy", page(POLICY + CONTROLS.encode()), Cause.SYNTAX),
    row("key", page(POLICY + b"a\x1b[31m: b"), Cause.SYNTAX),
    row("direction of writing", page(POLICY + "a \u202e b".encode()), Cause.SYNTAX),
]


@pytest.mark.parametrize(("reply", "causes"), HOSTILE_TEXTS)
def test_hostile_text_is_fit_for_a_log_line(world, reply, causes):
    with world.host(reply) as host:
        result = world.fetch(host)
    check(result, causes)
    assert "\x1b" not in str(result)


@pytest.mark.parametrize(("reply", "causes"), BODIES)
def test_answer(world, reply, causes):
    with world.host(reply) as host:
        check(world.fetch(host), causes)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(raw(LENGTH[:-2]), id="close_notify"),
        pytest.param(raw(LENGTH[:-2], Ending.CUT), id="FIN"),
        pytest.param(raw(LENGTH[:-2], Ending.RESET), id="RST"),
    ],
)
def test_headers_cut_short_are_no_answer(world, cut):
    with world.host(cut) as host:
        check(world.fetch(host), [Cause.HTTP])


def test_a_syntax_error_names_its_line(world):
    with world.host(page(b"version: STSv1\nmode: strict\n")) as host:
        result = world.fetch(host)
    check(result, [Cause.SYNTAX])
    assert "line 2" in result.detail


def framed(framing: str, body: bytes):
    match framing:
        case "Content-Length":
            return page(body)
        case "chunks":
            return raw(CHUNKED, chunks(body, 4000), chunk(b""))
        case "chunks of 16 bytes":
            return raw(CHUNKED, chunks(body, 16), chunk(b""))
        case "one chunk":
            return raw(CHUNKED, chunk(body), chunk(b""))
        case _:
            return raw(UNFRAMED, body)


FRAMINGS = ("Content-Length", "chunks", "chunks of 16 bytes", "one chunk", "no framing")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_65536_bytes_are_a_policy(world, framing):
    with world.host(framed(framing, padded(65536))) as host:
        check(world.fetch(host), [])


@pytest.mark.parametrize("framing", FRAMINGS)
def test_65537_bytes_are_none(world, framing):
    with world.host(framed(framing, padded(65537))) as host:
        check(world.fetch(host), [Cause.SIZE])


# Floods: they end at a limit of bytes, not at the time limit


def flood(start: bytes, more: bytes):
    """Return a reply that never ends."""
    return lambda _request: itertools.chain([start], itertools.repeat(more * (16384 // len(more))))


FLOODS = [
    row("endless body", flood(UNFRAMED, b"x"), Cause.SIZE),
    row("Content-Length of a terabyte", flood(head(f"Content-Length: {10**12}"), b"x"), Cause.SIZE),
    row("endless chunks", flood(CHUNKED, chunk(b"x" * 1000)), Cause.SIZE),
    row("endless chunks of one byte", flood(CHUNKED, chunk(b"x")), Cause.SIZE),
    row("a chunk of a terabyte", flood(CHUNKED + b"%x\r\n" % 10**12, b"x"), Cause.SIZE),
    row("chunk size -1 and no end", flood(CHUNKED + b"-1\r\n", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless chunk size", flood(CHUNKED, b"0"), Cause.SIZE, Cause.HTTP),
    row("endless chunk extension", flood(CHUNKED + b"5;", b"x"), Cause.SIZE, Cause.HTTP),
    row(
        "endless trailers",
        flood(CHUNKED + chunk(POLICY) + b"0\r\n", b"A: b\r\n"),
        Cause.SIZE,
        Cause.HTTP,
    ),
    row("endless status line", flood(b"HTTP/1.1 200 ", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless header", flood(b"HTTP/1.1 200 OK\r\nA: ", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless headers", flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), Cause.SIZE, Cause.HTTP),
    row("1xx for ever", flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), Cause.SIZE, Cause.HTTP),
    row(
        "1xx with headers",
        flood(b"", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"),
        Cause.SIZE,
        Cause.HTTP,
    ),
    row("endless 302", flood(head("Location: /", status="302 Found"), b"x"), Cause.STATUS),
    row(
        "endless chunked 302",
        flood(head("Transfer-Encoding: chunked", status="302 Found"), chunk(b"x" * 999)),
        Cause.STATUS,
    ),
    row("endless 404", flood(head(status="404 Not Found"), b"x"), Cause.STATUS),
    row("endless 204", flood(head(status="204 No Content"), b"x"), Cause.STATUS),
    row("endless HTML", flood(head(kind="text/html"), b"x"), Cause.MEDIA_TYPE),
    row("endless gzip", flood(head("Content-Encoding: gzip"), b"x"), Cause.HTTP),
    row("endless HTTP/0.9", flood(b"", b"x"), Cause.SIZE, Cause.HTTP),
]


@pytest.mark.parametrize(("reply", "causes"), FLOODS)
def test_flood_is_cut_off(world, reply, causes):
    with world.host(reply) as host:
        check(world.fetch(host), causes)
    assert host.sent < READ_AT_MOST


# Slowness: it ends at the time limit


def https(reply):
    """Return what starts a policy host with `reply`."""
    return lambda world: world.host(reply)


def tcp(script):
    """Return what starts a listener with `script`."""
    return lambda _world: Listener(script)


def endless(*pieces):
    """Return a reply that repeats `pieces` for ever."""
    return lambda _request: itertools.cycle(pieces)


def begin(start: bytes, pieces):
    """Return a reply that sends `start` and then what `pieces` replies."""
    return lambda request: itertools.chain([start], pieces(request))


LATE = {
    "TLS handshake never begins": tcp(silence),
    "TLS handshake byte by byte": lambda world: Listener(slow_handshake(world.context(), 0.3)),
    "one TLS record byte by byte": lambda world: Listener(
        slow_record(world.context(), LENGTH + POLICY, 0.1)
    ),
    "not a word after the request": https(raw(Ending.OPEN)),
    "status line byte by byte": https(lambda _: dribble(LENGTH, 0.2)),
    "headers byte by byte": https(begin(b"HTTP/1.1 200 OK\r\nA: ", endless(b"x", 0.2))),
    "a header line now and then": https(begin(b"HTTP/1.1 200 OK\r\n", endless(b"A: b\r\n", 0.2))),
    "1xx now and then": https(endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.2)),
    "no body": https(raw(LENGTH, Ending.OPEN)),
    "body stops before its end": https(raw(LENGTH, POLICY[:-1], Ending.OPEN)),
    "body byte by byte": https(lambda _: itertools.chain([LENGTH], dribble(POLICY, 0.2))),
    "unframed body byte by byte": https(begin(UNFRAMED, endless(b"\n", 0.2))),
    "unframed body without end": https(raw(UNFRAMED, POLICY, Ending.OPEN)),
    "chunk by chunk": https(begin(CHUNKED, endless(chunk(b"\n"), 0.2))),
    "chunk size byte by byte": https(begin(CHUNKED, endless(b"0", 0.2))),
    "chunk extension byte by byte": https(begin(CHUNKED + b"1;", endless(b"x", 0.2))),
    "chunk byte by byte": https(begin(CHUNKED + b"ff\r\n", endless(b"\n", 0.2))),
    "no last chunk": https(raw(CHUNKED, chunk(POLICY), Ending.OPEN)),
    "trailers byte by byte": https(
        begin(CHUNKED + chunk(POLICY) + b"0\r\nA: ", endless(b"x", 0.2))
    ),
    "just under the limit of each read": https(begin(LENGTH, endless(b"\n", 0.95))),
}


@pytest.fixture(scope="module")
def late_results(world) -> dict[str, tuple[Policy | Failure, float]]:
    """The results of LATE with the seconds that each took, got side by side."""

    def run(start) -> tuple[Policy | Failure, float]:
        with start(world) as listener:
            resolver = world.resolver(listener.port, SLOW)
            started = time.monotonic()
            return resolver.fetch("example.com"), time.monotonic() - started

    with ThreadPoolExecutor(max_workers=10) as pool:
        return dict(zip(LATE, pool.map(run, LATE.values()), strict=True))


@pytest.mark.parametrize("reason", LATE)
def test_late_is_over_at_the_time_limit(late_results, reason):
    result, seconds = late_results[reason]
    check(result, [Cause.DEADLINE])
    assert SLOW - 0.1 < seconds < SLOW + GRACE


def test_steps_share_one_time_limit(world, zone):
    """Address, connection and answer each take less than the limit, and together more."""
    zone["mta-sts.example.com A"] = after(0.2, addresses("127.0.0.1"))
    with world.host(lambda _: itertools.chain([0.6, LENGTH], dribble(POLICY, 0.1))) as host:
        check(world.fetch(host, SLOW), [Cause.DEADLINE])


# Certificates and TLS


def intermediate(authority: Authority, **details) -> Authority:
    return Authority(authority._directory, issuer=authority, **details)


HOST = "mta-sts.example.com"
NAMES = [
    row("the policy host", [HOST]),
    row("wildcard", ["*.example.com"]),
    row("any case", ["MTA-STS.Example.COM"]),
    row("wildcard in any case", ["*.EXAMPLE.com"]),
    row("one of many", ["a.example", "b.example", HOST, "c.example"]),
    row("another name", ["mta-sts.example.org"], Cause.CERTIFICATE),
    row("only the parent", ["example.com"], Cause.CERTIFICATE),
    row("only the parent's parent", ["com"], Cause.CERTIFICATE),
    row("a name below", ["www.mta-sts.example.com"], Cause.CERTIFICATE),
    row("wildcard below", ["*.mta-sts.example.com"], Cause.CERTIFICATE),
    row("wildcard of the top-level domain", ["*.com"], Cause.CERTIFICATE),
    row("wildcard of everything", ["*"], Cause.CERTIFICATE),
    row("two wildcards", ["*.*.com"], Cause.CERTIFICATE),
    row("wildcard as middle label", ["mta-sts.*.com"], Cause.CERTIFICATE),
    row("wildcard at a label's end", ["mta-*.example.com"], Cause.CERTIFICATE),
    row("wildcard at a label's beginning", ["*-sts.example.com"], Cause.CERTIFICATE),
    row("wildcard inside a label", ["mta*sts.example.com"], Cause.CERTIFICATE),
    row("leading dot", [".example.com"], Cause.CERTIFICATE),
    row("NUL and another name", [f"{HOST}\0.evil.example"], Cause.CERTIFICATE),
    row("as URI", [x509.UniformResourceIdentifier(f"https://{HOST}/")], Cause.CERTIFICATE),
    row("as e-mail address", [x509.RFC822Name(HOST)], Cause.CERTIFICATE),
    row("no name at all", [], Cause.CERTIFICATE),
]


@pytest.mark.parametrize(("names", "causes"), NAMES)
def test_certificate_names(world, names, causes):
    with PolicyHost(page(), world.authority.server(*names)) as host:
        check(world.fetch(host), causes)
    if causes:
        assert host.heads == [], "the request was sent in spite of the certificate"


CERTIFICATES = [
    row("common name only", lambda a: a.server(common_name=HOST), Cause.CERTIFICATE),
    row(
        "common name beside another SAN",
        lambda a: a.server("other.example", common_name=HOST),
        Cause.CERTIFICATE,
    ),
    row(
        "common name beside a SAN that is no DNS name",
        lambda a: a.server(x509.RFC822Name("postmaster@example.com"), common_name=HOST),
        Cause.CERTIFICATE,
    ),
    row("expired", lambda a: a.server(HOST, days=(-2, -0.01)), Cause.CERTIFICATE),
    row("not yet valid", lambda a: a.server(HOST, days=(0.01, 2)), Cause.CERTIFICATE),
    row("self-signed", lambda a: a.server(HOST, self_signed=True), Cause.CERTIFICATE),
    row("unknown CA", lambda a: Authority(a._directory).server(HOST), Cause.CERTIFICATE),
    row(
        "for clients only",
        lambda a: a.server(HOST, usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        Cause.CERTIFICATE,
    ),
    row("intermediate", lambda a: intermediate(a).server(HOST)),
    row("two intermediates", lambda a: intermediate(intermediate(a)).server(HOST)),
    row(
        "chain without the intermediate",
        lambda a: intermediate(a).server(HOST, whole_chain=False),
        Cause.CERTIFICATE,
    ),
    row(
        "expired intermediate",
        lambda a: intermediate(a, days=(-2, -0.01)).server(HOST),
        Cause.CERTIFICATE,
    ),
    row(
        "signed by a certificate that is no CA",
        lambda a: intermediate(a, is_ca=False).server(HOST),
        Cause.CERTIFICATE,
    ),
]


@pytest.mark.parametrize(("certificate", "causes"), CERTIFICATES)
def test_certificate(world, certificate, causes):
    with PolicyHost(page(), certificate(world.authority)) as host:
        check(world.fetch(host), causes)
    if causes:
        assert host.heads == [], "the request was sent in spite of the certificate"


def test_certificate_of_an_internationalized_domain(world):
    with PolicyHost(page(), world.authority.server("*.xn--bcher-kva.example")) as host:
        check(world.fetch(host, domain="b\u00fccher.example"), [])
    assert host.server_names == ["mta-sts.xn--bcher-kva.example"]


def test_certificates_without_key_identifiers_pass_on_every_python(world, tmp_path, monkeypatch):
    """Python 3.13 refuses them by default; earlier ones and other TLS clients do not."""
    plain = Authority(tmp_path, identifiers=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(plain.bundle))
    with PolicyHost(page(), plain.server(HOST)) as host:
        check(world.fetch(host), [])


VERSIONS = [
    row("TLS 1.2", ssl.TLSVersion.TLSv1_2),
    row("TLS 1.3", ssl.TLSVersion.TLSv1_3),
]


@pytest.mark.parametrize(("version", "causes"), VERSIONS)
def test_tls_version(world, version, causes):
    context = world.context()
    context.minimum_version = context.maximum_version = version
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), causes)


def test_tls_1_1_is_refused(world):
    context = only_tls_1_1(world.context())
    with PolicyHost(page(), context) as host:
        control = only_tls_1_1(ssl.create_default_context(cafile=world.authority.bundle))
        try:
            with (
                socket.create_connection(("127.0.0.1", host.port)) as connection,
                control.wrap_socket(connection, server_hostname=HOST) as tls,
            ):
                assert tls.version() == "TLSv1.1"
        except ssl.SSLError as error:
            pytest.skip(f"this OpenSSL does not speak TLS 1.1 at all: {error}")
        check(world.fetch(host), [Cause.TLS])


CLIENT_CERTIFICATES = [
    row("asked for", ssl.CERT_OPTIONAL),
    row("insisted on", ssl.CERT_REQUIRED, Cause.TLS, Cause.HTTP),
]


@pytest.mark.parametrize(("mode", "causes"), CLIENT_CERTIFICATES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate(world, version, mode, causes):
    context = world.context()
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(world.authority.bundle)
    context.verify_mode = mode
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), causes)


NO_TLS = [
    row("plain HTTP on the port", say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Cause.TLS),
    row("an SMTP greeting", say(b"220 mail.example.com ESMTP\r\n"), Cause.TLS),
    row("an alert: handshake_failure", say(b"\x15\x03\x03\x00\x02\x02\x28"), Cause.TLS),
    row("an alert: unrecognized_name", say(b"\x15\x03\x03\x00\x02\x02\x70"), Cause.TLS),
    row("closed at once", hang_up, Cause.TLS, Cause.CONNECT),
    row("reset at once", reset, Cause.TLS, Cause.CONNECT),
    row("closed after the ClientHello", hang_up_after_hello, Cause.TLS),
]


@pytest.mark.parametrize(("script", "causes"), NO_TLS)
def test_no_tls(world, script, causes):
    with Listener(script) as listener:
        result = world.fetch(listener)
    check(result, causes)
    assert result.detail, "a failure without a word of why"


# Which CAs are trusted


def test_change_of_ssl_cert_file_is_noticed(world, tmp_path, monkeypatch):
    other = Authority(tmp_path)
    with world.host(page()) as host:
        resolver = world.resolver(host.port, QUICK)
        check(resolver.fetch("example.com"), [])
        monkeypatch.setenv("SSL_CERT_FILE", str(other.bundle))
        check(resolver.fetch("example.com"), [Cause.CERTIFICATE])
        monkeypatch.setenv("SSL_CERT_FILE", str(world.authority.bundle))
        check(resolver.fetch("example.com"), [])


def test_change_of_the_bundle_is_noticed(world, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Authority(tmp_path).bundle.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with world.host(page()) as host:
        resolver = world.resolver(host.port, QUICK)
        check(resolver.fetch("example.com"), [Cause.CERTIFICATE])
        shutil.copy(world.authority.bundle, tmp_path / "new")
        os.replace(tmp_path / "new", bundle)
        check(resolver.fetch("example.com"), [])


@pytest.mark.parametrize("content", [None, b"", b"not a certificate\n"])
def test_without_usable_bundle_nothing_is_trusted(world, tmp_path, monkeypatch, content):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CERTIFICATE])


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to name files of SSL_CERT_DIR")
def test_ssl_cert_dir_counts_too(world, tmp_path, monkeypatch):
    directory = tmp_path / "certs"
    directory.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-file"))
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    with world.host(page()) as host:
        resolver = world.resolver(host.port, QUICK)
        check(resolver.fetch("example.com"), [Cause.CERTIFICATE])
        command = ["openssl", "x509", "-noout", "-hash", "-in", world.authority.bundle]
        digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        shutil.copy(world.authority.bundle, directory / f"{digest}.0")
        check(resolver.fetch("example.com"), [])


# What is asked


def fields(request: bytes) -> dict[str, str]:
    lines = request.decode("ascii").split("\r\n")[1:-2]
    pairs = [line.split(": ", 1) for line in lines]
    assert len(pairs) == len({name.lower() for name, _ in pairs}), "a field twice"
    return {name.lower(): value for name, value in pairs}


def test_request(world):
    with world.host(page()) as host:
        check(world.fetch(host), [])
    (request,) = host.heads
    assert request.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n")
    sent = fields(request)
    assert sent["host"] == HOST
    assert sent["user-agent"].startswith("stsresolver/")
    assert sent["connection"] == "close"
    assert sent.get("accept-encoding", "identity") == "identity"
    assert set(sent) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert host.server_names == [HOST]


def test_name_in_any_form_asks_for_the_a_label(world):
    with PolicyHost(page(), world.authority.server("mta-sts.xn--bcher-kva.example")) as host:
        check(world.fetch(host, domain="B\u00dcCHER.Example."), [])
    assert fields(host.heads[0])["host"] == "mta-sts.xn--bcher-kva.example"
    assert host.server_names == ["mta-sts.xn--bcher-kva.example"]


def test_http_2_is_not_offered(world):
    context = world.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), [])
    assert host.alpn[0] in (None, "http/1.1")


def test_nothing_is_remembered_between_fetches(world):
    caching = page(
        extra=[
            "Cache-Control: max-age=31536000, immutable",
            'ETag: "1"',
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
            "Set-Cookie: a=b; Path=/; Max-Age=31536000",
            "Strict-Transport-Security: max-age=31536000",
            'Alt-Svc: h3=":443"',
            "Connection: keep-alive",
        ]
    )
    with world.host(caching) as host:
        resolver = world.resolver(host.port, QUICK)
        for _ in range(2):
            check(resolver.fetch("example.com"), [])
    assert host.connections == 2
    assert host.heads[0] == host.heads[1]


def test_of_the_environment_only_the_ca_store_counts(world, tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {HOST} login user password secret\ndefault login a password b\n")
    netrc.chmod(0o600)
    keys = tmp_path / "keys"
    with Listener(silence) as proxy, world.host(page()) as host:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            for variable in (name, name.lower()):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path).bundle))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "no-bundle"))
        monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
        check(world.fetch(host), [])
        assert proxy.connections == 0
    assert set(fields(host.heads[0])).isdisjoint({"authorization", "proxy-authorization"})
    assert not keys.exists(), "the session keys were logged"


def test_bundle_of_requests_is_no_ca_store(world, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(world.authority.bundle))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(world.authority.bundle))
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CERTIFICATE])


def test_bundle_that_comes_with_requests_is_no_ca_store(world, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).bundle))
    for module in ("certs", "utils", "adapters"):
        name = f"requests.{module}.DEFAULT_CA_BUNDLE_PATH"
        monkeypatch.setattr(name, str(world.authority.bundle), raising=False)
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CERTIFICATE])


# Addresses of the policy host


NO_ADDRESSES = [
    row("no such host", nxdomain(), Cause.NO_ADDRESS),
    row("a host without addresses", nodata(), Cause.NO_ADDRESS),
    row("SERVFAIL", code("SERVFAIL"), Cause.ADDRESS),
    row("REFUSED", code("REFUSED"), Cause.ADDRESS),
    row("no answer", no_answer, Cause.ADDRESS, Cause.DEADLINE),
    row("an alias of nothing", alias("gone.example.", then=nxdomain()), Cause.NO_ADDRESS),
    row("an alias of itself", alias("mta-sts.example.com.", then=nodata()), Cause.ADDRESS),
    row("no A record, AAAA not to be had", by_type(AAAA=code("SERVFAIL")), Cause.ADDRESS),
]


@pytest.mark.parametrize(("behaviour", "causes"), NO_ADDRESSES)
def test_no_address(world, zone, behaviour, causes):
    zone["mta-sts.example.com A"] = zone["mta-sts.example.com AAAA"] = behaviour
    with world.host(page()) as host:
        check(world.fetch(host, SLOW), causes)
    assert host.connections == 0


def test_alias_keeps_the_name(world, zone):
    zone["mta-sts.example.com A"] = alias(
        "policy.example.net.", "host.example.org.", then=addresses("127.0.0.1")
    )
    with world.host(page()) as host:
        check(world.fetch(host), [])
    assert host.server_names == [HOST]
    assert fields(host.heads[0])["host"] == HOST


def test_ipv6_is_not_asked_for_while_ipv4_works(world, zone):
    zone["mta-sts.example.com AAAA"] = no_answer
    asked = world.dns.asked("mta-sts.example.com", "AAAA")
    with world.host(page()) as host:
        check(world.fetch(host), [])
    assert world.dns.asked("mta-sts.example.com", "AAAA") == asked


def test_refused(world):
    with world.host(page()) as host:
        pass
    check(world.fetch(host), [Cause.CONNECT])


def test_refused_then_accepted(world, zone):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3", "127.0.0.4", "127.0.0.2")
    with world.host(page(), "127.0.0.2") as host:
        check(world.fetch(host), [])


AAAA_NOT_TO_BE_HAD = [
    row("SERVFAIL", code("SERVFAIL"), Cause.CONNECT, Cause.ADDRESS),
    row("silence", no_answer, Cause.CONNECT, Cause.ADDRESS, Cause.DEADLINE),
]


@pytest.mark.parametrize(("behaviour", "causes"), AAAA_NOT_TO_BE_HAD)
def test_refused_and_no_more_to_try(world, zone, behaviour, causes):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3")
    zone["mta-sts.example.com AAAA"] = behaviour
    with world.host(page()) as host:
        check(world.fetch(host, SLOW), causes)


def test_many_addresses_and_none_answers(world, zone):
    zone["mta-sts.example.com A"] = addresses(*(f"127.0.1.{n}" for n in range(1, 190)))
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CONNECT])


@pytest.mark.parametrize("holes", [1, 2, 3])
def test_black_holes_leave_time_for_the_next_address(world, zone, holes):
    dark = [f"127.0.0.{number}" for number in range(3, 3 + holes)]
    zone["mta-sts.example.com A"] = addresses(*dark, "127.0.0.2")
    with world.host(page(), "127.0.0.2") as host, contextlib.ExitStack() as stack:
        for address in dark:
            stack.enter_context(BlackHole(address, host.port))
        check(world.fetch(host, SLOW), [])


@pytest.mark.parametrize("holes", [1, 5])
def test_nothing_but_black_holes(world, zone, holes):
    dark = [f"127.0.0.{number}" for number in range(3, 3 + holes)]
    zone["mta-sts.example.com A"] = addresses(*dark)
    with world.host(page()) as host, contextlib.ExitStack() as stack:
        for address in dark:
            stack.enter_context(BlackHole(address, host.port))
        check(world.fetch(host, SLOW), [Cause.CONNECT, Cause.DEADLINE])
    assert host.connections == 0


@needs_ipv6
def test_only_ipv6(world, zone):
    zone["mta-sts.example.com A"] = nodata()
    zone["mta-sts.example.com AAAA"] = addresses("::1")
    with world.host(page(), "::1") as host:
        check(world.fetch(host), [])


@needs_ipv6
def test_ipv4_refused_then_ipv6(world, zone):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3")
    zone["mta-sts.example.com AAAA"] = addresses("::1")
    with world.host(page(), "::1") as host:
        check(world.fetch(host), [])


@needs_ipv6
def test_ipv4_black_hole_then_ipv6(world, zone):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3")
    zone["mta-sts.example.com AAAA"] = addresses("::1")
    with world.host(page(), "::1") as host, BlackHole("127.0.0.3", host.port):
        check(world.fetch(host, SLOW), [])


# What stays behind


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
def test_no_descriptor_and_no_thread_is_left(world):
    """Whatever a policy host does, in the end there is nothing open."""

    def count() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    replies = [page(), page(status="302 Found"), raw(LENGTH), raw(), raw(UNFRAMED, Ending.RESET)]
    starts = [
        *map(https, replies),
        https(flood(UNFRAMED, b"x")),
        tcp(hang_up),
        tcp(reset),
        lambda world: PolicyHost(page(), world.authority.server("other.example")),
    ]
    before = count()
    for start in starts:
        with start(world) as listener:
            world.fetch(listener)
    with world.host(raw(LENGTH, Ending.OPEN)) as host:
        world.fetch(host, 0.2)
    assert count() == before
