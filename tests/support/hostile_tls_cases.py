"""What policy hosts do wrong before a word of HTTP is said.

A case is a reason, a certificate or a script (`hostile_https`), and the causes that a fetch may end
in; without causes the policy is accepted.
"""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from stsresolver import Cause
from tests.support.authority import Authority, only_tls_1_1
from tests.support.hostile_https import (
    POLICY,
    half_handshake,
    hang_up,
    hang_up_after_hello,
    head,
    reset,
    say,
    say_for_ever,
    silence,
    slow_handshake,
    slow_record,
)
from tests.support.hostile_place import row, tcp


def with_tickets(context: ssl.SSLContext, number: int) -> ssl.SSLContext:
    """Make `context` send so many session tickets after the handshake (RFC 8446 §4.6.1)."""
    context.num_tickets = number
    return context


def intermediate(authority: Authority, **details) -> Authority:
    return Authority(authority._directory, issuer=authority, **details)


CERTIFICATES = [
    row("common name only", lambda p: p.authority.server(common_name=p.host), Cause.CERTIFICATE),
    row(
        "common name beside another SAN",
        lambda p: p.authority.server("other.example", common_name=p.host),
        Cause.CERTIFICATE,
    ),
    row(
        "common name beside a SAN that is no DNS name",
        lambda p: p.authority.server(x509.RFC822Name("postmaster@example.com"), common_name=p.host),
        Cause.CERTIFICATE,
    ),
    row("expired", lambda p: p.authority.server(p.host, days=(-2, -0.01)), Cause.CERTIFICATE),
    row("not yet valid", lambda p: p.authority.server(p.host, days=(0.01, 2)), Cause.CERTIFICATE),
    row("self-signed", lambda p: p.authority.server(p.host, self_signed=True), Cause.CERTIFICATE),
    row(
        "unknown CA", lambda p: Authority(p.authority._directory).server(p.host), Cause.CERTIFICATE
    ),
    row(
        "for clients only",
        lambda p: p.authority.server(p.host, usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        Cause.CERTIFICATE,
    ),
    row("intermediate", lambda p: intermediate(p.authority).server(p.host)),
    row("two intermediates", lambda p: intermediate(intermediate(p.authority)).server(p.host)),
    row(
        "chain without the intermediate",
        lambda p: intermediate(p.authority).server(p.host, whole_chain=False),
        Cause.CERTIFICATE,
    ),
    row(
        "expired intermediate",
        lambda p: intermediate(p.authority, days=(-2, -0.01)).server(p.host),
        Cause.CERTIFICATE,
    ),
    row(
        "signed by a certificate that is no CA",
        lambda p: intermediate(p.authority, is_ca=False).server(p.host),
        Cause.CERTIFICATE,
    ),
    row(
        "3,000 names, ours the last",
        lambda p: p.authority.server(*(f"n{n}.example" for n in range(3000)), p.host),
    ),
    row(
        "3,000 other names",
        lambda p: p.authority.server(*(f"n{n}.example" for n in range(3000))),
        Cause.CERTIFICATE,
    ),
    row(
        "200 kB of certificates that nobody needs",
        lambda p: p.authority.server(p.host, ballast=200_000),
        Cause.TLS,
    ),
    row("TLS 1.1 at the most", lambda p: only_tls_1_1(p.context()), Cause.TLS),
    row(
        "10,000 session tickets",
        lambda p: with_tickets(p.context(), 10_000),
        Cause.SIZE,
        Cause.DEADLINE,
    ),
]


# One record with 4,096 HelloRequests, which a client passes over while it waits for a ServerHello.
HELLO_REQUESTS = b"\x16\x03\x03\x40\x00" + b"\0" * 16384

NO_TLS = [
    row("plain HTTP on the port", say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Cause.TLS),
    row("an SMTP greeting", say(b"220 mail.example.com ESMTP\r\n"), Cause.TLS),
    row("an alert: handshake_failure", say(b"\x15\x03\x03\x00\x02\x02\x28"), Cause.TLS),
    row("an alert: unrecognized_name", say(b"\x15\x03\x03\x00\x02\x02\x70"), Cause.TLS),
    row("HelloRequests for ever (RFC 5246 §7.4.1.1)", say_for_ever(HELLO_REQUESTS), Cause.TLS),
    row("empty records for ever", say_for_ever(b"\x16\x03\x03\x00\x00" * 3000), Cause.TLS),
    row("warnings for ever", say_for_ever(b"\x15\x03\x03\x00\x02\x01\x5a" * 2000), Cause.TLS),
    row("zeros for ever", say_for_ever(b"\0" * 16384), Cause.TLS),
    row("an alert: protocol_version, in SSL 3.0", say(b"\x15\x03\x00\x00\x02\x02\x46"), Cause.TLS),
    row("closed at once", hang_up, Cause.TLS, Cause.CONNECT),
    row("reset at once", reset, Cause.TLS, Cause.CONNECT),
    row("closed after the ClientHello", hang_up_after_hello, Cause.TLS),
]


# What only the time limit ends: how to start it, by its reason.
LATE = {
    "TLS handshake never begins": tcp(silence),
    "TLS handshake, a byte a second": lambda place: place.listener(
        slow_handshake(place.context(), 1.0)
    ),
    "TLS handshake byte by byte": lambda place: place.listener(
        slow_handshake(place.context(), 0.3)
    ),
    "TLS handshake stops half-way": lambda place: place.listener(half_handshake(place.context())),
    "one TLS record byte by byte": lambda place: place.listener(
        slow_record(place.context(), head(f"Content-Length: {len(POLICY)}") + POLICY, 0.1)
    ),
}
