"""What the value of one key may be: the rules that `keys` gives to more than one, or that are long.

A rule takes an `Item` and returns what it means. It raises `Refused`, with what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from ..net.dns_servers import parse_server
from ..net.domain_names import a_labels
from ..net.proxy import Proxy, ProxyError, parse_no_proxy, parse_proxy
from . import exemptions
from .settings import Address, TcpAddress, UnixAddress
from .yaml_schema import Item, Refused, guess, number

PORT_MAX = 65535
# sockaddr_un.sun_path on Linux has 108 bytes, the final NUL among them (unix(7)).
PATH_BYTES_MAX = 107
MODE_MAX = 0o777
# No policy lives longer (RFC 8461 §3.2).
CACHE_GRACE_MAX = 31557600
SHUTDOWN_TIMEOUT_MAX = 3600
# A worker is a thread: more of them cost memory and wait for each other.
WORKERS_MAX = 4096
# More connections to one database would only wait for each other.
THREADS_MAX = 1024
# Postfix waits 100 s. A lookup takes one time limit for DNS and one for HTTPS. After 20 s a request
# is answered with what is known, and the next one finds the result.
TIMEOUT_USEFUL = 40
TIMEOUT_MAX = 3600
# No policy lives longer (RFC 8461 §3.2): a longer interval would renew nothing.
INTERVAL_MAX = 31557600

# In seconds.
timeout = number(float, 0, TIMEOUT_MAX, over=True, unit="seconds")


def is_one_word(text: str) -> bool:
    """Say whether `text` is printable and has no white space."""
    return text.isprintable() and text.split() == [text]


def is_socket_path(text: str) -> bool:
    """Say whether `text` can be the path of a UNIX socket (unix(7))."""
    try:
        return 0 < len(os.fsencode(text)) <= PATH_BYTES_MAX
    except UnicodeEncodeError:
        return False


def mode(entry: Item) -> int:
    """Return the mode of a file; warn where it was probably meant to be octal."""
    # 0666 is octal in YAML 1.1 and so it is in quotes; 666 is a decimal number.
    allowed = f"an octal number with a leading zero, from 0 to 0{MODE_MAX:o}, such as 0660"
    value = entry.value
    if isinstance(value, str) and re.fullmatch("0(o?[0-7]+)?", value):
        value = int(value, 8)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(allowed)
    decimal = re.fullmatch("[1-9][0-9_]*", entry.node.value)
    meaning = f"the decimal number {entry.node.value}, which is mode 0{value:o}" if decimal else ""
    if not 0 <= value <= MODE_MAX:
        raise Refused(allowed, meaning and f"{meaning} (is a leading zero missing?)")
    if meaning:
        entry.warn(f"found {meaning} (is a leading zero missing?)")
    return value


def address(text: str) -> Address | None:
    """Return the address that HOST:PORT or unix:PATH names, None if it is neither."""
    kind, _, path = text.partition("unix:")
    if not kind and path:
        return UnixAddress(path) if text.isprintable() and is_socket_path(path) else None
    found = re.fullmatch(r"(?:\[([^][]+)\]|([^][:]+)):([0-9]{1,5})", text)
    if found is None:
        return None
    host, port = found[1] or found[2], int(found[3])
    return TcpAddress(host, port) if is_one_word(host) and port <= PORT_MAX else None


def account(entry: Item) -> str:
    """Return the name or number of a user or group."""
    value = entry.value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if not isinstance(value, str) or not is_one_word(value):
        raise Refused("a name or a number of the system's accounts")
    return value


def zone_timeout(entry: Item) -> float:
    """Return a zone's `timeout` in seconds, as far as Postfix waits for it."""
    seconds = timeout(entry)
    if seconds > TIMEOUT_USEFUL:
        entry.warn(f"{TIMEOUT_USEFUL} seconds are used: Postfix gives up before a longer one ends")
    return min(seconds, TIMEOUT_USEFUL)


def one_of(words: Collection[str]) -> Callable[[Item], str]:
    """Return a rule that allows these words alone."""

    def rule(entry: Item) -> str:
        value = entry.value
        if not isinstance(value, str) or value not in words:
            raise Refused(", ".join(words), entry.found + guess(str(value), words))
        return value

    return rule


def nameservers(entry: Item) -> tuple[str, ...]:
    """Return the name servers of a list, each named as `net.dns_servers` reads it."""
    allowed = (
        "a list of addresses of name servers, such as 192.0.2.1, 192.0.2.1:53, 2001:db8::1 and"
        ' "[2001:db8::1]:53"'
    )
    if not entry.is_list:
        raise Refused(allowed)
    found = [one for item in entry.items() if (one := item.read(partial(_nameserver, allowed)))]
    return tuple(dict.fromkeys(found))


def _nameserver(allowed: str, entry: Item) -> str:
    value = entry.value
    try:
        # What is no text names none, and "" does not either.
        parse_server(value if isinstance(value, str) else "")
    except ValueError:
        raise Refused(allowed) from None
    return str(value)


_EXEMPT = "a list of domains, such as example.com, or .example.com for all domains below it"


def exempt(entry: Item) -> tuple[str, ...]:
    """Return the entries of a list of exempt domains."""
    if not entry.is_list:
        raise Refused(_EXEMPT)
    found = [one for item in entry.items() if (one := item.read(_exempt))]
    return tuple(dict.fromkeys(found))


def _exempt(entry: Item) -> str:
    value = entry.value
    try:
        # What is no text names none, and "" does not either.
        return exemptions.entry(value if isinstance(value, str) else "")
    except ValueError:
        raise Refused(_EXEMPT) from None


def hosts(entry: Item) -> tuple[str, ...]:
    """Return a list of names of this host, in A-labels."""
    allowed = "a list of host names"
    if not entry.is_list:
        raise Refused(allowed)

    def one(item: Item) -> str:
        name = item.value if isinstance(item.value, str) else ""
        # An intranet's names may have one label.
        if re.fullmatch("[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", name):
            return name.lower()
        try:
            return a_labels(name)
        except ValueError:
            raise Refused(allowed) from None

    return tuple(name for item in entry.items() if (name := item.read(one)))


def https_proxy(entry: Item) -> Proxy:
    """Return the proxy that a URL names."""
    value = entry.value
    try:
        # What is no text is no URL, and "" is none either.
        return parse_proxy(value if isinstance(value, str) else "")
    except ProxyError as error:
        found = error.found if isinstance(value, str) else ""
        raise Refused(error.allowed, found) from None


def no_proxy(entry: Item) -> tuple[str, ...]:
    """Return the hosts that are reached without the proxy."""
    data = entry.data
    names: list[Any] = data if isinstance(data, list) else [data]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise Refused("names of hosts with commas between, or a list of them")
    return parse_no_proxy(",".join(names))
