"""What DNS says: the MTA-STS record of a domain and the addresses of its policy host.

RFC 8461 §3.1 (record), RFC 2308 §5 (how long "there is none" may be remembered). NXDOMAIN and an
empty answer mean that there is nothing; everything else that is no answer (SERVFAIL, REFUSED,
silence, a loop) is a failure, and never raised: it comes back as `Failure(Cause.DNS)`.

Names are asked as they are: no search list, no /etc/hosts.
"""

from __future__ import annotations

from collections.abc import Iterator

import dns.exception
import dns.name
import dns.rdatatype

from ..net.deadline import Deadline, Wait, alone
from ..net.dns_messages import Answer
from ..net.nameservers import NameServerError, NameServers
from .record import RecordError, SeveralRecords, domain_id
from .results import Cause, Failure, NoPolicy


class DiscoveryError(Exception):
    """A DNS lookup failed; the text says how."""


class Discovery:
    """Asks the name servers of `resolv_conf`, at most `timeout` seconds for a record.

    May be used by any number of threads at once.
    """

    def __init__(self, timeout: float, resolv_conf: str, port: int, wait: Wait = alone) -> None:
        self._timeout = timeout
        self._wait = wait
        self._name_servers = NameServers(resolv_conf, port)

    def policy_id(self, domain: str) -> str | NoPolicy | Failure:
        """Return the id in the MTA-STS record of `domain` (A-labels)."""
        try:
            name = dns.name.from_text(f"_mta-sts.{domain}.")
        except dns.exception.DNSException:
            return NoPolicy(Cause.NO_RECORD, "its name would be longer than DNS allows")
        try:
            answer = self._ask(name, dns.rdatatype.TXT, Deadline(self._timeout, self._wait))
        except (DiscoveryError, TimeoutError) as error:
            return Failure(Cause.DNS, str(error))
        try:
            found = domain_id(b"".join(record.strings) for record in answer.records)
        except SeveralRecords as error:
            return NoPolicy(Cause.SEVERAL_RECORDS, str(error))
        except RecordError as error:
            return NoPolicy(Cause.BAD_RECORD, str(error))
        return found or NoPolicy(Cause.NO_RECORD, ttl=answer.negative_ttl)

    def addresses(self, host: str, deadline: Deadline) -> Iterator[list[str]]:
        """Yield the IPv4 addresses of `host`, and then, if still wanted, the IPv6 addresses.

        Raise `DiscoveryError` where DNS fails, `TimeoutError` when the deadline is over.
        """
        try:
            name = dns.name.from_text(f"{host}.")
        except dns.exception.DNSException:
            return
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            yield [record.address for record in self._ask(name, rdtype, deadline).records]

    def _ask(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> Answer:
        try:
            return self._name_servers.ask(name, rdtype, deadline)
        except NameServerError as error:
            raise DiscoveryError(str(error)) from error
