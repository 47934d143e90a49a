"""mta-sts-query: look at a domain as Postfix's daemon does, and say what comes of mail to it.

Exit statuses: 0 there is a policy (or the known id is still published), 1 there is none, 2 it
could not be found out, 3 the policy keeps mail from an MX host, 64 for wrong arguments and for an
`https_proxy` that cannot be used, 74 and 141 where the result cannot be printed (`output`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from .inspection.as_json import as_json
from .inspection.findings import Inspection
from .inspection.inspector import Inspector
from .inspection.judgement import is_weak
from .inspection.screen import Paint, screen, verdict_line
from .inspection.target import parse_target
from .mta_sts.results import Failure, NoPolicy
from .net.proxy import ProxyError, from_environment
from .process.arguments import Arguments
from .process.output import complain, say

_PROG = "mta-sts-query"
_POLICY, _NONE, _FAILURE, _REFUSED = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Look at what the arguments name, and print it. Return the exit status."""
    options = _arguments().parse_args(argv)
    try:
        target = parse_target(options.domain)
    except ValueError as error:
        return _refuse(str(error))
    try:
        proxy = from_environment(os.environ)
    except ProxyError as error:
        return _refuse(f"https_proxy in the environment: {error}")
    known_ids = () if options.known_id is None else (options.known_id,)
    seen = Inspector(options.timeout, proxy=proxy).inspect(target, *known_ids)
    _print(seen, options)
    return _status(seen, strict=options.strict)


def _refuse(message: str) -> int:
    complain(f"{_PROG}: {message}")
    return os.EX_USAGE


def _arguments() -> argparse.ArgumentParser:
    parser = Arguments(
        prog=_PROG,
        description="Look at the MTA-STS policy of a domain, and at what becomes of mail to it.",
        epilog="exit status: 0 policy, 1 no policy, 2 failure, 3 mail is refused, 64 usage",
    )
    add = parser.add_argument
    add("domain", metavar="DOMAIN", help="a domain, an address or a next hop of Postfix")
    add("known_id", metavar="KNOWN_ID", nargs="?", help="fetch only if the id is another one")
    form = parser.add_mutually_exclusive_group().add_argument
    form("-v", "--verbose", action="store_true", help="show the text of the policy, too")
    form("-q", "--quiet", action="store_true", help="print the verdict alone")
    form("--json", action="store_true", help="print a JSON object")
    add("-t", "--timeout", type=_seconds, default=4.0, help="seconds for DNS and for HTTPS (4)")
    add("--strict", action="store_true", help="end with 3 for warnings as well")
    return parser


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"not a number of seconds, over 0 and at most 3600: {text!r}")


def _print(seen: Inspection, options: argparse.Namespace) -> None:
    if options.json:
        say(_PROG, as_json(seen))
        return
    paint = Paint(on=_shows_colours())
    if options.quiet:
        say(_PROG, verdict_line(seen, paint))
        return
    for line in screen(seen, paint, verbose=options.verbose):
        say(_PROG, line)


def _shows_colours() -> bool:
    """Say whether standard output is a terminal that may be coloured (https://no-color.org)."""
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def _status(seen: Inspection, *, strict: bool) -> int:
    if isinstance(seen.result, NoPolicy):
        return _NONE
    if isinstance(seen.result, Failure):
        return _FAILURE
    return _REFUSED if seen.refused or (strict and is_weak(seen)) else _POLICY


if __name__ == "__main__":
    sys.exit(main())
