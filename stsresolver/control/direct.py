"""The same with the store alone, while no daemon answers on a control socket.

Daemons on the store notice what was changed within `cache_grace` (`Store.revoke`). What they
remember as not found is not in the store, so it is not shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

from ..cache.entry import Entry
from ..cache.store import Store
from ..mta_sts.resolver import Resolver
from ..mta_sts.results import Failure, Found, Lookup, NoPolicy
from ..policies.renewal_times import DAY, RenewalTimes
from .commands import missed
from .messages import Command, Item, Request

_SOME = 500


class Direct:
    """Answers requests from `store`.

    `resolver`: looks domains up. `times`: of the configuration.
    """

    def __init__(self, store: Store, resolver: Resolver, times: RenewalTimes) -> None:
        self._store = store
        self._resolver = resolver
        self._times = times

    def answer(self, request: Request) -> Iterator[Item]:
        """Yield the parts of the reply but for its end. Raise `StoreError`."""
        domain = request.domain
        match request.command:
            case Command.LIST:
                for some in self._store.scan(_SOME):
                    yield from some
            case Command.SHOW:
                yield from self._show(domain)
            case Command.FORGET:
                yield from self._show(domain)
                self._forget(domain)
            case Command.REFRESH:
                yield from self._refresh(domain)

    def _show(self, domain: str) -> Iterator[Item]:
        entry = self._store.get(domain)
        if entry is not None:
            yield entry

    def _forget(self, domain: str) -> None:
        entry = self._store.get(domain)
        now = time.time()
        self._store.revoke(domain, now if entry is None else max(now, entry.fetched))

    def _refresh(self, domain: str) -> Iterator[Item]:
        result = self._resolver.resolve(domain)
        before = self._store.get(domain)
        now = time.time()
        if isinstance(result, Found):
            entry = _entry(domain, result, before, now)
            entry = replace(entry, due=self._times.due(entry))
            # What was fetched before goes, in every daemon, and what was not found.
            self._store.revoke(domain, math.nextafter(now, 0.0))
            if result.policy.max_age > 0:
                self._store.put(entry, now)
        elif isinstance(result, NoPolicy | Failure) and before is not None:
            self._store.touch(replace(before, failed=now, failure=str(result)))
        yield from self._show(domain)
        yield from _failed(domain, result)


def _entry(domain: str, found: Found, before: Entry | None, now: float) -> Entry:
    asked = before.asked if before is not None else now // DAY * DAY
    return Entry(domain, found.id, found.policy, now, now, asked, due=0.0)


def _failed(domain: str, result: Lookup) -> Iterator[Item]:
    if isinstance(result, NoPolicy | Failure):
        yield missed(domain, 0.0, result, 0.0)
