"""Connections to PostgreSQL, each operation within a time limit. Every error is a `StoreError`.

The connections are psycopg's pool: made when they are needed, and closed when they were idle for
ten minutes. A server that was restarted, or that another one has taken the place of, leaves
connections behind that are closed or can only read. So an operation that fails because of its
connection is tried again, on a new one in the end; and so is one that was in another's way. Each
can be done twice: it is one transaction, and says what is to be there afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from ..cache.store import StoreError
from ..config.postgres_options import PostgresSettings

_NEEDED = (
    "a PostgreSQL cache needs psycopg 3.1 and its pool:"
    f" {sys.executable} -m pip install 'stsresolver[postgres]'"
)
try:
    import psycopg
    from psycopg import errors
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
except ImportError as error:
    raise ImportError(f"{_NEEDED} ({error})") from error

# The store says what goes wrong; the pool's own lines would only be printed if nobody logs them.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

# The sentence for the administrator, by the server's SQLSTATE.
_SENTENCES = {
    "26000": "PgBouncer pools transactions; set prepared_statements: false",
    "42P05": "PgBouncer pools transactions; set prepared_statements: false",
    "25006": "the server can only be read; name the one that can be written as well, and"
    " target_session_attrs: read-write",
    "3F000": "its search_path names no schema that its user may use; make it, and let the user"
    " create tables there",
    "42501": "its user lacks a right; let it create tables in the schema, or give it the tables"
    " stsresolver_*, and SELECT on those of the older daemon",
    "53100": "no space is left on the disk of the server",
    "53300": "the server has no connection left; raise its max_connections, or lower that of the"
    " cache",
}
# The server ends, or is no primary any more.
_OF_ITS_SERVER = (errors.ReadOnlySqlTransaction, errors.AdminShutdown, errors.CrashShutdown)
# Two transactions at once, of which one had to give way.
_CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)
# How often an operation is tried again at least, for those.
_AGAIN = 5
# Seconds between two looks whether a connection could be made.
_LOOK = 0.1
# Seconds that the threads of the pool have to end.
_CLOSING = 1.0
# What libpq would look for in a directory of the user.
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

Connection: TypeAlias = psycopg.Connection[Any]
_Result = TypeVar("_Result")


class _Timeout(psycopg.OperationalError):
    """The server did not answer in time."""


class _TryAgain(Exception):
    """An operation failed in a way that says nothing of the next time. `error`: how."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits no longer than a time limit for each answer, `limit` in seconds."""

    limit: float = 5.0

    def wait(self, gen: Any, *_: Any, **__: Any) -> Any:
        """Return what the generator returns. Raise `_Timeout`, and be closed, if it takes long."""
        # As psycopg's own loop, which has no end in the versions that Debian has.
        end = time.monotonic() + self.limit
        try:
            wanted = next(gen)
            with selectors.PollSelector() as selector:
                selector.register(self.fileno(), wanted)
                while True:
                    ready = selector.select(max(end - time.monotonic(), 0.0))
                    if not ready:
                        self.close()
                        raise _Timeout(f"no answer within {self.limit:g} s")
                    wanted = gen.send(type(wanted)(ready[0][1]))
                    selector.modify(self.fileno(), wanted)
        except StopIteration as end_of_generator:
            return end_of_generator.value


def _of_the_connection(error: psycopg.Error) -> bool:
    """Say whether an error is about the connection or its server, not about the operation."""
    if isinstance(error, _OF_ITS_SERVER):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None
    )


def _names_authority(keywords: Mapping[str, object]) -> bool:
    """Say whether libpq is told the CA certificates, or is to look for them in a service file."""
    told = {"sslrootcert", "service"} & keywords.keys()
    return bool(told or {"PGSSLROOTCERT", "PGSERVICE"} & os.environ.keys())


class Pool:
    """At most `max_connections` connections.

    Nothing is connected before it is needed. An operation waits `command_timeout` seconds for a
    connection that is free, and for each answer; to connect it waits `connect_timeout` for each
    server. `prepare` is called once, with the first connection, before anything else is done.
    """

    def __init__(self, settings: PostgresSettings, prepare: Callable[[Connection], None]) -> None:
        self.name = f"PostgreSQL at {settings.name}"
        keywords = dict(settings.keywords)
        if str(keywords.get("sslmode", "")).startswith("verify") and not _names_authority(keywords):
            paths = ssl.get_default_verify_paths()
            keywords["sslrootcert"] = paths.cafile or _CERTIFICATES
        if "database" in keywords:
            keywords["dbname"] = keywords.pop("database")
        keywords |= {"client_encoding": "utf-8", "autocommit": True}
        if not settings.prepared_statements:
            keywords["prepare_threshold"] = None
        self._secrets = [
            str(keywords[name]) for name in ("password", "sslpassword") if name in keywords
        ]
        self._limit = settings.command_timeout
        self._connections = settings.max_connections
        self._prepare = prepare
        self._prepared = False
        self._preparing = threading.Lock()
        # How often connecting has failed, and why it did last.
        self._failures = 0
        self._why_not = ""
        # An attempt that failed is not repeated by the pool: the store is asked again soon enough.
        self._pool = ConnectionPool(
            kwargs=keywords,
            connection_class=self._connection_class(),
            min_size=0,
            max_size=settings.max_connections,
            reconnect_timeout=0,
            open=False,
            name="stsresolver",
        )
        self._pool.open()

    def run(
        self, operation: Callable[[Connection], _Result], *, unprepared: bool = False
    ) -> _Result:
        """Return what `operation` returns, which is one transaction. Raise `StoreError`."""
        once = self._once if unprepared else self._prepared_once
        try:
            # Each that fails closes one; after the last that was open, a new one is made.
            for _ in range(max(self._connections, _AGAIN)):
                with contextlib.suppress(_TryAgain):
                    return once(operation)
            return once(operation)
        except psycopg.Error as error:
            raise StoreError(f"{self.name}: {self._why(error)}") from None
        except _TryAgain as again:
            raise StoreError(f"{self.name}: {self._why(again.error)}") from None

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close(timeout=_CLOSING)

    def _prepared_once(self, operation: Callable[[Connection], _Result]) -> _Result:
        if not self._prepared:
            self._make_ready()
        try:
            return self._once(operation)
        except errors.UndefinedTable as error:
            # Somebody dropped the tables, or they had not reached the server that took over.
            self._prepared = False
            raise _TryAgain(error) from error

    def _once(self, operation: Callable[[Connection], _Result]) -> _Result:
        """Raise `_TryAgain` for what another connection, or another time, may do better."""
        connection = self._connection()
        try:
            return operation(connection)
        except _Timeout:
            raise
        except psycopg.Error as error:
            if _of_the_connection(error):
                connection.close()
            # A server that ends a connection may say why with any SQLSTATE.
            if connection.closed or isinstance(error, _CONFLICTS):
                raise _TryAgain(error) from error
            raise
        finally:
            self._pool.putconn(connection)

    def _make_ready(self) -> None:
        """Have everything prepared, by this thread or another; raise if that takes another long."""
        if not self._preparing.acquire(timeout=self._limit):
            raise StoreError(f"{self.name}: its tables are still being made and filled")
        try:
            if not self._prepared:
                self._once(self._prepare)
                self._prepared = True
        finally:
            self._preparing.release()

    def _connection(self) -> Connection:
        """Return a connection that is free, or a new one. Raise at once if none can be made."""
        end = time.monotonic() + self._limit
        failures = self._failures
        while True:
            left = end - time.monotonic()
            try:
                return self._pool.getconn(timeout=min(max(left, 0.0), _LOOK))
            except PoolTimeout:
                if self._failures != failures:
                    raise StoreError(f"{self.name}: {self._why_not}") from None
                if left <= 0:
                    why = f"no connection is free, of {self._connections}, or none can be made"
                    raise StoreError(f"{self.name}: {why} within {self._limit:g} s") from None
            except PoolClosed:
                raise StoreError(f"{self.name}: closed") from None

    def _connection_class(self) -> type[Connection]:
        """Return a class whose failures to connect are noted here: the pool says no reason."""
        pool = self

        class Noted(_Connection):
            limit = pool._limit

            @classmethod
            def connect(cls, *args: Any, **keywords: Any) -> Any:
                try:
                    return super().connect(*args, **keywords)
                except psycopg.Error as error:
                    pool._why_not = pool._why(error)
                    pool._failures += 1
                    raise

        return Noted

    def _why(self, error: psycopg.Error) -> str:
        """Return an error's text fit for one line of the log."""
        text = str(error) or type(error).__name__
        sentence = _SENTENCES.get(error.sqlstate or "")
        if sentence:
            text = f"{sentence} ({text})"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split()).encode("ascii", "backslashreplace").decode()[:400]
