"""The files of exempt domains (`exempt_file`), read again when they change.

On a thread of its own, since a disk may hang. A file that has become wrong changes nothing: the
domains that were in it stay exempt, and the log says what is wrong.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from ..config.exemptions import read_file
from ..config.yaml_schema import ConfigError
from ..net.file_changes import Watch

log = logging.getLogger(__name__)

# Seconds between two looks at the files.
PAUSE = 2.0


class ExemptFiles:
    """What is in the files, by name (`entries`); replaced and never changed.

    `changed`: called on the thread of this after a file has changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.entries: Mapping[str, frozenset[str]] = {}
        self._changed = changed
        self._watch = Watch(lambda: self.entries)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exempt", daemon=True)

    def read(self, paths: Iterable[str]) -> None:
        """Read these files, and no others from now on. Raise `ConfigError` if one is wrong."""
        self.entries = {path: read_file(path) for path in paths}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def look(self) -> None:
        """Read the files again if one has changed."""
        if not self._watch.changed():
            return
        entries = self.entries
        try:
            found = {path: read_file(path) for path in entries}
        except ConfigError as error:
            for line in str(error).splitlines():
                log.error("what was exempt before stays so: %s", line)
            return
        if found != entries and self.entries is entries:
            self.entries = found
            log.info("%s: read again", ", ".join(found))
            self._changed()

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE):
            try:
                self.look()
            except Exception:
                log.exception("internal error while looking at the files of exempt domains")
