"""A question over socketmap: where it goes, and what each reply means."""

from __future__ import annotations

import socket
import threading

import pytest

from stsresolver.inspection.asking import AskError, Place, ask, explained, parse_place
from stsresolver.socketmap.netstring import MAX_REPLY, encode
from tests.support.hostile_https import Listener, silence

PLACES = [
    ("127.0.0.1:8461", Place(host="127.0.0.1", port=8461)),
    ("localhost:8461", Place(host="localhost", port=8461)),
    ("[::1]:8461", Place(host="::1", port=8461)),
    ("unix:/run/mta-sts/socket", Place("/run/mta-sts/socket")),
    ("socketmap:inet:127.0.0.1:8461", Place(host="127.0.0.1", port=8461)),
    ("socketmap:unix:private/socket", Place("private/socket")),
]


@pytest.mark.parametrize(("text", "place"), PLACES)
def test_place(text, place):
    assert parse_place(text) == place
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("text", ["", "8461", "unix:", ":8461", "a:0", "a:65536", "::1:1", "a b:1"])
def test_no_place(text):
    with pytest.raises(ValueError, match="neither HOST:PORT nor unix:PATH: "):
        parse_place(text)


SECURE = "OK secure match=mail.example.com:.example.net servername=hostname"
LONG = f"{SECURE} policy_type=sts policy_domain=a.org {{ policy_string = x: match=evil.org }}"
REPLIES = [
    (SECURE, 0, "goes only over verified TLS", "mail.example.com, any name below example.net"),
    (LONG, 0, "goes only over verified TLS", "the MX host must match an mx pattern"),
    ("OK dane-only", 0, "goes only over TLS that DANE verifies", "RFC 7672"),
    ("OK may", 0, "goes at level may", "no answer that this daemon gives"),
    ("NOTFOUND ", 1, "goes as without a policy", "Postfix's own settings apply"),
    ("TEMP ", 2, "waits in the queue, and Postfix asks again", "could not find out yet"),
    ("TEMP no CPU", 2, "waits in the queue, and Postfix asks again", "in its words: no CPU"),
    ("TIMEOUT ", 2, "waits in the queue, and Postfix asks again", "could not find out yet"),
    ("PERM ", 2, "waits in the queue", "did not understand"),
    ("", 2, "waits in the queue", "no reply of a socketmap server"),
    ("HTTP/1.1 400", 2, "waits in the queue", "no reply of a socketmap server"),
]


@pytest.mark.parametrize(("reply", "status", "verdict", "meaning"), REPLIES)
def test_reply(reply, status, verdict, meaning):
    found, means, ends = explained(reply, "example.com")
    assert (found, ends) == (f"mail to example.com {verdict}", status)
    assert meaning in " ".join(means)
    assert "evil.org" not in " ".join(means)


def answering(*pieces: bytes):
    """Return a script that takes a question, and sends these pieces."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        asked.append(connection.recv(65536))
        for piece in pieces:
            connection.sendall(piece)

    asked: list[bytes] = []
    script.asked = asked
    return script


def test_question_is_postfixs():
    script = answering(b"11:NOTFOUND a", b"b,")
    with Listener(script) as listener:
        place = Place(host="127.0.0.1", port=listener.port)
        assert ask(place, "postfix", "[relay.example.net]:587", 5) == "NOTFOUND ab"
    assert script.asked == [b"31:postfix [relay.example.net]:587,"]


def test_any_bytes_of_an_argument_are_sent():
    script = answering(b"9:NOTFOUND ,")
    with Listener(script) as listener:
        assert ask(Place(host="127.0.0.1", port=listener.port), "z", "\udcff\u00fc", 5)
    assert script.asked == [b"5:z \xff\xc3\xbc,"]


def test_longest_reply():
    reply = "OK " + "x" * (MAX_REPLY - 3)
    with Listener(answering(encode(reply.encode()))) as listener:
        assert ask(Place(host="localhost", port=listener.port), "z", "a.org", 5) == reply


WRONG = [
    (answering(), "it closed the connection without an answer"),
    (silence, "nothing came in time"),
    (answering(b"SSH-2.0-OpenSSH\r\n"), "no netstring: b'SSH-2.0-OpenSSH\\r"),
    (answering(b"999999:"), "a netstring of 999999 bytes"),
    (answering(b"3:abcd"), "a netstring without its final comma"),
]


@pytest.mark.parametrize(("script", "why"), WRONG)
def test_no_reply(script, why):
    with Listener(script) as listener:
        place = Place(host="127.0.0.1", port=listener.port)
        with pytest.raises(AskError) as error:
            ask(place, "postfix", "example.com", 0.3)
    assert str(error.value).startswith(f"no answer from 127.0.0.1:{listener.port}: {why}")


def test_nobody_listens(tmp_path):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(AskError, match="Connection refused"):
            ask(Place(host="127.0.0.1", port=bound.getsockname()[1]), "postfix", "a.org")
    with pytest.raises(AskError, match="No such file or directory"):
        ask(Place(str(tmp_path / "socket")), "postfix", "a.org")
    with pytest.raises(AskError, match="no answer from unix:/x"):
        ask(Place("/" + "x" * 200), "postfix", "a.org")
