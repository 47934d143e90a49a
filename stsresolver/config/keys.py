"""The keys of `mta-sts-daemon.yml`: the rule for each, and the dataclasses that they make.

The tables at the end have a rule for each key; longer rules stand in `values`. A key that is in no
table is reported by `yaml_schema`. `load` reads a file and `parse` a text. Both give a `Config` in
which everything that the file leaves out or leaves empty has its built-in default, or
raise `ConfigError` with one line for each thing that is wrong:

    /etc/mta-sts-daemon.yml:7: default_zone.timeout: found the text "abc"; allowed: a number of \
seconds, over 0 and at most 3600

The keys are those of the manual page mta-sts-daemon.yml(5), and these besides: `owner`, `group`,
`listen`, `workers`, `log`, `metrics`, `status`, `control`, `dns`, `https_proxy`, `no_proxy`,
`tlsrpt`, `dane`, `observe`, `exempt` and `exempt_file` in a zone, `unused_after` in
`proactive_policy_fetching`. A zone has the built-in default for a key that it leaves out, not
`default_zone`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..net.proxy import Proxy
from .exemptions import read_file
from .postgres_options import postgres_settings
from .redis_options import connection_options, sentinel_options
from .settings import (
    Address,
    CacheSettings,
    Config,
    ControlSettings,
    DnsSettings,
    InternalCache,
    LogSettings,
    MetricsSettings,
    PostgresCache,
    ProactiveSettings,
    RedisCache,
    SharedCache,
    SqliteCache,
    StatusSettings,
    UnixAddress,
    Zone,
    exempt_files,
)
from .store_options import Options, OptionsError, OptionWarning
from .values import (
    CACHE_GRACE_MAX,
    INTERVAL_MAX,
    PATH_BYTES_MAX,
    PORT_MAX,
    SHUTDOWN_TIMEOUT_MAX,
    THREADS_MAX,
    WORKERS_MAX,
    account,
    address,
    exempt,
    hosts,
    https_proxy,
    is_one_word,
    is_socket_path,
    mode,
    nameservers,
    no_proxy,
    one_of,
    timeout,
    zone_timeout,
)
from .yaml_schema import (
    NOTHING,
    ConfigError,
    Item,
    Refused,
    Rule,
    document,
    number,
    section,
    shown,
    string,
    truth,
)

__all__ = [
    "DEFAULT_PATH",
    "CacheSettings",
    "Config",
    "ConfigError",
    "InternalCache",
    "LogSettings",
    "MetricsSettings",
    "PostgresCache",
    "ProactiveSettings",
    "Proxy",
    "RedisCache",
    "SqliteCache",
    "Zone",
    "load",
    "parse",
]

T = TypeVar("T")

DEFAULT_PATH = "/etc/mta-sts-daemon.yml"

# Far more than a configuration needs: what is longer is another file.
FILE_BYTES_MAX = 1 << 20


def load(path: str) -> Config:
    """Read the configuration file `path`.

    Raise `ConfigError` if it cannot be read, or for all that is wrong in it, and in the first file
    of exempt domains that is wrong.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown(path, len(path))}: cannot be read: {reason}") from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{shown(path, len(path))}: is larger than {FILE_BYTES_MAX} bytes")
    config = parse(content, path)
    for name in exempt_files(config):
        read_file(name)
    return config


def parse(text: bytes | str, name: str) -> Config:
    """Read a configuration from `text`, which the messages call `name`. No I/O.

    Raise `ConfigError` for all that is wrong in it, in the order of the lines.
    """
    root = document(text, name)
    values = root.read(lambda entry: entry.section(_KEYS)) or {}
    for key in (_ADDRESS | _FILE) if values.get("listen") else ():
        if key in values:
            at = replace(root, key=key, line=root.problems.lines[key])
            at.wrong("listen says where to listen already; remove this key, or listen")
    _check_pages(root, values.get("metrics"), values.get("status"))
    root.problems.check()
    proactive = values.pop("proactive_policy_fetching", ProactiveSettings())
    warnings, lines = tuple(root.problems.warnings), root.problems.lines
    return Config(**values, proactive=proactive, warnings=warnings, lines=lines)


def _listen(entry: Item) -> tuple[Address, ...]:
    allowed = (
        "a list of HOST:PORT, [IPV6-ADDRESS]:PORT, unix:PATH, and sections with such an address and"
        " with mode, owner or group"
    )
    if not entry.is_list:
        raise Refused(allowed)
    found: list[Address] = []
    for item in entry.items():
        one = item.read(partial(_one_address, allowed=allowed))
        if one is not None and str(one) in map(str, found):
            item.wrong(f"{shown(str(one))} is listed twice")
        elif one is not None:
            found.append(one)
    return tuple(found)


def _one_address(entry: Item, allowed: str) -> Address | None:
    """Return an address of the list: a text, or a section for more about a UNIX socket."""
    value = entry.value
    if isinstance(value, str):
        found = address(value)
        if found is None:
            raise Refused(allowed)
        return found
    if entry.is_list or value is not None or entry.is_empty:
        raise Refused(allowed)
    rules: Mapping[str, Rule] = {"address": partial(_address_text, allowed=allowed), **_FILE}
    values = entry.section(rules)
    if "address" not in values:
        entry.wrong("address is missing: HOST:PORT or unix:PATH")
        return None
    one = values.pop("address")
    if isinstance(one, UnixAddress):
        return replace(one, **values)
    for name in values if one is not None else ():
        entry.wrong(f"{name} is only for unix:PATH, and the address is {shown(str(one))}")
    return one  # type: ignore[no-any-return]


def _address_text(entry: Item, allowed: str) -> Address:
    found = address(entry.value) if isinstance(entry.value, str) else None
    if found is None:
        raise Refused(allowed)
    return found


def _log(entry: Item) -> LogSettings | None:
    values = entry.section(_LOG)
    target = values.get("target", "stderr")
    if target == "file" and "file" not in values:
        entry.wrong("file is missing: the name of the log file")
        return None
    if target in ("stderr", "syslog") and "file" in values:
        entry.wrong(f"file is only for target: file, and the target is {target}")
        return None
    return LogSettings(**values)


def _control(entry: Item) -> ControlSettings | None:
    values = entry.section({"path": _ADDRESS["path"]})
    if "path" not in values:
        entry.wrong("path is missing: the name of the socket")
        return None
    return ControlSettings(**values)


def _check_pages(
    root: Item, metrics: MetricsSettings | None, status: StatusSettings | None
) -> None:
    """Refuse two places for pages of which only one could be had."""
    if metrics is None or status is None:
        return
    key = sentence = ""
    if metrics.path is not None and metrics.path == status.path and metrics.mode != status.mode:
        key, sentence = "mode", "is another one than that of metrics, whose socket this is"
    elif (
        metrics.path is None
        and status.path is None
        and metrics.host != status.host
        and (metrics.port == status.port != 0)
    ):
        key, sentence = "port", "is that of metrics: give both the same host, or another port"
    if key:
        place = f"status.{key}" if f"status.{key}" in root.problems.lines else "status"
        replace(root, key=place, line=root.problems.lines[place]).wrong(sentence)


def _pages(entry: Item, make: Callable[..., T], more: Mapping[str, Rule] | None = None) -> T | None:
    """Return where pages are asked for. `more`: further keys of the section."""
    values = entry.section({**_ADDRESS, **(more or {})})
    if "path" not in values and "port" not in values:
        entry.wrong("port is missing, and so is path: where to listen")
        return None
    return make(**values)


def _cache(entry: Item) -> CacheSettings | None:
    # Which options there are depends on the type.
    values = entry.section({"type": one_of(_CACHES), "options": lambda options: options})
    kind = values.get("type", "internal")
    if kind is None:
        return None
    options: Item = values.get("options") or replace(entry, node=NOTHING)
    return options.read(_CACHES[kind])


def _sqlite(entry: Item) -> SqliteCache | None:
    values = entry.section(_SQLITE)
    if "filename" not in values:
        entry.wrong("filename is missing: the name of the database file")
        return None
    return SqliteCache(**values)


_Parse = Callable[[Options], tuple[Any, Sequence[OptionWarning]]]


def _server(entry: Item, parse: _Parse, make: Callable[..., SharedCache]) -> SharedCache | None:
    """Return the cache in a server, whose options `parse` knows."""
    entries = {name: value for name, (_, value) in entry.entries().items()}
    values: dict[str, Any] = {}
    size = entries.pop("cache_size", None)
    if size is not None and not size.is_empty:
        values["cache_size"] = size.read(_CACHE_SIZE)
    options = {name: value.data for name, value in entries.items()}

    def placed(option: str, sentence: str) -> tuple[Item, str]:
        """Return where an option stands; one that is missing, or part of a URL, in the section."""
        name, _, below = option.partition(".")
        if name not in entries:
            return entry, f"{shown(option, len(option))}: {sentence}"
        return entries[name], f"{below}: {sentence}" if below else sentence

    try:
        settings, warnings = parse(options)
    except OptionsError as error:
        at, sentence = placed(error.option, error.sentence)
        at.wrong(sentence)
        return None
    for warning in warnings:
        at, sentence = placed(*warning)
        at.warn(sentence)
    return make(settings, **values)


def _zones(entry: Item) -> dict[str, Zone | None]:
    zones = {}
    for name, (_, zone) in entry.entries().items():
        if not is_one_word(name):
            # Postfix asks "name SP key": it could never ask for this one.
            zone.problem("such a zone name", "one without white space and control characters")
        if name == "default_zone":
            zone.warn(
                "is a zone of that name alone; for every other name, write default_zone at the top"
                " level, not below zones"
            )
        zones[name] = zone.read(_zone)
    return zones


_LOG: Mapping[str, Rule] = {
    "format": one_of(("text", "json")),
    "target": one_of(("stderr", "file", "syslog")),
    "file": string("the name of a file", bool),
}

_zone = section(
    Zone,
    {
        "strict_testing": truth,
        "timeout": zone_timeout,
        "require_sni": truth,
        "tlsrpt": truth,
        "dane": truth,
        "observe": truth,
        "exempt": exempt,
        "exempt_file": string("the name of a file", bool),
    },
)

_CACHE_SIZE = number(int, 1)
_SQLITE: Mapping[str, Rule] = {
    "filename": string("the name of a file", bool),
    "threads": number(int, 1, THREADS_MAX),
    "timeout": timeout,
    "cache_size": _CACHE_SIZE,
}
_CACHES: Mapping[str, Callable[[Item], CacheSettings | None]] = {
    "internal": section(InternalCache, {"cache_size": _CACHE_SIZE}),
    "sqlite": _sqlite,
    "redis": partial(_server, parse=connection_options, make=RedisCache),
    "redis_sentinel": partial(_server, parse=sentinel_options, make=RedisCache),
    "postgres": partial(_server, parse=postgres_settings, make=PostgresCache),
}

_proactive = section(
    ProactiveSettings,
    {
        "enabled": truth,
        "interval": number(int, 1, INTERVAL_MAX, unit="seconds"),
        "concurrency_limit": number(int, 1),
        # Below 1, a policy would be left alone that is older than a whole interval.
        "grace_ratio": number(float, 1),
        "unused_after": number(int, 1, unit="seconds"),
    },
)

_ADDRESS: dict[str, Rule] = {
    "host": string(
        "a host name or an IP address, in quotes if it looks like a number", is_one_word
    ),
    "port": number(int, 0, PORT_MAX, note=" (0: the kernel chooses one)"),
    "path": string(f"the name of a socket, 1 to {PATH_BYTES_MAX} bytes long", is_socket_path),
    "mode": mode,
}
# What the file of a UNIX socket has.
_FILE: dict[str, Rule] = {"mode": mode, "owner": account, "group": account}

_KEYS: Mapping[str, Rule] = {
    **_ADDRESS,
    **_FILE,
    "listen": _listen,
    "reuse_port": truth,
    "cache_grace": number(float, 0, CACHE_GRACE_MAX, unit="seconds"),
    "shutdown_timeout": number(float, 0, SHUTDOWN_TIMEOUT_MAX, unit="seconds"),
    "workers": number(int, 1, WORKERS_MAX),
    "log": _log,
    "metrics": partial(_pages, make=MetricsSettings),
    "status": partial(_pages, make=StatusSettings, more={"hosts": hosts}),
    "control": _control,
    "dns": section(DnsSettings, {"nameservers": nameservers, "trust_ad": truth}),
    "https_proxy": https_proxy,
    "no_proxy": no_proxy,
    "cache": _cache,
    "proactive_policy_fetching": _proactive,
    "default_zone": _zone,
    "zones": _zones,
}
