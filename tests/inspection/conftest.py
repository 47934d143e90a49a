"""A world on loopback: a name server, policy hosts, and an inspector that asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import fastjsonschema
import pytest

from stsresolver.inspection.inspector import Inspector
from tests.support.authority import Authority, trusted
from tests.support.hostile_dns import NameServer, addresses

CHECKOUT = Path(__file__).resolve().parents[2]


class World:
    """An authority that is trusted, a name server, and inspectors that ask it."""

    def __init__(self, directory: Path, authority: Authority, dns: NameServer) -> None:
        self.authority = authority
        self.dns = dns
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text("nameserver 127.0.0.1\n")

    def inspector(self, https_port: int = 9, timeout: float = 1.0, **options: object) -> Inspector:
        """Return an inspector; without a port, one whose policy hosts refuse connections."""
        return Inspector(
            timeout,
            resolv_conf=str(self.resolv_conf),
            dns_port=self.dns.port,
            https_port=https_port,
            **options,
        )


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    with trusted(tmp_path) as authority, NameServer(otherwise=addresses("127.0.0.1")) as dns:
        yield World(tmp_path, authority, dns)


@pytest.fixture(scope="session")
def valid() -> Callable[[str], dict]:
    """Return what reads a line of JSON, and fails for one that the schema does not describe."""
    schema = json.loads((CHECKOUT / "docs" / "query.schema.json").read_text())
    validate = fastjsonschema.compile(schema)

    def read(line: str) -> dict:
        found = json.loads(line)
        validate(found)
        return found

    return read
