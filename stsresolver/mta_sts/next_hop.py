"""From the next hop that Postfix asks about to the policy domain (RFC 8461 §3.4).

Pure functions. The policy domain is in A-labels, as `net.domain_names` makes them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..net.domain_names import a_labels

# Postfix: `host`, `[host]`, `host:port`, `[host]:port`, the port as number or service name.
_NEXT_HOP = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9A-Za-z-]+))?")
# RFC 6335 §5.1: 1 to 15 letters, digits and hyphens, at least one of them a letter.
_SERVICE = re.compile(r"(?=[0-9-]*[A-Za-z])[0-9A-Za-z-]{1,15}")
_PORT = re.compile(r"[0-9]{1,5}")


class NextHop(NamedTuple):
    """A next hop.

    `domain`: its name in A-labels, the policy domain (RFC 8461 §3.4).
    `is_host`: the name stands in brackets, so that Postfix looks for no MX records of it.
    `port`: number or service name, "" for none.

    `str` gives it as Postfix writes it.
    """

    domain: str
    is_host: bool = False
    port: str = ""

    def __str__(self) -> str:
        name = f"[{self.domain}]" if self.is_host else self.domain
        return f"{name}:{self.port}" if self.port else name


def parse_next_hop(next_hop: bytes) -> NextHop | None:
    """Return the parts of a next hop, None where it can have no policy domain (RFC 8461 §3.4).

    A smart host's name is the policy domain. None: address literals, single labels, what begins
    with a dot (Postfix asks for parent domains so, and policies are not inherited), and any
    text that is no next hop.
    """
    try:
        parts = _NEXT_HOP.fullmatch(next_hop.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    if parts is None or not _is_port(parts[3]):
        return None
    try:
        return NextHop(a_labels(parts[1] or parts[2]), bool(parts[1]), parts[3] or "")
    except ValueError:
        return None


def _is_port(port: str | None) -> bool:
    if port is None:
        return True
    if _PORT.fullmatch(port):
        return 0 < int(port) <= 65535
    return _SERVICE.fullmatch(port) is not None
