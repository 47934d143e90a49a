"""Policies in Redis, shared by all daemons that use the same database and prefix.

Keys: `<prefix>policy:<domain>`, an entry as JSON; `<prefix>due`, `<prefix>end`, `<prefix>fetched`,
domains sorted by these times; `<prefix>lease`; `<prefix>revoked`, domains sorted by the time until
which what was learnt of them is out of date. Each has a lifetime, so that nothing stays for ever
when no daemon is left to remove it. The daemon says how long it is, and Redis counts it by its own
clock. It is so long that a clock of Redis's host that is two years ahead removes nothing. What has
ended is removed by `purge`.

A Redis that is full, or was emptied in part, may have lost an index and kept entries. So the
indexes are compared with the entries once a day, and as soon as they differ in size, and get what
they miss.

Another program's data under one of these names is neither changed nor removed. In the place of a
domain it is taken for no entry, nothing is kept for that domain, and the log says so once. In the
place of an index it is an error.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import cachetools

from ..cache.entry import CLOCK_SKEW, Entry
from ..cache.store import StoreError
from ..config.redis_options import RedisSettings
from ..config.store_options import OptionsError
from ..mta_sts.policy import MAX_MAX_AGE
from .entry_json import from_json, to_json
from .redis_scripts import DROP, DUE, LEASE, MAKE_DUE, PURGE, PUT, REVOKE, SIZES, TOUCH

_NEEDED = (
    f"a Redis cache needs redis-py 5 or later: {sys.executable} -m pip install 'stsresolver[redis]'"
)
try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import MasterNotFoundError, Sentinel
except ImportError as error:
    raise ImportError(f"{_NEEDED} ({error})") from error
if int(redis.__version__.split(".")[0]) < 5:
    raise ImportError(f"{_NEEDED} (this is {redis.__version__})")

log = logging.getLogger(__name__)

# Seconds that a key outlives its policy.
MARGIN = 1000 * 86_400.0
# Seconds between two comparisons of the indexes with the entries, and where their sizes differ.
_MEND_PAUSE = 86_400.0
_MEND_PAUSE_DIFFERENT = 60.0
# Entries compared at once.
_SOME = 500
# Unreadable entries are left out and the next ones read, this many times in one `due`.
_ROUNDS = 10
_MAX_WARNED = 10_000


class RedisStore:
    """A store in Redis 6.2 or later. See `Store` for what the methods promise.

    Nothing is connected before it is needed. An operation waits `socket_connect_timeout` at most
    for one of the `max_connections` connections, as long to connect (for each address that the
    host has), and `socket_timeout` for an answer; it is never repeated.
    Raise `OptionsError` if the installed redis-py does not know one of the options.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._name = f"Redis at {settings.name}"
        keywords = _checked(settings.keywords)
        of_sentinels = dict(settings.sentinel_keywords)
        asking = of_sentinels.get("sentinel_kwargs", {})
        self._secrets = [
            word
            for kwargs in (settings.keywords, asking)
            for name in ("password", "ssl_password")
            if (word := kwargs.get(name))
        ]
        self._sentinels: list[redis.Redis] = []
        if settings.sentinels:
            of_sentinels["sentinel_kwargs"] = _checked(asking)
            sentinel: Any = _Sentinels(settings.sentinels, **of_sentinels)
            self._sentinels = sentinel.sentinels
            self._redis: redis.Redis = sentinel.master_for(settings.master, **keywords)
        else:
            self._redis = redis.Redis(**keywords)
        self._free = threading.BoundedSemaphore(settings.max_connections)
        self._connections = settings.max_connections
        self._wait: float = settings.keywords["socket_connect_timeout"]

        self._entries = settings.prefix + "policy:"
        self._indexes = [settings.prefix + name for name in ("due", "end", "fetched")]
        self._lease_key = settings.prefix + "lease"
        self._revoked_key = settings.prefix + "revoked"
        register = self._redis.register_script
        self._put, self._touch = register(PUT), register(TOUCH)
        self._due, self._drop, self._purge = register(DUE), register(DROP), register(PURGE)
        self._make_due, self._lease = register(MAKE_DUE), register(LEASE)
        self._revoke, self._sizes = register(REVOKE), register(SIZES)
        # When the indexes were compared with the entries last, by the clock of who asks.
        self._mended = -math.inf
        self._lock = threading.Lock()
        self._warned: MutableMapping[str, None] = cachetools.LRUCache(_MAX_WARNED)

    def get(self, domain: str) -> Entry | None:
        """Return the entry of `domain`."""
        key = self._entries + domain
        with self._errors():
            try:
                text = self._redis.get(key)
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                self._warn(key, "no text")
                return None
        return None if text is None else self._read(domain, text)

    def put(self, entry: Entry, now: float) -> None:
        """Keep `entry`, unless the one that is there was fetched later."""
        # However wrong a clock was, no key lives longer than a policy can.
        lifetime = min(max(entry.end - now, 0.0), entry.policy.max_age + CLOCK_SKEW) + MARGIN
        arguments = [*_row(entry), repr(now + CLOCK_SKEW), int(lifetime * 1000)]
        self._write(self._put, entry.domain, arguments)

    def touch(self, entry: Entry) -> None:
        """Update the times, id and failure of an entry."""
        self._write(self._touch, entry.domain, _row(entry))

    def scan(self, some: int) -> Iterator[list[Entry]]:
        """Yield all entries, by the end of their policies."""
        index, start = self._indexes[1], 0
        while True:
            with self._errors():
                names: Any = self._redis.zrange(index, start, start + some - 1)
                if not names:
                    return
                texts: Any = self._redis.mget([self._entries.encode() + name for name in names])
            start += some
            found = zip(names, texts, strict=True)
            read = (self._read(name.decode(errors="replace"), text) for name, text in found if text)
            yield [entry for entry in read if entry is not None]

    def revoke(self, domain: str, until: float) -> None:
        """Remove an entry, and note that."""
        keys = [*self._indexes, self._entries + domain, self._revoked_key]
        # Nobody holds a policy for longer.
        lifetime = int((MAX_MAX_AGE + MARGIN) * 1000)
        reply = self._run(
            self._revoke, keys, [domain, repr(until), repr(until - MAX_MAX_AGE), lifetime]
        )
        if reply == self._revoked_key.encode():
            raise StoreError(f"{self._name}: the key {reply!a} is another program's")

    def revoked(self, since: float) -> list[tuple[str, float]]:
        """Return what was revoked."""
        with self._errors():
            found: Any = self._redis.zrangebyscore(
                self._revoked_key, since, "+inf", withscores=True
            )
        return [(name.decode(errors="replace"), until) for name, until in found]

    def due(self, now: float, limit: int) -> list[Entry]:
        """Return entries that are due."""
        self._mend(now)
        arguments = [self._entries, repr(now), repr(now + CLOCK_SKEW), limit]
        found: list[Entry] = []
        for _ in range(_ROUNDS):
            reply = self._run(self._due, self._indexes, arguments)
            gone, texts = reply[0], reply[1:]
            found = []
            for name, text in zip(texts[::2], texts[1::2], strict=True):
                domain = name.decode("utf-8", "backslashreplace")
                entry = self._read(domain, text)
                if entry is None:
                    key = self._entries.encode() + name
                    self._run(self._drop, [*self._indexes, key], [name, text])
                    gone += 1
                else:
                    found.append(entry)
            if len(found) >= limit or not gone:
                break
        return sorted(found, key=lambda entry: entry.due)[:limit]

    def make_due(self, now: float) -> None:
        """Let every entry be due, since the beginning of time."""
        self._mend(now)
        self._run(self._make_due, self._indexes, [])

    def purge(self, now: float, limit: int) -> int:
        """Remove entries past their end, those included that Redis has removed by itself."""
        self._mend(now)
        removed: int = self._run(self._purge, self._indexes, [self._entries, repr(now), limit])
        return removed

    def lease(self, holder: str, seconds: float, now: float) -> bool:
        """Take or prolong the lease; `seconds` are counted by Redis's own clock."""
        arguments = [holder, max(1, int(seconds * 1000))]
        reply = self._run(self._lease, [self._lease_key], arguments)
        if reply == self._lease_key.encode():
            self._warn(self._lease_key, "no lease of ours")
        return bool(reply)

    def look(self) -> None:
        """Raise `StoreError` if the server cannot be used."""
        self.get("example.com")

    def close(self) -> None:
        """Close the connections, those in use as well."""
        for client in (self._redis, *self._sentinels):
            client.close()
            client.connection_pool.disconnect()

    def _mend(self, now: float) -> None:
        """Put entries into the indexes that miss them, if it is time to look for some."""
        sizes = self._run(self._sizes, self._indexes, [])
        pause = _MEND_PAUSE if len(set(sizes)) == 1 else _MEND_PAUSE_DIFFERENT
        if abs(now - self._mended) < pause:
            return
        self._mended = now
        pattern = re.sub(r"([\\*?[])", r"\\\1", self._entries) + "*"
        cursor: Any = 0
        missed = 0
        while True:
            keys: Any
            with self._errors():
                cursor, keys = self._redis.scan(cursor, pattern, _SOME)
            missed += self._index([key[len(self._entries.encode()) :] for key in keys])
            if not cursor:
                break
        if missed:
            log.warning(
                "%s: its indexes had lost %d policies, and have them again; let Redis refuse writes"
                " when it is full (maxmemory-policy noeviction)",
                self._name,
                missed,
            )

    def _index(self, names: list[Any]) -> int:
        """Put the entries of domains into the indexes that miss them; return how many did."""
        if not names:
            return 0
        with self._errors():
            scores: Any = [self._redis.zmscore(index, names) for index in self._indexes]
        missed = 0
        for name, *times in zip(names, *scores, strict=True):
            entry = self.get(name.decode(errors="replace")) if None in times else None
            if entry is not None:
                self.touch(entry)
                missed += 1
        return missed

    def _write(self, script: Any, domain: str, arguments: Sequence[object]) -> None:
        key = self._entries + domain
        if self._run(script, [*self._indexes, key], arguments) == key.encode():
            self._warn(key, "no entry of ours")

    def _run(self, script: Any, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> Any:
        """Return a script's reply, unless it says that an index is another program's."""
        with self._errors():
            reply = script(keys, arguments)
        for index in self._indexes:
            if reply == index.encode():
                raise StoreError(f"{self._name}: the key {index!a} is another program's")
        return reply

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Have one of the connections meanwhile, and make a `StoreError` of what goes wrong."""
        if not self._free.acquire(timeout=self._wait):
            raise StoreError(f"{self._name}: all {self._connections} connections are in use")
        try:
            yield
        except MasterNotFoundError as error:
            raise StoreError(
                f"{self._name}: no sentinel knows a master ({self._why(error)})"
            ) from None
        except (redis.RedisError, OSError, ValueError) as error:
            # ValueError is redis-py's word for an answer that is not Redis's.
            raise StoreError(f"{self._name}: {self._why(error)}") from None
        finally:
            self._free.release()

    def _why(self, error: Exception) -> str:
        """Return an error's text fit for one line of the log."""
        text = str(error) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split()).encode("ascii", "backslashreplace").decode()[:300]

    def _read(self, domain: str, text: bytes | str) -> Entry | None:
        try:
            return from_json(text, domain)
        except ValueError as error:
            self._warn(self._entries + domain, str(error))
            return None

    def _warn(self, key: str, why: str) -> None:
        with self._lock:
            if key in self._warned:
                return
            self._warned[key] = None
        text = "%s: the key %a is damaged or another program's, and left as it is: %s"
        log.warning(text, self._name, key[:300], why)


class _Sentinels(Sentinel):
    """redis-py's, but for what is said when none knows a master.

    redis-py would print its clients, each longer than a line of the log.
    """

    def __init__(self, *args: Any, force_master_ip: str | None = None, **keywords: Any) -> None:
        super().__init__(*args, **keywords)  # type: ignore[no-untyped-call]
        # redis-py 5.0 does not know this one.
        self._master_ip = force_master_ip

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the master's address. Raise `MasterNotFoundError` with each sentinel's reason."""
        reasons = []
        asked: list[Any] = self.sentinels
        for sentinel in asked:
            try:
                state = sentinel.sentinel_masters().get(service_name)
                if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                    # The first to be asked next time.
                    self.sentinels = [sentinel, *(one for one in asked if one is not sentinel)]
                    return self._master_ip or state["ip"], state["port"]
                why = f"knows no master {service_name} that can be used"
            except redis.RedisError as error:
                why = str(error).rstrip(".") or type(error).__name__
            address = "{host}:{port}".format_map(sentinel.get_connection_kwargs())
            reasons.append(why if address in why else f"{address}: {why}")
        raise MasterNotFoundError("; ".join(reasons))


def _checked(keywords: Any) -> dict[str, Any]:
    """Return redis-py's keywords with our own; an operation is tried once."""
    known = inspect.signature(redis.Redis.__init__).parameters
    for name in keywords:
        if name not in known:
            sentence = f"is not known to the installed redis-py {redis.__version__}"
            raise OptionsError(name, sentence)
    # RESP 3 would bring notices of maintenance, which change the timeouts.
    return {**keywords, "protocol": 2, "retry": Retry(NoBackoff(), 0)}


def _row(entry: Entry) -> list[str]:
    times = (entry.due, entry.end, entry.fetched)
    return [entry.domain, to_json(entry), *map(repr, times)]
