"""What a domain of a soak does, and when: a `Life` is a list of phases.

The servers of `soak_world` look up in it what to say now, and `soak_oracle` what may be answered.
Times are seconds since the start of the soak. Versions of a policy are counted upwards, and no
domain ever goes back to an earlier one.
"""

import bisect
import enum
from dataclasses import dataclass
from functools import cached_property

# Seconds for which DNS lets "there is none" be remembered.
NEGATIVE_TTL = 2


class Record(enum.Enum):
    """What DNS says when it is asked for the TXT record."""

    THERE = "there"
    NXDOMAIN = "NXDOMAIN"
    NODATA = "no data"
    MALFORMED = "malformed"
    SEVERAL = "several"
    SERVFAIL = "SERVFAIL"
    SILENCE = "silence"


class Host(enum.Enum):
    """What the policy host does."""

    WELL = "well"
    SERVFAIL = "SERVFAIL for its address"
    GONE = "no address"
    REFUSED = "connection refused"
    CERTIFICATE = "bad certificate"
    STATUS = "status 503"
    MALFORMED = "malformed policy"
    SILENCE = "no answer"


@dataclass(frozen=True)
class Policy:
    """A policy of a domain. `max_age`: seconds."""

    domain: str
    version: int
    mode: str
    max_age: int

    @property
    def mx(self) -> str:
        """Its one MX host, by which an answer shows its version."""
        return f"v{self.version}.{self.domain}"

    @property
    def fields(self) -> tuple[str, ...]:
        """Its lines."""
        return (
            "version: STSv1", f"mode: {self.mode}", f"mx: {self.mx}", f"max_age: {self.max_age}",
        )  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """What holds from `begins` on.

    `id`: of the record, if it is there. `announced`: the version of the policy that the host had
    when this id came up. `policy`: what the host serves when it is well.
    """

    begins: float
    record: Record
    id: str
    announced: int
    host: Host
    policy: Policy

    def __str__(self) -> str:
        policy = self.policy
        return (
            f"record {self.record.value} id={self.id} (v{self.announced}), host {self.host.value}, "
            f"v{policy.version} {policy.mode} max_age={policy.max_age}"
        )


@dataclass(frozen=True)
class Life:
    """A domain and its phases, the first of which begins at 0."""

    domain: str
    phases: tuple[Phase, ...]

    def at(self, now: float) -> int:
        """The number of the phase that holds at a time."""
        return max(0, bisect.bisect_right(self._begins, now) - 1)

    def steady_since(self, number: int) -> float:
        """Since when record, id and host have been what they are in this phase."""
        phase = self.phases[number]
        while number and _same(phase, self.phases[number - 1]):
            number -= 1
        return self.phases[number].begins

    def id_since(self, number: int) -> float:
        """When the record showed the id of this phase for the first time."""
        wanted = self.phases[number].id
        return next(p.begins for p in self.phases if p.id == wanted)

    @cached_property
    def _begins(self) -> list[float]:
        return [phase.begins for phase in self.phases]

    @cached_property
    def policies(self) -> dict[int, Policy]:
        """Each policy that it ever has, by version."""
        return {phase.policy.version: phase.policy for phase in self.phases}


def _same(one: Phase, other: Phase) -> bool:
    return (one.record, one.id, one.host) == (other.record, other.id, other.host)
