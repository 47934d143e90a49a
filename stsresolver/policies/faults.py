"""What ends in `NOTFOUND ` and what in `TEMP `, where no policy is known to be in force.

`NOTFOUND ` has Postfix send mail by its own settings. That is right where a domain has no policy,
where its policy cannot be fetched for whatever reason (RFC 8461 §3.3), and where its DNS fails
(ours). It is wrong where the daemon or its host could not look. That is a `Fault`, and mail waits
(`TEMP `) for as long as `PATIENCE` says. A policy that is known stays in force whatever fails.

Pure: results and monotonic times come in, faults go out. `Outages` notes which faults last.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping

from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Lookup, NoPolicy, NotChanged

HOUR = 3600.0


class Fault(enum.Enum):
    """What failed on our side, so that a lookup says nothing about its domain.

    The value is a sentence for the administrator, in Postfix's log as well.
    """

    PROCESS = "the resolver process failed"
    NAME_SERVERS = "no name server of this host answers"
    NO_ROOM = "this host has no descriptors or memory for a lookup"
    CA_STORE = "this host has no CA certificates"
    PROXY = "the proxy fails"
    STORE = "the policy cache cannot be read"
    CLOCK = "the clock of this host may be wrong"
    BUG = "internal error of the daemon"
    CLOSING = "the daemon is stopping"


# For how long mail waits because of a fault: seconds from its beginning, without a success between.
PATIENCE: Mapping[Fault, float] = {
    Fault.PROCESS: math.inf,
    Fault.NAME_SERVERS: HOUR,
    Fault.NO_ROOM: HOUR,
    Fault.CA_STORE: HOUR,
    # RFC 8461 §3.3: the policy cannot be fetched, for whatever reason.
    Fault.PROXY: 0.0,
    Fault.STORE: HOUR,
    Fault.CLOCK: HOUR,
    Fault.BUG: math.inf,
    Fault.CLOSING: math.inf,
}

# The causes that are ours. All others are the domain's.
OF_CAUSE: Mapping[Cause, Fault] = {
    Cause.PROCESS: Fault.PROCESS,
    Cause.NAME_SERVERS: Fault.NAME_SERVERS,
    Cause.NO_ROOM: Fault.NO_ROOM,
    Cause.CA_STORE: Fault.CA_STORE,
    Cause.PROXY: Fault.PROXY,
}

# The causes of a fetch that show that the policy host was reached.
_REACHED = frozenset(
    {Cause.CERTIFICATE, Cause.TLS, Cause.HTTP, Cause.STATUS}
    | {Cause.MEDIA_TYPE, Cause.SIZE, Cause.SYNTAX}
)
# The causes of a failed lookup that show that a fault is over. A policy shows it for all of them.
_ENDED_BY: Mapping[Fault, frozenset[Cause]] = {
    Fault.PROCESS: frozenset(Cause) - {Cause.PROCESS},
    Fault.NO_ROOM: frozenset(Cause) - {Cause.PROCESS, Cause.NO_ROOM},
    # One that cannot be reached shows nothing of the others, so only an answer of DNS counts.
    Fault.NAME_SERVERS: frozenset(
        {Cause.NO_RECORD, Cause.BAD_RECORD, Cause.SEVERAL_RECORDS}
        | {Cause.DNS, Cause.NO_ADDRESS, Cause.ADDRESS}
    ),
    Fault.CA_STORE: _REACHED | {Cause.NO_ADDRESS, Cause.ADDRESS, Cause.CONNECT, Cause.PROXY},
    Fault.PROXY: _REACHED,
}


def waits_for(
    result: NoPolicy | Failure,
    lasting: Mapping[Fault, float],
    now: float,
    *,
    ended_by_doubtful_clock: bool = False,
) -> Fault | None:
    """Return the fault for which mail waits, None where the answer is that there is no policy.

    `result`: of the lookup, with no policy known to be in force.
    `lasting`: faults that last, and since when (monotonic seconds); `now`: the time.
    `ended_by_doubtful_clock`: the domain had a policy, and the clock that says that it has ended
    may be wrong.
    """
    if isinstance(result, NoPolicy):
        # DNS says so. Waiting for the store to confirm it would hold up all mail.
        return None
    for fault in _faults(result, lasting, ended_by_doubtful_clock=ended_by_doubtful_clock):
        if now < lasting.get(fault, now) + PATIENCE[fault]:
            return fault
    return None


def _faults(
    failure: Failure, lasting: Mapping[Fault, float], *, ended_by_doubtful_clock: bool
) -> Iterator[Fault]:
    if failure.cause in OF_CAUSE:
        yield OF_CAUSE[failure.cause]
    if Fault.STORE in lasting:
        # The policy in force may be in it.
        yield Fault.STORE
    if ended_by_doubtful_clock:
        # Ahead, it makes certificates look expired, and DNSSEC signatures too.
        yield Fault.CLOCK


def begun_by(result: Lookup | Policy | str) -> Fault | None:
    """Return the fault that the result of a lookup shows."""
    return OF_CAUSE.get(result.cause) if isinstance(result, Failure) else None


def ended_by(result: Lookup | Policy | str) -> frozenset[Fault]:
    """Return the faults of which the result of a lookup shows that they are over."""
    if isinstance(result, NoPolicy | Failure):
        return frozenset(fault for fault, causes in _ENDED_BY.items() if result.cause in causes)
    if isinstance(result, str | NotChanged):
        # Nothing was fetched.
        return frozenset(_ENDED_BY) - {Fault.CA_STORE, Fault.PROXY}
    return frozenset(_ENDED_BY)
