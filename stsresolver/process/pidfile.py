"""The pidfile: the process id, for programs that send signals, and a lock against a second daemon.

The file appears complete, under its name, and locked (flock(2)) for as long as the process lives.
So a file that no process has locked was left by a process that is gone. So was a file `PATH.new`,
which only the holder of the lock on `PATH` makes: neither keeps a daemon from starting.

Root may write the file into a directory that belongs to a less privileged user. No link in the
place of either file is followed, nor on the way to them (`net.symlinks`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator

from ..net import symlinks

log = logging.getLogger(__name__)


class PidfileError(OSError):
    """The pidfile cannot be written, or belongs to a process that lives; the text says which."""


@contextlib.contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Hold a pidfile at `path`. Raise `PidfileError`.

    It is removed at the end, if it still is ours; emptied, where the user that the process has
    become may not remove it.
    """
    path = os.path.abspath(path)
    try:
        with symlinks.place(path, follow=False) as at:
            symlinks.check_way(at)
        held = _take(path)
    except PidfileError:
        raise
    except OSError as error:
        raise PidfileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        try:
            if _is_at(path, held):
                os.unlink(path)
        except OSError as error:
            log.info("%s stays, and is empty: %s", path, error.strerror)
            with contextlib.suppress(OSError):
                os.ftruncate(held, 0)
        os.close(held)


def _take(path: str) -> int:
    """Put our locked file in the place of what is at `path`; return its descriptor."""
    old = _lock(path)
    try:
        new = f"{path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            os.write(held, f"{os.getpid()}\n".encode())
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(new, path)
        except OSError:
            os.close(held)
            os.unlink(new)
            raise
        return held
    finally:
        os.close(old)


def _lock(path: str) -> int:
    """Lock the file at `path`, made if there is none; return its descriptor."""
    while True:
        old = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(old, 20, 0).decode("ascii", "replace").strip()
            os.close(old)
            raise PidfileError(f"{path}: held by process {holder}, which is running") from None
        except OSError:
            os.close(old)
            raise
        # Another daemon may have put its own file there between the two calls.
        if _is_at(path, old):
            return old
        os.close(old)


def _is_at(path: str, descriptor: int) -> bool:
    """Say whether the open file is the one at `path`, and no link to it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
