"""The daemon's log: one line an event, written by a thread of its own.

The threads that serve only put a record in a bounded queue, so that a slow disk or a full pipe
makes none of them wait. Lines that do not fit, or cannot be written, are counted, and their number
is logged later.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import threading
import time

from ..config.settings import LogSettings
from .log_targets import open_target

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
# What every record has; whatever else one has was given to the log call as `extra`.
_ALWAYS = frozenset({"message", "asctime", "taskName", *vars(logging.makeLogRecord({}))})


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


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object (RFC 8259) on one line, in ASCII.

    `time` (ISO 8601, UTC, milliseconds), `level`, `logger` and `message`; then what the log call
    gave as `extra`, such as `domain` and `cause`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": super().format(record),
        }
        given = vars(record)
        values.update((name, given[name]) for name in given if name not in _ALWAYS)
        return json.dumps(values, default=str)


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
            lost = _lost(self._dropped, "the log is written too slowly")
            self._dropped = 0
            self.queue.put(lost)
        self.queue.put(record)


class Log:
    """The log of the process, from `level` (of `logging`) up, as `settings` say.

    Raises `OSError` where the file cannot be opened; see `log_targets`.
    """

    def __init__(self, level: int, settings: LogSettings) -> None:
        self._target = open_target(settings)
        self._formatter = _formatter(settings)
        handler = DroppingQueueHandler()
        self._waiting = handler.queue
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        logger = logging.getLogger("stsresolver")
        logger.setLevel(level)
        logger.propagate = False
        logger.addHandler(handler)
        self._writer.start()

    def close(self) -> None:
        """Write the last lines, for as long as that takes no more than two seconds."""
        self._waiting.put(None)
        self._writer.join(_LAST_LINES)

    def _write(self) -> None:
        refused = 0
        why = ""
        while (record := self._waiting.get()) is not None:
            try:
                if refused:
                    self._say(_lost(refused, f"the log could not be written: {why}"))
                    refused = 0
                self._say(record)
            except OSError as error:
                refused += 1
                why = error.strerror or str(error)
        self._target.close()

    def _say(self, record: logging.LogRecord) -> None:
        self._target.write(self._formatter.format(record), record.levelno)


def _formatter(settings: LogSettings) -> logging.Formatter:
    if settings.format == "json":
        return JsonFormatter()
    # syslog has a time of its own.
    when = "" if settings.target == "syslog" else "%(asctime)s "
    return OneLineFormatter(f"{when}%(levelname)s %(message)s")


def _lost(count: int, why: str) -> logging.LogRecord:
    text = "1 line was lost" if count == 1 else f"{count} lines were lost"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, f"{text}: {why}", (), None)
