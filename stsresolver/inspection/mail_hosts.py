"""The MX hosts of a domain (RFC 5321 §5.1, RFC 7505)."""

from __future__ import annotations

import dns.exception
import dns.name
import dns.rdatatype

from ..net.deadline import Deadline
from ..net.nameservers import NameServers
from ..net.steps import Steps
from .findings import MailHost


def mail_hosts(servers: NameServers, domain: str, deadline: Deadline) -> Steps[list[MailHost]]:
    """Return the MX hosts of `domain` (A-labels), by preference and name.

    The domain itself where it has no MX records (RFC 5321 §5.1), none where it takes no mail (RFC
    7505). Raise `NameServerError`, or `TimeoutError` past the deadline.
    """
    try:
        name = dns.name.from_text(f"{domain}.")
    except dns.exception.DNSException:
        return []
    answer = yield from servers.ask(name, dns.rdatatype.MX, deadline)
    found = {(one.preference, _name(one.exchange)) for one in answer.records}
    if not found:
        return [MailHost(domain, 0)]
    # RFC 7505 §3: a null MX is the only one.
    return [MailHost(host, preference) for preference, host in sorted(found) if host]


def _name(name: dns.name.Name) -> str:
    # Escaped where it is no host name, so that it is ASCII.
    return name.to_text(omit_final_dot=True).lower().removesuffix(".")
