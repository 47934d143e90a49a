"""What a lookup tells of its way, step by step, to one who wants to show it.

A lookup calls each method once when that step has gone well, in the order below; what went wrong
is its result. The base class listens to nothing. A method must neither block nor raise.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..net.tls import BoundedTls


class Observer:
    """Listens to one lookup."""

    def record(self, texts: Sequence[bytes]) -> None:
        """The name server gave these TXT records, the strings of each joined (RFC 8461 §3.1)."""

    def addresses(self, addresses: Sequence[str]) -> None:
        """The policy host has these addresses; called for each address family."""

    def connected(self, address: str) -> None:
        """The policy host was connected to, directly at `address`, or by the proxy of this name."""

    def verified(self, tls: BoundedTls) -> None:
        """The certificate of the policy host is valid (§3.3)."""

    def answered(self, status: int, media_type: str) -> None:
        """The header of the answer came. `media_type`: as it was sent, "" for none."""

    def served(self, body: bytes) -> None:
        """The body came, whole or as far as it is read."""


UNOBSERVED = Observer()
