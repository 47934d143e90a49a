"""Any text that a stranger may write: it is shown in printable ASCII, and nothing is raised."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsresolver import Cause, Failure
from stsresolver.inspection.asking import explained
from stsresolver.inspection.certificate import from_der
from stsresolver.inspection.findings import Certificate, MailHost, Probe
from stsresolver.inspection.judgement import judged
from stsresolver.inspection.screen import WIDTH, Paint, reply_screen, screen, shown
from stsresolver.inspection.smtp import SmtpError, _reply
from stsresolver.inspection.target import parse_target
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.net.domain_names import is_host_name
from stsresolver.net.steps import run
from tests.support.hostile_text import SETTINGS, texts
from tests.support.inspections import NOW, inspection

PLAIN = Paint(on=False)
written = st.text() | texts
# Parts of replies, right and wrong.
parts = st.binary(min_size=1) | st.sampled_from([b"220", b"-", b" a", b"\r\n", b"250 x\n"])


def is_plain(lines: list[str]) -> bool:
    return all(one.isascii() and one.isprintable() and len(one) <= WIDTH for one in lines)


@SETTINGS
@given(written)
def test_target(text):
    try:
        found = parse_target(text)
    except ValueError as error:
        assert str(error).startswith("no domain name, address or next hop: ")
        assert str(error).isascii()
    else:
        assert isinstance(found, NextHop)
        assert is_host_name(found.domain)


@SETTINGS
@given(text=written, number=st.floats(0, 4e9), days=st.integers(-400, 400))
def test_screen(text, number, days):
    seen = inspection(Failure(Cause.SYNTAX, text, "1"), texts=(text, "v=STSv1; id=1"), text=text)
    certificate = Certificate((text, "a.org"), text, NOW + days * 86_400)
    host = MailHost(text or "a", 10, None, Probe(False, text, "TLSv1.3", "::1", certificate, True))
    seen = judged(
        replace(
            seen,
            mx=(host, host),
            mx_failure=text,
            port=text,
            seconds=number,
            policy_host=replace(seen.policy_host, certificate=certificate, media_type=text),
        )
    )
    assert is_plain(list(screen(seen, PLAIN)))
    assert is_plain(list(screen(seen, PLAIN, verbose=True)))


@SETTINGS
@given(written | written.map(lambda text: f"OK secure {text}"))
def test_reply_of_a_daemon(reply):
    verdict, means, status = explained(reply, "example.com")
    assert status in (0, 1, 2)
    assert is_plain(list(reply_screen("a:1", reply, means, verdict, 0.1, PLAIN)))
    assert shown(verdict).isprintable()


class Stream:
    """Gives what it was made with, in pieces, and then an end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [*pieces, b""]

    def recv(self, _size: int):
        return self._pieces.pop(0)
        yield


@SETTINGS
@given(
    st.lists(st.binary(min_size=1) | st.sampled_from([b"220", b"-", b" a", b"\r\n", b"250 x\n"]))
)
def test_reply_of_an_mx_host(pieces):
    try:
        code, lines = run(_reply(Stream(pieces)))
    except SmtpError:
        return
    assert 200 <= code < 600
    assert lines


@SETTINGS
@given(st.binary())
def test_certificate(data):
    assert from_der(data) is None


@pytest.mark.parametrize("text", list("\x00\udcff\U0010ffff\x7f\x85\u2028\u202e"))
def test_character(text):
    assert shown(text).isascii()
    assert shown(text).isprintable()
