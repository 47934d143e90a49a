"""What the daemon asks of its resolver processes, and which results it accepts.

`LookupClient` has the methods of a `Resolver` and a `DaneResolver`, by callback. The process that
answers may be compromised. `messages` checks the grammar of its results, and this module refuses a
result that does not answer the question. Every failure is a result. No method raises for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeGuard

from ..dane.states import Dane, Verdict
from ..mta_sts.next_hop import NextHop
from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .messages import DANE, FETCH, POLICY_ID, RESOLVE, WHOLE_DANE, Result

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What makes the lookups: a `ResolverProcess` or a `ResolverPool`."""

    def ask(
        self,
        what: str,
        domain: str,
        timeout: float,
        known_ids: tuple[str, ...],
        done: Callable[[Result], None],
    ) -> object:
        """Call `done` once with the result of a lookup, on any thread."""


class LookupClient:
    """Has the processes make lookups, within `timeout` seconds for DNS and for HTTPS each.

    Domains are A-labels. `done` is called once with the result, at once or on another thread. It
    must not block. The questions are sent when the processes are told to `flush`. Several threads
    may use one client.
    """

    def __init__(self, asked: Asked, timeout: float) -> None:
        self._asked = asked
        self._timeout = timeout

    def begin_resolve(
        self, domain: str, known_ids: tuple[str, ...], done: Callable[[Lookup], None]
    ) -> None:
        """Look up the policy of `domain`. It is not fetched if its record carries a known id."""

        def checked(result: Result) -> None:
            done(result if _resolves(result, known_ids) else _refused(result))

        self._asked.ask(RESOLVE, domain, self._timeout, known_ids, checked)

    def begin_policy_id(
        self, domain: str, done: Callable[[str | NoPolicy | Failure], None]
    ) -> None:
        """Look up the id that the TXT record of `domain` carries."""

        def checked(result: Result) -> None:
            done(result if isinstance(result, str | NoPolicy | Failure) else _refused(result))

        self._asked.ask(POLICY_ID, domain, self._timeout, (), checked)

    def begin_fetch(self, domain: str, done: Callable[[Policy | Failure], None]) -> None:
        """Fetch the policy of `domain` from its policy host."""

        def checked(result: Result) -> None:
            done(result if isinstance(result, Policy | Failure) else _refused(result))

        self._asked.ask(FETCH, domain, self._timeout, (), checked)

    def begin_dane(
        self, next_hop: NextHop, done: Callable[[Dane | Failure], None], *, whole: bool = False
    ) -> None:
        """Look at what DNS says of DANE for `next_hop`. A failure is one of the process.

        Unless `whole`, the first host with TLSA records ends it.
        """

        def checked(result: Result) -> None:
            match result:
                case Dane() | Failure(Cause.PROCESS):
                    done(result)
                case _:
                    done(_refused(result))

        what = WHOLE_DANE if whole else DANE
        self._asked.ask(what, str(next_hop), self._timeout, (), checked)


class Ending(NamedTuple):
    """How a lookup ended.

    `what`: `POLICY_ID`, `FETCH` or `DANE`.
    `result`: "found" (an id, a policy, or hosts with TLSA records that can be used), "none" (the
    domain has none of these) or "failure".
    `cause`: of a failure, and of having no policy.
    """

    what: str
    result: str
    cause: Cause | None


ENDINGS = (
    Ending(POLICY_ID, "found", None),
    Ending(POLICY_ID, "none", Cause.NO_RECORD),
    Ending(POLICY_ID, "none", Cause.BAD_RECORD),
    Ending(POLICY_ID, "none", Cause.SEVERAL_RECORDS),
    Ending(POLICY_ID, "failure", Cause.DNS),
    Ending(POLICY_ID, "failure", Cause.PROCESS),
    *(Ending(POLICY_ID, "failure", cause) for cause in Cause if cause.in_any_step),
    Ending(FETCH, "found", None),
    *(Ending(FETCH, "failure", cause) for cause in Cause if not cause.by_record),
    Ending(DANE, "found", None),
    Ending(DANE, "none", None),
    Ending(DANE, "failure", Cause.DNS),
    Ending(DANE, "failure", Cause.PROCESS),
)
_BY_VERDICT = {
    Verdict.DANE: Ending(DANE, "found", None),
    Verdict.POLICY: Ending(DANE, "none", None),
    Verdict.UNKNOWN: Ending(DANE, "failure", Cause.DNS),
}


def endings(what: str, result: Result) -> tuple[Ending, ...]:
    """Return how the lookup of the record, the fetch, or both ended, given their `result`."""
    if what in (DANE, WHOLE_DANE):
        return (_dane_ending(result),)
    if what != RESOLVE:
        return (_ending(what, result),)
    if isinstance(result, Found) or (isinstance(result, Failure) and result.id):
        return Ending(POLICY_ID, "found", None), _ending(FETCH, result)
    return (_ending(POLICY_ID, result),)


def _ending(what: str, result: Result) -> Ending:
    if isinstance(result, Failure):
        return Ending(what, "failure", result.cause)
    if isinstance(result, NoPolicy):
        return Ending(what, "none", result.cause)
    return Ending(what, "found", None)


def _dane_ending(result: Result) -> Ending:
    if isinstance(result, Dane):
        return _BY_VERDICT[result.verdict]
    return Ending(DANE, "failure", Cause.PROCESS)


def _resolves(result: Result, known_ids: tuple[str, ...]) -> TypeGuard[Lookup]:
    """Say whether a lookup with these known ids can end in `result`."""
    match result:
        case Found():
            return result.id not in known_ids
        case NotChanged():
            return result.id in known_ids
        case NoPolicy():
            return result.cause.by_record
        case Failure():
            # It has an id if the record was found and the fetch failed.
            early = result.cause.by_record or result.cause is Cause.PROCESS
            fits = result.cause.in_any_step or early is not bool(result.id)
            return fits and result.id not in known_ids
    return False


def _refused(result: object) -> Failure:
    log.error("the resolver process answered another question: %.40r", result)
    return Failure(Cause.PROCESS, "it answered another question")
