"""MTA-STS (RFC 8461): find, fetch and check the policy of a domain that mail is sent to.

    from stsresolver import Found, Resolver

    result = Resolver(timeout=4).resolve("example.com")
    if isinstance(result, Found):
        print(result.policy.mode, result.policy.matches("mail.example.com"))

The daemon for Postfix and the query tool stand on the same `Resolver`.
"""

from .resolver import Resolver
from .results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .sts import Mode, Policy
from .version import __version__

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
