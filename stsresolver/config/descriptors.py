"""How many descriptors, open files and sockets, the daemon needs besides those of its clients.

The rest of its limit is for connections of Postfix. The resolver process has a limit of its own.
No I/O.
"""

from __future__ import annotations

from .settings import CacheSettings, PostgresCache, RedisCache, SqliteCache

# Log, pidfile, listening sockets, resolver processes, metrics, files that are read now and then.
_BASE = 80
# Of a connection to an sqlite database: the file and its -wal file.
_SQLITE_CONNECTION = 2
# Postfix opens a hundred for each of its services (default_process_limit): what is left is little.
FEW_CONNECTIONS = 256


def own_descriptors(cache: CacheSettings) -> int:
    """Return how many descriptors the daemon needs at most, with this cache."""
    match cache:
        case SqliteCache(threads=threads):
            return _BASE + _SQLITE_CONNECTION * threads
        case RedisCache(redis=redis):
            return _BASE + redis.max_connections + len(redis.sentinels)
        case PostgresCache(postgres=postgres):
            return _BASE + postgres.max_connections
        case _:
            return _BASE
