"""Which answers are right at a moment, from the lives of the domains and from what was served.

The oracle knows no code of the daemon. It follows RFC 8461 and what the daemon's manual promises:

* a policy is answered only after the policy host served it, and no longer than its `max_age` after
  the last time that it did (§3.2);
* until then it is in force, whatever becomes of record and host, unless a later one was served
  (§3.1, §3.3, §10.2); nobody who was answered with a later version sees an earlier one again;
* a new id is followed within `cache_grace` and the time of a lookup, and so is a domain without a
  policy that comes to have one. A fetch that failed is not repeated for the same id for 300 s
  (§3.3), so an id under which the host was met ill is owed nothing for that time;
* `TEMP no answer in time` is for who had to stand in line for ten seconds; with another reason, it
  stands where `NOTFOUND` would, because of a fault of ours.

Where two answers could be right, both are. `SLACK` is what a busy machine may take for what needs
no time. Times are seconds since the start of the soak.
"""

import collections
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from soak_lives import NEGATIVE_TTL, Host, Life, Phase, Policy, Record

# What the daemon is configured with (seconds); the larger grace of two, between which it changes.
GRACES = (1.0, 1.5)
TIMEOUT = 3.0
# Seconds in line after which the daemon says TEMP, and after a failed fetch for the same id.
LINE = 10.0
PAUSE = 300.0

SLACK = 1.5
# Seconds between two beats of the soak's own loop that mean that the machine stood still.
STALL = 1.0
# Seconds after a change in which everybody has seen it.
SETTLED = max(*GRACES, NEGATIVE_TTL) + 2 * TIMEOUT + SLACK
# Seconds past its end in which a policy may still be on its way: it was fetched when all of it had
# come, which the host does not see.
LATE = TIMEOUT + SLACK
# Seconds after an answer in which the one before it may still arrive elsewhere.
OVERTAKEN = 0.5
# Seconds from the request to the end of the connection, and from a question to its answer, by which
# a fetch is known to have come in time.
QUICK = TIMEOUT / 3

NOT_FOUND = b"NOTFOUND "
TEMP = b"TEMP "
OVERDUE = TEMP + b"no answer in time"


@dataclass(frozen=True)
class Zone:
    """A map name, and what it is configured to."""

    name: str
    strict_testing: bool = False
    tlsrpt: bool = False

    def enforces(self, policy: Policy) -> bool:
        """Whether the policy is answered with."""
        return policy.mode == "enforce" or (self.strict_testing and policy.mode == "testing")

    def answer(self, policy: Policy) -> bytes:
        """What is said for it."""
        answer = f"OK secure match={policy.mx} servername=hostname"
        if self.tlsrpt:
            strings = " ".join(f"{{ policy_string = {field} }}" for field in policy.fields)
            answer += (
                f" policy_type=sts policy_domain={policy.domain} {strings}"
                f" mx_host_pattern={policy.mx}"
            )
        return answer.encode()


ZONES = (Zone("postfix"), Zone("strict", strict_testing=True), Zone("report", tlsrpt=True))


class Domain:
    """A domain's life, and what is known of it so far.

    By version: when it was served first, last, and last so that it was surely taken. `seen`: the
    latest version that was answered with, and when first. `late`: when a question was last answered
    too late, with that there is no policy.
    """

    def __init__(self, life: Life) -> None:
        self.life = life
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.sure: dict[int, float] = {}
        self.seen = (0, math.inf)
        self.failed = -math.inf
        self.late = -math.inf
        # Connections to the policy host, and those of them that came to an end that is known.
        self.contacts = 0
        self.ended = 0
        self.recent: collections.deque[str] = collections.deque(maxlen=12)
        self.versions = {
            (zone.name, zone.answer(policy)): version
            for version, policy in life.policies.items()
            for zone in ZONES
            if zone.enforces(policy)
        }

    def phase(self, now: float) -> Phase:
        """What holds at a time."""
        return self.life.phases[self.life.at(now)]


@dataclass(frozen=True)
class Right:
    """The right answers: with one of these versions, or that there is none."""

    versions: frozenset[int]
    none: bool

    def __str__(self) -> str:
        texts = [f"v{version}" for version in sorted(self.versions)]
        return " or ".join([*texts, *(["NOTFOUND"] if self.none else [])]) or "nothing at all"


class Oracle:
    """Judges answers. `wrong`: what was, in words; `judged`: how many; `exact`: how many of them
    could have been but one.
    """

    def __init__(self, lives: list[Life], clock: Callable[[], float] = time.monotonic) -> None:
        self.domains: Mapping[str, Domain] = {life.domain: Domain(life) for life in lives}
        self.wrong: list[str] = []
        self.judged = 0
        self.exact = 0
        self.stalls = 0
        self._clock = clock
        self._start = self._beat = clock()
        self._calm = -math.inf
        self._stalled = -math.inf

    def now(self) -> float:
        """Seconds since the start; what follows a stop of the whole machine is judged so."""
        now = self._clock()
        if now > self._beat + STALL:
            self.stalls += 1
            self._stalled = now - self._start
        self._beat = now
        return now - self._start

    # WHAT THE WORLD TELLS

    def contacted(self, domain: Domain) -> None:
        """Somebody has a connection to its policy host."""
        domain.contacts += 1

    def contact_ended(self, domain: Domain) -> None:
        """It came to nothing, and that is known."""
        domain.ended += 1

    def failed(self, domain: Domain) -> None:
        """Its policy host was met ill."""
        domain.failed = self.now()

    def serves(self, domain: Domain, version: int) -> None:
        """A policy is about to be sent."""
        now = self.now()
        domain.first.setdefault(version, now)
        domain.last[version] = now

    def served(self, domain: Domain, version: int, began: float) -> None:
        """The client has the policy that it asked for at `began`, and has gone."""
        now = self.now()
        domain.ended += 1
        if now > began + QUICK or max(self._stalled, domain.late + QUICK) >= began:
            # It may have come too late, to one who had given up already.
            domain.failed = now
            return
        domain.sure[version] = began

    def ask_again(self) -> None:
        """What is looked up just now is begun anew."""
        begun = self.now() - SLACK
        for domain in self.domains.values():
            domain.ended = domain.contacts
            domain.sure = {version: when for version, when in domain.sure.items() if when < begun}

    def disturb(self) -> None:
        """From now on lookups may be lost."""
        self.ask_again()
        self._calm = math.inf

    def calm(self) -> None:
        """Lookups are done again."""
        self.ask_again()
        self._calm = self.now()

    # WHAT IS RIGHT

    def judge(self, zone: Zone, name: str, sent: float, received: float, answer: bytes) -> None:
        """Judge the answer to a question that was sent and answered at these times."""
        self.judged += 1
        domain = self.domains[name]
        version = domain.versions.get((zone.name, answer))
        if version is not None and version > domain.seen[0]:
            domain.seen = version, received
        what = f"v{version}" if version else ascii(answer)
        line = f"{sent:.3f} to {received:.3f}  {zone.name}: {what}"
        if not domain.recent or domain.recent[-1].rpartition("  ")[2] != line.rpartition("  ")[2]:
            domain.recent.append(line)
        if answer.startswith(TEMP) and answer != OVERDUE:
            answer = NOT_FOUND
        if answer == OVERDUE:
            if received < sent + LINE - 0.5:
                self._complain(domain, line, "OK or NOTFOUND: it did not wait")
            return
        if answer == NOT_FOUND and received > sent + QUICK:
            # It stood in line, or the machine was busy: what was served meanwhile may have come
            # too late.
            domain.late = received
            if doubtful := {one for one, when in domain.sure.items() if sent < when < received}:
                domain.failed = received
                for one in doubtful:
                    del domain.sure[one]
        right = self.right(zone, domain, sent, received)
        self.exact += len(right.versions) + right.none == 1
        if version not in right.versions and not (answer == NOT_FOUND and right.none):
            self._complain(domain, line, str(right))

    def right(self, zone: Zone, domain: Domain, sent: float, received: float) -> Right:
        """Return what may be answered to a question between its being sent and answered."""
        policies = domain.life.policies
        due = self._due(domain, sent, received)
        least, since = domain.seen
        oldest = least if sent > since + OVERTAKEN else 0
        if due is not None and received < sent + LINE - 0.5:
            oldest = max(oldest, due.announced)
        possible = {
            version
            for version, first in domain.first.items()
            if version >= oldest
            and first <= received
            and sent <= domain.last[version] + policies[version].max_age + LATE
        }
        enforced = {version for version in possible if zone.enforces(policies[version])}
        none = possible != enforced or not (
            self._in_force(domain, sent, received) or due is not None
        )
        if due is not None and not possible:
            owed = range(due.announced, due.policy.version + 1)
            none = not all(zone.enforces(policies[one]) for one in owed)
        return Right(frozenset(enforced), none)

    def _due(self, domain: Domain, sent: float, received: float) -> Phase | None:
        """Return the phase whose policy is to be known at `sent`, None where none need be."""
        life = domain.life
        number = life.at(sent)
        phase = life.phases[number]
        if phase.record is not Record.THERE or phase.host is not Host.WELL:
            return None
        if sent < max(life.steady_since(number), self._calm) + SETTLED:
            return None
        # A failure may have been of this id, or the machine's.
        since = max(life.id_since(number), sent - PAUSE - LATE)
        if max(domain.failed, self._stalled) >= since or domain.contacts != domain.ended:
            return None
        until = life.phases[number : life.at(received) + 1]
        return phase if len({(one.record, one.host, one.id) for one in until}) == 1 else None

    def _in_force(self, domain: Domain, sent: float, received: float) -> bool:
        """Whether some policy is surely in force from `sent` to `received`."""
        seen, since = domain.seen
        for version in sorted(domain.first, reverse=True):
            first = domain.first[version]
            if first > received:
                continue
            age = domain.life.policies[version].max_age
            sure = domain.sure.get(version, -math.inf)
            # Of two fetches at once the earlier may have been put in force last.
            if sure <= sent - SLACK and received < sure + age - QUICK:
                return True
            if seen == version and since <= sent and received < first + age:
                return True
            if received >= first + age:
                return False
        return False

    def _complain(self, domain: Domain, line: str, right: str) -> None:
        def times(known: Mapping[int, float]) -> str:
            return ", ".join(f"v{version} {known[version]:.3f}" for version in list(known)[-6:])

        at = domain.life.at(float(line.partition(" ")[0]))
        phases = domain.life.phases[max(0, at - 5) : at + 2]
        self.wrong.append(
            "\n    ".join(
                (
                    f"{domain.life.domain}: {line}: right is {right}",
                    *(f"from {phase.begins:.3f}: {phase}" for phase in phases),
                    f"served first: {times(domain.first)}; last: {times(domain.last)}",
                    f"surely taken: {times(domain.sure)}; met ill at {domain.failed:.3f}",
                    f"calm since {self._calm:.3f}, stalled at {self._stalled:.3f}",
                    *(f"answered {one}" for one in domain.recent),
                )
            )
        )
