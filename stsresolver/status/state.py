"""What the status pages show, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..cache.entry import Entry
from ..lookup.client import Ending
from ..mta_sts.policy import Mode
from ..policies.event_log import Observed
from ..policies.faults import Fault
from ..socketmap.answer import Outcome
from .domains import Told, Trouble

# Domains on a page, and troubles and observed next hops in one answer.
PAGE = 50
MOST = 1000


@dataclass(frozen=True, slots=True)
class StoreState:
    """Where policies are kept.

    `ways`: whether reading and writing the store work. `unread_for`: seconds since it could be
    read, None while it can. `reads`: how they ended. All of these are empty for memory alone.
    `memory`: policies in it, `memory_size`: how many have room. `hits`, `misses`: reads of it.
    """

    kind: str
    ways: dict[str, bool]
    unread_for: float | None
    reads: dict[str, int]
    memory: int
    memory_size: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class Overview:
    """How the daemon does. Times are wall-clock seconds, and spans are seconds.

    `source`: where the configuration comes from; `loaded`: when it was read; `kept`: keys of it
    that only a restart changes.
    `problems`: why `/healthz` would fail. `faults`: of ours, and for how long each lasts.
    `zones`: replies so far, by zone and outcome. `ready`: how many of all `total` were repeated.
    `lately`, `lately_ready`: the same of about the last minute, which is `lately_for` long.
    `lookups`: ended in the last `lookups_for` seconds, by step, result and cause.
    `connections`: of Postfix, that are open. `modes`: policies in force in memory.
    """

    now: float
    version: str
    pid: int
    started: float
    source: str
    loaded: float
    kept: tuple[str, ...]
    problems: tuple[str, ...]
    faults: dict[Fault, float]
    troubles: list[Trouble]
    zones: dict[str, dict[Outcome, int]]
    total: int
    ready: int
    lately: int
    lately_ready: int
    lately_for: float
    connections: int
    connections_limit: int
    lookups: list[tuple[Ending, int]]
    lookups_for: float
    processes: int
    pid_of_resolver: int | None
    losses: int
    absence: float
    store: StoreState
    modes: dict[Mode, int]
    proactive: bool
    seen: float
    looked_at: dict[str, int]
    observed: list[Observed]


@dataclass(frozen=True, slots=True)
class Listing:
    """Some of the policies in memory, by domain.

    `query`: what their domains contain. `found`: how many do. `entries`: the first `PAGE` of them
    after the domain `after`. `more`: whether others follow.
    """

    query: str
    after: str
    found: int
    entries: list[Entry]
    more: bool


@dataclass(frozen=True, slots=True)
class Missed:
    """The last lookup for a zone that gave no policy; `left`: seconds for which it is believed."""

    zone: str
    text: str
    left: float


@dataclass(frozen=True, slots=True)
class Detail:
    """What is known of a domain. `held`: in memory, else the entry is the store's.

    `unread`: why the store could not be read, "" if it could.
    `misses`: lookups that gave no policy.
    """

    domain: str
    now: float
    entry: Entry | None
    held: bool
    unread: str
    told: list[Told]
    trouble: Trouble | None
    misses: list[Missed]
