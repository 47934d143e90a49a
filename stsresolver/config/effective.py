"""Prints the effective configuration as YAML: `mta-sts-daemon --check-config`.

One line a value, and beside each, as a comment, the line of the file that it comes from, or that it
is the built-in default, or the environment's:

    default_zone:
      timeout: 10.0                         # line 12
      require_sni: true                     # built-in default

The daemon reads the output as the same configuration, except for passwords, which are `***`. All of
it is ASCII. No I/O.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace

import yaml

from ..net.proxy import Proxy, ProxyError, from_environment
from .settings import (
    Address,
    CacheSettings,
    Config,
    InternalCache,
    PostgresCache,
    RedisCache,
    SqliteCache,
    UnixAddress,
)
from .yaml_schema import ConfigError, shown

_COMMENT = 44
_SECRET = "***"
# What the file calls a field of `Config` otherwise, and what no key stands for.
_KEYS = {"proactive": "proactive_policy_fetching"}
_NO_KEYS = ("warnings", "lines")
# What is ours beside the keywords of libpq.
_OF_POSTGRES = ("max_connections", "command_timeout", "prepared_statements")
# In whose place `listen` stands.
_ONE_ADDRESS = ("host", "port", "path", "mode", "owner", "group")
# Names of aioredis for options of redis-py, see `redis_options`.
_DEFAULT = "built-in default"

# What is said of a value, by its dotted key.
Sources = Mapping[str, str]


def effective(config: Config, source: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines that say what holds. `source`: where the configuration comes from.

    `environment` counts where the configuration names no proxy. Raise `ConfigError` if what it says
    cannot be used.
    """
    sources = {place: f"line {line}" for place, line in config.lines.items()}
    config = _with_environment(config, environment, sources)
    yield f"# {_ascii(source)}"
    passed_over = (*_NO_KEYS, *(_ONE_ADDRESS if config.listen else ()))
    for field in fields(config):
        if field.name not in passed_over:
            key = _KEYS.get(field.name, field.name)
            yield from _item(sources, key, getattr(config, field.name))


def _with_environment(
    config: Config, environment: Mapping[str, str], sources: dict[str, str]
) -> Config:
    """Return the configuration with the proxy of the environment, and note that in `sources`."""
    try:
        proxy = from_environment(environment, config.https_proxy, config.no_proxy)
    except ProxyError as error:
        raise ConfigError(f"https_proxy in the environment: {error}") from error
    if proxy is None:
        return config
    if config.https_proxy is None:
        sources["https_proxy"] = "environment"
    if config.no_proxy is None and proxy.no_proxy:
        sources["no_proxy"] = "environment"
    return replace(config, https_proxy=proxy, no_proxy=proxy.no_proxy)


def _item(
    sources: Sources, key: str, value: object, section: str = "", depth: int = 0
) -> Iterator[str]:
    """Yield the lines of a key and what it holds.

    `section`: what stands before the key, dotted; `depth`: how many sections that are.
    """
    place = section + (shown(key) or '""')
    name = "  " * depth + _scalar(key)
    source = _source(sources, place)
    if isinstance(value, CacheSettings):
        yield from _cache(sources, value)
    elif isinstance(value, Proxy):
        # The names that are reached without it are a key of their own.
        secret = f"{_SECRET}@" if value.authorization else ""
        yield _line(name, f"http://{secret}{value}", source)
    elif key == "listen":
        yield _commented(f"{name}:", source)
        for one in value if isinstance(value, tuple) else ():
            yield f"  - {_address(one)}"
    elif is_dataclass(value):
        yield f"{name}:"
        for field in fields(value):
            held = getattr(value, field.name)
            yield from _item(sources, field.name, held, f"{place}.", depth + 1)
    elif isinstance(value, Mapping) and value:
        yield f"{name}:"
        for inner, held in value.items():
            yield from _item(sources, inner, held, f"{place}.", depth + 1)
    elif key == "mode" and isinstance(value, int):
        yield _commented(f"{name}: 0{value:o}", source)
    else:
        yield _line(name, None if value == {} else value, source)


def _cache(sources: Sources, cache: CacheSettings) -> Iterator[str]:
    """Yield the lines of the key `cache`, whose options depend on its type."""
    kind, values, given = _options(cache)
    yield "cache:"
    yield _line("  type", kind, _source(sources, "cache.type"))
    yield "  options:"
    for name, value in values.items():
        option = given.get(name)
        source = _source(sources, f"cache.options.{option}")
        if option not in (None, name):
            source += f", {option}"
        if isinstance(value, Mapping):
            yield f"    {name}:"
            for inner, held in value.items():
                yield _line(f"      {inner}", _masked(inner, held), source)
        else:
            yield _line(f"    {name}", _masked(name, value), source)


def _options(cache: CacheSettings) -> tuple[str, dict[str, object], Mapping[str, str]]:
    """Return the type, and the options under today's names: a URL taken apart, others replaced.

    And for each that the file says, the name of the option there.
    """
    match cache:
        case InternalCache() | SqliteCache():
            values = {field.name: getattr(cache, field.name) for field in fields(cache)}
            return cache.kind, values, {name: name for name in values}
        case RedisCache(redis=found):
            values = {"cache_size": cache.cache_size, "prefix": found.prefix}
            values |= {"max_connections": found.max_connections, **found.keywords}
            if found.sentinels:
                values |= {"sentinels": found.sentinels, "sentinel_master_name": found.master}
                values |= found.sentinel_keywords
            kind = "redis_sentinel" if found.sentinels else cache.kind
            return kind, values, {"cache_size": "cache_size", **found.sources}
        case PostgresCache(postgres=server):
            values = {"cache_size": cache.cache_size}
            values |= {name: getattr(server, name) for name in _OF_POSTGRES}
            given = {"cache_size": "cache_size", **server.sources}
            return cache.kind, values | dict(server.keywords), given


def _address(one: Address) -> str:
    more = {}
    if isinstance(one, UnixAddress):
        accounts = {"owner": one.owner, "group": one.group}
        more = {name: json.dumps(value) for name, value in accounts.items() if value is not None}
        if one.mode is not None:
            more["mode"] = f"0{one.mode:o}"
    # A string of JSON is one of YAML, too.
    address = json.dumps(str(one))
    if not more:
        return address
    return f"{{address: {address}, {', '.join(f'{key}: {more[key]}' for key in more)}}}"


def _source(sources: Sources, place: str) -> str:
    return sources.get(place, _DEFAULT)


def _masked(name: str, value: object) -> object:
    return _SECRET if "password" in name else value


def _line(name: str, value: object, source: str) -> str:
    text = "" if value is None else f" {_scalar(value)}"
    return _commented(f"{name}:{text}", source)


def _commented(text: str, source: str) -> str:
    return f"{text:<{_COMMENT}}  # {source}"


def _scalar(value: object) -> str:
    """Return a value as YAML on one line, quoted where YAML would read it as something else."""
    if isinstance(value, tuple):
        value = [list(one) if isinstance(one, tuple) else one for one in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def _ascii(text: str) -> str:
    return shown(text, len(text)).encode("ascii", "backslashreplace").decode()
