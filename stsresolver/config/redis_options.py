"""The options of the cache types `redis` and `redis_sentinel`, parsed once. No I/O.

They are the keywords of redis-py's `Redis` that a configuration file can write, `url`, and our own
`prefix`. Names of aioredis, which older files have, are mapped (`address`, `maxsize`, `timeout`,
`create_connection_timeout`) or ignored with a warning. A part of a URL wins over an option of the
same meaning, as in both libraries. An empty option (None) is taken for one that is left out. With
TLS, the name in the certificate is verified unless the file says otherwise; older versions of
redis-py do not do that by themselves.

`keys` parses the options of the file; the store, the doctor and `effective` take the result.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

# Seconds to connect, and to wait for an answer.
TIMEOUT = 5.0
PREFIX = "stsresolver:"
# More would only wait for each other in one interpreter.
MAX_CONNECTIONS = 32

_PORT = 6379


class RedisOptionsError(ValueError):
    """An option is wrong. The text never has the password.

    `option`: its name in the file, dotted below `sentinel_kwargs`.
    `sentence`: what is wrong, and what is allowed.
    """

    def __init__(self, option: str, sentence: str) -> None:
        self.option = option
        self.sentence = sentence
        super().__init__(f"{option}: {sentence}")


class OptionWarning(NamedTuple):
    """An option that is accepted and has no effect, and why."""

    option: str
    sentence: str


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is reached, and under which names.

    `name`: how messages call it, `host:port/db`.
    `prefix`: of all keys.
    `max_connections`: at once.
    `keywords`: of `redis.Redis`.
    `master`: its name, empty without sentinels.
    `sentinels`: host and port of those that know where the master is.
    `sentinel_keywords`: of `redis.sentinel.Sentinel`.
    `sources`: for each value that was given, the option of the file that it comes from.
    """

    name: str
    prefix: str
    max_connections: int
    keywords: Mapping[str, Any] = field(repr=False)
    master: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_keywords: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


Options = Mapping[str, object]
Result = tuple[RedisSettings, list[OptionWarning]]


def connection_options(options: Options) -> Result:
    """Return the settings of type `redis`, and warnings.

    Raise `RedisOptionsError` for the first option that is wrong.
    """
    warnings: list[OptionWarning] = []
    sources: dict[str, str] = {}
    given, address = _with_address(options, warnings)
    values = _read(given, _OURS | _WHERE | _HOW, warnings, sources, beside=("url", "cache_size"))
    # What the address says comes from the one option that holds it.
    sources |= {name: address[option] for name, option in sources.items() if option in address}
    path = values.get("unix_socket_path")
    if path is not None:
        if values.get("ssl"):
            raise RedisOptionsError("ssl", "a UNIX socket has no TLS")
        for name in ("host", "port"):
            if name in values:
                raise RedisOptionsError(name, f"Redis is reached by the UNIX socket {path}")
        name = f"{path}/{values['db']}"
    else:
        where = values.setdefault("host", "localhost"), values.setdefault("port", _PORT)
        name = f"{_joined(*where)}/{values['db']}"
    prefix, most = values.pop("prefix"), values.pop("max_connections")
    return RedisSettings(name, prefix, most, values, sources=sources), warnings


def sentinel_options(options: Options) -> Result:
    """Return the settings of type `redis_sentinel`; otherwise as `connection_options`."""
    warnings: list[OptionWarning] = []
    sources: dict[str, str] = {}
    given = {name: value for name, value in options.items() if value is not None}
    where, kwargs = given.pop("sentinels", None), given.pop("sentinel_kwargs", {})
    beside = ("sentinels", "sentinel_kwargs", "cache_size")
    values = _read(given, _OURS | _HOW | _SENTINEL, warnings, sources, beside=beside)
    sentinels = _sentinels(where)
    master = values.pop("sentinel_master_name", "")
    if not master:
        raise RedisOptionsError("sentinel_master_name", "is missing")
    if not isinstance(kwargs, Mapping):
        raise RedisOptionsError("sentinel_kwargs", "is no section of options")
    sources |= {name: name for name in ("sentinels", "sentinel_kwargs") if options.get(name)}
    # One after the other is asked; all of them together get the time of one connection.
    timeout = values["socket_connect_timeout"] / len(sentinels)
    own = _read({"timeout": timeout, **kwargs}, _HOW, warnings, {}, place="sentinel_kwargs.")
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
        sources,
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
    warnings: list[OptionWarning],
    sources: dict[str, str],
    *,
    place: str = "",
    beside: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the options under today's names with their defaults, each checked by its kind.

    `sources`: is told the option that each value comes from.
    `place`: the section of the options, with a dot.
    `beside`: further options of the section, which are read elsewhere.
    """
    names = (*beside, *known)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in _IGNORED:
            warnings.append(OptionWarning(f"{place}{name}", f"ignored, {_IGNORED[name]}"))
            continue
        today = _OLD_NAMES.get(name, name)
        if today not in known:
            close = _guess(name, (*names, *(old for old in _OLD_NAMES if _OLD_NAMES[old] in names)))
            sentence = f"there is no such option{close}; allowed: {', '.join(names)}"
            raise RedisOptionsError(f"{place}{name}", sentence)
        if today != name and given.get(today) is not None:
            raise RedisOptionsError(f"{place}{name}", f"is the old name of {today}, which is there")
        try:
            values[today] = known[today](value)
        except ValueError as error:
            raise RedisOptionsError(f"{place}{name}", f"only {error} is allowed") from None
        sources[today] = name
    ssl = sorted(name for name in values if name.startswith("ssl_"))
    if ssl and not values.get("ssl"):
        raise RedisOptionsError(f"{place}{ssl[0]}", "means nothing without ssl: true")
    if values.get("ssl"):
        verified = values.get("ssl_cert_reqs") != "none"
        if values.setdefault("ssl_check_hostname", verified) and not verified:
            why = "ssl_cert_reqs: none verifies nothing"
            warnings.append(OptionWarning(f"{place}ssl_check_hostname", f"ignored, {why}"))
            values["ssl_check_hostname"] = False
    timeout = values.pop("timeout", TIMEOUT)
    defaults = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if "timeout" in sources:
        sources |= {name: "timeout" for name in defaults if name not in values}
    if "prefix" in known:
        defaults |= {"prefix": PREFIX, "max_connections": MAX_CONNECTIONS, "db": 0}
    return defaults | values


def _with_address(
    options: Options, warnings: list[OptionWarning]
) -> tuple[dict[str, object], dict[str, str]]:
    """Return the options with `url` or `address` taken apart, and which of them come from it."""
    given = {name: value for name, value in options.items() if value is not None}
    names = [name for name in ("url", "address") if name in given]
    if not names:
        return given, {}
    name, *more = names + [
        other for other in ("host", "port", "unix_socket_path") if other in given
    ]
    if more:
        raise RedisOptionsError(name, f"says where Redis is, and so does {more[0]}; give one")
    parts = _address(name, given.pop(name))
    for twice in sorted(parts.keys() & given.keys()):
        warnings.append(OptionWarning(twice, f"ignored, the {name} says it too"))
    return given | parts, dict.fromkeys(parts, name)


def _address(name: str, value: object) -> dict[str, object]:
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
            name,
            "only redis://HOST:PORT/DB, rediss://…, unix:///PATH or [HOST, PORT] is"
            " allowed (write / # ? @ : in a password as %2F %23 %3F %40 %3A)",
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
        raise RedisOptionsError("sentinels", "is missing")
    pairs = value if isinstance(value, list | tuple) else ()
    try:
        if not pairs:
            raise ValueError
        return tuple((_host(host), _WHERE["port"](port)) for host, port in pairs)
    except (TypeError, ValueError):
        sentence = "only a list of [HOST, PORT] pairs is allowed"
        raise RedisOptionsError("sentinels", sentence) from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _guess(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name)[:60], list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""
