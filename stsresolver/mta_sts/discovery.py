"""DNS of MTA-STS: the record of a domain (RFC 8461 §3.1) and the addresses of its policy host.

NXDOMAIN and an empty answer mean that there is no record; the zone's SOA tells how long that may be
remembered (RFC 2308 §5). Any other reply (SERVFAIL, REFUSED, a loop), or none, is a failure. It
comes back as `Failure(Cause.DNS)` and is never raised.

Names are asked as they are: no search list, no /etc/hosts.
"""

from __future__ import annotations

import dns.exception
import dns.name
import dns.rdatatype

from ..net.deadline import Deadline
from ..net.dns_messages import Answer
from ..net.nameservers import NameServerError, NameServers
from ..net.steps import Steps
from .observer import UNOBSERVED, Observer
from .record import RecordError, SeveralRecords, domain_id
from .results import Cause, Failure, NoPolicy


class DiscoveryError(Exception):
    """A DNS lookup failed; the text says how."""


class Discovery:
    """Asks the name servers of `resolv_conf`, at most `timeout` seconds for a record.

    May be used by many threads.
    """

    def __init__(self, timeout: float, resolv_conf: str, port: int) -> None:
        self._timeout = timeout
        self._name_servers = NameServers(resolv_conf, port)

    def policy_id(
        self, domain: str, observer: Observer = UNOBSERVED
    ) -> Steps[str | NoPolicy | Failure]:
        """Return the id in the MTA-STS record of `domain` (A-labels)."""
        try:
            name = dns.name.from_text(f"_mta-sts.{domain}.")
        except dns.exception.DNSException:
            return NoPolicy(Cause.NO_RECORD, "its name would be longer than DNS allows")
        try:
            answer = yield from self._ask(name, dns.rdatatype.TXT, Deadline(self._timeout))
        except (DiscoveryError, TimeoutError) as error:
            return Failure(Cause.DNS, str(error))
        texts = [b"".join(record.strings) for record in answer.records]
        observer.record(texts)
        try:
            found = domain_id(texts)
        except SeveralRecords as error:
            return NoPolicy(Cause.SEVERAL_RECORDS, str(error))
        except RecordError as error:
            return NoPolicy(Cause.BAD_RECORD, str(error))
        return found or NoPolicy(Cause.NO_RECORD, ttl=answer.negative_ttl)

    def addresses(
        self, host: str, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> Steps[list[str]]:
        """Return the addresses of `host`; `rdtype`: A or AAAA.

        Raise `DiscoveryError` where DNS fails, `TimeoutError` when the deadline is over.
        """
        try:
            name = dns.name.from_text(f"{host}.")
        except dns.exception.DNSException:
            return []
        answer = yield from self._ask(name, rdtype, deadline)
        return [record.address for record in answer.records]

    def _ask(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> Steps[Answer]:
        try:
            return (yield from self._name_servers.ask(name, rdtype, deadline))
        except NameServerError as error:
            raise DiscoveryError(str(error)) from error
