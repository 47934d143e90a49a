"""What policy hosts do wrong, and what must come of it: one table for answer, time and memory."""

from __future__ import annotations

from dataclasses import dataclass

from stsresolver import Cause
from tests.support import hostile_http_floods, hostile_tls_cases
from tests.support.hostile_handshakes import HANDSHAKES
from tests.support.hostile_http_answers import BODIES, HOSTILE_TEXTS
from tests.support.hostile_http_floods import FLOODS
from tests.support.hostile_place import Start, certified, https, tcp
from tests.support.hostile_tls_cases import CERTIFICATES, NO_TLS

LATE = hostile_tls_cases.LATE | hostile_http_floods.LATE


@dataclass(frozen=True)
class Case:
    """A case of any of the tables; `late` says that only the time limit ends it."""

    reason: str
    start: Start
    causes: tuple[Cause | None, ...]
    late: bool = False


CASES = [
    *(Case(row.id, https(row.values[0]), row.values[1]) for row in BODIES + HOSTILE_TEXTS + FLOODS),
    *(Case(row.id, certified(row.values[0]), row.values[1]) for row in CERTIFICATES),
    *(Case(row.id, tcp(row.values[0]), row.values[1]) for row in NO_TLS + HANDSHAKES),
    *(Case(reason, start, (Cause.DEADLINE,), late=True) for reason, start in LATE.items()),
]
