"""The settings of a cache in a server, from the options that a configuration file would have."""

from stsresolver.config.postgres_options import postgres_settings
from stsresolver.config.redis_options import connection_options, sentinel_options
from stsresolver.config.settings import PostgresCache, RedisCache


def redis_cache(options, *, by_sentinels=False, **more) -> RedisCache:
    parse = sentinel_options if by_sentinels else connection_options
    return RedisCache(parse(options)[0], **more)


def postgres_cache(options, **more) -> PostgresCache:
    return PostgresCache(postgres_settings(options)[0], **more)
