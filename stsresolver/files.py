"""Noticing that a file was changed or replaced while the process runs."""

from __future__ import annotations

import os

# Inode, size in bytes, time of the last change in nanoseconds; None where there is no file.
Stamp = tuple[int, int, int] | None


def stamp(path: str) -> Stamp:
    """Return what is different after a file, or an entry of a directory, has changed."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
