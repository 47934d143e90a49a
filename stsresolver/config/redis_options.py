"""The options of the cache types `redis` and `redis_sentinel`, read without any I/O.

They are the keywords of redis-py's `Redis` that a configuration file can write, `url`, and our own
`prefix`. Names of aioredis, which older files carry, are mapped (`address`, `maxsize`, `timeout`,
`create_connection_timeout`) or ignored with a warning. A part of a URL wins over an option of the
same meaning, as in both libraries. An option that is left empty (None) counts as left out.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# Seconds to connect, and to wait for an answer.
TIMEOUT = 5.0
PREFIX = "stsresolver:"
# More would only wait for each other in one interpreter.
MAX_CONNECTIONS = 32

_PORT = 6379


class RedisOptionsError(ValueError):
    """An option is wrong; the text is one plain sentence, without the password."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is reached, and under which names.

    `name`: what messages call it, `host:port/db`. `keywords`: those of `redis.Redis`. `master` and
    `sentinels`: the master's name and who knows its address; `sentinel_keywords`: those of
    `redis.sentinel.Sentinel`. Without sentinels all three are empty.
    """

    name: str
    prefix: str
    max_connections: int
    keywords: Mapping[str, Any] = field(repr=False)
    master: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_keywords: Mapping[str, Any] = field(default_factory=dict, repr=False)


Options = Mapping[str, object]
Result = tuple[RedisSettings, list[str]]


def connection_options(options: Options) -> Result:
    """Return the settings of type `redis`, and lines of warning without the options' place.

    Raise `RedisOptionsError` for the first option that is wrong.
    """
    warnings: list[str] = []
    given = _with_address(options, warnings)
    values = _read(given, _OURS | _WHERE | _HOW, warnings, beside=("url", "cache_size"))
    path = values.get("unix_socket_path")
    if path is not None:
        if values.get("ssl"):
            raise RedisOptionsError("ssl: a UNIX socket has no TLS")
        for name in ("host", "port"):
            if name in values:
                raise RedisOptionsError(f"{name}: Redis is reached by the UNIX socket {path}")
        name = f"{path}/{values['db']}"
    else:
        where = values.setdefault("host", "localhost"), values.setdefault("port", _PORT)
        name = f"{_joined(*where)}/{values['db']}"
    settings = RedisSettings(name, values.pop("prefix"), values.pop("max_connections"), values)
    return settings, warnings


def sentinel_options(options: Options) -> Result:
    """Return the settings of type `redis_sentinel`; otherwise as `connection_options`."""
    warnings: list[str] = []
    given = {name: value for name, value in options.items() if value is not None}
    where, kwargs = given.pop("sentinels", None), given.pop("sentinel_kwargs", {})
    beside = ("sentinels", "sentinel_kwargs", "cache_size")
    values = _read(given, _OURS | _HOW | _SENTINEL, warnings, beside=beside)
    sentinels = _sentinels(where)
    master = values.pop("sentinel_master_name", "")
    if not master:
        raise RedisOptionsError("sentinel_master_name: is missing")
    if not isinstance(kwargs, Mapping):
        raise RedisOptionsError("sentinel_kwargs: is no section of options")
    # One after the other is asked; all of them together get the time of one connection.
    timeout = values["socket_connect_timeout"] / len(sentinels)
    own = _read({"timeout": timeout, **kwargs}, _HOW, warnings, place="sentinel_kwargs.")
    of_sentinels: dict[str, Any] = {"sentinel_kwargs": own}
    for name in ("min_other_sentinels", "force_master_ip"):
        if name in values:
            of_sentinels[name] = values.pop(name)
    known_by = ", ".join(_joined(*one) for one in sentinels)
    settings = RedisSettings(
        f"{master}/{values['db']} (sentinels {known_by})",
        values.pop("prefix"),
        values.pop("max_connections"),
        values,
        master,
        sentinels,
        of_sentinels,
    )
    return settings, warnings


def redis_settings(options: Options, *, by_sentinels: bool) -> Result:
    """Return the settings of one of the two types."""
    return sentinel_options(options) if by_sentinels else connection_options(options)


_Kind = Callable[[object], Any]


def _string(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        # YAML reads a password of digits as a number.
        value = str(value)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a text")
    return value


def _truth(value: object) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str):
        value = words.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _whole(low: int, high: int) -> _Kind:
    allowed = f"a whole number from {low} to {high}"

    def kind(value: object) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(allowed)
        return value

    return kind


def _seconds(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(\.[0-9]*)?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = 0
    if not 0 < value < math.inf:
        raise ValueError("a number of seconds over 0")
    return float(value)


def _host(value: object) -> str:
    try:
        host = _string(value)
        # What cannot be converted is no OSError, but a UnicodeError of getaddrinfo.
        host.encode("idna")
    except ValueError:
        raise ValueError("a host name or an address") from None
    return host


def _requirement(value: object) -> str:
    if value not in ("none", "optional", "required"):
        raise ValueError("none, optional or required")
    return str(value)


_OURS: dict[str, _Kind] = {"prefix": _string, "max_connections": _whole(1, 10_000)}
_WHERE: dict[str, _Kind] = {
    "host": _host,
    "port": _whole(1, 65535),
    "unix_socket_path": _string,
}
_HOW: dict[str, _Kind] = {
    "db": _whole(0, 2**31 - 1),
    "username": _string,
    "password": _string,
    "client_name": _string,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _truth,
    "health_check_interval": _whole(0, 86_400),
    "ssl": _truth,
    "ssl_keyfile": _string,
    "ssl_certfile": _string,
    "ssl_password": _string,
    "ssl_cert_reqs": _requirement,
    "ssl_ca_certs": _string,
    "ssl_ca_path": _string,
    "ssl_ca_data": _string,
    "ssl_check_hostname": _truth,
    "ssl_ciphers": _string,
    "timeout": _seconds,
}
_SENTINEL: dict[str, _Kind] = {
    "sentinel_master_name": _string,
    "min_other_sentinels": _whole(0, 1000),
    "force_master_ip": _host,
}
_OLD_NAMES = {
    "address": "url",
    "maxsize": "max_connections",
    "create_connection_timeout": "socket_connect_timeout",
}
_IGNORED = {
    "minsize": "connections are made when they are needed",
    "parser": "redis-py chooses its own",
    "encoding": "what is stored is UTF-8",
    "encoding_errors": "what is stored is UTF-8",
    "decode_responses": "what is stored is UTF-8",
    "retry_on_timeout": "an operation that failed is not repeated",
    "protocol": "the protocol is RESP 2",
}


def _read(
    given: Options,
    known: Mapping[str, _Kind],
    warnings: list[str],
    *,
    place: str = "",
    beside: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the options under today's names with their defaults, each checked by its kind.

    `place`: what stands before their names, dotted; `beside`: what may stand there and is read
    elsewhere.
    """
    names = (*beside, *known)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in _IGNORED:
            warnings.append(f"{place}{name}: ignored, {_IGNORED[name]}")
            continue
        today = _OLD_NAMES.get(name, name)
        if today not in known:
            close = _guess(name, (*names, *(old for old in _OLD_NAMES if _OLD_NAMES[old] in names)))
            raise RedisOptionsError(
                f"{place}{name}: there is no such option{close}; allowed: {', '.join(names)}"
            )
        if today != name and given.get(today) is not None:
            raise RedisOptionsError(f"{place}{name}: is the old name of {today}, which is there")
        try:
            values[today] = known[today](value)
        except ValueError as error:
            raise RedisOptionsError(f"{place}{name}: only {error} is allowed") from None
    ssl = sorted(name for name in values if name.startswith("ssl_"))
    if ssl and not values.get("ssl"):
        raise RedisOptionsError(f"{place}{ssl[0]}: means nothing without ssl: true")
    timeout = values.pop("timeout", TIMEOUT)
    defaults = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if "prefix" in known:
        defaults |= {"prefix": PREFIX, "max_connections": MAX_CONNECTIONS, "db": 0}
    return defaults | values


def _with_address(options: Options, warnings: list[str]) -> dict[str, object]:
    """Return the options with `url` or `address` taken apart."""
    given = {name: value for name, value in options.items() if value is not None}
    names = [name for name in ("url", "address") if name in given]
    if not names:
        return given
    name, *more = names + [
        other for other in ("host", "port", "unix_socket_path") if other in given
    ]
    if more:
        raise RedisOptionsError(f"{name}: says where Redis is, and so does {more[0]}; give one")
    parts = address_options(name, given.pop(name))
    for twice in sorted(parts.keys() & given.keys()):
        warnings.append(f"{twice}: ignored, the {name} says it too")
    return given | parts


def address_options(name: str, value: object) -> dict[str, object]:
    """Return the options that an address says: a URL, a path, or a pair of host and port.

    Raise `RedisOptionsError` if it is none; `name`: the option that has it.
    """
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"host": value[0], "port": value[1]}
    if isinstance(value, str) and value.startswith("/"):
        return {"unix_socket_path": value}
    try:
        if not isinstance(value, str):
            raise ValueError
        url = urlsplit(value)
        host, port = url.hostname, url.port
        if url.scheme not in ("redis", "rediss", "unix") or url.fragment:
            raise ValueError
    except ValueError:
        # A wrong URL is not quoted: it may hold a password.
        raise RedisOptionsError(
            f"{name}: only redis://HOST:PORT/DB, rediss://…, unix:///PATH or [HOST, PORT] is"
            " allowed (write / # ? @ : in a password as %2F %23 %3F %40 %3A)"
        ) from None
    parts: dict[str, object] = {
        "username": unquote(url.username or "") or None,
        "password": unquote(url.password or "") or None,
    }
    path = unquote(url.path)
    if url.scheme == "unix":
        parts["unix_socket_path"] = path or None
    else:
        parts |= {"host": host and unquote(host), "port": port, "db": path.strip("/") or None}
        if url.scheme == "rediss":
            parts["ssl"] = True
    parts |= dict(parse_qsl(url.query))
    return {part: text for part, text in parts.items() if text is not None}


def _sentinels(value: object) -> tuple[tuple[str, int], ...]:
    if value is None:
        raise RedisOptionsError("sentinels: is missing")
    pairs = value if isinstance(value, list | tuple) else ()
    try:
        if not pairs:
            raise ValueError
        return tuple((_host(host), _WHERE["port"](port)) for host, port in pairs)
    except (TypeError, ValueError):
        text = "sentinels: only a list of [HOST, PORT] pairs is allowed"
        raise RedisOptionsError(text) from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _guess(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name)[:60], list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""
