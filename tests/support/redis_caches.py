"""The settings of a cache in Redis, from the options that a configuration file would have."""

from stsresolver.config.redis_options import redis_settings
from stsresolver.config.settings import RedisCache


def redis_cache(options, *, by_sentinels=False, **more) -> RedisCache:
    return RedisCache(redis_settings(options, by_sentinels=by_sentinels)[0], **more)
