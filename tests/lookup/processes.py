"""Resolver processes for the tests of this room: what they are asked, and what to see of them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from stsresolver.lookup.supervisor import ResolverProcess
from stsresolver.mta_sts.policy import MAX_POLICY_SIZE
from tests.support.hostile_dns import Behaviour, NameServer, Piece, Query, txt
from tests.support.hostile_https import PolicyHost, head, page, raw
from tests.support.socketmap_client import wait_for

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 2.0
NAMES = 8
SLOW = txt("v=STSv1; id=slow")
LARGE = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"
LARGE += 'x:"\\é\u2028🦀"\n'.encode() * ((MAX_POLICY_SIZE - len(LARGE)) // 16)


def reply(request: bytes):
    """Give example.com a policy; the others, by the domain's own number."""
    name = re.search(rb"Host: mta-sts\.(.*)\r\n", request)[1]
    if name == b"0.example":
        return raw(head(status="404 Not Found"), b"")(request)
    if name == b"1.example":
        return page(LARGE)(request)
    return page()(request)


def once(condition: Callable[[], object], then: Behaviour) -> Behaviour:
    """Answer like `then` as soon as a condition is true, and never if it does not become true."""

    def behave(query: Query) -> Iterator[Piece]:
        while not condition():
            yield 0.002
        yield from then(query)

    return behave


def never() -> bool:
    return False


class Served:
    """A name server and a policy host. `settings`: what a resolver has to know of them."""

    def __init__(self, dns: NameServer, host: PolicyHost, resolv_conf: Path) -> None:
        self.dns = dns
        self.host = host
        self.resolv_conf = resolv_conf
        self.settings = {
            "resolv_conf": str(resolv_conf),
            "dns_port": dns.port,
            "https_port": host.port,
        }


def sockets_to_children() -> list[str]:
    """Return the sockets of this process that are of the kind it talks to its child over."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    kinds = {f"socket:[{fields[6]}]": fields[4] for fields in map(str.split, lines)}
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [one for one in found if kinds.get(one) == "0005"]


# The real program, by `child.main`: it is given the settings that `child` has read.
IN_PLACE = """
daemon.detach()
from stsresolver.lookup import child
class Again:
    def __init__(self, one):
        self.one, self.first = one, settings
    def recv(self, size):
        return self.first
    def recv_into(self, buffer):
        return self.one.recv_into(buffer)
    def send(self, data):
        return self.one.send(data)
    def fileno(self):
        return self.one.fileno()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.one.close()
class sockets:
    socket = staticmethod(lambda fileno: Again(socket.socket(fileno=fileno)))
child.socket = sockets
"""


# Children of this process that other tests have started.
others: frozenset[str] = frozenset()


def children() -> list[str]:
    """The process ids of our children that the test has started."""
    return [pid for pid in all_children() if pid not in others]


def all_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() + [
        pid
        for task in os.listdir("/proc/self/task")
        if task != str(os.getpid())
        for pid in _children_of(task)
    ]


def _children_of(task: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/task/{task}/children").read_text().split()
    return []


def pid_of(process: ResolverProcess) -> int:
    """Wait for the process, and return its id."""
    wait_for(lambda: process.pid is not None, "a resolver process")
    return process.pid


def state(pid: int) -> str:
    """Return the state letter of a process, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def ready(process: ResolverProcess) -> int:
    """Wait until the process listens, and return its id."""
    wait_for(lambda: process.ready, "its first word")
    return pid_of(process)


def logged(caplog, text: str) -> Callable[[], bool]:
    return lambda: any(text in record.getMessage() for record in list(caplog.records))


def errors(caplog) -> list[str]:
    found = (record for record in caplog.records if record.levelno >= logging.ERROR)
    return [record.getMessage() for record in found]
