"""What root opens by name: no link is followed that somebody less privileged could have put there.

Sockets, logs and databases often lie in a directory of the daemon's user. There, another process of
this user may put a link in the place of any file, at any moment, to have root open, make or change
one elsewhere. So as root we go from directory to directory by descriptor (openat(2)). A link is
followed where root alone may write to its directory, such as /var/run. Anywhere else it is an
error, and so is a file there with a second name (a hard link).

For everybody but root, names are opened as they are.

Every function raises `LinkError` with a sentence for such a link, else `OSError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# As many as the kernel follows (path_resolution(7)).
_MAX_LINKS = 40
# What every sentence ends with.
_SHARED = (
    ", and others than root may write to its directory: name another file, or run without root"
)


class LinkError(OSError):
    """A link, or what could become one, is in the way; `strerror` says which."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.ELOOP, sentence)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is, or is to be.

    `directory`: a descriptor of its directory, for `dir_fd`.
    `name`: its name there.
    `path`: the whole name, without links.
    `nofollow`: `O_NOFOLLOW`, with which to open it, or 0 where a link is the kernel's or allowed.
    `shared`: whether somebody less privileged may write to the directory.
    `loose`: the first directory on the way that somebody less privileged may put elsewhere, if any.
    """

    directory: int
    name: str
    path: str
    nofollow: int
    shared: bool
    loose: str | None


@contextmanager
def place(path: str, *, follow: bool = True) -> Iterator[Place]:
    """Give the place of the file at `path`, which need not be there.

    `follow`: whether `path` may be a link itself.
    """
    if os.geteuid() != 0:
        name = os.path.basename(path)
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
        found = Place(directory, name, os.path.abspath(path), 0, shared=False, loose=None)
    else:
        found = _walk(os.path.abspath(path), follow=follow)
    try:
        yield found
    finally:
        os.close(found.directory)


def open_file(path: str, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor of the file at `path`, as os.open does."""
    with place(path) as at:
        descriptor = os.open(at.name, flags | at.nofollow, mode, dir_fd=at.directory)
        if at.shared:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                os.close(descriptor)
                raise LinkError(f"{at.path} has a second name (a hard link){_SHARED}")
        return descriptor


def check_way(at: Place) -> None:
    """Raise `LinkError` if somebody less privileged can change what leads to a place.

    For what is opened by name, as bind(2) does.
    """
    if at.loose is not None:
        raise LinkError(f"{at.loose} could become a link{_SHARED}")


def _walk(path: str, *, follow: bool) -> Place:
    directory, at = os.open("/", os.O_PATH | os.O_DIRECTORY), "/"
    left = [part for part in reversed(path.split("/")) if part] or ["."]
    links = 0
    loose: str | None = None
    try:
        while True:
            name = left.pop()
            here = os.path.join(at, name)
            status = os.fstat(directory)
            shared = _is_shared(status)
            target = _link(name, directory) if left or follow else None
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if shared:
                    raise LinkError(f"{here} is a link{_SHARED}")
                if not left and status.st_dev == os.stat("/proc").st_dev:
                    # Such as /proc/self/fd/2: no name, but the kernel's way to an open file.
                    return Place(directory, name, here, 0, shared=False, loose=loose)
                left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                if target.startswith("/"):
                    at, loose = "/", None
                    directory = _enter("/", directory)
            elif not left:
                return Place(directory, name, here, os.O_NOFOLLOW, shared=shared, loose=loose)
            else:
                entered = _enter(name, directory)
                directory, at = entered, os.path.normpath(here)
                if shared and not _stays(status, os.fstat(entered)) and loose is None:
                    loose = here
    except BaseException:
        os.close(directory)
        raise


def _enter(name: str, directory: int) -> int:
    """Return a descriptor of a directory in another one, which is closed."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    entered = os.open(name, flags, dir_fd=directory)
    os.close(directory)
    return entered


def _link(name: str, directory: int) -> str | None:
    """Return where a link leads, None for what is no link, or is not there."""
    try:
        return os.readlink(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _is_shared(directory: os.stat_result) -> bool:
    """Say whether somebody less privileged than root may write to a directory."""
    mode = directory.st_mode
    by_group = mode & stat.S_IWGRP and directory.st_gid != 0
    return directory.st_uid != 0 or bool(mode & stat.S_IWOTH or by_group)


def _stays(directory: os.stat_result, entry: os.stat_result) -> bool:
    """Say whether root alone may move an entry of a shared directory: /tmp is sticky."""
    is_sticky = directory.st_uid == 0 and directory.st_mode & stat.S_ISVTX
    return bool(is_sticky and entry.st_uid == 0)
