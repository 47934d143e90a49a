"""Where no policy is known and something of ours fails, mail waits: a whole daemon, real faults.

`tests/policies/test_faults.py` has the whole table. Here are the rows to which a daemon can be
brought from outside.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.socketmap_client import Address, Client, wait_for
from tests.support.whole_daemon import KNOWN, NOT_FOUND, in_force, learn

QUICK = "default_zone: {timeout: 0.5}\n"


def ask(address: Address, domain: str) -> bytes:
    with Client(address) as client:
        return client.ask(b"postfix " + domain.encode())


def becomes(address: Address, domain: str, reply: bytes) -> None:
    wait_for(functools.partial(says, address, domain, reply), f"{reply!r} for {domain}")


def says(address: Address, domain: str, reply: bytes) -> bool:
    return ask(address, domain) == reply


@pytest.mark.requirement("KEEP-15")
def test_the_store_hangs_when_the_daemon_starts(start, world, tmp_path):
    """With a grace of an hour, so that nothing is looked at again because it is old."""
    with contextlib.closing(RedisServer(tmp_path / "redis")) as server:
        text = (
            f"{QUICK}cache_grace: 3600\n"
            f"cache: {{type: redis, options: {{url: 'redis://127.0.0.1:{server.port}',"
            " socket_timeout: 0.5, socket_connect_timeout: 0.5}}\n"
        )
        first = start(text)
        with Client(first.address()) as client:
            learn(client)
        assert first.stop() == 0
        first.log.unlink()

        server.signal(signal.SIGSTOP)
        world.faults.add("servfail")
        address = start(text).address()
        unread = b"TEMP the policy cache cannot be read"
        assert ask(address, KNOWN[0]) == unread
        assert ask(address, "new-1.example") == unread
        world.faults.clear()
        assert ask(address, "none-1.example") == NOT_FOUND, "DNS says so"
        world.faults.add("https")
        assert ask(address, KNOWN[0]) == unread

        server.signal(signal.SIGCONT)
        world.faults.add("servfail")
        becomes(address, KNOWN[0], in_force(KNOWN[0]))
        becomes(address, "new-1.example", NOT_FOUND)


@pytest.mark.requirement("KEEP-15")
@pytest.mark.parametrize(
    "servers", ["127.0.0.250", "127.0.0.250\nnameserver 127.0.0.251", "127.0.0.1"]
)
def test_no_name_server_answers(start, world, servers):
    """Nobody listens at the first two; the third drops whatever it is asked."""
    resolv_conf = Path(world.settings["resolv_conf"])
    before = resolv_conf.read_text()
    address = start(QUICK).address()
    with Client(address) as client:
        learn(client)
    resolv_conf.write_text(f"nameserver {servers}\n")
    world.faults.add("dns")
    try:
        silent = b"TEMP no name server of this host answers"
        becomes(address, "new-1.example", silent)
        assert ask(address, KNOWN[0]) == in_force(KNOWN[0])
    finally:
        resolv_conf.write_text(before)
        world.faults.clear()
    becomes(address, "new-1.example", in_force("new-1.example"))


@pytest.mark.requirement("KEEP-15")
def test_no_descriptor_for_a_question(start):
    daemon = start(QUICK)
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    (child,) = daemon.children()
    before = resource.prlimit(child, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{child}/fd"))
    resource.prlimit(child, resource.RLIMIT_NOFILE, (used, before[1]))
    assert ask(address, "new-1.example") == (
        b"TEMP this host has no descriptors or memory for a lookup"
    )
    assert ask(address, KNOWN[0]) == in_force(KNOWN[0])
    resource.prlimit(child, resource.RLIMIT_NOFILE, before)
    becomes(address, "new-1.example", in_force("new-1.example"))


@pytest.mark.requirement("KEEP-15")
def test_the_ca_certificates_vanish_and_come_back(start, world):
    bundle = Path(os.environ["SSL_CERT_FILE"])
    certificates = bundle.read_bytes()
    daemon = start(QUICK)
    address = daemon.address()
    with Client(address) as client:
        learn(client)
    bundle.write_bytes(b"")
    try:
        # A change of the file is seen within a tenth of a second.
        numbers = itertools.count(2)
        missing = b"TEMP this host has no CA certificates"
        wait_for(lambda: says(address, f"new-{next(numbers)}.example", missing), "it to be seen")
        becomes(address, "new-1.example", missing)
        assert ask(address, KNOWN[0]) == in_force(KNOWN[0])
        wait_for(daemon.says("this host has no CA certificates, so mail waits"), "an error")
    finally:
        bundle.write_bytes(certificates)
    becomes(address, "new-1.example", in_force("new-1.example"))


def test_the_proxy_is_away(start, world):
    daemon = start(QUICK + "https_proxy: http://127.0.0.1:9\n")
    assert ask(daemon.address(), "new-1.example") == NOT_FOUND
    wait_for(daemon.says("the proxy fails, so domains whose policy is not known"), "an error")
