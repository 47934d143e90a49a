"""The options of the cache type `postgres`, parsed once. No I/O.

They are keywords of libpq that a configuration file can write, with `database` for `dbname`; and
`dsn`, `ssl`, `server_settings`, `max_connections` and `command_timeout`. Names of asyncpg, which
older files have, are mapped (`max_size`, `timeout`, `statement_cache_size: 0`) or ignored with a
warning. An option wins over a part of the `dsn`, as in both libraries. What is left out is what
libpq takes: the environment (`PGHOST`…), `pg_service.conf`, or the server's socket on this host.

`keys` parses the options of the file; the store, the doctor and `effective` take the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from . import store_options as kind
from .store_options import TIMEOUT, Kind, Options, OptionsError, OptionWarning, read

# As many as asyncpg opens. PostgreSQL has a hundred for all of its clients.
MAX_CONNECTIONS = 10
# libpq waits no shorter than that to connect.
_LEAST_TO_CONNECT = 2
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """How PostgreSQL is reached.

    `name`: how messages call it, `host:port/database` or `service NAME`.
    `max_connections`: at once.
    `command_timeout`: seconds to wait for a connection that is free, and for an answer.
    `prepared_statements`: whether the server is to remember statements; PgBouncer may not bear it.
    `keywords`: of libpq, and `database`.
    `sources`: for each value that was given, the option of the file that it comes from.
    """

    name: str
    max_connections: int
    command_timeout: float
    prepared_statements: bool
    keywords: Mapping[str, Any] = field(repr=False)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def postgres_settings(options: Options) -> tuple[PostgresSettings, list[OptionWarning]]:
    """Return the settings, and warnings. Raise `OptionsError` for the first wrong option."""
    warnings: list[OptionWarning] = []
    sources: dict[str, str] = {}
    given, parts = _with_dsn(options, warnings)
    values = read(
        given,
        _OURS | _KEYWORDS | _OLD,
        warnings,
        sources,
        old_names=_OLD_NAMES,
        ignored=_IGNORED,
        beside=("dsn", "cache_size"),
    )
    for name, option in sources.items():
        if option in parts:
            sources[name] = "dsn"
    _take_tls(values, sources)
    _take_server_settings(values, sources)
    if values.pop("statement_cache_size", 1) == 0:
        values.setdefault("prepared_statements", False)
        sources.setdefault("prepared_statements", "statement_cache_size")
    _check_hosts(values, sources)
    wait = values.pop("command_timeout", TIMEOUT)
    connect = max(_LEAST_TO_CONNECT, math.ceil(values.pop("connect_timeout", TIMEOUT)))
    settings = PostgresSettings(
        _name(values),
        values.pop("max_connections", MAX_CONNECTIONS),
        wait,
        values.pop("prepared_statements", True),
        {"connect_timeout": connect, "application_name": "stsresolver", **values},
        sources,
    )
    return settings, warnings


def _several(one: Kind, what: str) -> Kind:
    """Return the kind of one value or more, as a list or with commas between; libpq's notation."""

    def several(value: object) -> str:
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",")]
        found = value if isinstance(value, list | tuple) else [value]
        try:
            return ",".join(str(one(item)) for item in found)
        except ValueError:
            raise ValueError(f"{what}, or a list of them") from None

    return several


def _host(value: object) -> str:
    name = kind.text(value)
    # The directory of a socket.
    return name if name.startswith("/") else kind.host(name)


def _tls(value: object) -> str:
    """Return the mode of libpq that asyncpg's option means."""
    if isinstance(value, bool):
        return "verify-full" if value else "disable"
    try:
        return str(kind.one_of(*_MODES)(value))
    except ValueError as error:
        raise ValueError(f"true, false, {error}") from None


def _settings(value: object) -> dict[str, str]:
    allowed = "a section of settings of the server"
    if not isinstance(value, Mapping):
        raise ValueError(allowed)
    for name in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", str(name)):
            raise ValueError(allowed)
    # YAML reads on and off as truth values.
    words = {True: "on", False: "off"}
    return {
        str(name): words[one] if isinstance(one, bool) else kind.text(one)
        for name, one in value.items()
    }


_OURS: dict[str, Kind] = {
    "max_connections": kind.whole(1, 1000),
    "command_timeout": kind.seconds,
    "prepared_statements": kind.truth,
    "ssl": _tls,
    "server_settings": _settings,
}
_KEYWORDS: dict[str, Kind] = {
    "host": _several(_host, "a host name, an address or the directory of a socket"),
    "port": _several(kind.whole(1, 65535), "a whole number from 1 to 65535"),
    "database": kind.text,
    "user": kind.text,
    "password": kind.text,
    "passfile": kind.text,
    "service": kind.text,
    "application_name": kind.text,
    "options": kind.text,
    "connect_timeout": kind.seconds,
    # The daemon writes: no other server is of use.
    "target_session_attrs": kind.one_of("any", "read-write", "primary"),
    "sslmode": kind.one_of(*_MODES),
    "sslrootcert": kind.text,
    "sslcert": kind.text,
    "sslkey": kind.text,
    "sslpassword": kind.text,
    "sslcrl": kind.text,
    "ssl_min_protocol_version": kind.text,
    "channel_binding": kind.one_of("disable", "prefer", "require"),
    "gssencmode": kind.one_of("disable", "prefer", "require"),
    "krbsrvname": kind.text,
    "keepalives": kind.whole(0, 1),
    "keepalives_idle": kind.whole(0, 86_400),
    "keepalives_interval": kind.whole(0, 86_400),
    "keepalives_count": kind.whole(0, 1000),
    "tcp_user_timeout": kind.whole(0, 2**31 - 1),
}
_OLD: dict[str, Kind] = {"statement_cache_size": kind.whole(0, 2**31 - 1)}
_OLD_NAMES = {
    "dbname": "database",
    "max_size": "max_connections",
    "timeout": "connect_timeout",
}
_IGNORED = {
    "min_size": "connections are made when they are needed",
    "max_queries": "a connection is used for an hour",
    "max_inactive_connection_lifetime": "a connection that is idle for ten minutes is closed",
    "max_cached_statement_lifetime": "psycopg decides what the server is to remember",
    "max_cacheable_statement_size": "psycopg decides what the server is to remember",
    "direct_tls": "TLS begins when the server has agreed to it",
    "client_encoding": "what is stored is UTF-8",
}


def _with_dsn(
    options: Options, warnings: list[OptionWarning]
) -> tuple[dict[str, object], set[str]]:
    """Return the options with the `dsn` taken apart, and which of them come from it."""
    given = {name: value for name, value in options.items() if value is not None}
    if "dsn" not in given:
        return given, set()
    parts = _dsn(given.pop("dsn"))
    for name in given:
        today = "sslmode" if name == "ssl" else _OLD_NAMES.get(name, name)
        if parts.pop(today, None) is not None:
            warnings.append(OptionWarning("dsn", f"{name} counts, which the dsn says too"))
    return given | parts, set(parts)


def _dsn(value: object) -> dict[str, object]:
    """Return the keywords that a URL or a text of `key=value` says."""
    if isinstance(value, str):
        found = _url(value) if re.match("postgres(ql)?://", value) else _pairs(value)
        if found is not None:
            return dict(found)
    # A wrong one is not quoted: it may hold a password.
    raise OptionsError(
        "dsn",
        "only postgresql://USER:PASSWORD@HOST:PORT/DATABASE or a text of KEY=VALUE is allowed"
        " (write / ? @ : in a password of a URL as %2F %3F %40 %3A)",
    )


def _url(url: str) -> dict[str, str] | None:
    """Return what a URL says (PostgreSQL manual, "Connection URIs"), None if it is none."""
    found = re.fullmatch(r"postgres(?:ql)?://(?:([^@/?]*)@)?([^@/?]*)(?:/([^?]*))?(?:\?(.*))?", url)
    if found is None:
        return None
    who, where, database, query = (part or "" for part in found.groups())
    hosts, ports = [], []
    for one in where.split(","):
        place = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::([0-9]*))?", one)
        if place is None:
            return None
        hosts.append(unquote(place[1].strip("[]")))
        ports.append(place[2] or "")
    user, _, password = who.partition(":")
    parts = {"user": unquote(user), "password": unquote(password), "database": unquote(database)}
    parts["host"] = ",".join(hosts) if any(hosts) else ""
    parts["port"] = ",".join(port or "5432" for port in ports) if any(ports) else ""
    try:
        parts |= dict(map(_parameter, query.split("&") if query else ()))
    except ValueError:
        return None
    if parts.pop("ssl", "") == "true":
        # As libpq reads it (PostgreSQL manual, "Connection URIs").
        parts.setdefault("sslmode", "require")
    return {name: text for name, text in parts.items() if text}


def _parameter(text: str) -> tuple[str, str]:
    """Return name and value; a plus is one, which it is not in a query of the web."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("no value")
    return unquote(name), unquote(value)


def _pairs(text: str) -> dict[str, str] | None:
    """Return what `key=value key='a value'` says, None if it is none."""
    one = r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?:\s+|$)"
    if not re.fullmatch(f"(?:{one})+", text):
        return None
    found = {
        name: re.sub(r"\\(.)", r"\1", quoted or bare)
        for name, quoted, bare in re.findall(one, text)
    }
    return {name: value for name, value in found.items() if value}


def _take_tls(values: dict[str, Any], sources: dict[str, str]) -> None:
    mode = values.pop("ssl", None)
    if mode is not None:
        if "sslmode" in values:
            raise OptionsError("ssl", "is the old name of sslmode, which is there")
        values["sslmode"], sources["sslmode"] = mode, sources.pop("ssl")


def _take_server_settings(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Put settings of the server into the keyword that libpq has for them."""
    settings = values.pop("server_settings", {})
    name = settings.pop("application_name", None)
    if name is not None:
        values.setdefault("application_name", name)
        sources.setdefault("application_name", "server_settings")
    words = [values["options"]] if "options" in values else []
    for name, value in settings.items():
        escaped = re.sub(r"([\\\s])", r"\\\1", value)
        words.append(f"-c {name}={escaped}")
    if settings:
        values["options"] = " ".join(words)
        sources.setdefault("options", "server_settings")


def _check_hosts(values: dict[str, Any], sources: dict[str, str]) -> None:
    hosts, ports = (values.get(name, "").split(",") for name in ("host", "port"))
    if len(ports) not in (1, len(hosts)):
        at = sources.get("port", "port")
        raise OptionsError(at, f"{len(ports)} ports for {len(hosts)} hosts; give one, or as many")
    if len(hosts) > 1:
        values.setdefault("target_session_attrs", "read-write")


def _name(values: Mapping[str, Any]) -> str:
    if "service" in values and "host" not in values:
        # It says where.
        return f"service {values['service']}"
    hosts = values.get("host", "").split(",")
    ports = values.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = [
        kind.joined(host or "local socket", int(port or 5432))
        for host, port in zip(hosts, ports, strict=True)
    ]
    name = ",".join(found)
    return f"{name}/{values['database']}" if "database" in values else name
