"""What the store of a configuration holds of a domain, read beside the daemon that keeps it.

Nothing is made: a database file that is not there yet is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from ..cache.entry import Entry
from ..cache.store import StoreError
from ..config.settings import Config, InternalCache, SqliteCache
from ..stores.opening import open_store


def stored_entries(config: Config) -> Callable[[str], Entry | None] | None:
    """Return what gives the entry of a domain, or raises `StoreError`.

    None for a cache in memory, and for a database that is not there.
    """
    cache = config.cache
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
