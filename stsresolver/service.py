"""Builds the daemon from a configuration and applies reloads.

Reloading drops no connection and no policy. `reload` returns the keys whose change has to wait for
a restart. Making a service raises `StoreError` where the cache cannot be used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields

from .cache.layered import LayeredStore
from .config.settings import Config
from .lookup.absence import AbsenceWatch
from .lookup.pool import ResolverPool
from .net.proxy import Proxy
from .policies.in_force import Policies
from .policies.proactive import Proactive
from .policies.renewal_times import RenewalTimes
from .policies.revocation_watch import RevocationWatch
from .socketmap.answer import Answers, ReplyCounts
from .socketmap.server import SocketmapServer
from .stores.opening import open_cache

# Keys whose change takes effect as soon as it is read.
_CHANGEABLE = (
    "cache_grace",
    "shutdown_timeout",
    "workers",
    "https_proxy",
    "no_proxy",
    "proactive",
    "default_zone",
    "zones",
)


class Service:
    """What answers for `server`: cache, resolver processes, policies, proactive fetching.

    `proxy`: the way out to the policy hosts, None for the direct one. Make it as the user who is to
    own the cache's file. The attributes are there to be looked at (`metrics`, `health`).
    """

    def __init__(self, server: SocketmapServer, config: Config, proxy: Proxy | None) -> None:
        self.server = server
        self._config = config
        self.cache = open_cache(config.cache, config.cache_grace)
        self.resolver = ResolverPool(_reach(proxy))
        self.policies = Policies(
            self.cache,
            functools.cache(self.resolver.lookups),
            times=_times(config),
            blocking=server.hand if self.cache.blocks else None,
            behind=server.behind,
            flush=self.resolver.flush,
            changed=server.forget,
        )
        server.after_turn = self.resolver.flush
        self.proactive = Proactive(
            self.cache,
            self.policies,
            settings=config.proactive,
            behind=server.behind,
            timeout=config.default_zone.timeout,
        )
        self._watch: AbsenceWatch | None = None
        # Other processes can be on a store alone.
        self._revocations = RevocationWatch(self.policies) if self.cache.blocks else None
        self.replies = ReplyCounts()
        server.source = self._answers(config)

    def start(self, give_up: Callable[[], None] | None = None) -> None:
        """Begin to look policies up.

        `give_up`: ends the daemon after minutes without a resolver process, to be started anew.
        None where nobody would do that.
        """
        self.resolver.start()
        self.proactive.start()
        if self._revocations is not None:
            self._revocations.start()
        self._watch = AbsenceWatch(lambda: self.resolver.absence, give_up)
        self._watch.start()

    def close(self) -> None:
        """End what `start` began, and close the cache."""
        if self._watch is not None:
            self._watch.stop()
        self.proactive.stop()
        if self._revocations is not None:
            self._revocations.stop()
        self.policies.close()
        self.resolver.close()
        self.cache.close()

    def run_now(self) -> None:
        """Begin a proactive run over every policy."""
        self.proactive.run_now()

    def reload(self, config: Config, proxy: Proxy | None) -> list[str]:
        """Go by `config` from now on; return the keys whose change has to wait for a restart."""
        self.resolver.change(_reach(proxy))
        self.server.workers = config.workers
        self.server.shutdown_timeout = config.shutdown_timeout
        if isinstance(self.cache, LayeredStore):
            self.cache.grace = config.cache_grace
        proactive = config.proactive
        self.policies.times = _times(config)
        self.proactive.timeout = config.default_zone.timeout
        self.proactive.settings = proactive
        self.server.switch(self._answers(config))
        kept = [
            field.name
            for field in fields(Config)
            if field.compare
            and field.name not in _CHANGEABLE
            and getattr(config, field.name) != getattr(self._config, field.name)
        ]
        return kept

    def _answers(self, config: Config) -> Answers:
        return Answers(self.policies, config.default_zone, config.zones, self.replies)


def _times(config: Config) -> RenewalTimes:
    proactive = config.proactive
    return RenewalTimes(config.cache_grace, proactive.interval, proactive.grace_ratio)


def _reach(proxy: Proxy | None) -> Mapping[str, object]:
    """Return the arguments of `Resolver` that say how it gets out."""
    return {"proxy": asdict(proxy)} if proxy else {}
