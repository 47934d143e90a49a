"""What DNS says: the MTA-STS record of a domain and the addresses of its policy host.

RFC 8461 §3.1 (record), RFC 2308 §5 (how long "there is none" may be remembered). NXDOMAIN and an
empty answer mean that there is nothing; everything else that is no answer (SERVFAIL, REFUSED,
silence, a loop) is a failure, and never raised: it comes back as `Failure(Cause.DNS)`.

The name servers are those of resolv.conf(5), which is read again when it changes. Names are asked
as they are: no search list, no /etc/hosts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.SOA import SOA

from .deadline import Deadline
from .files import Stamp, stamp
from .results import Cause, Failure, NoPolicy
from .sts import RecordError, SeveralRecords, domain_id

log = logging.getLogger(__name__)

# Answers up to this size come in one UDP datagram without fragments (DNS flag day 2020).
_UDP_PAYLOAD = 1232
# Tries within the time limit at least, so that a lost datagram is sent again; and more where every
# name server but the last may be dead.
_TRIES = 3
# dnspython pauses 0.1, 0.2, 0.4 s between rounds and looks at the clock only afterwards.
_LAST_PAUSE = 0.4


class DiscoveryError(Exception):
    """A DNS lookup failed; the text says how."""


class Discovery:
    """Asks the name servers of `resolv_conf`, at most `timeout` seconds for each record.

    May be used by any number of threads at once.
    """

    def __init__(self, timeout: float, resolv_conf: str, port: int) -> None:
        self._timeout = timeout
        self._resolv_conf = resolv_conf
        self._port = port
        self._lock = threading.Lock()
        self._seen: Stamp = None
        self._resolver: dns.resolver.Resolver | None = None

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
        left = deadline.left()
        try:
            answer = self._configured().resolve(
                name,
                rdtype,
                lifetime=left - min(_LAST_PAUSE, _LAST_PAUSE * left),
                raise_on_no_answer=False,
                search=False,
            )
        except dns.resolver.NXDOMAIN as error:
            return [], _negative_ttl(error.response(name))  # type: ignore[no-untyped-call]
        except (dns.exception.DNSException, OSError) as error:
            raise DiscoveryError(str(error) or type(error).__name__) from error
        if answer.rrset is None:
            return [], _negative_ttl(answer.response)
        return list(answer.rrset), 0

    def _configured(self) -> dns.resolver.Resolver:
        """Return a resolver with the name servers that resolv.conf has now."""
        seen = stamp(self._resolv_conf)
        with self._lock:
            if self._resolver is None or seen != self._seen:
                self._resolver = self._read()
                self._seen = seen
            return self._resolver

    def _read(self) -> dns.resolver.Resolver:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = self._nameservers()
        resolver.port = self._port
        resolver.timeout = self._timeout / max(_TRIES, len(resolver.nameservers) + 1)
        resolver.use_edns(0, 0, _UDP_PAYLOAD)
        return resolver

    def _nameservers(self) -> list[str]:
        """Return the addresses in resolv.conf. As libc does, pass over what is none."""
        try:
            with open(self._resolv_conf, encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file]
        except OSError as error:
            log.warning("%s: %s", self._resolv_conf, error.strerror)
            lines = []
        found = [line[1] for line in lines if line[:1] == ["nameserver"] and len(line) > 1]
        addresses = [address for address in found if dns.inet.is_address(address)]
        # resolv.conf(5): without a name server, the one on this host.
        return addresses or ["127.0.0.1"]


def _negative_ttl(response: dns.message.Message) -> int:
    """Return the seconds that the zone's SOA lets an empty answer be remembered (RFC 2308 §5)."""
    for rrset in response.authority:
        for record in rrset:
            if isinstance(record, SOA):
                return min(rrset.ttl, record.minimum)
    return 0
