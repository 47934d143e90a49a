"""What the resolver process gives up before it reads a stranger's first byte.

It limits memory, the size of written files and core dumps (setrlimit(2)), and forbids new
privileges (prctl(2)). If the kernel has Landlock (landlock(7)), it also forbids to write, remove
and execute any file and to trace other processes, from version 4 of Landlock on to take a TCP port,
and from version 6 on to signal other processes. None of it can be undone, and all of it comes
before any thread is started.

Landlock does not restrict reading files, connecting (also to UNIX sockets in the file system),
listening on a port that the kernel picks, or the modes and owners of the user's own files.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38
# System calls: their numbers are the same on every architecture that has Landlock.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
# The file accesses that each version of Landlock knows.
_FILE_ACCESS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
# Of them, reading files and directories stays allowed.
_READ = 1 << 2 | 1 << 3
_BIND_TCP = 1
_ABSTRACT_SOCKETS_AND_SIGNALS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def confine(memory: int) -> str:
    """Give up what looking up policies does not need. `memory`: bytes of data at most.

    Return which sandbox is in effect, for the log. Raise `OSError` if the limits cannot be set.
    """
    resource.setrlimit(resource.RLIMIT_DATA, _at_most(resource.RLIMIT_DATA, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
    try:
        version = _landlock(libc)
    except OSError as error:
        return f"without Landlock: {error.strerror}"
    return f"Landlock {version}"


def _landlock(libc: ctypes.CDLL) -> int:
    """Forbid to write, execute, bind, trace and signal; return the version of Landlock."""
    version = _checked(
        libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    )
    files = _FILE_ACCESS[max(known for known in _FILE_ACCESS if known <= version)]
    rules = _Ruleset(files & ~_READ, _BIND_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    # An older kernel accepts only the part of the structure that it knows.
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), size, 0))
    try:
        _checked(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def _at_most(limit: int, most: int) -> tuple[int, int]:
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return most, most


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
