"""What the daemon asks of its resolver processes, and which results it accepts.

`LookupClient` has the methods of a `Resolver`, by callback. The process that answers may be
compromised: its results have passed the grammar (`messages`), and a result that does not answer the
question is refused here. Nothing is raised: what goes wrong is a result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeGuard

from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, Found, Lookup, NoPolicy, NotChanged
from .messages import FETCH, POLICY_ID, RESOLVE, Result

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What can be asked for a lookup: one process, or several."""

    def ask(
        self,
        what: str,
        domain: str,
        timeout: float,
        known_ids: tuple[str, ...],
        done: Callable[[Result], None],
    ) -> None:
        """Call `done` once with the result of a lookup, on any thread."""


class LookupClient:
    """Has the processes look up policies, within `timeout` seconds for DNS and for HTTPS each.

    Domains are A-labels. `done` is called once with the result, at once or on another thread. May
    be used by many threads.
    """

    def __init__(self, asked: Asked, timeout: float) -> None:
        self._asked = asked
        self._timeout = timeout

    def begin_resolve(
        self, domain: str, known_ids: tuple[str, ...], done: Callable[[Lookup], None]
    ) -> None:
        """Look up the policy of `domain`, unless its record carries a known id."""

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


class Ending(NamedTuple):
    """How a lookup ended.

    `what`: as in a message.
    `result`: "found": an id, or a policy. "none": the domain says that it has none. "failure".
    `cause`: None where it found something.
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
    Ending(FETCH, "found", None),
    *(Ending(FETCH, "failure", cause) for cause in Cause if not cause.by_record),
)


def endings(what: str, result: Result) -> tuple[Ending, ...]:
    """Return the endings that `result` means: of the record's lookup, of the fetch, or of both."""
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
            # The id is there if the record was found, so that the fetch failed.
            early = result.cause.by_record or result.cause is Cause.PROCESS
            return early is not bool(result.id) and result.id not in known_ids
    return False


def _refused(result: object) -> Failure:
    log.error("the resolver process answered another question: %.40r", result)
    return Failure(Cause.PROCESS, "it answered another question")
