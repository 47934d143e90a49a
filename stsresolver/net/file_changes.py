"""Notices that a file was changed or replaced while the process runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

# Seconds between two looks of a `Watch`: many lookups begin in one.
PAUSE = 0.1

# Inode, size in bytes, time of the last change in nanoseconds; None where there is no file.
Stamp = tuple[int, int, int] | None


def stamp(path: str, *, follow: bool = True) -> Stamp:
    """Return what is different after a file, or an entry of a directory, has changed.

    `follow`: whether a link counts for the file that it names.
    """
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class Watch:
    """Notices that files have changed; looks at most once in `PAUSE` seconds. For one thread.

    `paths`: gives their names, anew for each look.
    """

    def __init__(self, paths: Callable[[], Iterable[str]]) -> None:
        self._paths = paths
        self._seen: dict[str, Stamp] | None = None
        self._again = 0.0

    def changed(self) -> bool:
        """Say whether a file has changed since the last time, or this is the first."""
        now = time.monotonic()
        if now < self._again:
            return False
        self._again = now + PAUSE
        before, self._seen = self._seen, {path: stamp(path) for path in self._paths()}
        return self._seen != before
