"""`mta-sts-query cache`: what the cache of a daemon holds, and what an administrator does with it.

The daemon is asked over its control socket (`control` in the configuration). While none answers
there, the store is read and changed by itself, which all daemons on it notice within `cache_grace`.

Exit statuses: 0 done, 1 nothing is known of the domain, 2 the look again failed, 64 for wrong
arguments, 69 for a cache that cannot be reached, 78 for a wrong configuration, 130 after an
interrupt.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ..cache.entry import Entry
from ..cache.store import StoreError
from ..config.keys import DEFAULT_PATH, load
from ..config.settings import Config, InternalCache, Zone
from ..config.yaml_schema import ConfigError
from ..control.client import ControlError, NoDaemon, ask
from ..control.direct import Direct
from ..control.messages import Command, End, Item, Missed, Request
from ..mta_sts.resolver import Resolver
from ..net.proxy import ProxyError, from_environment
from ..policies.renewal_times import RenewalTimes
from ..process.arguments import FILE_NAMES, Arguments
from ..process.output import complain, say
from ..socketmap.answer import answer
from ..stores.opening import open_store
from .as_json import entry_fields
from .screen import ahead, shown, span
from .target import parse_target

PROG = "mta-sts-query cache"
DESCRIPTION = "Look after the cache of mta-sts-daemon, while it runs."
_DONE, _UNKNOWN, _FAILED = 0, 1, 2

_say = partial(say, PROG)


class Unreachable(Exception):
    """The cache cannot be reached; the text says why, and what to do."""


def run(argv: Sequence[str]) -> int:
    """Do what the arguments say. Return the exit status."""
    options = arguments().parse_args(argv)
    try:
        config = load(options.config)
        domain = "" if options.domain is None else parse_target(options.domain).domain
        return _COMMANDS[options.command](config, domain, options)
    except ConfigError as error:
        return _refuse(os.EX_CONFIG, str(error))
    except ProxyError as error:
        return _refuse(os.EX_USAGE, f"https_proxy in the environment: {error}")
    except (Unreachable, ControlError, StoreError) as error:
        return _refuse(os.EX_UNAVAILABLE, str(error))
    except ValueError as error:
        return _refuse(os.EX_USAGE, str(error))


def arguments() -> Arguments:
    """Return what reads the arguments behind the word `cache`."""
    parser = Arguments(
        prog=PROG,
        description=DESCRIPTION,
        epilog="exit status: 0 done, 1 not known, 2 failed, 64 usage, 69 cache out of reach",
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: Arguments) -> None:
    """Add the arguments behind the word `cache`."""
    parser.set_defaults(domain=None)
    config = parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=DEFAULT_PATH,
        help=f"configuration of the daemon (default: {DEFAULT_PATH})",
    )
    config.complete = FILE_NAMES  # type: ignore[attr-defined]
    parser.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, description: str, *, domain: bool = True) -> Arguments:
        made: Arguments = commands.add_parser(name, description=description, help=description)
        if domain:
            made.add_argument("domain", metavar="DOMAIN", help="domain, address or next hop")
        return made

    add("list", "List what is cached, also what was not found.", domain=False)
    add("show", "Show what is cached of a domain.")
    add("forget", "Forget a domain: policy, misses and ready replies.").add_argument(
        "--yes", action="store_true", help="do not ask"
    )
    add("refresh", "Look record and policy of a domain up now.")
    add("export", "Print the enforced policies as a table for Postfix.", domain=False).add_argument(
        "--zone", metavar="NAME", help="for this zone (default: default_zone)"
    )


def _refuse(status: int, message: str) -> int:
    for line in message.splitlines():
        complain(f"{PROG}: {shown(line)}")
    return status


# THE CACHE


def _answered(config: Config, request: Request) -> Iterator[Item]:
    """Yield the answer of the daemon, or else of its store."""
    why = "control is not set in the configuration"
    if config.control is not None:
        try:
            yield from ask(config.control.path, request)
            return
        except NoDaemon as error:
            why = str(error)
    if isinstance(config.cache, InternalCache):
        raise Unreachable(
            f"the cache is in the memory of the daemon, which cannot be asked: {why}; set"
            " control: {path: ...} in its configuration, restart it, and run this as root"
        )
    cache = config.cache
    if not isinstance(cache, InternalCache) and not os.path.exists(getattr(cache, "filename", "/")):
        raise Unreachable(f"{getattr(cache, 'filename', '')}: there is no such database yet")
    changes = request.command in (Command.FORGET, Command.REFRESH)
    store = open_store(cache, to_read=not changes)
    try:
        proxy = from_environment(os.environ, config.https_proxy, config.no_proxy)
        resolver = Resolver(config.default_zone.timeout, proxy=proxy)
        proactive = config.proactive
        times = RenewalTimes(config.cache_grace, proactive.interval, proactive.grace_ratio)
        yield from Direct(store, resolver, times).answer(request)
        if changes:
            grace = f"{config.cache_grace:g}"
            complain(f"{PROG}: running daemons notice it within cache_grace, {grace} s ({why})")
    finally:
        store.close()


# COMMANDS


def _list(config: Config, _: str, options: argparse.Namespace) -> int:
    now = time.time()
    if not options.json:
        _say(_row("DOMAIN", "MODE", "AGE", "ENDS", "LAST FAILURE"))
    for item in _answered(config, Request(Command.LIST)):
        _say(json.dumps(_fields(item)) if options.json else _line(item, now))
    return _DONE


def _show(config: Config, domain: str, options: argparse.Namespace) -> int:
    return _print(list(_answered(config, Request(Command.SHOW, domain))), domain, options)


def _forget(config: Config, domain: str, options: argparse.Namespace) -> int:
    if not options.yes and not _agreed(domain):
        return _refuse(os.EX_USAGE, "nothing was forgotten: say y, or give --yes")
    items = list(_answered(config, Request(Command.FORGET, domain)))
    if options.json:
        _say(json.dumps({"domain": domain, "forgotten": [_fields(item) for item in items]}))
        return _DONE
    _say(f"{domain}: forgotten" if items else f"{domain}: nothing was known, and is forgotten")
    for item in items:
        for line in _lines(item, time.time()):
            _say(f"  {line}")
    return _DONE


def _agreed(domain: str) -> bool:
    """Ask whether a domain is to be forgotten."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    complain(
        f"Mail to {domain} is not protected from now on until its policy is fetched again."
        " Forget it? [y/N]"
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _refresh(config: Config, domain: str, options: argparse.Namespace) -> int:
    before = list(_answered(config, Request(Command.SHOW, domain)))
    after = list(_answered(config, Request(Command.REFRESH, domain)))
    failed = any(isinstance(item, Missed) for item in after)
    status = _FAILED if failed else _DONE
    if options.json:
        found = {"before": [*map(_fields, before)], "now": [*map(_fields, after)]}
        _say(json.dumps({"domain": domain, **found}))
        return status
    for title, items in (("before", before), ("now", after)):
        _say(f"{title}:")
        for line in (line for item in items for line in _lines(item, time.time())):
            _say(f"  {line}")
        if not items:
            _say("  nothing")
    return status


def _export(config: Config, _: str, options: argparse.Namespace) -> int:
    """Print a table for smtp_tls_policy_maps (postconf(5))."""
    zone = config.zones.get(options.zone, config.default_zone)
    now = time.time()
    found = [
        item
        for item in _answered(config, Request(Command.LIST))
        if isinstance(item, Entry) and now < item.end
    ]
    for entry in sorted(found, key=lambda one: one.domain):
        if row := table_row(entry, zone):
            _say(row)
    return _DONE


def table_row(entry: Entry, zone: Zone) -> str:
    """Return the row of a domain in a table for Postfix, "" for a policy that is not enforced."""
    told = answer(entry.policy, entry.domain, zone).decode()
    return f"{entry.domain} {told.removeprefix('OK ')}" if told.startswith("OK ") else ""


_COMMANDS = {
    "list": _list,
    "show": _show,
    "forget": _forget,
    "refresh": _refresh,
    "export": _export,
}


# OUTPUT


def _print(items: list[Item], domain: str, options: argparse.Namespace) -> int:
    if options.json:
        for item in items:
            _say(json.dumps(_fields(item)))
    elif not items:
        _say(f"{domain}: nothing is cached")
    else:
        _say(domain)
        for line in (line for item in items for line in _lines(item, time.time())):
            _say(f"  {line}")
    return _DONE if items else _UNKNOWN


def _fields(item: Item) -> dict[str, Any]:
    match item:
        case Entry():
            return {"domain": item.domain, "found": True, **entry_fields(item)}
        case Missed():
            return {
                "domain": item.domain,
                "found": False,
                "cause": item.cause,
                "detail": item.text,
                "timeout": item.timeout,
                "seconds_left": item.left,
            }
        case End():
            return {}


def _row(domain: str, mode: str, age: str, ends: str, failure: str) -> str:
    return f"{domain:<32} {mode:<9} {age:>8} {ends:>8}  {failure}".rstrip()


def _line(item: Item, now: float) -> str:
    match item:
        case Entry():
            ends = "ended" if item.end <= now else _short(item.end - now)
            failure = shown(item.failure)[:60]
            return _row(item.domain, item.policy.mode, _short(now - item.fetched), ends, failure)
        case Missed():
            domain, text = shown(item.domain), shown(item.text)[:60]
            return _row(domain, "not found", "", _short(item.left), text)
        case End():
            return ""


def _lines(item: Item, now: float) -> Iterator[str]:
    match item:
        case Entry():
            policy = item.policy
            yield f"policy {item.id}: mode {policy.mode}, max_age {policy.max_age}"
            for pattern in policy.mx:
                yield f"mx {pattern}"
            yield f"fetched {span(now - item.fetched)} ago, ends {ahead(item.end - now)}"
            next_look = ahead(item.due - now)
            yield f"record seen {span(now - item.checked)} ago, is looked at next {next_look}"
            if item.failed:
                yield f"failed {span(now - item.failed)} ago: {shown(item.failure)}"
        case Missed():
            left = f"; believed for {span(item.left)} more" if item.left else ""
            yield f"not found: {shown(item.text)}{left}"
        case End():
            return


def _short(seconds: float) -> str:
    """Return a time in a few letters."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"
