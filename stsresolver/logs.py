"""The daemon's log: one line an event, written by a thread of its own.

The threads that serve only put a record in a queue, so a slow disk or a full pipe makes nobody
wait; what does not fit any more is counted and said later.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import threading

log = logging.getLogger(__name__)

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
# Records that may wait to be written; then they are dropped.
_MAX_WAITING = 10_000
# Seconds that the last lines have to be written when the daemon ends.
_LAST_LINES = 2.0


class OneLineFormatter(logging.Formatter):
    """Writes whatever a record holds, strangers' text and tracebacks too, as one safe line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, everything unprintable escaped."""
        line = super().format(record)
        if line.isprintable():
            return line
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
            for char in line
        )


class DroppingQueueHandler(logging.handlers.QueueHandler):
    """Puts records in a queue of bounded length, and never waits."""

    queue: queue.SimpleQueue[logging.LogRecord | None]

    def __init__(self) -> None:
        super().__init__(queue.SimpleQueue())
        self._dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put the record in the queue, or drop it."""
        if self.queue.qsize() >= _MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            text = f"{self._dropped} lines were lost: the log is written too slowly"
            self._dropped = 0
            lost = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None)
            self.queue.put(lost)
        self.queue.put(record)


class Output:
    """Where the lines go: a file at `path`, or standard error where that is None. For one thread.

    Raises `OSError` where the file cannot be opened. A file that was moved away, as by logrotate,
    is opened anew; until that can be done the lines go on to the moved one.

    There is no buffer and no lock, for which the end of the process would wait when nobody reads.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        if path is not None:
            self._fd = _append(path)
        elif sys.stderr is not None:
            self._fd = sys.stderr.fileno()
        else:
            self._fd = _append(os.devnull)
        self._complained = False

    def write(self, line: str) -> None:
        """Write a line. What the disk or the reader refuses is lost."""
        data = f"{line}\n".encode()
        with contextlib.suppress(OSError):
            if self._path is not None:
                self._follow(self._path)
            while data:
                data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            os.close(self._fd)

    def _follow(self, path: str) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    return
            opened = _append(path)
        except OSError as error:
            if not self._complained:
                log.warning("%s: %s: the log goes on in the moved file", path, error.strerror)
            self._complained = True
            return
        os.close(self._fd)
        self._fd = opened
        self._complained = False


class Log:
    """The log of the process, to `path`, or to standard error where that is None.

    Raises `OSError` where the file cannot be opened; see `Output`.
    """

    def __init__(self, level: int, path: str | None) -> None:
        self._output = Output(path)
        self._formatter = OneLineFormatter("%(asctime)s %(levelname)s %(message)s")
        handler = DroppingQueueHandler()
        self._waiting = handler.queue
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        logger = logging.getLogger(__package__)
        logger.setLevel(level)
        logger.propagate = False
        logger.addHandler(handler)
        self._writer.start()

    def close(self) -> None:
        """Write the last lines, for as long as that takes no more than two seconds."""
        self._waiting.put(None)
        self._writer.join(_LAST_LINES)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._output.write(self._formatter.format(record))
        self._output.close()


def _append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
