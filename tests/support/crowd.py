"""Threads that do something again and again while a test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Crowd:
    """Runs jobs on a thread each, from `__enter__` to `__exit__`, which sets `ended`."""

    def __init__(self, jobs: Iterable[Callable[[], None]]) -> None:
        self.ended = threading.Event()
        self._threads = [threading.Thread(target=job) for job in jobs]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join()
