"""The HTTP proxy that policies are fetched through, as an administrator names it. No I/O.

`https_proxy` holds the URL of the proxy, and `no_proxy` the names of hosts that are reached without
it, as for other programs. Both are keys of the configuration file and variables of the environment,
also in capitals. No other variable is read: policies are never fetched over plain HTTP
(`http_proxy`), and `all_proxy` may name a proxy that does not speak HTTP.

`parse_proxy` and `from_environment` raise `ProxyError`, which never shows the URL: it may hold a
password.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .domain_names import a_labels

# RFC 3986 §3.2: authority = [ userinfo "@" ] host [ ":" port ]. The scheme may be left out.
_URL = re.compile(
    r"(?:http://)?"
    r"(?:(?P<user>[^/?#@:]*)(?::(?P<password>[^/?#@]*))?@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^/?#@:\[\]]+))"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
_OTHER_SCHEME = re.compile(r"(https|socks[45]?[ah]?)://", re.IGNORECASE)
_DEFAULT_PORT = 80
_ALLOWED = (
    "http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with an address, localhost or a name with"
    " a dot for the host, and percent signs (%40 for @) for what a URL does not allow in a password"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that policies are fetched through; `proxy` reads one from its URL.

    `host`: an IP address, "localhost" or a name in A-labels. `authorization`: the value of
    Proxy-Authorization, "" for none. `no_proxy`: names of policy hosts that, with all below them,
    are reached without it.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ProxyError(ValueError):
    """The proxy cannot be used; `found` says what stands there, `allowed` what may."""

    def __init__(self, found: str) -> None:
        self.found = found
        self.allowed = _ALLOWED
        super().__init__(f"found {found}; allowed: {_ALLOWED}")


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that `url` names. Raise `ProxyError` if it names none that can be used."""
    scheme = _OTHER_SCHEME.match(url)
    if scheme:
        # What goes through the tunnel is TLS in any case.
        raise ProxyError(f"the scheme {scheme[1].lower()}")
    parts = _URL.fullmatch(url)
    if parts is None or not url.isprintable() or " " in url:
        raise ProxyError("another text, which is not shown because it may hold a password")
    port = int(parts["port"]) if parts["port"] else _DEFAULT_PORT
    if not 0 < port <= 65535:
        raise ProxyError(f"the port {port}")
    host = parts["ipv6"] or parts["host"]
    return Proxy(_host(host), port, _authorization(parts["user"], parts["password"]))


def parse_no_proxy(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas or white space between.

    Each stands for itself and what is below it, with or without a leading dot; "*" stands for
    everything. Addresses are of no effect, because a policy host has a name.
    """
    names = (name.lower().removesuffix(":443") for name in re.split(r"[\s,]+", text) if name)
    return tuple(_name(name) for name in names)


def from_environment(
    environment: Mapping[str, str],
    proxy: Proxy | None = None,
    no_proxy: tuple[str, ...] | None = None,
) -> Proxy | None:
    """Return the proxy to use, None where there is none.

    `proxy` and `no_proxy` are what the configuration says; each that is not None is taken in
    place of its variable in the environment. Raise `ProxyError` for a variable that cannot be
    used.
    """
    if proxy is None:
        url = _variable(environment, "https_proxy")
        if not url:
            return None
        proxy = parse_proxy(url)
    names = no_proxy
    if names is None:
        names = parse_no_proxy(_variable(environment, "no_proxy"))
    return None if "*" in names else replace(proxy, no_proxy=names)


def goes_through(proxy: Proxy, host: str) -> bool:
    """Say whether `host` (A-labels, lower case) is reached through `proxy`."""
    return not any(host == name or host.endswith(f".{name}") for name in proxy.no_proxy)


def known_addresses(proxy: Proxy) -> tuple[str, ...]:
    """Return the addresses of `proxy` if its host is no name to look up, else none."""
    if proxy.host == "localhost":
        # RFC 6761 §6.3; not every name server has it.
        return "127.0.0.1", "::1"
    try:
        ipaddress.ip_address(proxy.host)
    except ValueError:
        return ()
    return (proxy.host,)


def _variable(environment: Mapping[str, str], name: str) -> str:
    # As everywhere: small letters win, even where they say nothing.
    return environment.get(name, environment.get(name.upper(), "")).strip()


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if text.lower() == "localhost":
        return "localhost"
    try:
        return a_labels(text)
    except ValueError:
        raise ProxyError("a host that is no address, and no name with a dot") from None


def _name(text: str) -> str:
    name = text.removeprefix("*.").strip(".")
    try:
        return a_labels(name)
    except ValueError:
        # A top-level domain, "*", or something that is the name of no policy host.
        return name or text


def _authorization(user: str | None, password: str | None) -> str:
    """Return the value of Proxy-Authorization (RFC 7617 §2), "" where there is no user."""
    if user is None:
        return ""
    name, word = (urllib.parse.unquote_to_bytes(part or "") for part in (user, password))
    if b":" in name:
        raise ProxyError("a user with a colon in the name, which no HTTP server understands")
    return "Basic " + base64.b64encode(name + b":" + word).decode("ascii")
