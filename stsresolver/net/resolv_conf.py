"""Reads the name servers of resolv.conf(5). Raises `OSError` where the file cannot be read."""

from __future__ import annotations

from .dns_servers import DnsServer, configured

PATH = "/etc/resolv.conf"


def read_servers(path: str, port: int, *, trust_ad: bool | None) -> list[DnsServer]:
    """Return the name servers that the file `path` names. See `dns_servers.configured`."""
    with open(path, encoding="ascii", errors="replace") as file:
        return configured(list(file), port, trust_ad=trust_ad)
