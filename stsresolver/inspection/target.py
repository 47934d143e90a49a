"""What a person names: a domain, an address, or a next hop as Postfix logs it. Pure."""

from __future__ import annotations

from ..mta_sts.next_hop import NextHop, parse_next_hop


def next_hop_of(text: str) -> str:
    """Return the next hop in `text`, as it is written: what stands behind the @ of an address."""
    return text.strip().removeprefix("<").removesuffix(">").rpartition("@")[2]


def parse_target(text: str) -> NextHop:
    """Return the next hop that `text` is, or that an address in it leads to.

    `example.com`, `example.com.`, `<user@example.com>` and `[relay.example.net]:587` are some.
    Raise `ValueError` for text that names no domain of two labels or more.
    """
    try:
        found = parse_next_hop(next_hop_of(text).encode())
    except UnicodeEncodeError:
        found = None
    if found is None:
        raise ValueError(f"no domain name, address or next hop: {text.strip()[:300]!a}")
    return found
