"""A whole daemon, a name server and policy hosts for it on loopback, and clients that ask.

The daemon is a real process with a real resolver process. `World` says what works.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.crowd import Crowd
from tests.support.hostile_dns import NameServer, Query, addresses, code, txt
from tests.support.hostile_https import PolicyHost, page
from tests.support.socketmap_client import Address, Client, wait_for

ROOT = Path(__file__).parent.parent.parent
KNOWN = [f"known-{number}.example" for number in range(8)]
SHORT = "short.example"
NOT_FOUND, TEMP = b"NOTFOUND ", b"TEMP "

# The daemon, with its resolver process sent to our servers. argv[1]: its settings;
# argv[2]: what to run before; then the daemon's arguments.
PROGRAM = """
import json, os, sys
from stsresolver.lookup import supervisor
settings = json.loads(sys.argv[1])
made = supervisor.ResolverProcess.__init__
def make(self, resolver, *others, **named):
    made(self, {**resolver, **settings}, *others, **named)
supervisor.ResolverProcess.__init__ = make
# The clock of tests is for the daemon alone.
os.environ.pop("LD_PRELOAD", None)
exec(sys.argv[2])
from stsresolver.daemon import main
sys.exit(main(sys.argv[3:]))
"""


class World:
    """The name server and the policy hosts of `*.example`. What is in `faults` does not work.

    dns: no answer comes; servfail: none that helps; https: no connection is taken. A domain
    `hang-*` is never answered, and `none-*` does not exist; every other one has a policy,
    `short.example` for 1000 seconds. Policies come `late` by so many seconds. `published`: the id
    and the text of other policies than the usual one, by domain.
    """

    def __init__(self, directory: Path, authority: Authority, stack: contextlib.ExitStack) -> None:
        self.faults: set[str] = set()
        self.late = 0.0
        self.published: dict[str, tuple[str, str]] = {}
        self.dns = stack.enter_context(NameServer(otherwise=self._answer))
        certificate = authority.server(
            *(f"mta-sts.{domain}" for domain in (*KNOWN, SHORT)),
            *(f"mta-sts.new-{number}.example" for number in range(400)),
        )
        self.host = stack.enter_context(PolicyHost(self._page, certificate))
        resolv_conf = directory / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\n")
        self.settings = {
            "resolv_conf": str(resolv_conf),
            "dns_port": self.dns.port,
            "https_port": self.host.port,
        }

    def _answer(self, query: Query) -> Iterable:
        name = query.name.to_text(omit_final_dot=True).lower()
        if "dns" in self.faults or "hang" in name:
            return []
        if "servfail" in self.faults:
            return code("SERVFAIL")(query)
        if "none" in name:
            return code("NXDOMAIN")(query)
        if name.startswith("_mta-sts."):
            policy_id, _ = self.published.get(name.removeprefix("_mta-sts."), ("1", ""))
            return txt(f"v=STSv1; id={policy_id}")(query)
        return addresses("127.0.0.2" if "https" in self.faults else "127.0.0.1")(query)

    def _page(self, request: bytes) -> Iterable:
        domain = re.search(rb"Host: mta-sts\.(.*)\r\n", request)[1].decode()
        age = 1000 if domain == SHORT else 604_800
        text = f"version: STSv1\nmode: enforce\nmx: mx.{domain}\nmax_age: {age}\n"
        _, text = self.published.get(domain, ("1", text))
        return itertools.chain([self.late], page(text.encode())(request))


@contextlib.contextmanager
def making_world(directory: Path) -> Iterator[World]:
    """Give a world whose certificates the daemons started meanwhile believe."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        authority = Authority(directory)
        patch.setenv("SSL_CERT_FILE", str(authority.bundle))
        patch.setenv("SSL_CERT_DIR", str(directory / "no-directory"))
        # A server of the tests lasts for twenty seconds, which these tests outlive.
        patch.setattr("tests.support.hostile_https._PATIENCE", 300.0)
        yield World(directory, authority, stack)


class Daemon:
    """A running daemon; `before` is run in it first."""

    def __init__(self, directory: Path, world: World, text: str, before: str = "", **environment):
        self.log = directory / "log"
        config = directory / "config.yml"
        config.write_text(text)
        command = [sys.executable, "-c", PROGRAM, json.dumps(world.settings), before]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", config, "-p", directory / "pid"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=os.environ | environment,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text()

    def address(self) -> Address:
        """Wait until it listens, and return where."""
        wait_for(self.says("listening on "), "the daemon to listen")
        host, _, port = re.findall("listening on (.*)", self.text)[-1].rpartition(":")
        return (host, int(port)) if port.isdigit() else f"{host}:{port}".removeprefix(":")

    def says(self, text: str, times: int = 1) -> Callable[[], bool]:
        def condition() -> bool:
            assert self.process.poll() in (None, 0), self.text
            return self.text.count(text) >= times

        return condition

    def children(self) -> list[int]:
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


def in_force(domain: str) -> bytes:
    return f"OK secure match=mx.{domain} servername=hostname".encode()


def word(reply: bytes) -> bytes:
    """Return a reply without the reason that `TEMP` has."""
    return TEMP if reply.startswith(TEMP) else reply


def learn(client: Client) -> None:
    """Have the daemon know the known domains."""

    def is_known(domain: str) -> bool:
        return client.ask(b"postfix " + domain.encode()) == in_force(domain)

    for domain in (*KNOWN, SHORT):
        wait_for(functools.partial(is_known, domain), domain)


class Load(Crowd):
    """Clients that ask until the end, for known domains and for new ones.

    A known domain must get its policy, a new one that, `NOTFOUND` or `TEMP`; each `within` seconds.
    """

    def __init__(self, address: Address, *, new: bool = True, within: float = 15.0) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._within = within
        self._address = address
        self._numbers = itertools.count()
        jobs = [self._ask_known] * 3 + [self._ask_new] * 3 * new
        super().__init__([functools.partial(self._run, job) for job in jobs])

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        assert self.wrong == []

    def more(self, number: int, kind: str = "known") -> None:
        """Wait for so many more answers."""
        until = self.answers[kind] + number
        wait_for(lambda: self.answers[kind] >= until or self.wrong, f"{number} {kind}")
        assert self.wrong == []

    def _run(self, job: Callable[[Client], tuple[str, bytes, Iterable[bytes]]]) -> None:
        try:
            with Client(self._address) as client:
                client.socket.settimeout(self._within)
                while not self.ended.is_set():
                    job(client)
        except (OSError, EOFError) as error:
            self.wrong.append(repr(error))

    def _ask_known(self, client: Client) -> None:
        domain = KNOWN[next(self._numbers) % len(KNOWN)]
        self._ask(client, "known", domain, [in_force(domain)])
        self.ended.wait(0.002)

    def _ask_new(self, client: Client) -> None:
        domain = f"new-{next(self._numbers) % 400}.example"
        self._ask(client, "new", domain, [in_force(domain), NOT_FOUND, TEMP])
        self.ended.wait(0.02)

    def _ask(self, client: Client, kind: str, domain: str, right: list[bytes]) -> None:
        began = time.monotonic()
        reply = word(client.ask(b"postfix " + domain.encode()))
        self.longest = max(self.longest, time.monotonic() - began)
        self.answers[kind] += 1
        if reply == in_force(domain):
            self.answers["policy"] += 1
        if reply not in right:
            self.wrong.append(f"{domain}: {reply!r}")


def recovered(address: Address) -> None:
    """Wait until a domain that nobody has asked for gets its policy."""
    numbers = itertools.count(399, -1)

    def is_found() -> bool:
        domain = f"new-{next(numbers)}.example"
        return client.ask(b"postfix " + domain.encode()) == in_force(domain)

    with Client(address) as client:
        wait_for(is_found, "the daemon to work as before")
