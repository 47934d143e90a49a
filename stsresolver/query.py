"""mta-sts-query: look up one domain's policy and say what it is, or why there is none.

Exit statuses: 0 there is a policy (or the known id is still published), 1 there is none, 2 it
could not be found out, 64 for wrong arguments and for an `https_proxy` that cannot be used, 74 and
141 where the result cannot be printed (`output`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from .mta_sts.resolver import Resolver
from .mta_sts.results import Failure, Found, Lookup, NoPolicy, NotChanged
from .net.domain_names import a_labels
from .net.proxy import ProxyError, from_environment
from .process.arguments import Arguments
from .process.output import complain, say

_POLICY, _NONE, _FAILURE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Look up a domain and print the result. Return the exit status."""
    options = _arguments().parse_args(argv)
    try:
        domain = a_labels(options.domain)
    except ValueError as error:
        complain(f"mta-sts-query: {error}")
        return os.EX_USAGE
    try:
        proxy = from_environment(os.environ)
    except ProxyError as error:
        complain(f"mta-sts-query: https_proxy in the environment: {error}")
        return os.EX_USAGE
    known_ids = () if options.known_id is None else (options.known_id,)
    result = Resolver(options.timeout, proxy=proxy).resolve(domain, *known_ids)
    for line in _described(domain, result, verbose=options.verbose):
        say("mta-sts-query", _shown(line))
    match result:
        case Found() | NotChanged():
            return _POLICY
        case NoPolicy():
            return _NONE
        case Failure():
            return _FAILURE


def _arguments() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="mta-sts-query",
        description="Look up the MTA-STS policy of a domain.",
        epilog="exit status: 0 policy, 1 no policy, 2 failure, 64 usage",
    )
    add = parser.add_argument
    add("domain", metavar="DOMAIN", help="the policy domain, what stands behind the @")
    add("known_id", metavar="KNOWN_ID", nargs="?", help="fetch only if the id is another one")
    add("-v", "--verbose", action="store_true", help="show where the answer comes from, too")
    add("-t", "--timeout", type=_seconds, default=4.0, help="seconds for DNS and for HTTPS (4)")
    return parser


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"not a number of seconds, over 0 and at most 3600: {text!r}")


def _described(domain: str, result: Lookup, *, verbose: bool) -> list[str]:
    """Return the lines that tell a person what was found."""
    match result:
        case Found(policy, policy_id):
            lines = [
                f"{domain}: MTA-STS policy {policy_id}",
                f"mode:    {policy.mode}",
                *(f"mx:      {pattern}" for pattern in policy.mx),
                f"max_age: {policy.max_age} seconds ({policy.max_age / 86400:.1f} days)",
            ]
        case NotChanged(policy_id):
            lines = [f"{domain}: the MTA-STS policy is still {policy_id}"]
        case NoPolicy():
            lines = [f"{domain}: no MTA-STS policy: {result}"]
        case Failure():
            lines = [f"{domain}: MTA-STS policy not found out: {result}"]
            if result.id:
                lines.append(f"The TXT record announces the policy {result.id}.")
    if verbose:
        lines += [
            "",
            f"TXT record:  _mta-sts.{domain}",
            f"policy file: https://mta-sts.{domain}/.well-known/mta-sts.txt",
        ]
        if isinstance(result, Found):
            lines += ["its text:", *(f"    {text}" for text in result.policy.text)]
    return lines


def _shown(line: str) -> str:
    """Return a line that is safe on every terminal, whatever a stranger has put in it."""
    return "".join(
        char
        if char.isascii() and char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        for char in line
    )


if __name__ == "__main__":
    sys.exit(main())
