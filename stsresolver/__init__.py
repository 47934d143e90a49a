"""MTA-STS (RFC 8461): find, fetch and check the policy of a domain that mail is sent to.

    from stsresolver import Found, Resolver

    result = Resolver(timeout=4).resolve("example.com")
    if isinstance(result, Found):
        print(result.policy.mode, result.policy.matches("mail.example.com"))

`inspect` looks at everything that mail to a domain depends on:

    seen = stsresolver.inspect("user@example.com")
    print(seen.verdict, seen.problems)

`DaneResolver` looks at DANE, which a policy must not override:

    dane = stsresolver.DaneResolver().look_up("example.com")
    print(dane.verdict, *dane.hosts)

The daemon for Postfix and the query tool stand on the same `Resolver`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .dane.states import Dane, DaneHost, HostState, MxState, Verdict
from .mta_sts.policy import Mode, Policy
from .mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .version import __version__

if TYPE_CHECKING:
    from .dane.resolver import DaneResolver
    from .inspection.findings import Inspection
    from .inspection.inspector import Inspector, inspect
    from .mta_sts.resolver import Resolver

__all__ = [
    "Cause",
    "Dane",
    "DaneHost",
    "DaneResolver",
    "Failure",
    "Found",
    "HostState",
    "Inspection",
    "Inspector",
    "Lookup",
    "Mode",
    "MxState",
    "NoPolicy",
    "NotChanged",
    "Policy",
    "Resolver",
    "Verdict",
    "__version__",
    "inspect",
]


# Loaded when asked for: the daemon's own process needs neither dnspython nor requests.
_LATE = {
    "DaneResolver": "dane.resolver",
    "Inspection": "inspection.findings",
    "Inspector": "inspection.inspector",
    "Resolver": "mta_sts.resolver",
    "inspect": "inspection.inspector",
}


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
