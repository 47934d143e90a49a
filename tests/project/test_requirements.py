"""Requirements of docs/conformance.rst that no other test holds, each small."""

from __future__ import annotations

import configparser
import contextlib
import errno
import resource
import select
import socket
import sqlite3
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from stsresolver.config.settings import Zone
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.mta_sts.results import Cause
from stsresolver.net import file_changes
from stsresolver.net.ca_store import CaStore
from stsresolver.policies.in_force import InForce
from stsresolver.socketmap import idle_limits, server
from stsresolver.socketmap.answer import Answers
from stsresolver.socketmap.listeners import listen_tcp, listen_unix
from stsresolver.socketmap.netstring import MAX_REPLY, cut
from stsresolver.stores.sqlite_file import Database
from tests.support.authority import Authority

CHECKOUT = Path(__file__).resolve().parents[2]

# RFC 8460 §4.3


TLSRPT = {
    Cause.CERTIFICATE: "sts-webpki-invalid",
    Cause.SYNTAX: "sts-policy-invalid",
}


@pytest.mark.requirement("APPLY-11")
@pytest.mark.parametrize("cause", Cause)
def test_result_type_of_a_tls_report(cause):
    assert cause.tlsrpt == TLSRPT.get(cause, "sts-policy-fetch-error")


# RFC 8461 §2


@pytest.mark.requirement("APPLY-1")
def test_administrators_are_told_that_dane_is_overridden():
    """Where DANE is not looked at, an administrator must know, and know what to do."""
    page = " ".join((CHECKOUT / "docs" / "postfix.rst").read_text(encoding="utf-8").split())
    assert "After an answer ``secure`` Postfix does not look at TLSA records" in page
    assert "switch on ``dane`` in the zone" in page


# Postfix


@pytest.mark.requirement("WIRE-11")
def test_idle_connection_outlives_postfix_looking_at_its_timers():
    """smtp(8) looks at them between deliveries only, and may be quiet for minutes."""
    assert idle_limits.CROWDED_LIMIT >= 120


@pytest.mark.requirement("WIRE-8")
def test_answer_comes_while_postfix_is_patient():
    """The line for a worker, DNS and HTTPS, one after the other, with the built-in values."""
    assert 2 * Zone().timeout < server.ANSWER_LIMIT <= 20


# More than Python's own backlog of 128, and than Postfix's 200 processes.
AT_ONCE = 400


@pytest.mark.requirement("WIRE-12")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_every_process_of_postfix_may_connect_at_once(kind, tmp_path):
    """They wait in the backlog: nobody accepts them here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    if somaxconn < AT_ONCE or soft < AT_ONCE + 100:
        pytest.skip(f"needs somaxconn {AT_ONCE} and {AT_ONCE + 100} open files of {soft}, {hard}")
    with contextlib.ExitStack() as stack:
        if kind == "tcp":
            (listener,) = listen_tcp("127.0.0.1", 0, reuse_port=False)
        else:
            listener = listen_unix(str(tmp_path / "socket"), None)
        stack.enter_context(listener)
        clients = []
        for _ in range(AT_ONCE):
            client = stack.enter_context(socket.socket(listener.family))
            client.setblocking(False)
            # EINPROGRESS for TCP; EAGAIN from a UNIX socket whose backlog is full.
            assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
            clients.append(client)
        poll = select.poll()
        for client in clients:
            poll.register(client, select.POLLOUT)
        # A dropped SYN is sent again after a second.
        assert len(poll.poll(500)) == AT_ONCE


class Everywhere:
    """Policies: one for every domain."""

    changes = 0
    policy = parse_policy(b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: mail.example.com\n")

    def ask(self, domain, timeout, answer):
        answer(InForce(self.policy, 0.0, 0))


@pytest.mark.requirement("ANSWER-7")
@pytest.mark.parametrize(
    ("next_hop", "domain"),
    [
        ("Example.COM.", "example.com"),
        ("[example.com]:587", "example.com"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example.", "xn--strae-oqa.example"),
    ],
)
def test_policy_domain_attribute_is_the_a_label(next_hop, domain):
    replies = []
    answers = Answers(Everywhere(), Zone(tlsrpt=True), {})
    answers.look_up(f"postfix {next_hop}".encode(), replies.append)
    text, _ = cut(replies[0].data, limit=MAX_REPLY)
    assert f" policy_domain={domain} ".encode() in text
    assert b"policy_ttl" not in text
    assert b"policy_failure" not in text


# Libraries


@pytest.mark.requirement("HTTP-1")
def test_tls_context_is_built_once(tmp_path, monkeypatch):
    """To load the CA certificates takes tens of milliseconds of computing."""
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    trust = CaStore()
    first = trust.context()
    assert trust.context() is first
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    assert trust.context() is not first


@pytest.mark.requirement("LIB-9")
def test_every_connection_to_sqlite_waits_and_uses_wal(tmp_path):
    database = Database(
        tmp_path / "cache.db",
        threads=2,
        timeout=3.5,
        application=7,
        version=1,
        migrate=lambda connection, _: connection.execute("CREATE TABLE x (y)"),
    )
    with contextlib.closing(database), database.connection() as one, database.connection() as two:
        for connection in (one, two):
            assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (1,), "NORMAL"
            assert connection.execute("PRAGMA busy_timeout").fetchone() == (3500,)


@pytest.mark.requirement("LIB-10")
def test_connection_to_sqlite_whose_write_failed_is_replaced(tmp_path):
    """With one connection at most, the next user gets one without an open transaction."""
    database = Database(
        tmp_path / "cache.db",
        threads=1,
        timeout=1.0,
        application=7,
        version=1,
        migrate=lambda connection, _: connection.execute("CREATE TABLE x (y)"),
    )
    with contextlib.closing(database):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), database.transaction() as connection:
                connection.execute("INSERT INTO x VALUES (1)")
                failed = connection
                raise ZeroDivisionError
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                failed.execute("SELECT 1")
        with database.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM x").fetchone() == (0,)


# Debian 12's packages; the first PyYAML that builds on Python 3.12.
OLDEST = [
    ("3.11", "cachetools", "5.2.0"),
    ("3.11", "dnspython", "2.3.0"),
    ("3.11", "idna", "3.3"),
    ("3.11", "PyYAML", "6.0"),
    ("3.12", "PyYAML", "6.0.1"),
    ("3.13", "PyYAML", "6.0.1"),
    ("3.11", "requests", "2.28.1"),
]


@pytest.mark.requirement("LIB-19")
@pytest.mark.parametrize(("python", "package", "oldest"), OLDEST)
def test_oldest_version_that_is_accepted(python, package, oldest):
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lines = parser["options"]["install_requires"].split("\n")
    ours = [Requirement(line) for line in lines if line.strip()]
    assert {one.name for one in ours} == {name for _, name, _ in OLDEST}, "no other dependency"
    floors = [
        Version(specifier.version)
        for one in ours
        if one.name == package
        and (one.marker is None or one.marker.evaluate({"python_version": python}))
        for specifier in one.specifier
        if specifier.operator == ">="
    ]
    assert max(floors) == Version(oldest)


def test_the_oldest_versions_that_ci_tries_are_those_that_are_accepted():
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    extras = parser["options.extras_require"]
    lists = (
        parser["options"]["install_requires"],
        *map(extras.get, ("redis", "postgres", "metrics", "test")),
    )
    ours = [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]
    lines = (CHECKOUT / ".ci" / "oldest.txt").read_text(encoding="utf-8").split("\n")
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    tried = {pin.name: {Version(one.version) for one in pin.specifier} for pin in pins}
    # That of requests.
    assert tried.pop("urllib3")
    assert tried == {
        one.name: {Version(specifier.version) for specifier in one.specifier}
        for one in ours
        if one.specifier and (one.marker is None or one.marker.evaluate({"python_version": "3.11"}))
    }
