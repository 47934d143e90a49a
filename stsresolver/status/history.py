"""What was counted within the last hour: samples of counters that only grow, one a minute."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

# Seconds between two samples, and how far back they go.
PAUSE = 60.0
SPAN = 3600.0

Counts = Mapping[object, int]


class History:
    """Samples what `read` returns, on a thread of its own from `start` to `stop`.

    `clock`: monotonic seconds.
    """

    def __init__(
        self, read: Callable[[], Counts], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, Counts]] = deque(maxlen=int(SPAN / PAUSE) + 1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.sample()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._stopped.set()

    def sample(self) -> None:
        """Remember what is counted now."""
        counts = dict(self._read())
        with self._lock:
            self._samples.append((self._clock(), counts))

    def within(self, seconds: float) -> tuple[float, Counter[object]]:
        """Return what was counted in about the last `seconds`, and in how many it was."""
        counts = Counter[object](self._read())
        now = self._clock()
        with self._lock:
            samples = list(self._samples)
        begin, before = next(
            (one for one in reversed(samples) if one[0] <= now - seconds), samples[0]
        )
        counts.subtract(before)
        return now - begin, +counts

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE):
            self.sample()
