"""MTA-STS (RFC 8461): find, fetch and check the policy of a domain that mail is sent to.

    from stsresolver import Found, Resolver

    result = Resolver(timeout=4).resolve("example.com")
    if isinstance(result, Found):
        print(result.policy.mode, result.policy.matches("mail.example.com"))

The daemon for Postfix and the query tool stand on the same `Resolver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mta_sts.policy import Mode, Policy
from .mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .version import __version__

if TYPE_CHECKING:
    from .mta_sts.resolver import Resolver

__all__ = [
    "Cause",
    "Failure",
    "Found",
    "Lookup",
    "Mode",
    "NoPolicy",
    "NotChanged",
    "Policy",
    "Resolver",
    "__version__",
]


def __getattr__(name: str) -> object:
    # Loaded when asked for: the daemon's own process needs neither dnspython nor requests.
    if name == "Resolver":
        from .mta_sts.resolver import Resolver  # noqa: PLC0415

        return Resolver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
