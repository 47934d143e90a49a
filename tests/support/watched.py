"""A whole service in this process, with its pages, and a resolver that says what it is told."""

from __future__ import annotations

import contextlib
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stsresolver import service
from stsresolver.config.keys import parse
from stsresolver.lookup import pool
from stsresolver.lookup.messages import FETCH, POLICY_ID, RESOLVE
from stsresolver.lookup.supervisor import ResolverProcess
from stsresolver.monitoring.http_server import PageServer
from stsresolver.monitoring.metrics import PROBES, pages
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.socketmap.listeners import listen_tcp
from stsresolver.socketmap.server import SocketmapServer
from stsresolver.status.overview import Reader
from stsresolver.status.pages import StatusPages
from tests.support.socketmap_client import DEADLINE, Client

SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-z_]+)="([^"]*)"')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Resolver(ResolverProcess):
    """Answers by the domain's first label; the process is there and is not asked.

    The name of a cause: that one, whether of the record or of the policy. held: once released, no
    record. Anything else: a policy of that mode, or one to be enforced.
    """

    released = threading.Event()

    def ask(self, what, domain, timeout, known_ids, done):
        word = domain.partition(".")[0].replace("-", "_").upper()
        if word != "HELD":
            done(self.result(what, word, known_ids))
            return True

        def answer():
            assert self.released.wait(DEADLINE), "nobody released it"
            done(NoPolicy(Cause.NO_RECORD))

        threading.Thread(target=answer).start()
        return True

    def flush(self):
        pass

    def result(self, what, word, known_ids):
        cause = Cause.__members__.get(word)
        if cause in (Cause.NO_RECORD, Cause.BAD_RECORD, Cause.SEVERAL_RECORDS):
            return NoPolicy(cause)
        if cause is not None and (what == FETCH or cause.by_record or cause is Cause.PROCESS):
            return Failure(cause)
        if what == POLICY_ID:
            return "1"
        if "1" in known_ids:
            return NotChanged("1")
        if cause is not None:
            return Failure(cause, id="1")
        mode = word.lower() if word in ("TESTING", "NONE") else "enforce"
        text = f"version: STSv1\nmode: {mode}\nmx: mail.example\nmax_age: 604800\n"
        policy = parse_policy(text.encode())
        return Found(policy, "1") if what == RESOLVE else policy


class Watched:
    """A service that runs. `port`: of its pages."""

    def __init__(self, text: str, *, process: bool) -> None:
        config = parse(text, "config")
        self._cleanup = contextlib.ExitStack()
        self.listener = listen_tcp("127.0.0.1", 0, reuse_port=False)[0]
        self.server = SocketmapServer([self.listener], workers=config.workers)
        self._cleanup.callback(self.server.server_close)
        self.service = service.Service(self.server, config, None)
        self._cleanup.callback(self.service.close)
        if process:
            self.service.start()
        else:
            self.service.proactive.start()
        listener = listen_tcp("127.0.0.1", 0, reuse_port=False)[0]
        self.port = listener.getsockname()[1]
        self.reader = Reader(self.service, config.cache, "config")
        status = StatusPages(self.reader, ["sts.example"]).pages()
        made = {**pages(self.service, config.cache), **status}
        self.pages = PageServer(listener, made, PROBES)
        self.pages.start()
        self._cleanup.callback(self.pages.close)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def client(self) -> Client:
        return Client(self.listener.getsockname())

    def ask(self, *requests: str) -> list[bytes]:
        with self.client() as client:
            return [client.ask(request.encode()) for request in requests]

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            return answer.read().decode()

    def samples(self) -> Samples:
        return samples(self.text())

    def close(self) -> None:
        Resolver.released.set()
        self.server.stop()
        self.server.stop()
        self._thread.join(DEADLINE)
        self._cleanup.close()


def samples(text: str) -> Samples:
    """Read Prometheus' text format, by the name and the labels of each sample."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            found[match[1], frozenset(LABEL.findall(match[2] or ""))] = float(match[3])
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """Return the one sample of this name with just these labels."""
    return found[name, frozenset(labels.items())]


@contextlib.contextmanager
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """Give what starts services with a configuration's text; they end with the test.

    `process`: whether there is a resolver process, for its own figures.
    """
    monkeypatch.setattr(pool, "ResolverProcess", Resolver)
    monkeypatch.setattr(Resolver, "released", threading.Event())
    running: list[Watched] = []

    def start(text: str = "", *, process: bool = False) -> Watched:
        running.append(Watched(text, process=process))
        return running[-1]

    try:
        yield start
    finally:
        for one in running:
            one.close()


def store(directory: Path) -> str:
    """Return the configuration of a cache in a file."""
    return f"cache: {{type: sqlite, options: {{filename: {directory}/cache.db}}}}\n"
