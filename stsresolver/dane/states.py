"""What DNS says of DANE for a next hop, and what follows for its mail. Plain data, pure.

The decision is a table: the state of the MX records and those of the hosts go in, a `Verdict` comes
out (RFC 7672 §2.1, §2.2). "No TLSA records" is an answer; "could not be looked up" is none, and
mail waits, or an attacker who keeps an answer from us would turn DANE off.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from .tlsa import Tlsa


class MxState(enum.Enum):
    """What is known of the MX records. The value is a sentence for the administrator."""

    SECURE = "the MX records are signed"
    HOST = "the next hop is a host"
    INSECURE = "the MX records are not signed"
    NO_MAIL = "the domain takes no mail"
    FAILED = "the MX records could not be looked up"
    NOT_BELIEVED = "no name server validates for this host"


class HostState(enum.Enum):
    """What is known of a host. The value ends a sentence that its name begins."""

    USABLE = "has TLSA records"
    NO_TLSA = "has no TLSA records"
    NOT_SIGNED = "has TLSA records that are not signed"
    UNUSABLE = "has only TLSA records that cannot be used"
    INSECURE = "has an address that is not signed"
    NO_ADDRESS = "has no address"
    FAILED = "could not be looked up"
    NOT_AWAITED = "was not waited for, as another host has TLSA records"


class Verdict(enum.Enum):
    """What follows for the mail to a domain whose policy is to be enforced.

    DANE: Postfix is to verify by DANE alone.
    POLICY: by the MTA-STS policy.
    UNKNOWN: it is not known by what, and mail waits.
    """

    DANE = "dane"
    POLICY = "policy"
    UNKNOWN = "unknown"


def verdict(mx: MxState, hosts: Collection[HostState]) -> Verdict:
    """Return what follows from the states of the MX records and of the hosts that they name."""
    if mx is MxState.FAILED:
        return Verdict.UNKNOWN
    if mx not in (MxState.SECURE, MxState.HOST):
        # A forged MX record could name a host with TLSA records of its own. The policy stands.
        return Verdict.POLICY
    if HostState.USABLE in hosts:
        return Verdict.DANE
    if HostState.FAILED in hosts:
        return Verdict.UNKNOWN
    return Verdict.POLICY


@dataclass(frozen=True, slots=True)
class DaneHost:
    """A host that mail for the next hop goes to.

    `name`: in A-labels, escaped where it is no host name.
    `detail`: what failed, or which of its records cannot be used and why.
    `tlsa_name`: the name that the TLSA records were found at, "" where there are none.
    `tlsa`: the records, unusable ones included.
    """

    name: str
    state: HostState
    detail: str = ""
    tlsa_name: str = ""
    tlsa: tuple[Tlsa, ...] = ()

    def __str__(self) -> str:
        text = f"{self.name} {self.state.value}"
        return f"{text}: {self.detail}" if self.detail else text


@dataclass(frozen=True, slots=True)
class Dane:
    """What DNS says of DANE for a next hop.

    `hosts`: by preference. Those of MX records that are not signed are not looked up.
    `detail`: why the MX records could not be looked up.
    `ttl`: seconds for which all of it may be remembered.
    """

    mx: MxState
    hosts: tuple[DaneHost, ...] = ()
    detail: str = ""
    ttl: int = 0

    @property
    def verdict(self) -> Verdict:
        """What follows for mail to a domain with a policy that is to be enforced."""
        return verdict(self.mx, [host.state for host in self.hosts])

    @property
    def is_whole(self) -> bool:
        """Whether every host was waited for."""
        return all(host.state is not HostState.NOT_AWAITED for host in self.hosts)

    @property
    def unusable_hosts(self) -> tuple[DaneHost, ...]:
        """The hosts that mail cannot go to while others are verified by DANE."""
        if self.verdict is not Verdict.DANE:
            return ()
        passed = (HostState.USABLE, HostState.NOT_AWAITED)
        return tuple(host for host in self.hosts if host.state not in passed)

    def __str__(self) -> str:
        if self.mx is MxState.FAILED:
            return f"{self.mx.value}: {self.detail}"
        if self.verdict is Verdict.UNKNOWN:
            return str(next(host for host in self.hosts if host.state is HostState.FAILED))
        if not self.hosts:
            return str(self.mx.value)
        return ", ".join(str(host) for host in self.hosts[:4]) + ", ..." * (len(self.hosts) > 4)
