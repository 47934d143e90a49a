"""Builds the daemon from a configuration and applies reloads.

Reloading drops no connection and no policy. `reload` returns the keys whose change has to wait for
a restart. Making a service raises `StoreError` where the cache cannot be used.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields

from .cache.layered import LayeredStore
from .config.settings import Config, Zone, exempt_files, wants_dane
from .lookup.absence import AbsenceWatch
from .lookup.pool import ResolverPool
from .net import resolv_conf
from .net.dns_servers import named
from .net.proxy import Proxy
from .policies.dane_states import DaneStates
from .policies.event_log import EventLog, Observed
from .policies.exempt_files import ExemptFiles
from .policies.in_force import Policies
from .policies.proactive import Proactive
from .policies.renewal_times import RenewalTimes
from .policies.revocation_watch import RevocationWatch
from .socketmap.answer import DEFAULT_ZONE, Answers, ReplyCounts, exempt_in
from .socketmap.server import SocketmapServer
from .stores.opening import open_cache

log = logging.getLogger(__name__)

# Keys whose change takes effect as soon as it is read.
_CHANGEABLE = (
    "cache_grace",
    "shutdown_timeout",
    "workers",
    "dns",
    "https_proxy",
    "no_proxy",
    "proactive",
    "default_zone",
    "zones",
)


class Service:
    """What answers for `server`: cache, resolver processes, policies, proactive fetching.

    `proxy`: the way out to the policy hosts, None for the direct one. Make it as the user who is to
    own the cache's file. The attributes are there to be looked at (`metrics`, `health`, `status`).

    `loaded`: when the configuration was read (wall clock). `kept`: keys of it whose change has to
    wait for a restart.
    """

    def __init__(self, server: SocketmapServer, config: Config, proxy: Proxy | None) -> None:
        self.server = server
        self._config = config
        self.cache = open_cache(config.cache, config.cache_grace)
        # The thread that answers reads the results and decides what follows: no other computes.
        self.resolver = ResolverPool(_reach(config, proxy), watch=server.watch)
        lookups = functools.cache(self.resolver.lookups)
        self.dane = DaneStates(lookups, flush=self.resolver.flush)
        self.policies = Policies(
            self.cache,
            lookups,
            times=_times(config),
            blocking=server.hand if self.cache.blocks else None,
            behind=server.behind,
            flush=self.resolver.flush,
            changed=self._forget,
        )
        server.after_turn = self.resolver.flush
        self.proactive = Proactive(
            self.cache,
            self.policies,
            settings=config.proactive,
            behind=server.behind,
            timeout=config.default_zone.timeout,
            also=self.dane.renew,
        )
        self._watch: AbsenceWatch | None = None
        # Other processes can be on a store alone.
        self._revocations = RevocationWatch(self.policies) if self.cache.blocks else None
        self.replies = ReplyCounts()
        self._events = EventLog()
        self._exempt = ExemptFiles(self._answer_anew)
        self._exempt.read(exempt_files(config))
        self._zones = config.default_zone, config.zones
        self.loaded = time.time()
        self.kept: list[str] = []
        server.source = self._answers()
        _look_for_validation(config)

    def start(self, give_up: Callable[[], None] | None = None) -> None:
        """Begin to look policies up.

        `give_up`: ends the daemon after minutes without a resolver process, to be started anew.
        None where nobody would do that.
        """
        self.resolver.start()
        self.proactive.start()
        self._exempt.start()
        if self._revocations is not None:
            self._revocations.start()
        self._watch = AbsenceWatch(lambda: self.resolver.absence, give_up)
        self._watch.start()

    def close(self) -> None:
        """End what `start` began, and close the cache."""
        if self._watch is not None:
            self._watch.stop()
        self.proactive.stop()
        self._exempt.stop()
        if self._revocations is not None:
            self._revocations.stop()
        self.policies.close()
        self.resolver.close()
        self.cache.close()

    def run_now(self) -> None:
        """Begin a proactive run over every policy."""
        self.proactive.run_now()

    def reload(self, config: Config, proxy: Proxy | None) -> list[str]:
        """Go by `config` from now on; return the keys whose change has to wait for a restart.

        Raise `ConfigError` where a file of exempt domains is wrong; then nothing has changed.
        """
        self._exempt.read(exempt_files(config))
        self.resolver.change(_reach(config, proxy))
        self.dane.clear()
        self.server.workers = config.workers
        self.server.shutdown_timeout = config.shutdown_timeout
        if isinstance(self.cache, LayeredStore):
            self.cache.grace = config.cache_grace
        proactive = config.proactive
        self.policies.times = _times(config)
        self.proactive.timeout = config.default_zone.timeout
        self.proactive.settings = proactive
        self._zones = config.default_zone, config.zones
        self._answer_anew()
        _look_for_validation(config)
        self.loaded = time.time()
        self.kept = [
            field.name
            for field in fields(Config)
            if field.compare
            and field.name not in _CHANGEABLE
            and getattr(config, field.name) != getattr(self._config, field.name)
        ]
        return self.kept

    def zones(self) -> dict[str, tuple[Zone, frozenset[str]]]:
        """Return the zones by name, each with all that is exempt in it."""
        default, others = self._zones
        files = self._exempt.entries
        return {
            name: (zone, exempt_in(zone, files))
            for name, zone in {DEFAULT_ZONE: default, **others}.items()
        }

    def observed(self) -> list[Observed]:
        """Return what zones that observe would have answered."""
        return self._events.all_observed()

    def _answers(self) -> Answers:
        return Answers(
            self.policies,
            *self._zones,
            self.replies,
            self.dane,
            self._events,
            self._exempt.entries,
        )

    def _answer_anew(self) -> None:
        """Answer by the zones and the exempt domains as they are now."""
        self.server.switch(self._answers())

    def _forget(self, domain: str) -> None:
        """Answer no more what was said of a domain."""
        self.dane.forget(domain)
        self.server.forget(domain)


def _times(config: Config) -> RenewalTimes:
    proactive = config.proactive
    return RenewalTimes(config.cache_grace, proactive.interval, proactive.grace_ratio)


def _reach(config: Config, proxy: Proxy | None) -> Mapping[str, object]:
    """Return the arguments of the resolvers that say whom they ask and how they get out."""
    dns = {name: value for name, value in asdict(config.dns).items() if value not in ((), None)}
    return {"proxy": asdict(proxy), **dns} if proxy else dns


def _look_for_validation(config: Config) -> None:
    """Warn where a zone wants DANE, and no name server is believed to validate."""
    if not wants_dane(config):
        return
    dns = config.dns
    try:
        servers = named(dns.nameservers, 53, trust_ad=dns.trust_ad) or resolv_conf.read_servers(
            resolv_conf.PATH, 53, trust_ad=dns.trust_ad
        )
    except OSError as error:
        log.warning("dane: %s cannot be read: %s", resolv_conf.PATH, error.strerror)
        return
    if not any(server.is_believed for server in servers):
        log.warning(
            "dane: off, because no name server is believed to validate by DNSSEC: run one on this"
            " host, or set dns: {trust_ad: true} if nobody can change what %s answers",
            ", ".join(map(str, servers)),
        )
