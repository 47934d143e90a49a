"""Opens our sqlite file, brings its schema up to date, and lends connections to it.

Every error says in words what is wrong with the file and what to do.

Several processes may have the file open at once. It is in WAL mode, where readers and the one
writer do not wait for each other. With `synchronous=NORMAL`, what was written survives the end of
the process, `kill -9` included. After a power failure the last seconds may be missing, but the file
is intact.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..cache.store import StoreError
from ..net import symlinks

# The sentence for the administrator, by sqlite's primary result code.
_SENTENCES = {
    sqlite3.SQLITE_CANTOPEN: "cannot be opened or made; look at its directory and its permissions",
    sqlite3.SQLITE_READONLY: "cannot be written by this user; look at the permissions of the file"
    " and of its directory",
    sqlite3.SQLITE_PERM: "cannot be opened by this user",
    sqlite3.SQLITE_FULL: "no space is left on its disk",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_IOERR: "reading or writing failed; look at its disk, is it full or faulty?",
    sqlite3.SQLITE_PROTOCOL: "locking failed; it needs a local file system",
    sqlite3.SQLITE_NOTADB: "is no sqlite database; name another file, or move this one away",
    sqlite3.SQLITE_CORRUPT: "is damaged; stop the daemon, move the file away together with its"
    " -wal and -shm files, start the daemon",
}
# Seconds between two tries to change the journal mode, for which sqlite does not wait by itself.
_STEP = 0.01


class Database:
    """An sqlite file and at most `threads` connections to it, each made when it is needed.

    `timeout`: seconds to wait for a connection, and then for another process's lock.
    `application`: the number that marks a file as ours (`PRAGMA application_id`). `version`: that
    of its schema; `migrate` is called in a transaction with the version the file has, 0 for a new
    one. `adopted`: the tables that a file without our mark may hold.

    Every `sqlite3.Error` becomes a `StoreError` that begins with the path. The constructor opens
    the file and writes to it, so it raises at once where that cannot be done. A file that is not
    ours is left as it is. One that is moved away or replaced while it is open is not used again.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        threads: int,
        timeout: float,
        application: int,
        version: int,
        migrate: Callable[[sqlite3.Connection, int], None],
        adopted: frozenset[str] = frozenset(),
    ) -> None:
        # Absolute, because a daemon changes its directory.
        self.path = os.path.abspath(filename)
        self._timeout = timeout
        self._threads = threads
        self._application = application
        self._version = version
        self._migrate = migrate
        self._adopted = adopted
        self._real = self._without_links()
        self._lock = threading.Lock()
        self._free = threads
        self._waiting: deque[threading.Lock] = deque()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._inode: tuple[int, int] | None = None
        with self.transaction() as connection:
            # The version that it has already: this shows whether the file can be written.
            connection.execute(f"PRAGMA user_version={_pragma(connection, 'user_version'):d}")
        self._inode = self._file()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection in autocommit mode, text coming as bytes.

        One on which anything was raised is closed, which rolls back, and replaced by a new one.
        """
        self._acquire()
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        finally:
            self._release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection in a transaction that may write; commit it at the end."""
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close all connections, those in use when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _acquire(self) -> None:
        """Wait for the right to use a connection, first come, first served.

        A semaphore would let the thread that gives its right back take it again at once, and
        another wait for ever.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=self._timeout):
            return
        with self._lock:
            if turn not in self._waiting:
                # It came at the last moment.
                return
            self._waiting.remove(turn)
        many = f"all {self._threads} connections were in use for {self._timeout:g} s"
        raise StoreError(f"{self.path}: {many}")

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def _take(self) -> sqlite3.Connection:
        # What is written to a file that has no name any more is lost. It is not made anew either:
        # it would share the old one's -shm file, which sqlite does not survive.
        if self._inode is not None and self._file() != self._inode:
            raise StoreError(f"{self.path}: was moved or replaced while in use; restart the daemon")
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path}: was closed")
            if self._idle:
                return self._idle.pop()
        return self._open()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _file(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _without_links(self) -> str | None:
        """Return the name that sqlite has to open, None where links do not matter."""
        try:
            with symlinks.place(self.path) as at:
                symlinks.check_way(at)
                return at.path if at.shared else None
        except symlinks.LinkError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error
        except OSError:
            # sqlite says why.
            return None

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._timeout,
            isolation_level=None,
            # It moves from thread to thread, but is lent to one at a time.
            check_same_thread=False,
        )
        try:
            # So that text that is not UTF-8 is a matter of its row and not of the statement.
            connection.text_factory = bytes
            if self._real is not None:
                # sqlite follows a link in its place, but none in that of its further files.
                (_, _, opened) = connection.execute("PRAGMA database_list").fetchone()
                if os.fsdecode(opened) != self._real:
                    raise StoreError(f"{self.path}: a link was put in its place")
            if self._look(connection) < self._version:
                self._update(connection)
            self._use_wal(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self, connection: sqlite3.Connection) -> int:
        """Return the version of the file's schema; refuse a file that is not for us."""
        # Nothing has been written yet. One transaction: another process may be making the file.
        connection.execute("BEGIN")
        mark = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        schema = connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        )
        names = {name.decode(errors="replace") for (name,) in schema}
        connection.execute("COMMIT")
        if mark == self._application:
            if version > self._version:
                raise StoreError(
                    f"{self.path}: was made by a later version of this program (schema {version},"
                    f" this one knows {self._version}); update the program or name another file"
                )
            return version
        foreign = {name for name in names if not name.startswith("sqlite_")} - self._adopted
        if foreign or mark or version:
            what = f"table {min(foreign)!a}" if foreign else f"application id {mark}"
            raise StoreError(
                f"{self.path}: belongs to another program ({what}), left as it is;"
                " name another file"
            )
        return 0

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        end = time.monotonic() + self._timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() >= end:
                    raise
                time.sleep(_STEP)
        if mode != b"wal":
            raise StoreError(f"{self.path}: cannot be shared (no WAL); needs a local file system")
        connection.execute("PRAGMA synchronous=NORMAL")

    def _update(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        version = _pragma(connection, "user_version")
        if version < self._version:
            self._migrate(connection, version)
            connection.execute(f"PRAGMA application_id={self._application:d}")
            connection.execute(f"PRAGMA user_version={self._version:d}")
        connection.execute("COMMIT")

    def _explained(self, error: sqlite3.Error) -> StoreError:
        # An error of the module sqlite3 itself has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        sentence = _SENTENCES.get(code & 0xFF)
        return StoreError(
            f"{self.path}: {sentence} ({error})" if sentence else f"{self.path}: {error}"
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
