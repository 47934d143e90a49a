"""What an inspection found: plain frozen data, no I/O.

A part that was not reached is None. Texts are a stranger's, and may hold anything that UTF-8 can;
bytes that are not UTF-8 are written as `\\xff`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ..cache.entry import Entry
from ..dane.states import Dane
from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy


class Part(enum.StrEnum):
    """A step of an inspection whose time is taken."""

    RECORD = "record"
    ADDRESSES = "addresses"
    CONNECTION = "connection"
    TLS = "tls"
    HTTP = "http"
    MX = "mx"
    DANE = "dane"


class Severity(enum.StrEnum):
    """How bad a problem is: with an error, mail waits or goes out unprotected."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that somebody has to mend. `code`: its name for programs, with hyphens."""

    severity: Severity
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate.

    `names`: of its subjectAltName, DNS names and IP addresses.
    `issuer`: "CN=..., O=...".
    `not_after`: when it ends (seconds since the epoch).
    """

    names: tuple[str, ...]
    issuer: str
    not_after: float

    def days_left(self, now: float) -> int:
        """Return the whole days until it ends, less than 0 after that."""
        return int((self.not_after - now) // 86_400)


@dataclass(frozen=True, slots=True)
class Record:
    """The TXT records at `name`; `texts`: None where DNS did not answer; `id`: of the policy."""

    name: str
    texts: tuple[str, ...] | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyHost:
    """What the policy host did.

    `addresses`: in the order of their arrival; None through a proxy.
    `reached`: the address, or the proxy, that was connected to.
    `size`: of the body, in bytes; of a larger one, the bytes that were read.
    `text`: the body.
    """

    name: str
    addresses: tuple[str, ...] | None = None
    reached: str | None = None
    certificate: Certificate | None = None
    status: int | None = None
    media_type: str | None = None
    size: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of STARTTLS with an MX host.

    `ok`: whether Postfix would deliver there at level `secure`.
    `reason`: why, or why not, in a sentence.
    `tls`: the version of TLS, None where there was no handshake.
    `address`: the last one that was tried, None if the host has none.
    `connected`: whether the port answered at all.
    """

    ok: bool
    reason: str
    tls: str | None = None
    address: str | None = None
    certificate: Certificate | None = None
    connected: bool = False


@dataclass(frozen=True, slots=True)
class MailHost:
    """An MX host, in A-labels. `pattern`: the mx pattern of the policy that it matches."""

    host: str
    preference: int
    pattern: str | None = None
    probe: Probe | None = None

    @property
    def is_refused(self) -> bool:
        """Whether its name is not in the policy, or the probe failed."""
        return self.pattern is None or (self.probe is not None and not self.probe.ok)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A domain, as the world shows it now.

    `domain`: A-labels.
    `result`: of the lookup.
    `policy_host`: None where the record announces no policy.
    `mx`: by preference and name; the domain itself where it has no MX records; empty for a domain
    that takes no mail (RFC 7505); None where they were not found out.
    `mx_failure`: why they were not.
    `port`: of the MX hosts.
    `dane`: what DNS says of DANE, None where that was not looked at.
    `heeds_dane`: whether the zone lets DANE come first.
    `exempt`: the entry by which the zone exempts the domain.
    `would_be`: the answer without that, and were it not for a zone that observes.
    `in_force`: the policy that Postfix is answered by.
    `answer`: the socketmap reply to Postfix, without its netstring.
    `entry`: what the store of a daemon holds.
    `times`: seconds that each part took; `seconds`: all of it together.
    `now`: when it was made (seconds since the epoch).
    `problems`, `verdict`: what follows, see `judgement`.
    """

    domain: str
    result: Lookup
    record: Record
    policy_host: PolicyHost | None
    mx: tuple[MailHost, ...] | None
    mx_failure: str
    port: str
    in_force: Policy | None
    answer: str
    entry: Entry | None
    times: Mapping[Part, float]
    seconds: float
    now: float
    dane: Dane | None = None
    heeds_dane: bool = False
    exempt: str | None = None
    would_be: str = ""
    problems: tuple[Problem, ...] = ()
    verdict: str = ""

    @property
    def policy(self) -> Policy | None:
        """The policy that the domain publishes, if it is valid and was fetched."""
        return self.result.policy if isinstance(self.result, Found) else None

    @property
    def cause(self) -> Cause | None:
        """Why there is no policy, or why none was found out."""
        return self.result.cause if isinstance(self.result, NoPolicy | Failure) else None

    @property
    def is_enforced(self) -> bool:
        """Whether Postfix is told to verify."""
        return self.answer.startswith("OK ")

    @property
    def is_by_dane(self) -> bool:
        """Whether Postfix is told to verify by DANE alone."""
        return self.answer == "OK dane-only"

    @property
    def refused(self) -> tuple[MailHost, ...]:
        """The MX hosts that Postfix does not deliver to, because the policy is enforced."""
        if not self.is_enforced or self.is_by_dane:
            return ()
        return tuple(host for host in self.mx or () if host.is_refused)
