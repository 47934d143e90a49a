"""The settings of the daemon, as plain frozen dataclasses with the built-in defaults.

`keys` reads them from the file; the other rooms are handed them. None of those reads YAML.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from ..net.proxy import Proxy
from .postgres_options import PostgresSettings
from .redis_options import RedisSettings


@dataclass(frozen=True, slots=True)
class Zone:
    """How the policies that one Postfix map name asks for are looked up and answered.

    `strict_testing`: answer a policy of mode testing as if it were enforced.
    `timeout`: seconds that DNS may take in all, and HTTPS as well.
    `require_sni`: add `servername=hostname` to the answer (Postfix 3.4 and later).
    `tlsrpt`: give the long answer of Postfix 3.10 and later, with the policy's own text.
    `dane`: have Postfix verify by DANE alone where DNS says so (RFC 8461 §2).
    `observe`: look everything up, and have Postfix go by its own settings all the same.
    `exempt`: entries (`exemptions`) of domains that are answered as if they had no policy;
    `exempt_file`: a file with more of them.
    """

    strict_testing: bool = False
    timeout: float = 4.0
    require_sni: bool = True
    tlsrpt: bool = False
    dane: bool = False
    observe: bool = False
    exempt: tuple[str, ...] = ()
    exempt_file: str | None = None


@dataclass(frozen=True, slots=True)
class InternalCache:
    """The cache in memory: at most `cache_size` policies."""

    kind: ClassVar[str] = "internal"

    cache_size: int = 10000


@dataclass(frozen=True, slots=True)
class SqliteCache:
    """A database file, behind a memory of `cache_size` policies.

    `threads`: connections at most. `timeout`: seconds to wait for one, or for the database's lock.
    """

    kind: ClassVar[str] = "sqlite"

    filename: str
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    timeout: float = 5.0
    cache_size: int = 10000


@dataclass(frozen=True, slots=True)
class RedisCache:
    """A Redis, behind a memory of `cache_size` policies. `redis`: how it is reached."""

    kind: ClassVar[str] = "redis"

    redis: RedisSettings
    cache_size: int = 10000


@dataclass(frozen=True, slots=True)
class PostgresCache:
    """A PostgreSQL, behind a memory of `cache_size` policies. `postgres`: how it is reached."""

    kind: ClassVar[str] = "postgres"

    postgres: PostgresSettings
    cache_size: int = 10000


# Those that other hosts may share.
SharedCache: TypeAlias = RedisCache | PostgresCache
CacheSettings: TypeAlias = InternalCache | SqliteCache | SharedCache


@dataclass(frozen=True, slots=True)
class ProactiveSettings:
    """Renewal of policies in force though no mail asks for them.

    `interval`: seconds in which each is looked at once.
    `concurrency_limit`: domains at once.
    `grace_ratio`: a policy looked at less than `interval / grace_ratio` ago is left alone.
    `unused_after`: seconds; a policy that mail has not asked for in that time is left alone.
    """

    enabled: bool = False
    interval: int = 86400
    concurrency_limit: int = 100
    grace_ratio: float = 2.0
    unused_after: int = 180 * 86400


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log is written and where to.

    `format`: "text" or "json". `target`: "stderr", "file" or "syslog"; `file`: the path for the
    second, and None for the others.
    """

    format: str = "text"
    target: str = "stderr"
    file: str | None = None


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen: each address that `host` stands for. Port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A UNIX socket to listen on.

    `mode`: its file mode, None for what the umask leaves.
    `owner`, `group`: whose file it is, names or numbers, None for those of the process.
    """

    path: str
    mode: int | None = None
    owner: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where Prometheus asks: `host` and `port`, or in their place the UNIX socket `path`.

    `mode`: the socket's file mode, None for what the umask leaves.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """Where people look at the status page, as `MetricsSettings`; these may be the same place.

    `hosts`: names in its address besides those of this host (`status.pages.may_ask`).
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str | None = None
    mode: int | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """Which name servers are asked, and whether they are believed (`net.dns_servers`).

    `nameservers`: in place of those of resolv.conf(5), empty where these count.
    `trust_ad`: whether they are believed to validate by DNSSEC; None: those on this host, and all
    where resolv.conf says `options trust-ad`.
    """

    nameservers: tuple[str, ...] = ()
    trust_ad: bool | None = None


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The UNIX socket `path` over which `mta-sts-query cache` asks the daemon."""

    path: str


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; `Config()` is the built-in one.

    `path`, `mode`, `owner`, `group`: a `UnixAddress`, in place of `host` and `port`. `listen`: in
    place of all of these, empty where they count; see `addresses`. `cache_grace`: seconds after a
    check in which a policy is answered without another one. `shutdown_timeout`: seconds that
    requests in flight get when the daemon stops. `workers`: lookups at once. `metrics`: None where
    nobody asks for them, and `status` likewise. `control`: None for no such socket. `https_proxy`,
    `no_proxy`: None leaves it to the environment (`proxy.from_environment`). `zones`: by map name;
    any other map name is `default_zone`.

    `warnings`: lines for the log about what is accepted and may yet surprise. `lines`: where in
    the file each value stands, by its dotted key. Neither counts when two configurations are
    compared.
    """

    host: str = "127.0.0.1"
    port: int = 8461
    path: str | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    listen: tuple[Address, ...] = ()
    reuse_port: bool = True
    cache_grace: float = 60.0
    shutdown_timeout: float = 20.0
    workers: int = 256
    log: LogSettings = LogSettings()
    metrics: MetricsSettings | None = None
    status: StatusSettings | None = None
    control: ControlSettings | None = None
    dns: DnsSettings = DnsSettings()
    https_proxy: Proxy | None = None
    no_proxy: tuple[str, ...] | None = None
    cache: CacheSettings = InternalCache()
    proactive: ProactiveSettings = ProactiveSettings()
    default_zone: Zone = Zone()
    zones: Mapping[str, Zone] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to listen for Postfix, one address or more."""
        if self.listen:
            return self.listen
        if self.path is not None:
            return (UnixAddress(self.path, self.mode, self.owner, self.group),)
        return (TcpAddress(self.host, self.port),)

    @property
    def unix_addresses(self) -> tuple[UnixAddress, ...]:
        """Those of the addresses that are UNIX sockets."""
        return tuple(one for one in self.addresses if isinstance(one, UnixAddress))


def wants_dane(config: Config) -> bool:
    """Say whether a zone lets DANE come first."""
    return any(zone.dane for zone in all_zones(config))


def all_zones(config: Config) -> tuple[Zone, ...]:
    """Return every zone, the default one first."""
    return (config.default_zone, *config.zones.values())


def exempt_files(config: Config) -> tuple[str, ...]:
    """Return the names of the files with exempt domains, each once."""
    files = (zone.exempt_file for zone in all_zones(config))
    return tuple(dict.fromkeys(file for file in files if file is not None))
