"""Resolver processes for the tests of this room, and servers on loopback for what they look up.

`process` makes one, `pool` what the daemon has, `served` is a name server and a policy host, and
`child` starts a program of the test in the place of `stsresolver.lookup.child`.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import stsresolver
from stsresolver.lookup import resolver_process
from stsresolver.lookup.messages import MAX_MESSAGE
from stsresolver.lookup.pool import ResolverPool
from stsresolver.lookup.supervisor import ResolverProcess, Watch
from tests.lookup import processes
from tests.lookup.processes import NAMES, ROOT, Served, children, reply, sockets_to_children
from tests.support.hostile_dns import NameServer, addresses, code, nodata, txt
from tests.support.hostile_https import PolicyHost


@pytest.fixture(autouse=True)
def _others(monkeypatch):
    monkeypatch.setattr(processes, "others", frozenset(processes.all_children()))


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.server(
        "mta-sts.example.com", *(f"mta-sts.{n}.example" for n in range(4 * NAMES))
    )


@pytest.fixture
def served(tmp_path, certificate) -> Iterator[Served]:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    zone = {f"_mta-sts.{n}.example TXT": txt(f"v=STSv1; id={n}") for n in range(4 * NAMES)}
    zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=1")
    zone["_mta-sts.none.example TXT"] = nodata(ttl=600, minimum=600)
    zone["_mta-sts.bad.example TXT"] = txt("v=STSv1; no id")
    zone["_mta-sts.two.example TXT"] = txt("v=STSv1; id=1", "v=STSv1; id=2")
    zone["_mta-sts.broken.example TXT"] = code("SERVFAIL")
    zone["mta-sts.none.example A"] = nodata()
    with (
        NameServer(zone, otherwise=addresses("127.0.0.1")) as dns,
        PolicyHost(reply, certificate) as host,
    ):
        yield Served(dns, host, resolv_conf)


@pytest.fixture
def ending(caplog) -> Iterator[list[ResolverProcess | ResolverPool]]:
    """Return the list of what is to end with the test, and to leave nothing behind."""
    caplog.set_level(logging.DEBUG, "stsresolver")
    before = children()
    running: list[ResolverProcess | ResolverPool] = []
    yield running
    for one in running:
        one.close()
        assert one.pid is None
    assert children() == before, "nobody is left, not even unreaped"
    assert sockets_to_children() == []
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.fixture
def process(ending) -> Callable[..., ResolverProcess]:
    """Return what starts a process."""

    def begin(settings: dict[str, object] | None = None, **more: Watch) -> ResolverProcess:
        one = ResolverProcess(settings or {}, **more)
        ending.append(one)
        one.start()
        return one

    return begin


@pytest.fixture
def pool(ending) -> Callable[..., ResolverPool]:
    """Return what starts a pool of processes."""

    def begin(settings: dict[str, object] | None = None) -> ResolverPool:
        one = ResolverPool(settings or {})
        ending.append(one)
        one.start()
        return one

    return begin


@pytest.fixture
def child(monkeypatch, tmp_path) -> Callable[[str], None]:
    """Return what has a program of the test's started as the process; `daemon` is its socket."""

    def begin(program: str) -> None:
        # What it may need: the daemon's messages by and by.
        program = f"""
import socket, os, signal, sys, json
sys.path.insert(0, {str(ROOT)!r})
daemon = socket.socket(fileno=0)
settings = daemon.recv({MAX_MESSAGE})
def say(*message):
    daemon.send(json.dumps(message).encode())
def hello():
    say(0, "hello", {stsresolver.__version__!r})
packet = []
def asked():
    if not packet:
        packet.extend((daemon.recv({MAX_MESSAGE}) or b"null").split(b"\\n"))
    return json.loads(packet.pop(0)) or os._exit(0)
def hang():
    while True:
        signal.pause()
{program}
"""

        def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
            file = tmp_path / "child.py"
            file.write_text(program)
            command = [sys.executable, "-P", file]
            return subprocess.Popen(command, stdin=theirs.fileno(), process_group=0)

        monkeypatch.setattr(resolver_process, "spawn", spawn)

    return begin
