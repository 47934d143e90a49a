"""From a request of Postfix to its answer: zone and next hop in, socketmap reply out.

The answers are TLS policies (smtp_tls_policy_maps, postconf(5)) in the form of socketmap_table(5):
`OK secure match=...` for a policy to be enforced, `OK dane-only` where DANE comes before it
(RFC 8461 §2), `NOTFOUND ` where Postfix's own settings apply, also for an exempt domain and in a
zone that observes, `TEMP ` and a reason, which Postfix logs, where it is not known what applies
(`policies.faults`), `PERM ` for what is no request. No text of a policy can add or remove an
attribute: the grammar of `mta_sts.policy` and `_policy_strings` make sure of it.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ..config.exemptions import exempted_by
from ..config.settings import Zone
from ..dane.states import Verdict
from ..mta_sts.next_hop import NextHop, parse_next_hop
from ..mta_sts.policy import Mode, Policy
from ..policies.dane_states import DaneState, DaneStates
from ..policies.event_log import EventLog
from ..policies.faults import Fault
from ..policies.in_force import InForce, Policies
from .netstring import MAX_REPLY, cut, encode
from .reply_cache import Reply, ReplyCount

log = logging.getLogger(__name__)

_NOT_FOUND = b"NOTFOUND "
_DANE_UNKNOWN = "DNS does not say whether DANE applies to this next hop"
_OWN_FIELDS = ("version: ", "mode: ", "max_age: ", "mx: ")
# Seconds for which the reply to an exempt domain is repeated.
_EXEMPT = 3600.0
# Longer lists do not pass between Postfix's smtp(8) and tlsproxy(8) (ARGV_ATTR_MAX).
_MAX_STRINGS = 1024
# What the default zone is called where zones are told apart by name.
DEFAULT_ZONE = "default_zone"


class Outcome(enum.Enum):
    """What a reply says, and why.

    `WOULD_ENFORCE`, `WOULD_WAIT`: `NOTFOUND ` in a zone that observes, in place of that.
    """

    POLICY = "policy"
    DANE = "dane"
    EXEMPT = "exempt"
    WOULD_ENFORCE = "would_enforce"
    WOULD_WAIT = "would_wait"
    NONE = "none"
    TEMPORARY = "temporary"
    MALFORMED = "malformed"


Counts = Mapping[Outcome, ReplyCount]


class ReplyCounts:
    """Where replies count, by zone and outcome: as many as there are zones, whatever is asked."""

    def __init__(self) -> None:
        self._zones: dict[str, Counts] = {}

    def of(self, zone: str) -> Counts:
        """Return where the replies of a zone count; they go on from what there was before."""
        return self._zones.setdefault(zone, {outcome: ReplyCount() for outcome in Outcome})

    def read(self) -> dict[str, Counts]:
        """Return the counts so far."""
        return self._zones.copy()


@dataclass(frozen=True, slots=True)
class _Map:
    """A map of Postfix: its zone, that one's name, the domains exempt, and where replies count."""

    name: str
    zone: Zone
    exempt: frozenset[str]
    counts: Counts


class Answers:
    """Answers requests, each in the zone that its map name says.

    An unknown map name means `default_zone`, and counts as DEFAULT_ZONE in `counts`.
    `events`: where it is said what is exempt, and what a zone that observes would answer.
    `exempt_files`: the entries of each `exempt_file`.
    `dane`: needed where a zone has the option `dane`, or mail waits there. It is asked where a
    policy is to be enforced: a domain without one is Postfix's own business.
    """

    def __init__(
        self,
        policies: Policies,
        default_zone: Zone,
        zones: Mapping[str, Zone],
        counts: ReplyCounts | None = None,
        dane: DaneStates | None = None,
        events: EventLog | None = None,
        exempt_files: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        counts = counts or ReplyCounts()
        files = exempt_files or {}

        def made(name: str, zone: Zone) -> _Map:
            return _Map(name, zone, exempt_in(zone, files), counts.of(name))

        self._policies = policies
        self._dane = dane
        self._events = events or EventLog()
        self._default = made(DEFAULT_ZONE, default_zone)
        self._maps = {name.encode(): made(name, zone) for name, zone in zones.items()}

    @property
    def changes(self) -> int:
        """The number of policy changes so far: a reply made before the last may be out of date."""
        return self._policies.changes

    def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
        """Call `deliver` once with the reply, now or later and on another thread.

        Computes only little for a request in ASCII: the serving thread may call it.
        """
        asked, next_hop = self._asked(request)
        zone, counts = asked.zone, asked.counts
        if next_hop is None:
            deliver(self._without_domain(request, counts))
            return
        if (exempt := self._exempt(asked, next_hop.domain)) is not None:
            deliver(exempt)
            return

        def answered(in_force: InForce) -> None:
            try:
                reply = _reply(in_force, next_hop.domain, zone, counts)
                if zone.dane and reply.count is counts[Outcome.POLICY]:
                    assert self._dane is not None
                    self._dane.ask(next_hop, zone.timeout, partial(with_dane, reply))
                    return
            except Exception:
                log.exception("%s: internal error while answering a request", next_hop.domain)
                reply = _temporary(Fault.BUG.value, counts)
            deliver(self._observed(asked, next_hop, reply))

        def with_dane(reply: Reply, state: DaneState) -> None:
            deliver(self._observed(asked, next_hop, _with_dane(reply, state, counts)))

        if zone.dane and self._dane is not None and self._enforces(next_hop.domain, zone):
            # Beside the look at the policy, whose answer joins this lookup.
            self._dane.ask(next_hop, zone.timeout, lambda state: None)
        self._policies.ask(next_hop.domain, zone.timeout, answered)

    def cached(self, request: bytes) -> Reply:
        """Return the reply that can be given now: the policy known to be in force, else `TEMP `."""
        asked, next_hop = self._asked(request)
        if next_hop is None:
            return _temporary("no answer in time", asked.counts)
        exempt = self._exempt(asked, next_hop.domain)
        return exempt or self._observed(asked, next_hop, self._known(asked, next_hop))

    def _without_domain(self, request: bytes, counts: Counts) -> Reply:
        """Return the reply to a request that can have no policy domain, or is none at all."""
        if b" " in request:
            return _not_found(counts[Outcome.NONE], math.inf, change=self.changes)
        count = self._default.counts[Outcome.MALFORMED]
        return Reply(encode(b"PERM "), math.inf, change=self.changes, count=count)

    def _asked(self, request: bytes) -> tuple[_Map, NextHop | None]:
        name, _, next_hop = request.partition(b" ")
        return self._maps.get(name, self._default), parse_next_hop(next_hop)

    def _known(self, asked: _Map, next_hop: NextHop) -> Reply:
        """Return what is known to apply, without waiting."""
        zone, counts = asked.zone, asked.counts
        in_force = self._policies.cached(next_hop.domain, zone.timeout)
        if in_force is None:
            return _temporary("no answer in time", counts)
        reply = _reply(in_force, next_hop.domain, zone, counts)
        if not zone.dane or reply.count is not counts[Outcome.POLICY]:
            return reply
        state = self._dane.cached(next_hop, zone.timeout) if self._dane is not None else None
        if state is None:
            return _temporary(_DANE_UNKNOWN, counts)
        return _with_dane(reply, state, counts)

    def _enforces(self, domain: str, zone: Zone) -> bool:
        """Say whether a policy is known that the zone enforces."""
        in_force = self._policies.cached(domain, zone.timeout)
        return in_force is not None and _enforced(in_force.policy, zone)

    def _exempt(self, asked: _Map, domain: str) -> Reply | None:
        """Return the reply for a domain that is exempt, and warn of that; None for others."""
        entry = exempted_by(domain, asked.exempt)
        if entry is None:
            return None
        self._events.exempt(domain, entry)
        # Made anew now and then, for the warning.
        until = time.monotonic() + _EXEMPT
        return _not_found(asked.counts[Outcome.EXEMPT], until, domain, self.changes)

    def _observed(self, asked: _Map, next_hop: NextHop, reply: Reply) -> Reply:
        """Return a reply as the zone gives it: where it only observes, nothing holds up mail."""
        if not asked.zone.observe:
            return reply
        counts = asked.counts
        if reply.count in (counts[Outcome.POLICY], counts[Outcome.DANE]):
            outcome = Outcome.WOULD_ENFORCE
        elif reply.count is counts[Outcome.TEMPORARY]:
            outcome = Outcome.WOULD_WAIT
        else:
            return reply
        payload, _ = cut(reply.data) or (b"", 0)
        self._events.observed(asked.name, str(next_hop), payload.decode())
        return replace(reply, data=encode(_NOT_FOUND), count=counts[outcome])


def exempt_in(zone: Zone, files: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return all entries that exempt domains in a zone. `files`: those of each `exempt_file`."""
    return files.get(zone.exempt_file or "", frozenset()).union(zone.exempt)


def _not_found(count: ReplyCount, until: float, domain: str = "", change: int = 0) -> Reply:
    return Reply(encode(_NOT_FOUND), until, domain, change, count)


def _temporary(why: str, counts: Counts) -> Reply:
    """Return the reply that makes Postfix try again later."""
    return Reply(encode(_temp(why)), -math.inf, count=counts[Outcome.TEMPORARY])


def _temp(why: str) -> bytes:
    return f"TEMP {why}".encode()


# What is answered in place of a policy that is to be enforced, without attributes.
WITH_DANE: Mapping[Verdict, tuple[bytes, Outcome]] = {
    Verdict.DANE: (b"OK dane-only", Outcome.DANE),
    Verdict.UNKNOWN: (_temp(_DANE_UNKNOWN), Outcome.TEMPORARY),
}


def _reply(in_force: InForce, domain: str, zone: Zone, counts: Counts) -> Reply:
    if in_force.unknown is not None:
        text, outcome = _temp(in_force.unknown.value), Outcome.TEMPORARY
    else:
        text = answer(in_force.policy, domain, zone)
        outcome = Outcome.NONE if text == _NOT_FOUND else Outcome.POLICY
    return Reply(encode(text), in_force.until, domain, in_force.change, counts[outcome])


def _with_dane(reply: Reply, state: DaneState, counts: Counts) -> Reply:
    """Return the reply where DANE is in `state`; `reply`: the one of the policy alone."""
    until = min(reply.until, state.until)
    if state.verdict is Verdict.POLICY:
        return replace(reply, until=until)
    text, outcome = WITH_DANE[state.verdict]
    return replace(reply, data=encode(text), until=until, count=counts[outcome])


def answer(policy: Policy | None, domain: str, zone: Zone) -> bytes:
    """Return Postfix's TLS policy for `domain` (A-labels), as a socketmap reply."""
    if policy is None or not _enforced(policy, zone):
        return _NOT_FOUND
    # A leading dot is Postfix's way to write the pattern `*.`.
    match = ":".join(pattern.removeprefix("*") for pattern in policy.mx)
    short = f"OK secure match={match}"
    if zone.require_sni:
        short += " servername=hostname"
    if zone.tlsrpt:
        patterns = " ".join(f"mx_host_pattern={pattern}" for pattern in policy.mx)
        for strings in _policy_strings(policy):
            long = f"{short} policy_type=sts policy_domain={domain} {strings} {patterns}".encode()
            if len(long) <= MAX_REPLY:
                return long
    return short.encode()


def _enforced(policy: Policy | None, zone: Zone) -> bool:
    mode = policy.mode if policy is not None else Mode.NONE
    return mode is Mode.ENFORCE or (mode is Mode.TESTING and zone.strict_testing)


def _policy_strings(policy: Policy) -> Iterator[str]:
    """Yield the policy's text for TLS reports: whole, without extensions, without mx fields too.

    A text with too many fields is passed over, and so is each field that holds what Postfix could
    read as its end. A version, a mode and a max_age always remain: their values are plain words.
    """
    fields = [text for text in policy.text if text.isprintable() and not set(text) & set("{}")]
    for some in (
        fields,
        [text for text in fields if text.startswith(_OWN_FIELDS)],
        [text for text in fields if text.startswith(_OWN_FIELDS[:3])],
    ):
        if len(some) <= _MAX_STRINGS:
            yield " ".join(f"{{ policy_string = {text} }}" for text in some)
