"""Which name servers are asked, and whether they are believed that they validate by DNSSEC.

A name server sets AD in an answer that it has validated (RFC 6840 §5.8). That says something only
where nobody can change it on the way: from this host itself, or where the administrator says so
(RFC 7672 §2.2, resolv.conf(5), trust-ad).

Pure: text in, data out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# "192.0.2.1", "192.0.2.1:53", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:53"
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")


class DnsServer(NamedTuple):
    """A name server.

    `text`: as it was named.
    `is_believed`: whether AD in its answers says something.
    """

    address: str
    port: int
    text: str
    is_believed: bool

    def __str__(self) -> str:
        return self.text


def parse_server(text: str) -> tuple[str, int | None]:
    """Return address and port, None without a port. Raise `ValueError` for anything else."""
    address, port = text, None
    if found := _WITH_PORT.fullmatch(text):
        address = found["six"] or found["four"]
        port = int(found["port"]) if found["port"] else None
        if found["six"] and ":" not in address:
            raise ValueError(f"not an IPv6 address: {address!a}")
        if port is not None and not 0 < port <= 65535:
            raise ValueError(f"not a port: {port}")
    ipaddress.ip_address(address)
    return address, port


def named(texts: Iterable[str], port: int, *, trust_ad: bool | None) -> list[DnsServer]:
    """Return the name servers that `texts` name; `port` is that of one without.

    `trust_ad`: whether they are believed; None: those of this host. Raise `ValueError`.
    """
    servers = []
    for text in texts:
        address, own = parse_server(text)
        servers.append(_server(address, own or port, trust_ad, text))
    return list(dict.fromkeys(servers))


def configured(lines: Sequence[str], port: int, *, trust_ad: bool | None) -> list[DnsServer]:
    """Return the name servers in the lines of resolv.conf(5). As libc does, pass over what is none.

    Without a name server, it is the one on this host.
    """
    words = [line.split() for line in lines]
    if trust_ad is None and any(line[:1] == ["options"] and "trust-ad" in line for line in words):
        trust_ad = True
    addresses = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]
    servers = [_server(one, port, trust_ad) for one in addresses if _is_address(one)]
    return list(dict.fromkeys(servers)) or [_server("127.0.0.1", port, trust_ad)]


def _server(address: str, port: int, trust_ad: bool | None, text: str = "") -> DnsServer:
    is_believed = trust_ad if trust_ad is not None else ipaddress.ip_address(address).is_loopback
    return DnsServer(address, port, text or address, is_believed)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
