"""The sockets that the daemon listens on: TCP over IPv4 and IPv6, and UNIX sockets.

The service manager may have opened them already.

Every function raises `ListenError`, whose text names the address and says why.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..net import symlinks
from ..net.file_changes import Stamp, stamp

log = logging.getLogger(__name__)

# Postfix opens as many connections as it runs smtp(8) processes, at once when mail comes in bursts.
BACKLOG = 1024

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class ListenError(OSError):
    """An address cannot be listened on; it is made with the address and the reason."""

    def __str__(self) -> str:
        return f"cannot listen on {super().__str__()}"


def listen_tcp(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Listen on every address that `host` stands for. Port 0: the kernel chooses one.

    With `reuse_port`, several processes may listen on the same port, as when a new daemon starts
    before the old one ends. The log names one that does already.
    """
    where = f"{host} port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"{where}: {error}") from error
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            taken = reuse_port and _is_taken(family, address)
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(listener, address)
            listener.listen(BACKLOG)
            if taken:
                log.warning(
                    "another process listens on %s too (reuse_port), and gets some of the"
                    " connections: end it, unless this daemon is to replace it",
                    name(listener),
                )
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(f"{where}: {error.strerror or error}") from error
    return listeners


def _bind(listener: socket.socket, address: Any) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)


def _is_taken(family: int, address: Any) -> bool:
    """Say whether another socket listens on an address, which then cannot be bound alone."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            _bind(probe, address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listen_unix(
    path: str, mode: int | None, uid: int = -1, gid: int = -1, *, replace: bool = False
) -> socket.socket:
    """Listen on a UNIX socket at `path` with file mode `mode`, None for what the umask leaves.

    `uid`, `gid`: whose the file is to be, -1 for ours.
    `replace`: whether to take the place of a socket that a process listens on.

    A socket that nobody listens on any more is replaced. Any other kind of file is an error, and so
    is, as root, a directory that others could replace by a link (`net.symlinks`).
    """
    try:
        with symlinks.place(path, follow=False) as at:
            symlinks.check_way(at)
            _remove_old(path, at, replace)
            listener = socket.socket(socket.AF_UNIX)
            try:
                # The file has its mode from the start.
                umask = os.umask(0o777 & ~mode) if mode is not None else None
                try:
                    listener.bind(path)
                finally:
                    if umask is not None:
                        os.umask(umask)
                if (uid, gid) != (-1, -1):
                    _give(at, uid, gid)
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                raise
    except ListenError:
        raise
    except OSError as error:
        raise ListenError(f"{path}: {error.strerror or error}") from error
    return listener


def take_over(descriptors: Iterable[int]) -> list[socket.socket]:
    """Return the sockets at `descriptors`, which the service manager listens on for us.

    They stay in the service manager's hands: where a UNIX socket's file lies is its business.
    """
    listeners: list[socket.socket] = []
    try:
        for descriptor in descriptors:
            where = f"descriptor {descriptor} of the service manager"
            try:
                os.set_inheritable(descriptor, False)
                listener = socket.socket(fileno=descriptor)
                listeners.append(listener)
                listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            except OSError as error:
                raise ListenError(f"{where}: {error.strerror or error}") from error
            if listener.family not in _FAMILIES:
                raise ListenError(f"{where}: neither TCP nor a UNIX socket")
            if listener.type != socket.SOCK_STREAM:
                raise ListenError(f"{where}: no stream socket; its unit needs ListenStream=")
            if not listens:
                raise ListenError(f"{where}: a connection; its unit needs Accept=no")
    except ListenError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def remove_unix(path: str, ours: Stamp) -> None:
    """Remove the socket at `path`, if it still is the one that had the stamp `ours`."""
    if ours is not None and stamp(path, follow=False) == ours:
        os.unlink(path)


def name(listener: socket.socket) -> str:
    """Return the address of a listening socket as a person writes it."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return os.fsdecode(address)
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _give(at: symlinks.Place, uid: int, gid: int) -> None:
    """Give the socket that we have just made to a user and a group."""
    with _held(at) as held:
        status = os.fstat(held)
        is_ours = stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()
        # A second name: a hard link to another socket of root's.
        if not is_ours or status.st_nlink != 1:
            raise OSError(errno.EPERM, "another process has put another file in its place")
        os.chown(_name_of(held), uid, gid)


def _remove_old(path: str, at: symlinks.Place, replace: bool) -> None:
    try:
        with _held(at) as held:
            if not stat.S_ISSOCK(os.fstat(held).st_mode):
                raise ListenError(f"{path}: a file that is no socket is there already")
            if not replace and _is_alive(held):
                raise ListenError(f"{path}: another process listens there already")
    except FileNotFoundError:
        return
    os.unlink(at.name, dir_fd=at.directory)


def _is_alive(held: int) -> bool:
    """Say whether a process listens on a socket file."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(_name_of(held))
        except ConnectionRefusedError:
            return False
        except OSError as error:
            # A full backlog or a missing permission: another process does listen.
            log.debug("a socket that does not answer: %s", error)
    return True


@contextmanager
def _held(at: symlinks.Place) -> Iterator[int]:
    """Give a descriptor of a file, whatever another process puts in its place meanwhile."""
    held = os.open(at.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=at.directory)
    try:
        yield held
    finally:
        os.close(held)


def _name_of(held: int) -> str:
    """Return a name that leads to an open file, for calls that take no descriptor (proc(5))."""
    return f"/proc/self/fd/{held}"
