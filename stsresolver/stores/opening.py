"""Opens the cache that the settings ask for.

Raises `StoreError`, which says what to do, where the cache cannot be used from the start. A server
that is away at the start can be used later, so it is no error.
"""

from __future__ import annotations

from typing import Protocol

from ..cache.layered import LayeredStore
from ..cache.memory import MemoryStore
from ..cache.store import Cache, Store, StoreError
from ..config.settings import (
    CacheSettings,
    InternalCache,
    PostgresCache,
    SharedCache,
    SqliteCache,
)
from ..config.store_options import OptionsError
from .sqlite import SqliteStore


class _Server(Store, Protocol):
    """A store in a server."""

    def look(self) -> None:
        """Raise `StoreError` if it cannot be used. Nothing is made there."""


def open_cache(settings: CacheSettings, grace: float) -> Cache:
    """Open the cache. `grace`: seconds in which memory alone answers."""
    memory = MemoryStore(settings.cache_size)
    if isinstance(settings, InternalCache):
        return memory
    return LayeredStore(memory, open_store(settings), grace=grace)


def open_store(settings: SqliteCache | SharedCache, *, to_read: bool = False) -> Store:
    """Open the store that outlives the process.

    `to_read`: make no tables in a server, where a store without them is empty.
    """
    if isinstance(settings, SqliteCache):
        return SqliteStore(settings.filename, threads=settings.threads, timeout=settings.timeout)
    return _open_server(settings, to_read=to_read)


def look(settings: SharedCache) -> None:
    """Raise `StoreError` if a server cannot be used. Nothing is made there."""
    store = _open_server(settings)
    try:
        store.look()
    finally:
        store.close()


def _open_server(settings: SharedCache, *, to_read: bool = False) -> _Server:
    try:
        # An extra may be missing where nobody wants its server.
        if isinstance(settings, PostgresCache):
            from .postgres import PostgresStore  # noqa: PLC0415

            return PostgresStore(settings.postgres, to_read=to_read)
        from .redis import RedisStore  # noqa: PLC0415

        return RedisStore(settings.redis)
    except (ImportError, OptionsError) as error:
        raise StoreError(f"cache: {error}") from error
