"""What the daemon asks of its resolver processes, and what counts of the answers.

`LookupClient` has the methods of a `Resolver`. Strangers may have taken over the process that
answers: its results have passed the grammar (`messages`), and a result that does not answer the
question is refused here. Nothing is raised: what goes wrong is a result.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol, TypeGuard

from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .messages import FETCH, POLICY_ID, RESOLVE, Result

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What can be asked for a lookup: one process, or several."""

    def ask(self, what: str, domain: str, timeout: float, *known_ids: str) -> Result:
        """Return what a lookup ended in."""


class LookupClient:
    """Has the process look up policies, within `timeout` seconds for DNS and for HTTPS each.

    May be used by any number of threads at once.
    """

    def __init__(self, process: Asked, timeout: float) -> None:
        self._process = process
        self._timeout = timeout

    def resolve(self, domain: str, *known_ids: str) -> Lookup:
        """Look up the policy of `domain` (A-labels), unless its record carries a known id."""
        result = self._process.ask(RESOLVE, domain, self._timeout, *known_ids)
        return result if _resolved(result, known_ids) else _unasked(result)

    def policy_id(self, domain: str) -> str | NoPolicy | Failure:
        """Return the id that the TXT record of `domain` (A-labels) carries."""
        result = self._process.ask(POLICY_ID, domain, self._timeout)
        return result if isinstance(result, str | NoPolicy | Failure) else _unasked(result)

    def fetch(self, domain: str) -> Policy | Failure:
        """Fetch the policy of `domain` (A-labels) from its policy host."""
        result = self._process.ask(FETCH, domain, self._timeout)
        return result if isinstance(result, Policy | Failure) else _unasked(result)


class Ending(NamedTuple):
    """What a lookup ended in. `what`: as in a message. `cause`: None where it found something."""

    what: str
    result: str
    cause: Cause | None


# "found": an id, or a policy. "none": the domain says that there is none. "failure": neither.
ENDINGS = (
    Ending(POLICY_ID, "found", None),
    Ending(POLICY_ID, "none", Cause.NO_RECORD),
    Ending(POLICY_ID, "none", Cause.BAD_RECORD),
    Ending(POLICY_ID, "none", Cause.SEVERAL_RECORDS),
    Ending(POLICY_ID, "failure", Cause.DNS),
    Ending(POLICY_ID, "failure", Cause.PROCESS),
    Ending(FETCH, "found", None),
    *(Ending(FETCH, "failure", cause) for cause in Cause if not cause.by_record),
)


def endings(what: str, result: Result) -> tuple[Ending, ...]:
    """Return what kind of endings `result` is: of the record's lookup, of the fetch, or both."""
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


def _resolved(result: Result, known_ids: tuple[str, ...]) -> TypeGuard[Lookup]:
    """Say whether a lookup with these known ids can end in `result`."""
    match result:
        case Found():
            return result.id not in known_ids
        case NotChanged():
            return result.id in known_ids
        case NoPolicy():
            return result.cause.by_record
        case Failure():
            # The id is there if the record was found, so that the fetch failed.
            early = result.cause.by_record or result.cause is Cause.PROCESS
            return early is not bool(result.id) and result.id not in known_ids
    return False


def _unasked(result: object) -> Failure:
    log.error("the resolver process answers another question: %.40r", result)
    return Failure(Cause.PROCESS, "it answered another question")
