"""The daemon's log: one line an event, written by a thread of its own.

The threads that serve only put a record in a queue, so a slow disk or a full pipe makes nobody
wait; what does not fit any more is counted and said later.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import threading

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

    queue: queue.SimpleQueue[logging.LogRecord]

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


class Log:
    """The log of the process, to `path`, or to standard error where that is None.

    Raises `OSError` where the file cannot be opened. A file that was moved away, as by logrotate,
    is opened anew.
    """

    def __init__(self, level: int, path: str | None) -> None:
        writer: logging.Handler
        if path is None:
            writer = logging.StreamHandler(sys.stderr)
        else:
            writer = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
        writer.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(message)s"))
        handler = DroppingQueueHandler()
        self._listener = logging.handlers.QueueListener(handler.queue, writer)
        logger = logging.getLogger(__package__)
        logger.setLevel(level)
        logger.propagate = False
        logger.addHandler(handler)
        self._listener.start()

    def close(self) -> None:
        """Write the last lines, for as long as that takes no more than two seconds."""
        closing = threading.Thread(target=self._listener.stop, daemon=True)
        closing.start()
        closing.join(_LAST_LINES)
