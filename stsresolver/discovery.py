"""What DNS says: the MTA-STS record of a domain and the addresses of its policy host.

RFC 8461 §3.1 (record), RFC 2308 §5 (how long "there is none" may be remembered). NXDOMAIN and an
empty answer mean that there is nothing; everything else that is no answer (SERVFAIL, REFUSED,
silence, a loop) is a failure, and never raised: it comes back as `Failure(Cause.DNS)`.

Names are asked as they are: no search list, no /etc/hosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.SOA import SOA

from .deadline import Deadline
from .nameservers import NameServerError, NameServers
from .results import Cause, Failure, NoPolicy
from .sts import RecordError, SeveralRecords, domain_id


class DiscoveryError(Exception):
    """A DNS lookup failed; the text says how."""


class Discovery:
    """Asks the name servers of `resolv_conf`, at most `timeout` seconds for a record.

    May be used by any number of threads at once.
    """

    def __init__(self, timeout: float, resolv_conf: str, port: int) -> None:
        self._timeout = timeout
        self._name_servers = NameServers(resolv_conf, port)

    def policy_id(self, domain: str) -> str | NoPolicy | Failure:
        """Return the id in the MTA-STS record of `domain` (A-labels)."""
        try:
            name = dns.name.from_text(f"_mta-sts.{domain}.")
        except dns.exception.DNSException:
            return NoPolicy(Cause.NO_RECORD, "its name would be longer than DNS allows")
        try:
            records, ttl = self._ask(name, dns.rdatatype.TXT, Deadline(self._timeout))
        except (DiscoveryError, TimeoutError) as error:
            return Failure(Cause.DNS, str(error))
        try:
            found = domain_id(b"".join(record.strings) for record in records)
        except SeveralRecords as error:
            return NoPolicy(Cause.SEVERAL_RECORDS, str(error))
        except RecordError as error:
            return NoPolicy(Cause.BAD_RECORD, str(error))
        return found or NoPolicy(Cause.NO_RECORD, ttl=ttl)

    def addresses(self, host: str, deadline: Deadline) -> Iterator[list[str]]:
        """Yield the IPv4 addresses of `host`, and then, if still wanted, the IPv6 addresses.

        Raise `DiscoveryError` where DNS fails, `TimeoutError` when the deadline is over.
        """
        try:
            name = dns.name.from_text(f"{host}.")
        except dns.exception.DNSException:
            return
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            records, _ = self._ask(name, rdtype, deadline)
            yield [record.address for record in records]

    def _ask(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> tuple[list[Any], int]:
        """Return the records, and for none of them how many seconds that may be remembered."""
        try:
            answer = self._name_servers.ask(name, rdtype, deadline)
            records = answer.resolve_chaining().answer
        except (dns.exception.DNSException, NameServerError) as error:
            raise DiscoveryError(str(error) or type(error).__name__) from error
        return (list(records), 0) if records is not None else ([], _negative_ttl(answer))


def _negative_ttl(response: dns.message.Message) -> int:
    """Return the seconds that the zone's SOA lets an empty answer be remembered (RFC 2308 §5)."""
    for rrset in response.authority:
        for record in rrset:
            if isinstance(record, SOA):
                return min(rrset.ttl, record.minimum)
    return 0
