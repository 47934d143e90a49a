"""A daemon that is asked for every misbehaving domain at once, and for a known one meanwhile.

Real sockets on the real ports, in a network namespace (`hostile_world`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hostile_dns_cases, hostile_https_cases, hostile_world
from tests.support.hostile_world import KNOWN, UNSHARE, of_dns, of_https
from tests.support.missing import unavailable
from tests.support.socketmap_client import Client

# Seconds that a repeated answer may take. It takes a fraction of a millisecond; a lookup that held
# the serving thread would take a second, and there are some dozens of them.
BOUND = 1.5
# Seconds that all answers together may take.
ALL = 30.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Iterator[Path]:
    """The directory of a world that runs."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    if missing := [name for name in ("ip", "mount", "unshare") if shutil.which(name) is None]:
        unavailable(f"not installed: {', '.join(missing)}")
    tried = subprocess.run([*UNSHARE, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        unavailable(f"no network namespace: {tried.stderr.strip()}")
    path = tmp_path_factory.mktemp("world")
    with subprocess.Popen(
        [*UNSHARE, sys.executable, hostile_world.__file__, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    ) as process:
        assert process.stdout.readline() == "ready\n", (path / "log").read_text()
        yield path
        process.stdin.close()
        assert process.wait(60) == 0, (path / "log").read_text()


class Asker(threading.Thread):
    """Asks for KNOWN again and again until `stop`; `wrong` are the answers other than `right`."""

    def __init__(self, socket: str, right: bytes) -> None:
        super().__init__()
        self._socket = socket
        self._right = right
        self._stopped = threading.Event()
        self.asked = 0
        self.slowest = 0.0
        self.wrong: list[bytes] = []

    def run(self) -> None:
        with Client(self._socket) as client:
            while not self._stopped.is_set():
                began = time.monotonic()
                answer = client.ask(f"postfix {KNOWN}".encode())
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.asked += 1
                if answer != self._right:
                    self.wrong.append(answer)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def may_be_found() -> set[str]:
    """Return the domains whose policy host does nothing that keeps its policy from counting."""
    cases = enumerate(hostile_https_cases.CASES)
    return {of_https(number) for number, case in cases if not case.causes or None in case.causes}


def test_known_domains_are_answered_while_all_others_misbehave(directory):
    socket = str(directory / "socket")
    with Client(socket) as client:
        right = client.ask(f"postfix {KNOWN}".encode())
    assert right.startswith(b"OK secure match=mail.example.com"), right

    domains = [of_dns(number) for number in range(len(hostile_dns_cases.CASES))]
    domains += [of_https(number) for number in range(len(hostile_https_cases.CASES))]
    asker = Asker(socket, right)
    clients = {domain: Client(socket) for domain in domains}
    asker.start()
    try:
        began = time.monotonic()
        for domain, client in clients.items():
            client.send(b"%d:postfix %b," % (8 + len(domain), domain.encode()))
        answers = {domain: client.reply() for domain, client in clients.items()}
        seconds = time.monotonic() - began
    finally:
        asker.stop()
        for client in clients.values():
            client.close()

    assert seconds < ALL
    # On a busy machine honest ones are late, too: that is no policy, or, in line, TEMP.
    found = {domain for domain, answer in answers.items() if answer == right}
    others = {answer for answer in answers.values() if answer != right}
    assert found <= may_be_found()
    assert all(answer.startswith((b"NOTFOUND ", b"TEMP ")) for answer in others), others
    assert asker.wrong == []
    assert asker.asked > 100
    assert asker.slowest < BOUND
    assert "Traceback" not in (directory / "log").read_text()
