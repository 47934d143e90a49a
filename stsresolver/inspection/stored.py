"""What the cache of a configuration holds of a domain, as its daemon says, or as its store does.

Nothing is made: a database file that is not there yet is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeAlias

from ..cache.store import Store, StoreError
from ..config.settings import CacheSettings, Config, InternalCache, SqliteCache
from ..control.client import ControlError, NoDaemon, ask
from ..control.messages import Command, Item, Request
from ..stores.opening import open_store

# Gives the entry and the misses of a domain; raises `StoreError`.
Cached: TypeAlias = Callable[[str], list[Item]]


def cached(config: Config, stack: ExitStack) -> Cached | None:
    """Return what gives all that is cached of a domain, until `stack` is closed.

    None for a cache in memory of a daemon without `control`, and for a database that is not there.
    """
    if config.control is not None:
        return partial(_asked, config.control.path, _stored(config.cache, stack))
    return _stored(config.cache, stack)


def _asked(path: str, otherwise: Cached | None, domain: str) -> list[Item]:
    """Return what the running daemon has; what the store has where none runs."""
    try:
        return list(ask(path, Request(Command.SHOW, domain)))
    except NoDaemon as error:
        if otherwise is None:
            raise StoreError(str(error)) from error
        return otherwise(domain)
    except ControlError as error:
        raise StoreError(str(error)) from error


def _stored(cache: CacheSettings, stack: ExitStack) -> Cached | None:
    if isinstance(cache, InternalCache):
        return None
    if isinstance(cache, SqliteCache) and not os.path.exists(cache.filename):
        return None
    try:
        store = open_store(cache, to_read=True)
    except StoreError as error:
        return partial(_unreadable, str(error))
    stack.callback(store.close)
    return partial(_read, store)


def _read(store: Store, domain: str) -> list[Item]:
    entry = store.get(domain)
    return [] if entry is None else [entry]


def _unreadable(why: str, _: str) -> list[Item]:
    raise StoreError(why)
