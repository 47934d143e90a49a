"""The results of a lookup: plain frozen data, no I/O, picklable.

A lookup gives exactly one of `Found`, `NotChanged`, `NoPolicy` and `Failure`. "There is no policy"
is an answer of the domain; "it could not be found out" is a failure (RFC 8461 §3.1, §3.3). Each has
a `Cause`, whose name the log, the metrics and `mta-sts-query` share.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .policy import Policy


class Cause(enum.Enum):
    """Why there is no policy. The value is a sentence for the administrator.

    `tlsrpt` gives the result type of RFC 8460 §4.3 that the cause is reported under.
    """

    NO_RECORD = "the domain publishes no MTA-STS record"
    BAD_RECORD = "the MTA-STS record is malformed"
    SEVERAL_RECORDS = "the domain publishes more than one MTA-STS record"
    DNS = "the DNS lookup failed"
    NAME_SERVERS = "no name server of this host answers"
    NO_ROOM = "this host has no descriptors or memory left for the lookup"
    PROCESS = "the lookup was lost with the process that did it"
    NO_ADDRESS = "the policy host has no address"
    ADDRESS = "the address of the policy host could not be looked up"
    CONNECT = "no connection to the policy host"
    PROXY = "no way to the policy host through the proxy"
    CA_STORE = "this host has no CA certificates"
    CERTIFICATE = "the certificate of the policy host is not valid"
    TLS = "the TLS handshake with the policy host failed"
    HTTP = "the policy host broke HTTP"
    STATUS = "the policy host answered with an HTTP status other than 200"
    MEDIA_TYPE = "the policy is not served as text/plain"
    SIZE = "the policy is larger than 65536 bytes"
    DEADLINE = "the policy host took longer than the time limit"
    SYNTAX = "the policy is malformed"

    @property
    def by_record(self) -> bool:
        """Whether it is the TXT lookup that ended so, and not the fetch of the policy."""
        return self in (Cause.NO_RECORD, Cause.BAD_RECORD, Cause.SEVERAL_RECORDS, Cause.DNS)

    @property
    def in_any_step(self) -> bool:
        """Whether the TXT lookup and the fetch may both end so."""
        return self in (Cause.NAME_SERVERS, Cause.NO_ROOM)

    @property
    def tlsrpt(self) -> str:
        """The result type of RFC 8460 §4.3 under which a TLS report names this cause."""
        if self is Cause.CERTIFICATE:
            return "sts-webpki-invalid"
        if self is Cause.SYNTAX:
            return "sts-policy-invalid"
        return "sts-policy-fetch-error"


@dataclass(frozen=True, slots=True)
class Found:
    """A policy, just fetched, and the id of the TXT record that announced it."""

    policy: Policy
    id: str


@dataclass(frozen=True, slots=True)
class NotChanged:
    """The TXT record carries an id that the caller knows: nothing was fetched."""

    id: str


@dataclass(frozen=True, slots=True)
class NoPolicy:
    """The domain has no MTA-STS policy: no usable TXT record (RFC 8461 §3.1).

    `ttl` (seconds) is how long the zone's SOA lets that be remembered (RFC 2308 §5), 0 where
    the answer carried no SOA.
    """

    cause: Cause
    detail: str = ""
    ttl: int = 0

    def __str__(self) -> str:
        return sentence(self.cause, self.detail)


@dataclass(frozen=True, slots=True)
class Failure:
    """It could not be found out whether there is a policy, or what it says.

    `id` is the TXT record's, where the lookup came so far. `detail` is what went wrong in the
    words of the library or server that failed; it may hold text that a stranger chose.
    """

    cause: Cause
    detail: str = ""
    id: str = ""

    def __str__(self) -> str:
        return sentence(self.cause, self.detail)


def sentence(cause: Cause, detail: str) -> str:
    """Return cause and detail as one line for a person."""
    return f"{cause.value}: {detail}" if detail else cause.value


Lookup = Found | NotChanged | NoPolicy | Failure
