"""The domains of a soak, some of each kind: their lives are drawn from a seed beforehand."""

import random
from collections.abc import Callable
from dataclasses import replace

from soak_lives import Host, Life, Phase, Policy, Record

ZONE = "soak.test"
# As good as for ever, in a soak (seconds).
WEEK = 604_800

ILL_RECORDS = tuple(record for record in Record if record is not Record.THERE)
ILL_HOSTS = tuple(host for host in Host if host is not Host.WELL)


class Draft:
    """A life in the making: say what changes, then for how long it holds."""

    def __init__(self, domain: str, seconds: float, seed: object) -> None:
        self.domain = domain
        self.random = random.Random(f"{seed} {domain}")
        self._now = 0.0
        self._end = seconds
        self._ids = 0
        policy = Policy(domain, 1, "enforce", WEEK)
        self._phase = Phase(0.0, Record.THERE, "i0", 1, Host.WELL, policy)
        self._phases: list[Phase] = []

    @property
    def goes_on(self) -> bool:
        """Whether the soak lasts longer than this life so far."""
        return self._now < self._end

    def set(self, record: Record | None = None, host: Host | None = None) -> None:
        """Let record or host do something else."""
        self._phase = replace(
            self._phase, record=record or self._phase.record, host=host or self._phase.host
        )

    def publish(self, *ages: int, modes: tuple[str, ...] = ("enforce",)) -> None:
        """Let the host have another policy, its mode and max_age one of these."""
        before = self._phase.policy
        policy = replace(
            before,
            version=before.version + bool(self._phases),
            mode=self.random.choice(modes),
            max_age=self.random.choice(ages),
        )
        self._phase = replace(self._phase, policy=policy)

    def announce(self) -> None:
        """Let the record have a new id."""
        self._ids += 1
        version = self._phase.policy.version
        self._phase = replace(self._phase, id=f"i{self._ids}", announced=version)

    def hold(self, least: float, most: float) -> None:
        """Let what was said hold for a while (seconds)."""
        self._phases.append(replace(self._phase, begins=self._now))
        self._now += self.random.uniform(least, most)

    def life(self) -> Life:
        """What came of it."""
        return Life(self.domain, tuple(self._phases))


MODES = ("enforce", "enforce", "enforce", "testing", "none")


def stable(draft: Draft) -> None:
    """One policy, which may be short and is renewed in time."""
    draft.publish(WEEK, WEEK, 30, 12, modes=MODES)
    draft.announce()
    draft.hold(0, 0)


def changing(draft: Draft) -> None:
    """A new policy, then its id (RFC 8461 §8.1), again and again; or a new id alone."""
    while draft.goes_on:
        if draft.random.random() < 0.8:
            draft.publish(WEEK, WEEK, 40, modes=MODES)
            draft.hold(0.05, 2)
        draft.announce()
        draft.hold(4, 25)


def withdrawn(draft: Draft) -> None:
    """Enforced, then none for a short time, then no record (§8.3)."""
    while draft.goes_on:
        draft.set(Record.THERE, Host.WELL)
        draft.publish(WEEK, 60)
        draft.announce()
        draft.hold(6, 20)
        draft.publish(0, 1, 5, modes=("none",))
        draft.announce()
        draft.hold(6, 20)
        draft.set(draft.random.choice((Record.NXDOMAIN, Record.NODATA)), Host.GONE)
        draft.hold(4, 12)


def vanishing(draft: Draft) -> None:
    """The record goes, and the host too or not: the policy stays to its end."""
    while draft.goes_on:
        draft.set(Record.THERE, Host.WELL)
        draft.publish(WEEK, 8, 15)
        draft.announce()
        draft.hold(4, 15)
        draft.set(draft.random.choice(ILL_RECORDS), draft.random.choice((Host.WELL, *ILL_HOSTS)))
        draft.hold(8, 25)


def failing(draft: Draft) -> None:
    """The host fails for a while, with or without a new id to make somebody fetch."""
    while draft.goes_on:
        draft.set(host=Host.WELL)
        draft.publish(WEEK, WEEK, 20)
        draft.announce()
        draft.hold(5, 15)
        draft.set(host=draft.random.choice(ILL_HOSTS))
        if draft.random.random() < 0.7:
            draft.publish(WEEK, modes=MODES)
            draft.announce()
        draft.hold(4, 15)
        draft.set(host=Host.WELL)
        draft.hold(2, 8)


def expiring(draft: Draft) -> None:
    """A policy of some seconds, which is renewed, and then is not."""
    while draft.goes_on:
        draft.set(host=Host.WELL)
        draft.publish(3, 4, 6)
        draft.announce()
        draft.hold(5, 20)
        draft.set(host=draft.random.choice(ILL_HOSTS))
        draft.hold(6, 15)


def never(draft: Draft) -> None:
    """No policy at all, for one reason or the other."""
    draft.announce()
    if draft.random.random() < 0.6:
        draft.set(record=draft.random.choice(ILL_RECORDS))
    else:
        draft.set(host=draft.random.choice(ILL_HOSTS))
    draft.hold(0, 0)


def flapping(draft: Draft) -> None:
    """Everything comes and goes within seconds."""
    draft.publish(WEEK)
    draft.announce()
    while draft.goes_on:
        well = draft.random.random() < 0.6
        draft.set(
            Record.THERE if well else draft.random.choice(ILL_RECORDS),
            Host.WELL if draft.random.random() < 0.7 else draft.random.choice(ILL_HOSTS),
        )
        if draft.random.random() < 0.2:
            draft.publish(WEEK, 10, 4, modes=MODES)
            draft.announce()
        draft.hold(0.3, 4)


def nobody(draft: Draft) -> None:
    """As most domains of the world: no record."""
    draft.set(Record.NXDOMAIN, Host.GONE)
    draft.hold(0, 0)


def hanging(draft: Draft) -> None:
    """DNS never answers."""
    draft.set(Record.SILENCE)
    draft.hold(0, 0)


# How many there are of each.
KINDS: dict[Callable[[Draft], None], int] = {
    stable: 30,
    changing: 25,
    withdrawn: 15,
    vanishing: 20,
    failing: 25,
    expiring: 20,
    never: 20,
    flapping: 20,
    nobody: 300,
    hanging: 70,
}


def lives(seed: int, seconds: float) -> list[Life]:
    """All domains of a soak of so many seconds; the same for the same seed."""
    made = []
    for kind, number in KINDS.items():
        for one in range(number):
            draft = Draft(f"{kind.__name__}-{one}.{ZONE}", seconds, seed)
            kind(draft)
            made.append(draft.life())
    return made
