"""The fetch of a policy against policy hosts that misbehave (RFC 8461 §3.3).

Every case has a time limit, and must be over within it and half a second.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from stsresolver import Cause, Failure, Policy, Resolver
from tests.support.authority import Authority
from tests.support.hostile_dns import (
    NameServer,
    addresses,
    after,
    alias,
    by_type,
    code,
    nodata,
    nxdomain,
)
from tests.support.hostile_dns import silence as no_answer
from tests.support.hostile_handshakes import HANDSHAKES
from tests.support.hostile_http_answers import (
    BODIES,
    CHUNKED,
    HOSTILE_TEXTS,
    LENGTH,
    UNFRAMED,
    chunks,
)
from tests.support.hostile_http_floods import FLOODS, flood
from tests.support.hostile_https import (
    POLICY,
    BlackHole,
    Ending,
    Listener,
    PolicyHost,
    chunk,
    dribble,
    hang_up,
    has_ipv6_loopback,
    head,
    page,
    raw,
    reset,
    silence,
)
from tests.support.hostile_https_cases import LATE
from tests.support.hostile_place import Place, certified, check, https, row, tcp
from tests.support.hostile_tls_cases import CERTIFICATES, NO_TLS

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
        return Place(self.authority).context()

    def host(self, reply, address="127.0.0.1", port=0) -> PolicyHost:
        return Place(self.authority, address=address, port=port).policy_host(reply)

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


def padded(size: int) -> bytes:
    """Return a policy of exactly `size` bytes."""
    line = b"note: " + b"x" * 250 + b"\n"
    count, rest = divmod(size - len(POLICY), len(line))
    rest += len(line)  # the last line is a long one, so that there is room for its key
    return POLICY + line * (count - 1) + b"note: " + b"x" * (rest - len(b"note: \n")) + b"\n"


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


@pytest.mark.requirement("HTTPS-2")
@pytest.mark.parametrize("status", STATUSES)
def test_status_other_than_200_is_no_policy(world, status):
    with world.host(page(status=status)) as host:
        result = world.fetch(host)
    check(result, [Cause.STATUS])
    assert status[:3] in result.detail


@pytest.mark.requirement("HTTPS-2")
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_status_without_body_is_no_policy(world, status):
    with world.host(raw(head(status=status))) as host:
        check(world.fetch(host), [Cause.STATUS])


@pytest.mark.requirement("HTTPS-3")
@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308])
def test_target_of_redirect_is_never_contacted(world, status):
    with world.host(page()) as target:
        location = f"Location: https://mta-sts.example.com:{target.port}/.well-known/mta-sts.txt"
        with world.host(page(status=f"{status} Elsewhere", extra=[location])) as host:
            check(world.fetch(host), [Cause.STATUS])
        assert (host.connections, target.connections) == (1, 0)


@pytest.mark.requirement("HTTPS-2")
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
    row("on a line of its own", "\r\n text/plain"),
    row("parameters on a line of their own", "text/plain\r\n\t; charset=utf-8"),
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


@pytest.mark.requirement("HTTPS-4")
@pytest.mark.requirement(
    {
        "on a line of its own": "HTTPS-21",
        "parameters on a line of their own": "HTTPS-21",
        "a charset that is a lie": "HTTP-16",
        "missing": "HTTP-17",
        "empty": "HTTP-17",
        "no subtype": "HTTP-17",
    }
)
@pytest.mark.parametrize(("kind", "causes"), MEDIA_TYPES)
def test_media_type(world, kind, causes):
    with world.host(page(kind=kind)) as host:
        check(world.fetch(host), causes)


@pytest.mark.requirement("HTTPS-4")
@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8"])
@pytest.mark.parametrize("other", ["text/html", "text/plain"])
def test_two_media_types_in_two_fields_are_none(world, kind, other):
    with world.host(page(kind=kind, extra=[f"Content-Type: {other}"])) as host:
        check(world.fetch(host), [Cause.MEDIA_TYPE])


@pytest.mark.requirement("HTTPS-20")
@pytest.mark.parametrize(("reply", "causes"), HOSTILE_TEXTS)
def test_hostile_text_is_fit_for_a_log_line(world, reply, causes):
    with world.host(reply) as host:
        result = world.fetch(host)
    check(result, causes)
    assert "\x1b" not in str(result)


@pytest.mark.requirement(
    {
        "shorter than Content-Length": ("HTTPS-14", "HTTP-11"),
        "nothing of Content-Length": ("HTTPS-14", "HTTP-11"),
        "cut inside a chunk": "HTTPS-14",
        "cut before the last chunk": "HTTPS-14",
        "cut in a chunk size": "HTTPS-14",
        "no framing and FIN: perhaps cut": ("HTTPS-14", "HTTP-13"),
        "no framing and RST: perhaps cut": "HTTPS-14",
        "chunks": "HTTPS-15",
        "chunk extensions": "HTTPS-15",
        "trailers": "HTTPS-15",
        "chunk size no number": "HTTPS-15",
        "chunk size -1": ("HTTPS-15", "HTTP-15"),
        "chunk size of 80 bits": "HTTPS-15",
        "chunk longer than its size": "HTTPS-15",
        "gzip": "HTTPS-16",
        "br": "HTTPS-16",
        "gzip as transfer coding": "HTTPS-16",
        "a bomb: 48 kB that become 50 MB": ("HTTPS-16", "HTTP-12"),
        "100 Continue first": "HTTPS-17",
        "without framing, ended by close_notify": "HTTP-13",
        "chunk size -5": "HTTP-15",
        "UTF-16": "HTTP-16",
        "a bare CR in a header": "HTTP-21",
        "20,000 fields in a line": "HTTP-21",
        "mail in mail": "HTTP-21",
        "parts in parts of mail": "HTTP-21",
        "parts of mail without a bare CR": "HTTP-21",
        "the beginning of mail": "HTTP-21",
        "a header line without colon": "HTTP-21",
    }
)
@pytest.mark.parametrize(("reply", "causes"), BODIES)
def test_answer(world, reply, causes):
    with world.host(reply) as host:
        check(world.fetch(host), causes)


@pytest.mark.requirement("HTTPS-14", "HTTP-14")
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


@pytest.mark.requirement("HTTPS-20")
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


@pytest.mark.requirement("HTTPS-12")
@pytest.mark.parametrize("framing", FRAMINGS)
def test_65536_bytes_are_a_policy(world, framing):
    with world.host(framed(framing, padded(65536))) as host:
        check(world.fetch(host), [])


@pytest.mark.requirement("HTTPS-12")
@pytest.mark.parametrize("framing", FRAMINGS)
def test_65537_bytes_are_none(world, framing):
    with world.host(framed(framing, padded(65537))) as host:
        check(world.fetch(host), [Cause.SIZE])


@pytest.mark.requirement("HTTPS-12", "KEEP-12")
@pytest.mark.requirement(
    {
        "1xx for ever": "HTTPS-17",
        "endless 302": "HTTP-10",
        "endless chunked 302": "HTTP-10",
        "endless gzip": "HTTP-12",
        "chunk size -1 and no end": "HTTP-15",
    }
)
@pytest.mark.parametrize(("reply", "causes"), FLOODS)
def test_flood_is_cut_off(world, reply, causes):
    with world.host(reply) as host:
        check(world.fetch(host), causes)
    assert host.sent < READ_AT_MOST


@pytest.fixture(scope="module")
def late_results(world) -> dict[str, tuple[Policy | Failure, float]]:
    """The results of LATE with the seconds that each took, got side by side."""

    def run(start) -> tuple[Policy | Failure, float]:
        with start(Place(world.authority)) as listener:
            resolver = world.resolver(listener.port, SLOW)
            started = time.monotonic()
            return resolver.fetch("example.com"), time.monotonic() - started

    with ThreadPoolExecutor(max_workers=10) as pool:
        return dict(zip(LATE, pool.map(run, LATE.values()), strict=True))


@pytest.mark.requirement("HTTPS-13", "HTTP-6")
@pytest.mark.requirement(
    {
        "1xx now and then": "HTTPS-17",
    }
)
@pytest.mark.parametrize("reason", LATE)
def test_late_is_over_at_the_time_limit(late_results, reason):
    result, seconds = late_results[reason]
    check(result, [Cause.DEADLINE])
    assert SLOW - 0.1 < seconds < SLOW + GRACE


@pytest.mark.requirement("HTTPS-13", "HTTP-7")
def test_steps_share_one_time_limit(world, zone):
    """Address, connection and answer each take less than the limit, and together more."""
    zone["mta-sts.example.com A"] = after(0.2, addresses("127.0.0.1"))
    with world.host(lambda _: itertools.chain([0.6, LENGTH], dribble(POLICY, 0.1))) as host:
        check(world.fetch(host, SLOW), [Cause.DEADLINE])


# Certificates and TLS


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


@pytest.mark.requirement("HTTPS-6")
@pytest.mark.requirement(
    {
        "wildcard": "HTTPS-7",
        "wildcard at a label's end": ("HTTPS-7", "HTTP-4"),
        "wildcard at a label's beginning": "HTTPS-7",
        "wildcard inside a label": "HTTPS-7",
        "two wildcards": "HTTPS-7",
        "wildcard as middle label": "HTTPS-7",
        "wildcard below": "HTTPS-7",
        "only the parent": "HTTPS-7",
    }
)
@pytest.mark.parametrize(("names", "causes"), NAMES)
def test_certificate_names(world, names, causes):
    with PolicyHost(page(), world.authority.server(*names)) as host:
        check(world.fetch(host), causes)
    if causes:
        assert host.heads == [], "the request was sent in spite of the certificate"


@pytest.mark.requirement(
    {
        "expired": "HTTPS-5",
        "not yet valid": "HTTPS-5",
        "self-signed": "HTTPS-5",
        "unknown CA": "HTTPS-5",
        "intermediate": "HTTPS-5",
        "chain without the intermediate": "HTTPS-5",
        "signed by a certificate that is no CA": "HTTPS-5",
        "common name only": ("HTTPS-6", "HTTP-3"),
        "common name beside another SAN": "HTTPS-7",
        "common name beside a SAN that is no DNS name": "HTTPS-7",
    }
)
@pytest.mark.parametrize(("context", "causes"), CERTIFICATES)
def test_certificate(world, context, causes):
    with certified(context)(Place(world.authority)) as host:
        check(world.fetch(host), causes)
    if causes:
        assert host.heads == [], "the request was sent in spite of the certificate"


@pytest.mark.requirement("HTTPS-1")
def test_certificate_of_an_internationalized_domain(world):
    with PolicyHost(page(), world.authority.server("*.xn--bcher-kva.example")) as host:
        check(world.fetch(host, domain="b\u00fccher.example"), [])
    assert host.server_names == ["mta-sts.xn--bcher-kva.example"]


VERSIONS = [
    row("TLS 1.2", ssl.TLSVersion.TLSv1_2),
    row("TLS 1.3", ssl.TLSVersion.TLSv1_3),
]


@pytest.mark.requirement("HTTPS-8")
@pytest.mark.parametrize(("version", "causes"), VERSIONS)
def test_tls_version(world, version, causes):
    context = world.context()
    context.minimum_version = context.maximum_version = version
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), causes)


CLIENT_CERTIFICATES = [
    row("asked for", ssl.CERT_OPTIONAL),
    row("insisted on", ssl.CERT_REQUIRED, Cause.TLS, Cause.HTTP),
]


@pytest.mark.requirement("HTTPS-19")
@pytest.mark.parametrize(("mode", "causes"), CLIENT_CERTIFICATES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate(world, version, mode, causes):
    context = world.context()
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(world.authority.bundle)
    context.verify_mode = mode
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), causes)


@pytest.mark.requirement("HTTPS-19")
@pytest.mark.parametrize(("script", "causes"), NO_TLS + HANDSHAKES)
def test_no_tls(world, script, causes):
    with Listener(script) as listener:
        result = world.fetch(listener)
    check(result, causes)
    assert result.detail, "a failure without a word of why"


# What is asked


def fields(request: bytes) -> dict[str, str]:
    lines = request.decode("ascii").split("\r\n")[1:-2]
    pairs = [line.split(": ", 1) for line in lines]
    assert len(pairs) == len({name.lower() for name, _ in pairs}), "a field twice"
    return {name.lower(): value for name, value in pairs}


@pytest.mark.requirement("HTTPS-1", "HTTPS-9", "HTTPS-10", "HTTP-9", "HTTP-19")
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


@pytest.mark.requirement("HTTPS-1")
def test_name_in_any_form_asks_for_the_a_label(world):
    with PolicyHost(page(), world.authority.server("mta-sts.xn--bcher-kva.example")) as host:
        check(world.fetch(host, domain="B\u00dcCHER.Example."), [])
    assert fields(host.heads[0])["host"] == "mta-sts.xn--bcher-kva.example"
    assert host.server_names == ["mta-sts.xn--bcher-kva.example"]


@pytest.mark.requirement("HTTPS-19")
def test_http_2_is_not_offered(world):
    context = world.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with PolicyHost(page(), context) as host:
        check(world.fetch(host), [])
    assert host.alpn[0] in (None, "http/1.1")


@pytest.mark.requirement("HTTPS-10", "HTTPS-11", "HTTP-19")
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


@pytest.mark.requirement("HTTPS-11", "HTTP-18")
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


@pytest.mark.requirement("HTTP-2")
def test_bundle_that_comes_with_requests_is_no_ca_store(world, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).bundle))
    for module in ("certs", "utils", "adapters"):
        name = f"requests.{module}.DEFAULT_CA_BUNDLE_PATH"
        monkeypatch.setattr(name, str(world.authority.bundle), raising=False)
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CERTIFICATE])


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize("why", ["empty", "no certificate", "missing"])
def test_without_ca_certificates_no_policy_host_is_blamed(world, tmp_path, monkeypatch, why):
    bundle = tmp_path / "bundle"
    if why != "missing":
        bundle.write_text("" if why == "empty" else "# all distrusted\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    with world.host(page()) as host:
        failure = world.fetch(host)
        assert failure == Failure(Cause.CA_STORE, f"none in {bundle} and {tmp_path / 'none'}")
        assert host.connections == 0


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


@pytest.mark.requirement(
    {
        "no answer": "HTTP-7",
    }
)
@pytest.mark.parametrize(("behaviour", "causes"), NO_ADDRESSES)
def test_no_address(world, zone, behaviour, causes):
    zone["mta-sts.example.com A"] = zone["mta-sts.example.com AAAA"] = behaviour
    with world.host(page()) as host:
        check(world.fetch(host, SLOW), causes)
    assert host.connections == 0


@pytest.mark.requirement("HTTPS-9", "HTTP-9")
def test_alias_keeps_the_name(world, zone):
    zone["mta-sts.example.com A"] = alias(
        "policy.example.net.", "host.example.org.", then=addresses("127.0.0.1")
    )
    with world.host(page()) as host:
        check(world.fetch(host), [])
    assert host.server_names == [HOST]
    assert fields(host.heads[0])["host"] == HOST


@pytest.mark.requirement("HTTPS-18")
def test_refused(world):
    with world.host(page()) as host:
        pass
    check(world.fetch(host), [Cause.CONNECT])


@pytest.mark.requirement("HTTPS-18")
def test_refused_then_accepted(world, zone):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3", "127.0.0.4", "127.0.0.2")
    with world.host(page(), "127.0.0.2") as host:
        check(world.fetch(host), [])


AAAA_NOT_TO_BE_HAD = [
    row("SERVFAIL", code("SERVFAIL"), Cause.CONNECT, Cause.ADDRESS),
    row("silence", no_answer, Cause.CONNECT, Cause.ADDRESS, Cause.DEADLINE),
]


@pytest.mark.requirement("HTTPS-18")
@pytest.mark.parametrize(("behaviour", "causes"), AAAA_NOT_TO_BE_HAD)
def test_refused_and_no_more_to_try(world, zone, behaviour, causes):
    zone["mta-sts.example.com A"] = addresses("127.0.0.3")
    zone["mta-sts.example.com AAAA"] = behaviour
    with world.host(page()) as host:
        check(world.fetch(host, SLOW), causes)


@pytest.mark.requirement("HTTPS-18")
def test_many_addresses_and_none_answers(world, zone):
    zone["mta-sts.example.com A"] = addresses(*(f"127.0.1.{n}" for n in range(1, 190)))
    with world.host(page()) as host:
        check(world.fetch(host), [Cause.CONNECT])


@pytest.mark.requirement("HTTP-8")
@pytest.mark.parametrize("holes", [1, 2, 3])
def test_black_holes_leave_time_for_the_next_address(world, zone, holes):
    dark = [f"127.0.0.{number}" for number in range(3, 3 + holes)]
    zone["mta-sts.example.com A"] = addresses(*dark, "127.0.0.2")
    with world.host(page(), "127.0.0.2") as host, contextlib.ExitStack() as stack:
        for address in dark:
            stack.enter_context(BlackHole(address, host.port))
        check(world.fetch(host, SLOW), [])


@pytest.mark.requirement("HTTP-8")
@pytest.mark.parametrize("holes", [1, 5])
def test_nothing_but_black_holes(world, zone, holes):
    dark = [f"127.0.0.{number}" for number in range(3, 3 + holes)]
    zone["mta-sts.example.com A"] = addresses(*dark)
    with world.host(page()) as host, contextlib.ExitStack() as stack:
        for address in dark:
            stack.enter_context(BlackHole(address, host.port))
        check(world.fetch(host, SLOW), [Cause.CONNECT, Cause.DEADLINE])
    assert host.connections == 0


@pytest.mark.requirement("HTTPS-18")
@needs_ipv6
def test_only_ipv6(world, zone):
    zone["mta-sts.example.com A"] = nodata()
    zone["mta-sts.example.com AAAA"] = addresses("::1")
    with world.host(page(), "::1") as host:
        check(world.fetch(host), [])


# What stays behind


@pytest.mark.requirement("HTTP-19")
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
        certified(lambda place: place.authority.server("other.example")),
    ]
    before = count()
    for start in starts:
        with start(Place(world.authority)) as listener:
            world.fetch(listener)
    with world.host(raw(LENGTH, Ending.OPEN)) as host:
        world.fetch(host, 0.2)
    assert count() == before
