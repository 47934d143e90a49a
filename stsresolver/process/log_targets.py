"""Targets of the log: standard error, a file, or syslog.

A target is used by one thread. `write` raises `OSError` where a line is lost, and may take as long
as a disk or a reader takes, so it is not for a thread that serves. There is no buffer and no lock
for which the end of the process would wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from typing import Protocol

from ..config.settings import LogSettings
from ..net.symlinks import open_file

log = logging.getLogger(__name__)

# Where syslogd and journald listen.
_SYSLOG = "/dev/log"
# syslog(3): the facility mail is 2, in the bits above the severity.
_MAIL = 2 << 3
_SEVERITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
# Bytes of a line, header included; syslogds cut longer ones, each elsewhere.
_SYSLOG_LINE = 8000


class Target(Protocol):
    """What takes the lines."""

    def write(self, line: str, level: int) -> None:
        """Write a line of a level of `logging`. Raise `OSError` where it is lost."""

    def close(self) -> None:
        """Release what the target holds."""


def open_target(settings: LogSettings) -> Target:
    """Return the target that the settings name. Raise `OSError` where a file cannot be opened."""
    if settings.target == "syslog":
        return Syslog()
    if settings.file is not None:
        return File(settings.file)
    return StandardError()


class StandardError:
    """Standard error, if the process has one."""

    def __init__(self) -> None:
        self._fd = None if sys.stderr is None else sys.stderr.fileno()

    def write(self, line: str, level: int) -> None:
        """Write a line. Raise `OSError` where it is lost."""
        if self._fd is not None:
            _write(self._fd, f"{line}\n".encode())

    def close(self) -> None:
        """Leave standard error open."""


class File:
    """The file at `path`, which is made if need be and appended to.

    Raises `OSError` where it cannot be opened, as for a link that root must not follow
    (`net.symlinks`). A file that was moved away, as by logrotate, is opened anew; until that can be
    done the lines go on to the moved one.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _append(path)
        self._complained = False
        self._torn = False

    def write(self, line: str, level: int) -> None:
        """Write a line. Raise `OSError` where it is lost, or a part of it."""
        self._follow()
        # What a full disk left of a line stays on a line of its own.
        data = f"\n{line}\n" if self._torn else f"{line}\n"
        self._torn = True
        _write(self._fd, data.encode())
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _follow(self) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                    return
            opened = _append(self._path)
        except OSError as error:
            if not self._complained:
                text = "%s: %s: the log goes on in the moved file"
                log.warning(text, self._path, error.strerror)
            self._complained = True
            return
        os.close(self._fd)
        self._fd = opened
        self._complained = self._torn = False


class Syslog:
    """The host's syslog, facility mail, by datagrams to `path` as those of syslog(3).

    A syslogd that is not there yet, or starts anew, is connected to as soon as it is: that lines
    are lost meanwhile is said on standard error.
    """

    def __init__(self, path: str = _SYSLOG) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._complained = False

    def write(self, line: str, level: int) -> None:
        """Send a line. Raise `OSError` where it is lost."""
        severity = _SEVERITIES.get(level, 6)
        # RFC 3164 §4.1.2: local time, the day padded with a space.
        when = time.strftime("%b %e %H:%M:%S")
        header = f"<{_MAIL | severity}>{when} mta-sts-daemon[{os.getpid()}]: "
        data = (header + line).encode()[:_SYSLOG_LINE]
        try:
            try:
                self._connected().send(data)
            except (ConnectionError, FileNotFoundError):
                # A syslogd that was started anew has another socket at the same path.
                self.close()
                self._connected().send(data)
        except OSError as error:
            self.close()
            self._complain(f"{self._path}: {error.strerror}: log lines are lost")
            raise
        self._complained = False

    def close(self) -> None:
        """Close the socket; the next line opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _complain(self, text: str) -> None:
        if not self._complained and sys.stderr is not None:
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), f"mta-sts-daemon: {text}\n".encode())
        self._complained = True


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _append(path: str) -> int:
    return open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
