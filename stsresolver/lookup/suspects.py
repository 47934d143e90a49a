"""Which domains a resolver process may have died of, and how each is looked up from then on.

Nobody can tell which of the domains under way has killed a process. So one that was under way at
two deaths in a row is looked up alone. If the process dies again, the domain is left alone itself.

                under way at two deaths            it dies again
    TOGETHER -----------------------------> ALONE ---------------> NOT_NOW
        ^                                   |   ^                     |
        +----------- a result --------------+   +----- `PAUSE` -------+

Pure: the clock is passed in, as monotonic seconds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

# Deaths in a row after which a domain that was under way at each is looked up alone.
DEATHS = 2
# Seconds for which a domain is not looked up after a process died that had nothing else to do.
PAUSE = 300.0
# Domains remembered at most: more than are ever under way. The oldest is forgotten.
MOST = 16_384


class Treatment(enum.Enum):
    """How a domain is looked up."""

    TOGETHER = "together with others"
    ALONE = "in a process of its own"
    NOT_NOW = "not for some minutes"


@dataclass(slots=True)
class _Record:
    """What is known of a domain that was under way when a process died.

    `deaths`: at how many deaths in a row.
    `until`: until when it is not looked up (monotonic).
    """

    deaths: int = 0
    until: float = -math.inf


class Suspects:
    """The domains that were under way at deaths and have had no result since, by name."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def __contains__(self, domain: str) -> bool:
        return domain in self._records

    def treatment(self, domain: str, now: float) -> Treatment:
        """Return how to look up a domain."""
        record = self._records.get(domain)
        if record is None or record.deaths < DEATHS:
            return Treatment.TOGETHER
        return Treatment.NOT_NOW if now < record.until else Treatment.ALONE

    def died(self, domains: Iterable[str]) -> None:
        """Note that a process died that was looking up `domains`."""
        for domain in domains:
            self._records.setdefault(domain, _Record()).deaths += 1
        while len(self._records) > MOST:
            del self._records[next(iter(self._records))]

    def died_alone(self, domain: str, now: float) -> None:
        """Note that a process died that was looking up this domain and no other."""
        self._records[domain] = _Record(DEATHS, now + PAUSE)

    def answered(self, domain: str) -> None:
        """Note that a process came to a result for a domain, whatever the result is."""
        self._records.pop(domain, None)
