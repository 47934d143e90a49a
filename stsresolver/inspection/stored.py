"""What the cache of a configuration holds of a domain, as its daemon says, or as its store does.

Nothing is made: a database file that is not there yet is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from ..cache.entry import Entry
from ..cache.store import StoreError
from ..config.settings import CacheSettings, Config, InternalCache, SqliteCache
from ..control.client import ControlError, NoDaemon, ask
from ..control.messages import Command, Request
from ..stores.opening import open_store


def stored_entries(config: Config) -> Callable[[str], Entry | None] | None:
    """Return what gives the entry of a domain, or raises `StoreError`.

    None for a cache in memory of a daemon without `control`, and for a database that is not there.
    """
    cache = config.cache
    if config.control is not None:
        return partial(_asked, config.control.path, _stored_entries(cache))
    return _stored_entries(cache)


def _asked(path: str, otherwise: Callable[[str], Entry | None] | None, domain: str) -> Entry | None:
    """Return the entry that the running daemon has; that of the store where none runs."""
    try:
        items = list(ask(path, Request(Command.SHOW, domain)))
    except NoDaemon as error:
        if otherwise is None:
            raise StoreError(str(error)) from error
        return otherwise(domain)
    except ControlError as error:
        raise StoreError(str(error)) from error
    return next((one for one in items if isinstance(one, Entry)), None)


def _stored_entries(cache: CacheSettings) -> Callable[[str], Entry | None] | None:
    if isinstance(cache, InternalCache):
        return None
    if isinstance(cache, SqliteCache) and not os.path.exists(cache.filename):
        return None
    try:
        return open_store(cache).get
    except StoreError as error:
        return partial(_unreadable, str(error))


def _unreadable(why: str, _: str) -> Entry | None:
    raise StoreError(why)
