"""Where a misbehaving policy host is put, how it is started, and what a fetch from it ends in.

What it does is in `hostile_tls_cases`, `hostile_http_answers` and `hostile_http_floods`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from stsresolver import Cause, Failure, Mode, Policy
from tests.support.authority import Authority
from tests.support.hostile_https import Listener, PolicyHost, Reply, Script, page


@dataclass(frozen=True)
class Place:
    """Where a policy host is to be: its domain, address and port, and who signs for it."""

    authority: Authority
    domain: str = "example.com"
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def host(self) -> str:
        return f"mta-sts.{self.domain}"

    def context(self) -> ssl.SSLContext:
        return self.authority.server(self.host)

    def policy_host(self, reply: Reply) -> PolicyHost:
        return PolicyHost(reply, self.context(), self.address, self.port)

    def listener(self, script: Script) -> Listener:
        return Listener(script, self.address, self.port)


Start = Callable[[Place], Listener]


def https(reply: Reply) -> Start:
    """Return what starts a policy host with `reply`."""
    return lambda place: place.policy_host(reply)


def tcp(script: Script) -> Start:
    """Return what starts a listener with `script`."""
    return lambda place: place.listener(script)


def certified(context: Callable[[Place], ssl.SSLContext]) -> Start:
    """Return what starts an honest policy host with a TLS context of its own."""
    return lambda place: PolicyHost(page(), context(place), place.address, place.port)


def row(reason: str, what: object, *causes: Cause | None):
    """Return a case of a table; no causes: the policy is accepted."""
    return pytest.param(what, causes, id=reason)


def check(result: Policy | Failure, causes: Iterable[Cause | None]) -> None:
    """Assert that the policy came (no causes, or None among them), or one of `causes` is why."""
    causes = tuple(causes)
    if causes and not (None in causes and isinstance(result, Policy)):
        assert isinstance(result, Failure)
        assert result.cause in causes, result
        assert result.detail.isprintable(), "a stranger's control characters"
        assert len(result.detail) < 1000
        assert result.id == ""
    else:
        assert isinstance(result, Policy), result
        assert (result.mode, result.mx, result.max_age) == (
            Mode.ENFORCE,
            ("mail.example.com",),
            604800,
        )
