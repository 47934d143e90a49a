"""What a decision is made from, and what comes of it: plain frozen data.

`Known` and `Now` go into `decision`, a `Step` comes out: an answer, the outcome of a renewal, or a
question that has to be looked up first, with the effects to carry out.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from ..cache.entry import Entry
from ..mta_sts.policy import Mode, Policy
from ..mta_sts.results import Failure, Lookup, NoPolicy
from .faults import Fault
from .misses import Miss, Pause
from .renewal_times import DAY


class Now(NamedTuple):
    """The time of a decision.

    `wall`: seconds since the epoch, for stored times.
    `monotonic`: seconds, for what stays in this process.
    `steady`: whether the wall clock is believed where it contradicts a stored time.
    `since`: when it was first seen after its last jump, by itself. What is from later has its age.
    """

    wall: float
    monotonic: float
    steady: bool = True
    since: float = math.inf

    @property
    def day(self) -> float:
        """The beginning of the day: when mail last asked is kept to the day."""
        return self.wall // DAY * DAY


class Known(NamedTuple):
    """What is known of a domain when a decision is made.

    `domain`: in A-labels.
    `entry`: as the store has it, past its end included.
    `miss`: the last lookup that gave no policy, old ones included.
    `pauses`: ids whose policies are not fetched for now.
    `lapsed`: the mode of a policy that has ended, until a lookup says what follows it.
    `faults`: those of ours that last, and since when (monotonic); with `Fault.STORE` among them,
        no entry does not mean that the store has none.
    `doubtful`: the mode of a policy that has ended only by a clock that may be wrong.
    """

    domain: str
    entry: Entry | None = None
    miss: Miss | None = None
    pauses: tuple[Pause, ...] = ()
    lapsed: Mode | None = None
    faults: Mapping[Fault, float] = MappingProxyType({})
    doubtful: Mode | None = None

    def paused(self, policy_id: str) -> Failure | None:
        """Return the failure for which the policy of this id is not fetched for now."""
        return next((one.failure for one in self.pauses if one.id == policy_id), None)


class Refresh(enum.Enum):
    """The outcome of a look at a domain that no mail asked for."""

    CHECKED = "checked"
    FETCHED = "fetched"
    CHANGED = "changed"
    FAILED = "failed"
    LEFT = "left alone"


# QUESTIONS: what has to be looked up before anything can be said.


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up record and policy; fetch none whose id is among `known_ids`."""

    known_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the policy that the record announces by `id`."""

    id: str


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """Look up the record of an entry that no mail asks for."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Refetch:
    """Fetch the policy of `entry` again; it is stored under `id`."""

    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look up record and policy anew, because an administrator wants to."""


Question: TypeAlias = Resolve | Fetch | CheckRecord | Refetch | LookAgain
# What a question may end in: that of `Resolve` and `LookAgain`, of `CheckRecord`, and of the two
# that fetch.
Result: TypeAlias = Lookup | str | Policy


# EFFECTS: what is to be done, in this order.


@dataclass(frozen=True, slots=True)
class Put:
    """Store an entry with a new policy or new times."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Touch:
    """Update times, id and failure of a stored entry."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Lapse:
    """Remember, or with None forget, the mode of a policy that has ended."""

    mode: Mode | None


@dataclass(frozen=True, slots=True)
class Remember:
    """Remember a miss, or with None forget the last one."""

    miss: Miss | None


@dataclass(frozen=True, slots=True)
class Rest:
    """Leave the policy of an id alone for a while."""

    pause: Pause


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce that the policy of the domain has changed."""


@dataclass(frozen=True, slots=True)
class RenewBehind:
    """Have the policy fetched again, without making the answer wait."""


@dataclass(frozen=True, slots=True)
class TellFailed:
    """Log that a lookup gave no policy. `entry`: the one that stays in force."""

    result: NoPolicy | Failure
    entry: Entry | None = None
    lapsed: Mode | None = None


@dataclass(frozen=True, slots=True)
class TellUnknown:
    """Log that a lookup failed by a fault of ours, with no policy known to be in force."""

    result: NoPolicy | Failure
    fault: Fault


@dataclass(frozen=True, slots=True)
class TellWorks:
    """Log that the record, or else the fetch, works again, if it failed before."""

    by_record: bool


@dataclass(frozen=True, slots=True)
class TellChanged:
    """Log a policy that was not in force so far. `again`: the one before had ended."""

    before: Mode | None
    policy: Policy
    again: bool


@dataclass(frozen=True, slots=True)
class TellLapsed:
    """Log that a policy of mode `before` has ended with none to follow."""

    before: Mode
    why: str


Tell: TypeAlias = TellFailed | TellUnknown | TellWorks | TellChanged | TellLapsed
Effect: TypeAlias = Put | Touch | Lapse | Remember | Rest | Announce | RenewBehind | Tell


@dataclass(frozen=True, slots=True)
class Answer:
    """What applies to a domain.

    `policy`: None where there is none, or where it is not known.
    `until`: monotonic, when to ask again.
    `unknown`: why it is not known whether there is a policy, None where it is known.
    """

    policy: Policy | None
    until: float
    unknown: Fault | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from what is known and what happened.

    `then`: the answer to mail, the outcome of a look that no mail asked for, or the question
    that comes first.
    """

    then: Answer | Refresh | Question
    effects: tuple[Effect, ...] = ()

    def after(self, *effects: Effect) -> Step:
        """Return the step with other effects before its own."""
        return replace(self, effects=(*effects, *self.effects)) if effects else self
