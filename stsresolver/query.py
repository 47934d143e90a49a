"""mta-sts-query: look at a domain as Postfix's daemon does, and say what comes of mail to it.

Exit statuses: 0 there is a policy (or the known id is still published), 1 there is none, 2 it or
its DANE state could not be found out, 3 the policy keeps mail from an MX host, 64 for wrong
arguments and for an `https_proxy` that cannot be used, 66 for a list or CA certificates that
cannot be read, 74 and 141 where the result cannot be printed (`output`), 78 for a wrong
configuration, 130 after an interrupt.
With `--file`: 0 if every line was looked up, else 2.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from .config.exemptions import read_file
from .config.keys import load
from .config.yaml_schema import ConfigError
from .inspection import cache_command
from .inspection.as_json import as_json
from .inspection.asking import ANSWER_LIMIT, AskError, Place, ask, explained, parse_place
from .inspection.findings import Inspection
from .inspection.inspector import Inspector
from .inspection.judgement import is_weak
from .inspection.many import Summary, side_by_side, table_line
from .inspection.progress import progress
from .inspection.screen import Paint, reply_screen, screen, shown, verdict_line
from .inspection.smtp import HOST_LIMIT, as_postfix_does
from .inspection.stored import cached
from .inspection.target import next_hop_of, parse_target
from .mta_sts.results import Failure, NoPolicy
from .net.proxy import ProxyError, from_environment
from .process.arguments import FILE_NAMES, Arguments
from .process.output import complain, say

_PROG = "mta-sts-query"
_POLICY, _NONE, _FAILURE, _REFUSED = 0, 1, 2, 3
# A shell's status for a program that SIGINT ends.
_INTERRUPTED = 130
_ASK_ZONE = "postfix"
_MOST_JOBS = 1000

_say = partial(say, _PROG)


def main(argv: Sequence[str] | None = None) -> int:
    """Look at what the arguments name, and print it. Return the exit status."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    # It is no domain: that has two labels.
    if words[:1] == ["cache"]:
        return cache_command.run(words[1:])
    parser = _arguments()
    options = parser.parse_args(argv)
    if options.print_completion is not None:
        return _print_completion(options.print_completion)
    if (options.domain is None) is (options.file is None):
        parser.error("the following arguments are required: DOMAIN, or --file LIST without one")
    if options.ask is not None:
        return _ask(parser, options)
    if options.port is not None and not options.probe:
        parser.error("--port needs --probe")
    if options.zone is not None and options.config is None:
        parser.error("--zone needs --config FILE, or --ask")
    with contextlib.ExitStack() as stack:
        return _look(options, stack)


def _look(options: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    try:
        inspector = _inspector(options, stack)
        target = parse_target(options.domain) if options.file is None else None
    except ConfigError as error:
        return _refuse(os.EX_CONFIG, str(error))
    except ProxyError as error:
        return _refuse(os.EX_USAGE, f"https_proxy in the environment: {error}")
    except ValueError as error:
        return _refuse(os.EX_USAGE, str(error))
    except OSError as error:
        return _refuse(os.EX_NOINPUT, f"CA certificates cannot be read: {error.strerror}")
    if target is None:
        return _many(inspector, options)
    known_ids = () if options.known_id is None else (options.known_id,)
    seen = inspector.inspect(target, *known_ids)
    _print(seen, options)
    return _status(seen, strict=options.strict)


def _refuse(status: int, message: str) -> int:
    for line in message.splitlines():
        complain(f"{_PROG}: {line}")
    return status


def _arguments() -> Arguments:
    parser = Arguments(
        prog=_PROG,
        description="Look at the MTA-STS policy of a domain, and at what becomes of mail to it.",
        epilog="exit status: 0 policy, 1 no policy, 2 failure, 3 mail is refused, 64 usage",
    )
    add = parser.add_argument
    add("domain", metavar="DOMAIN", nargs="?", help="a domain, an address or a next hop of Postfix")
    add("known_id", metavar="KNOWN_ID", nargs="?", help="fetch only if the id is another one")
    _add_options(parser)
    return parser


def _add_options(parser: Arguments) -> None:
    add = parser.add_argument
    form = parser.add_mutually_exclusive_group().add_argument
    form("-v", "--verbose", action="store_true", help="show the text of the policy, too")
    form("-q", "--quiet", action="store_true", help="print the verdict alone")
    form("--json", action="store_true", help="print a JSON object")
    add("-t", "--timeout", metavar="SECONDS", type=_seconds, help="for DNS and for HTTPS (4)")
    add("--strict", action="store_true", help="end with 3 for warnings as well")
    config = add("-c", "--config", metavar="FILE", help="look as the daemon of this file does")
    add("--zone", metavar="NAME", help="and as its zone of this name, or that of --ask")
    add("--probe", action="store_true", help="try STARTTLS with the MX hosts, as Postfix does")
    add("--port", metavar="NUMBER", type=_to(65535), help="at this port (25)")
    file = add("--file", metavar="LIST", help="look at each domain of a file, or of - (stdin)")
    add("--jobs", metavar="NUMBER", type=_to(_MOST_JOBS), default=16, help="so many at once (16)")
    add("--ask", metavar="PLACE", type=_place, help="ask the daemon at HOST:PORT or unix:PATH")
    add("--print-completion", choices=("bash", "zsh"), help="print what completes arguments")
    for action in (config, file):
        action.complete = FILE_NAMES  # type: ignore[attr-defined]


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"not a number of seconds, over 0 and at most 3600: {text!r}")


def _to(most: int) -> Callable[[str], int]:
    """Return what reads a number from 1 to `most`."""

    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and 0 < int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"not a number from 1 to {most}: {text[:40]!r}")

    return number


def _place(text: str) -> Place:
    try:
        return parse_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print_completion(shell: str) -> int:
    """Print a script that completes our arguments in a shell."""
    try:
        shtab = importlib.import_module("shtab")
    except ImportError:
        remedy = f"{sys.executable} -m pip install 'stsresolver[query]'"
        return _refuse(os.EX_UNAVAILABLE, f"shtab is not installed: {remedy}")
    parser = Arguments(prog=_PROG, description="")
    _add_options(parser)
    # It can stand where a domain does, which cannot be completed.
    does = cache_command.DESCRIPTION
    cache = parser.add_subparsers().add_parser("cache", description=does, help=does)
    cache_command.add_arguments(cache)
    _say(shtab.complete(parser, shell))
    return os.EX_OK


# A LOOK


def _inspector(options: argparse.Namespace, stack: contextlib.ExitStack) -> Inspector:
    """Return what looks as the options say, until `stack` is closed.

    Raise `ConfigError`, `ProxyError`, or `OSError` for CA certificates that cannot be read.
    """
    timeout = options.timeout
    probing = None
    if options.probe:
        probing = replace(as_postfix_does(), port=options.port, limit=timeout or HOST_LIMIT)
    if options.config is None:
        proxy = from_environment(os.environ)
        return Inspector(timeout or 4.0, proxy=proxy, probing=probing, dane=options.file is None)
    config = load(options.config)
    zone = config.zones.get(options.zone, config.default_zone)
    return Inspector(
        timeout or zone.timeout,
        proxy=from_environment(os.environ, config.https_proxy, config.no_proxy),
        dns=config.dns,
        zone=zone,
        dane=options.file is None,
        exempt=read_file(zone.exempt_file) if zone.exempt_file else frozenset(),
        cached=cached(config, stack),
        probing=probing,
    )


def _print(seen: Inspection, options: argparse.Namespace) -> None:
    if options.json:
        _say(as_json(seen))
        return
    paint = _paint()
    if options.quiet:
        _say(verdict_line(seen, paint))
        return
    for line in screen(seen, paint, verbose=options.verbose):
        _say(line)


def _paint() -> Paint:
    """Return colours if standard output is a terminal that may have them (https://no-color.org)."""
    return Paint(
        on=sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def _status(seen: Inspection, *, strict: bool) -> int:
    if isinstance(seen.result, NoPolicy):
        return _NONE
    if isinstance(seen.result, Failure) or seen.answer.startswith("TEMP "):
        return _FAILURE
    return _REFUSED if seen.refused or (strict and is_weak(seen)) else _POLICY


# MANY DOMAINS


def _many(inspector: Inspector, options: argparse.Namespace) -> int:
    """Look at each line of a file. Return 0 if every line was looked up."""
    try:
        lines, total = _lines(options.file)
    except OSError as error:
        return _refuse(os.EX_NOINPUT, f"{shown(options.file)}: {error.strerror}")
    summary, began, whole = Summary(), time.monotonic(), True
    shows = progress(total)
    paint = _paint()
    try:
        for seen in side_by_side(lines, inspector.inspect, options.jobs):
            shows.hide()
            if isinstance(seen, str):
                summary.unread += 1
                complain(f"{_PROG}: {shown(seen)}")
            else:
                summary.add(seen)
                _print_line(seen, options, paint)
            shows.advance()
    except KeyboardInterrupt:
        whole = False
    finally:
        shows.close()
    for line in summary.lines(time.monotonic() - began, whole=whole):
        complain(line)
    return _POLICY if whole and not summary.unread else _FAILURE


def _lines(name: str) -> tuple[Iterable[str], int | None]:
    """Return the lines that are not blank, and how many those of a file are. Raise `OSError`."""
    if name == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        # Unbuffered: an interrupt may end the process while a thread waits for the next line.
        lines = io.FileIO(sys.stdin.fileno(), closefd=False)
        return (line.decode("utf-8", "surrogateescape") for line in lines if line.strip()), None
    with open(name, encoding="utf-8", errors="surrogateescape") as file:
        found = [line for line in file if line.strip()]
    return found, len(found)


def _print_line(seen: Inspection, options: argparse.Namespace, paint: Paint) -> None:
    if options.json or options.verbose:
        _print(seen, options)
    elif options.quiet:
        _say(verdict_line(seen, paint))
    else:
        _say(table_line(seen))


# A QUESTION TO A DAEMON


def _ask(parser: Arguments, options: argparse.Namespace) -> int:
    """Put the question to a daemon, and explain its reply."""
    for name in ("known_id", "json", "config", "file", "probe"):
        if getattr(options, name):
            parser.error(f"--ask takes no {'KNOWN_ID' if name == 'known_id' else f'--{name}'}")
    zone = _ASK_ZONE if options.zone is None else options.zone
    next_hop = next_hop_of(options.domain)
    began = time.monotonic()
    try:
        reply = ask(options.ask, zone, next_hop, options.timeout or ANSWER_LIMIT)
    except AskError as error:
        return _refuse(_FAILURE, f"{shown(str(error))}: mail to {shown(next_hop)} waits")
    verdict, means, status = explained(reply, next_hop)
    if options.quiet:
        _say(shown(verdict))
        return status
    asked = f"{options.ask}, zone {zone}, about {next_hop}"
    for line in reply_screen(asked, reply, means, verdict, time.monotonic() - began, _paint()):
        _say(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
