"""What the daemon and its resolver process take of the machine, looked at while a soak runs."""

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servers import status
from world import family


@dataclass(frozen=True)
class Sample:
    """One look at a process. `at`: seconds since the start. `rss`: bytes, what was resident."""

    at: float
    pid: int
    rss: int
    threads: int
    descriptors: int

    def exceeds(self, other: "Sample") -> bool:
        """Whether it has more threads or descriptors than another."""
        return self.threads > other.threads or self.descriptors > other.descriptors


def look(pid: int, at: float) -> Sample | None:
    """Look at a process; None if it has gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Sample(at, pid, status(pid, "VmRSS") << 10, status(pid, "Threads"), descriptors)
    return None


def child(pid: int) -> int | None:
    """The resolver process of a daemon, None while there is none."""
    return next(iter(family(pid)[1:]), None)


class Watch:
    """Samples of the daemon, and of its child whichever it is at the time."""

    def __init__(self, pid: int) -> None:
        self.daemon: list[Sample] = []
        self.child: list[Sample] = []
        self._pid = pid

    def look(self, at: float) -> None:
        """Take a sample of both."""
        resolver = child(self._pid)
        for pid, samples in ((self._pid, self.daemon), (resolver, self.child)):
            sample = look(pid, at) if pid is not None else None
            if sample is not None:
                samples.append(sample)


def at_rest(samples: Sequence[Sample], since: float, seconds: float = math.inf) -> Sample:
    """What a process holds when nobody asks: the least of each for so long since then."""
    some = [sample for sample in samples if since <= sample.at < since + seconds]
    return Sample(
        since,
        some[-1].pid,
        min(sample.rss for sample in some),
        min(sample.threads for sample in some),
        min(sample.descriptors for sample in some),
    )


def slope(samples: Sequence[Sample], since: float) -> float:
    """Growth of resident memory, bytes a second, of the process that was there last."""
    pid = samples[-1].pid
    some = [sample for sample in samples if sample.at >= since and sample.pid == pid]
    if len(some) < 2:
        return 0.0
    return statistics.linear_regression([s.at for s in some], [s.rss for s in some]).slope
