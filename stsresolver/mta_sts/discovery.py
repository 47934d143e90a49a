"""DNS of MTA-STS: the record of a domain (RFC 8461 §3.1) and the addresses of its policy host.

NXDOMAIN and an empty answer mean that there is no record; the zone's SOA tells how long that may be
remembered (RFC 2308 §5). Any other reply (SERVFAIL, REFUSED, a loop), or none, is a failure. It
comes back as `Failure`, and is never raised: with `Cause.DNS` where it may be the domain's, with
`NAME_SERVERS` or `NO_ROOM` where it is this host's.

Names are asked as they are: no search list, no /etc/hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dns.rdatatype import RdataType

from ..net.deadline import Deadline
from ..net.dns_messages import Answer, Labels
from ..net.domain_names import MAX_NAME
from ..net.nameservers import NameServerError, NameServers, NoRoom, Unreachable
from ..net.steps import Steps
from .observer import UNOBSERVED, Observer
from .record import RecordError, SeveralRecords, domain_id
from .results import Cause, Failure, NoPolicy

# The families of addresses, the preferred one first (RFC 8305 §4).
FAMILIES = ("AAAA", "A")
# Takes a family, and its addresses or why they could not be looked up.
FoundAddresses = Callable[[str, Sequence[str] | NameServerError], None]


def cause_of(error: NameServerError, otherwise: Cause) -> Cause:
    """Return why a lookup failed: this host's fault, or else the domain's as far as can be seen."""
    match error:
        case Unreachable():
            return Cause.NAME_SERVERS
        case NoRoom():
            return Cause.NO_ROOM
    return otherwise


class Discovery:
    """Asks name servers (see `NameServers`), at most `timeout` seconds for a record.

    May be used by many threads.
    """

    def __init__(
        self, timeout: float, resolv_conf: str, port: int, nameservers: Sequence[str] = ()
    ) -> None:
        self._timeout = timeout
        self._name_servers = NameServers(resolv_conf, port, nameservers)

    def policy_id(
        self, domain: str, observer: Observer = UNOBSERVED
    ) -> Steps[str | NoPolicy | Failure]:
        """Return the id in the MTA-STS record of `domain` (A-labels)."""
        try:
            name = _labels(f"_mta-sts.{domain}")
        except ValueError:
            return NoPolicy(Cause.NO_RECORD, "its name would be longer than DNS allows")
        try:
            answer = yield from self._name_servers.ask(name, RdataType.TXT, Deadline(self._timeout))
        except NameServerError as error:
            return Failure(cause_of(error, Cause.DNS), str(error))
        except TimeoutError as error:
            return Failure(Cause.DNS, str(error))
        texts = [b"".join(strings) for strings in answer.records]
        observer.record(texts)
        try:
            found = domain_id(texts)
        except SeveralRecords as error:
            return NoPolicy(Cause.SEVERAL_RECORDS, str(error))
        except RecordError as error:
            return NoPolicy(Cause.BAD_RECORD, str(error))
        return found or NoPolicy(Cause.NO_RECORD, ttl=answer.negative_ttl)

    def addresses(self, host: str, deadline: Deadline, found: FoundAddresses) -> Steps[None]:
        """Look up the IPv6 and the IPv4 addresses of `host` side by side.

        `found` is called for each family as soon as it is known. Raise `TimeoutError` if there is
        no time at all.
        """

        def done(rdtype: RdataType, answer: Answer | NameServerError) -> None:
            if isinstance(answer, NameServerError):
                found(rdtype.name, answer)
            else:
                found(rdtype.name, answer.records)

        try:
            name = _labels(host)
        except ValueError:
            for family in FAMILIES:
                found(family, [])
            return
        questions = [(name, RdataType[family]) for family in FAMILIES]
        yield from self._name_servers.ask_each(questions, deadline, done)


def _labels(name: str) -> Labels:
    """Return the labels of a host name. Raise `ValueError` if it is too long for DNS.

    dnspython's class of names checks each label, which costs ten times as much.
    """
    if len(name) > MAX_NAME:
        raise ValueError("a name that is too long")
    return (*name.encode("ascii").split(b"."), b"")
