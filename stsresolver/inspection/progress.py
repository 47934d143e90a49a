"""How far a long run is, on standard error while that is a terminal.

By tqdm (extra `query`), or else a counter.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Protocol


class Progress(Protocol):
    """Shows how much is done."""

    def hide(self) -> None:
        """Make room for a line of output."""

    def advance(self) -> None:
        """Count one more, and show it."""

    def close(self) -> None:
        """Remove what is shown."""


def progress(total: int | None) -> Progress:
    """Return what shows the progress of `total` domains, None for an unknown number."""
    if sys.stderr is None or not sys.stderr.isatty():
        return _Silent()
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        return _Counter(total)
    return _Bar(tqdm.tqdm(total=total, unit=" domains", leave=False, ascii=True))


class _Silent:
    def hide(self) -> None:
        """Do nothing."""

    def advance(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Counter:
    def __init__(self, total: int | None) -> None:
        self._of = "" if total is None else f" of {total}"
        self._done = 0

    def hide(self) -> None:
        self._write("")

    def advance(self) -> None:
        self._done += 1
        self._write(f"{self._done}{self._of} domains")

    def close(self) -> None:
        self.hide()

    def _write(self, text: str) -> None:
        # CSI K: erase to the end of the line.
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def hide(self) -> None:
        self._bar.clear()

    def advance(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
