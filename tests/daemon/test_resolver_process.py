"""A whole daemon whose resolver process is replaced, killed, poisoned, or cannot be started."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.socketmap_client import DEADLINE, Address, Client, wait_for
from tests.support.whole_daemon import TEMP, Daemon, in_force

# The daemon asks every policy host itself, and yet has settings to change.
DIRECT = "https_proxy: http://127.0.0.1:9\nno_proxy: example,{}.test\n"


def ask_at_once(address: Address, domains: list[str]) -> dict[str, bytes]:
    """Ask for all these domains at once, on a connection each; return the replies."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in domains]
        with ThreadPoolExecutor(len(domains)) as threads:
            asked = [
                threads.submit(client.ask, b"postfix " + domain.encode())
                for client, domain in zip(clients, domains, strict=True)
            ]
        return {domain: future.result() for domain, future in zip(domains, asked, strict=True)}


@pytest.mark.requirement("KEEP-15")
def test_a_reload_every_second_during_slow_lookups(start, world, tmp_path):
    daemon = start(DIRECT.format("first"))
    address = daemon.address()
    world.late = 2.5
    domains = [f"new-{number}.example" for number in range(20)]
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_at_once, address, domains)
        number = 0
        while not asked.done():
            number += 1
            config = "port: 0\nworkers: 8\n" + DIRECT.format(f"number-{number}")
            (tmp_path / "config.yml").write_text(config)
            daemon.process.send_signal(signal.SIGHUP)
            with contextlib.suppress(TimeoutError):
                asked.result(1.0)
        assert asked.result() == {domain: in_force(domain) for domain in domains}
    assert number >= 3
    assert "ended" not in daemon.text


@pytest.fixture
def python(tmp_path) -> Path:
    """Return a Python that can be removed."""
    link = tmp_path / "environment" / "python3"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    return link


def with_python(python: Path, more: str = "") -> dict[str, str]:
    """Return what has a daemon start its resolver process with that Python."""
    return {
        "before": f"sys.executable = {str(python)!r}\n{more}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def lose(daemon: Daemon, python: Path) -> None:
    """Kill the resolver process of a daemon, for good."""
    python.rename(python.with_name("gone"))
    for pid in daemon.children():
        os.kill(pid, signal.SIGKILL)
    wait_for(daemon.says("the resolver process cannot be started"), "a word about it")


@pytest.mark.requirement("KEEP-15")
def test_its_python_is_gone(start, python):
    daemon = start(**with_python(python))
    address = daemon.address()
    assert ask_at_once(address, ["known-1.example"]) == {
        "known-1.example": in_force("known-1.example")
    }
    lose(daemon, python)
    # The client waits for half of what Postfix does.
    (reply,) = ask_at_once(address, ["new-1.example"]).values()
    assert reply.startswith(TEMP)
    assert ask_at_once(address, ["known-1.example"]) == {
        "known-1.example": in_force("known-1.example")
    }, "what is known is answered"
    assert re.search(
        r"ERROR the resolver process cannot be started: .*No such file or directory: .*/python3'.*"
        r": its Python was removed or upgraded: restart the daemon\n",
        daemon.text,
    )
    python.with_name("gone").rename(python)
    wait_for(functools.partial(is_found, address, "new-1.example"), "lookups, once it is back")


def is_found(address: Address, domain: str) -> bool:
    return ask_at_once(address, [domain])[domain] == in_force(domain)


# Minutes are a second.
IMPATIENT = """
from stsresolver.lookup import absence
absence.LIMIT, absence._AGAIN, absence._LOOK = 1.0, 0.5, 0.1
"""
ABSENT = "no resolver process has run for"


def test_without_it_for_minutes_the_daemon_goes_on_and_says_so(start, python, tmp_path):
    pytest.importorskip("prometheus_client")
    metrics = f"metrics: {{path: {tmp_path}/metrics}}\n"
    daemon = start(metrics, **with_python(python, IMPATIENT))
    address = daemon.address()
    assert page(tmp_path / "metrics", "/healthz").startswith("HTTP/1.0 200 ")
    lose(daemon, python)
    wait_for(daemon.says(ABSENT, 3), "a line every minute")
    health = page(tmp_path / "metrics", "/healthz")
    assert health.startswith("HTTP/1.0 503 ")
    assert ABSENT in health
    absence = re.search(
        r"^mta_sts_resolver_absence_seconds (\S+)$", page(tmp_path / "metrics", "/metrics"), re.M
    )
    assert float(absence[1]) >= 1.0
    python.with_name("gone").rename(python)
    wait_for(functools.partial(is_found, address, "new-2.example"), "lookups, once it is back")
    assert page(tmp_path / "metrics", "/healthz").startswith("HTTP/1.0 200 ")
    assert "mta_sts_resolver_absence_seconds 0.0\n" in page(tmp_path / "metrics", "/metrics")


def page(path: Path, name: str) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(DEADLINE)
        one.connect(str(path))
        one.sendall(f"GET {name} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b"".join(iter(lambda: one.recv(65536), b"")).decode()


def test_without_it_for_minutes_systemd_starts_the_daemon_anew(start, python, tmp_path):
    systemd = "os.environ['SYSTEMD_EXEC_PID'] = str(os.getpid())\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        daemon = start(
            **with_python(python, systemd + IMPATIENT), NOTIFY_SOCKET=str(tmp_path / "notify")
        )
        daemon.address()
        lose(daemon, python)
        assert daemon.process.wait(DEADLINE) == os.EX_OSERR
    assert daemon.text.count(ABSENT) == 1
    assert "CRITICAL stopping, to be started anew: no resolver process runs" in daemon.text
    unit = Path(__file__).parent.parent.parent / "etc" / "systemd" / "mta-sts-daemon.service"
    assert "\nRestart=on-failure\n" in unit.read_text()
    kept = re.search(r"^RestartPreventExitStatus=(.*)$", unit.read_text(), re.M)[1]
    assert str(os.EX_OSERR) not in kept.split()


# Resolver processes of the daemon end when they are asked for poison.example.
POISONED = """
import subprocess, types
from stsresolver.lookup import program
CHILD = '''
import os
from stsresolver.lookup import child
look_up = child._look_up
def poisoned(resolver, what, domain, known_ids):
    if domain == "poison.example":
        os._exit(9)
    return look_up(resolver, what, domain, known_ids)
child._look_up = poisoned
child.main()
'''
def popen(command, **options):
    return subprocess.Popen([*command[:2], "-c", CHILD], **options)
program.subprocess = types.SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)
"""


@pytest.mark.requirement("KEEP-15")
def test_a_poisonous_domain_beside_healthy_ones(start):
    daemon = start(before=POISONED)
    address = daemon.address()
    healthy = [f"new-{number}.example" for number in range(100, 150)]
    replies = ask_at_once(address, [*healthy[:25], "poison.example", *healthy[25:]])
    assert replies.pop("poison.example").startswith(TEMP)
    assert replies == {domain: in_force(domain) for domain in healthy}
    assert daemon.text.count("the resolver process ended, exit status 9") == 3
    assert "ERROR poison.example: the resolver process ends when it looks this domain up" in (
        daemon.text
    )
