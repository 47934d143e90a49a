"""TLS over a socket that keeps to a deadline: what a step raises, and how much it reads."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from stsresolver.net.steps import clock, run
from stsresolver.net.tls import TooMuch
from tests.net.conftest import HOST
from tests.support.authority import Authority
from tests.support.hostile_handshakes import in_small_pieces
from tests.support.hostile_https import (
    Ending,
    Listener,
    PolicyHost,
    hang_up_after_hello,
    page,
    raw,
    say,
    say_for_ever,
)
from tests.support.hostile_tls_cases import HELLO_REQUESTS

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def received(tls) -> bytes:
    """Send a request; return everything that comes."""
    run(tls.sendall(REQUEST))
    data = b""
    while part := run(tls.recv(65536)):
        data += part
    return data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_ways(handshake, authority, version):
    context = authority.server(HOST)
    context.minimum_version = context.maximum_version = version
    with PolicyHost(raw(b"one ", b"two"), context) as server:
        tls = handshake(server)
        assert received(tls) == b"one two"
        assert tls.version == version.name.replace("_", ".")
    assert server.heads == [REQUEST]


# WHAT IT RAISES


def test_a_certificate_that_is_not_valid(handshake, authority, tmp_path):
    with (
        PolicyHost(page(), Authority(tmp_path).server(HOST)) as server,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        handshake(server)


@pytest.mark.parametrize("script", [say(b"no TLS\r\n"), hang_up_after_hello])
def test_no_handshake(handshake, script):
    with Listener(script) as server, pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_end_that_is_not_of_tls(handshake, authority, version):
    context = authority.server(HOST)
    context.maximum_version = version
    with (
        PolicyHost(raw(b"x", Ending.CUT), context) as server,
        pytest.raises(ssl.SSLError, match=r"UNEXPECTED_EOF_WHILE_READING"),
    ):
        received(handshake(server))


def test_the_other_side_is_told_why(handshake, tmp_path):
    seen = []

    def script(connection: socket.socket, _stopped: threading.Event) -> None:
        context = Authority(tmp_path).server(HOST)
        with context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        ) as tls:
            try:
                tls.do_handshake()
                tls.recv(1)
            except ssl.SSLError as error:
                seen.append(error.reason)

    with Listener(script) as server, pytest.raises(ssl.SSLCertVerificationError):
        handshake(server)
    assert seen == ["TLSV1_ALERT_UNKNOWN_CA"]


# HOW MUCH IT READS


def test_what_is_read_has_a_bound(handshake, authority):
    with PolicyHost(raw(b"x" * 100_000), authority.server(HOST)) as server:
        assert len(received(handshake(server))) == 100_000
        with pytest.raises(TooMuch, match="more than 100000 bytes"):
            received(handshake(server, most=100_000))


def test_a_handshake_has_a_lower_one(handshake):
    with (
        Listener(say_for_ever(HELLO_REQUESTS)) as server,
        pytest.raises(TooMuch, match="more than 60000 bytes"),
    ):
        handshake(server)


def test_a_turn_takes_no_more_than_an_honest_host_sends(handshake, authority):
    """What is computed for chunks of one byte would delay the lookups of others."""
    with PolicyHost(raw(b"x" * 100_000), authority.server(HOST)) as server:
        tls = handshake(server)
        run(tls.sendall(REQUEST))
        turns = []
        while part := run(counted(tls.recv(65536), turns)):
            assert part == b"x" * len(part)
    assert sum(turns) > 100_000
    assert max(turns) <= 2048


def counted(steps, turns):
    """Take steps, and append the bytes that each received."""
    came = None
    while True:
        clock.received = 0
        try:
            wait = steps.send(came)
        except StopIteration as end:
            return end.value
        finally:
            turns.append(clock.received)
        came = yield wait


@pytest.mark.requirement("HTTP-22")
def test_a_read_counts_however_little_it_brings(handshake):
    """Byte by byte a server would have us compute for as long as it likes."""
    with (
        Listener(in_small_pieces) as server,
        pytest.raises(TooMuch, match="more than 60000 bytes"),
    ):
        handshake(server)
