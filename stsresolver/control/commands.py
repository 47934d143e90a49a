"""Does what the control socket is asked for, in the daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from ..cache.store import StoreError
from ..mta_sts.results import Cause, Failure, NoPolicy
from ..policies.in_force import InForce, Policies
from ..policies.misses import Key, Miss
from .messages import Command, End, Item, Missed, Request

# Seconds that a look may take: DNS and HTTPS with the longest time limit that is of use, and some.
LOOK_LIMIT = 90.0


class Commands:
    """Answers requests, on the thread of the caller, which may wait for store and network.

    `timeout`: gives the time limit of a look, in seconds.
    """

    def __init__(self, policies: Policies, timeout: Callable[[], float]) -> None:
        self._policies = policies
        self._timeout = timeout

    def answer(self, request: Request) -> Iterator[Item]:
        """Yield the parts of the reply, the last an `End`."""
        try:
            match request.command:
                case Command.LIST:
                    yield from self._list()
                case Command.SHOW:
                    yield from self._show(request.domain)
                case Command.FORGET:
                    yield from self._show(request.domain)
                    self._policies.forget(request.domain)
                case Command.REFRESH:
                    yield from self._refresh(request.domain)
        except StoreError as error:
            yield End(str(error))
            return
        yield End()

    def _list(self) -> Iterator[Item]:
        entries, misses = self._policies.all_known()
        for some in entries:
            yield from some
        yield from _believed(misses)

    def _show(self, domain: str) -> Iterator[Item]:
        entry, misses = self._policies.known(domain)
        if entry is not None:
            yield entry
        yield from _believed(misses)

    def _refresh(self, domain: str) -> Iterator[Item]:
        """Look again; what is known then."""
        ended = threading.Event()

        def done(_: InForce) -> None:
            ended.set()

        self._policies.look_again(domain, self._timeout(), done)
        if not ended.wait(LOOK_LIMIT):
            yield End(f"the look at {domain} has not ended after {LOOK_LIMIT:g} s")
        yield from self._show(domain)


def _believed(misses: list[tuple[Key, Miss]]) -> Iterator[Missed]:
    now = time.monotonic()
    for (domain, timeout), miss in misses:
        if now < miss.until:
            yield missed(domain, timeout, miss.result, miss.until - now)


def missed(domain: str, timeout: float, result: NoPolicy | Failure, left: float) -> Missed:
    """Return a lookup that gave no policy as a part of a reply."""
    return Missed(domain, timeout, _code(result.cause), str(result), round(left, 1))


def _code(cause: Cause) -> str:
    return cause.name.lower().replace("_", "-")
