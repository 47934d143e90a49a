"""The options of the cache types `redis` and `redis_sentinel`, parsed once. No I/O.

They are the keywords of redis-py's `Redis` that a configuration file can write, `url`, and our own
`prefix`. Names of aioredis, which older files have, are mapped (`address`, `maxsize`, `timeout`,
`create_connection_timeout`) or ignored with a warning. A part of a URL wins over an option of the
same meaning, as in both libraries. With TLS, the name in the certificate is verified unless the
file says otherwise; older versions of redis-py do not do that by themselves.

`keys` parses the options of the file; the store, the doctor and `effective` take the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from . import store_options as kind
from .store_options import TIMEOUT, Kind, Options, OptionsError, OptionWarning, read

PREFIX = "stsresolver:"
# More would only wait for each other in one interpreter.
MAX_CONNECTIONS = 32

_PORT = 6379


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


Result = tuple[RedisSettings, list[OptionWarning]]


def connection_options(options: Options) -> Result:
    """Return the settings of type `redis`, and warnings.

    Raise `OptionsError` for the first option that is wrong.
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
            raise OptionsError("ssl", "a UNIX socket has no TLS")
        for name in ("host", "port"):
            if name in values:
                raise OptionsError(name, f"Redis is reached by the UNIX socket {path}")
        name = f"{path}/{values['db']}"
    else:
        where = values.setdefault("host", "localhost"), values.setdefault("port", _PORT)
        name = f"{kind.joined(*where)}/{values['db']}"
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
        raise OptionsError("sentinel_master_name", "is missing")
    if not isinstance(kwargs, Mapping):
        raise OptionsError("sentinel_kwargs", "is no section of options")
    sources |= {name: name for name in ("sentinels", "sentinel_kwargs") if options.get(name)}
    # One after the other is asked; all of them together get the time of one connection.
    timeout = values["socket_connect_timeout"] / len(sentinels)
    own = _read({"timeout": timeout, **kwargs}, _HOW, warnings, {}, place="sentinel_kwargs.")
    of_sentinels: dict[str, Any] = {"sentinel_kwargs": own}
    for name in ("min_other_sentinels", "force_master_ip"):
        if name in values:
            of_sentinels[name] = values.pop(name)
    known_by = ", ".join(kind.joined(*one) for one in sentinels)
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


_OURS: dict[str, Kind] = {"prefix": kind.text, "max_connections": kind.whole(1, 10_000)}
_WHERE: dict[str, Kind] = {
    "host": kind.host,
    "port": kind.whole(1, 65535),
    "unix_socket_path": kind.text,
}
_HOW: dict[str, Kind] = {
    "db": kind.whole(0, 2**31 - 1),
    "username": kind.text,
    "password": kind.text,
    "client_name": kind.text,
    "socket_timeout": kind.seconds,
    "socket_connect_timeout": kind.seconds,
    "socket_keepalive": kind.truth,
    "health_check_interval": kind.whole(0, 86_400),
    "ssl": kind.truth,
    "ssl_keyfile": kind.text,
    "ssl_certfile": kind.text,
    "ssl_password": kind.text,
    "ssl_cert_reqs": kind.one_of("none", "optional", "required"),
    "ssl_ca_certs": kind.text,
    "ssl_ca_path": kind.text,
    "ssl_ca_data": kind.text,
    "ssl_check_hostname": kind.truth,
    "ssl_ciphers": kind.text,
    "timeout": kind.seconds,
}
_SENTINEL: dict[str, Kind] = {
    "sentinel_master_name": kind.text,
    "min_other_sentinels": kind.whole(0, 1000),
    "force_master_ip": kind.host,
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
    known: Mapping[str, Kind],
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
    values = read(
        given,
        known,
        warnings,
        sources,
        old_names=_OLD_NAMES,
        ignored=_IGNORED,
        place=place,
        beside=beside,
    )
    ssl = sorted(name for name in values if name.startswith("ssl_"))
    if ssl and not values.get("ssl"):
        raise OptionsError(f"{place}{ssl[0]}", "means nothing without ssl: true")
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
        raise OptionsError(name, f"says where Redis is, and so does {more[0]}; give one")
    parts = _address(name, given.pop(name))
    for twice in sorted(parts.keys() & given.keys()):
        warnings.append(OptionWarning(twice, f"ignored, the {name} says it too"))
    return given | parts, dict.fromkeys(parts, name)


def _address(name: str, value: object) -> dict[str, object]:
    """Return the options that an address says: a URL, a path, or a pair of host and port.

    Raise `OptionsError` if it is none; `name`: the option that has it.
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
        raise OptionsError(
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
        raise OptionsError("sentinels", "is missing")
    pairs = value if isinstance(value, list | tuple) else ()
    try:
        if not pairs:
            raise ValueError
        return tuple((kind.host(host), _WHERE["port"](port)) for host, port in pairs)
    except (TypeError, ValueError):
        sentence = "only a list of [HOST, PORT] pairs is allowed"
        raise OptionsError("sentinels", sentence) from None
