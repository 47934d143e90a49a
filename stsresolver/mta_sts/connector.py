"""Connects to a policy host: TCP to one of its addresses, directly or through a proxy.

Addresses come from DNS alone. Both families are looked up side by side, and the addresses race
(RFC 8305): one family or address that is broken does not keep us from the policy host. All attempts
share one deadline. Through a proxy only the way differs: what the connection carries stays between
us and the policy host.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..net.deadline import BoundedSocket, Deadline, connected, is_out_of_room
from ..net.happy_eyeballs import MAX_ATTEMPTS, HappyEyeballs
from ..net.nameservers import NameServerError
from ..net.proxy import Proxy, goes_through, known_addresses
from ..net.steps import SideBySide, Steps, now
from ..net.tunnel import TunnelError, open_tunnel
from .discovery import FAMILIES, Discovery, cause_of
from .observer import UNOBSERVED, Observer
from .results import Cause

# Sockets that one lookup has open at once, at most: its attempts, and the question for addresses.
MAX_SOCKETS = MAX_ATTEMPTS + 1
# In the place of a family, where the addresses need no lookup.
_KNOWN = "known"
# What keeps a connection from a policy host, in the words for a proxy.
_NO_PROXY_THERE = {
    Cause.ADDRESS: "its address could not be looked up in DNS",
    Cause.NO_ADDRESS: "DNS has no address for it",
    Cause.CONNECT: "no connection",
}


class FetchError(OSError):
    """A step of the fetch failed."""

    def __init__(self, cause: Cause, detail: str) -> None:
        self.cause = cause
        super().__init__(detail)


class Connector:
    """Connects to policy hosts.

    `discovery` finds their addresses; `port`: of TCP; `proxy`: None for the direct way.
    """

    def __init__(self, discovery: Discovery, port: int, proxy: Proxy | None) -> None:
        self._discovery = discovery
        self._port = port
        self._proxy = proxy

    def connect(
        self, host: str, deadline: Deadline, observer: Observer = UNOBSERVED
    ) -> Steps[BoundedSocket]:
        """Return a connection to `host`.

        Raise `FetchError`, or `TimeoutError` past the deadline.
        """
        if self._proxy is not None and goes_through(self._proxy, host):
            connection = yield from self._through(self._proxy, host, deadline)
            observer.connected(str(self._proxy))
            return connection
        return (yield from self._race(host, self._port, deadline, observer=observer))

    def _through(self, proxy: Proxy, host: str, deadline: Deadline) -> Steps[BoundedSocket]:
        """Connect to `host` through `proxy`, which looks up its name."""
        try:
            known = known_addresses(proxy)
            connection = yield from self._race(proxy.host, proxy.port, deadline, known)
            try:
                yield from open_tunnel(connection, proxy, host, self._port)
            except BaseException:
                connection.close()
                raise
        except FetchError as error:
            if error.cause.in_any_step:
                raise
            why = f"{_NO_PROXY_THERE[error.cause]}: {error}"
        except TimeoutError:
            why = "no answer within the time limit"
        except TunnelError as error:
            why = str(error)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return connection
        raise FetchError(Cause.PROXY, f"{proxy}: {why}")

    def _race(
        self,
        host: str,
        port: int,
        deadline: Deadline,
        known: Sequence[str] = (),
        observer: Observer = UNOBSERVED,
    ) -> Steps[BoundedSocket]:
        """Return the first connection to an address of `host`.

        `known`: its addresses in the order to try them, if DNS is not to be asked.
        """
        race = HappyEyeballs(*([_KNOWN] if known else FAMILIES))
        refused: list[str] = []
        not_found: list[str] = []
        # Causes that are this host's.
        own: list[Cause] = []

        def found(family: str, addresses: Sequence[str] | NameServerError) -> None:
            if isinstance(addresses, NameServerError):
                not_found.append(f"{family} lookup: {addresses}")
                cause = cause_of(addresses, Cause.ADDRESS)
                own.extend([cause] if cause.in_any_step else ())
                addresses = ()
            else:
                observer.addresses(addresses)
            race.found(family, addresses, now())

        with SideBySide() as under_way:
            if known:
                found(_KNOWN, known)
            else:
                under_way.start(host, self._discovery.addresses(host, deadline, found))
            while not race.over:
                while (address := race.next(now())) is not None:
                    under_way.start(address, _attempt(address, port, deadline))
                match (yield from under_way.first(race.wakes)):
                    case str(address), BoundedSocket() as connection:
                        observer.connected(address)
                        return connection
                    case str(address), OSError() as error:
                        refused.append(f"{address}: {error.strerror or error}")
                        own.extend([Cause.NO_ROOM] if is_out_of_room(error) else ())
                        race.failed(now())
        if own:
            raise FetchError(own[0], ", ".join(refused + not_found))
        if refused:
            raise FetchError(Cause.CONNECT, ", ".join(refused + not_found))
        if not_found:
            raise FetchError(Cause.ADDRESS, ", ".join(not_found))
        raise FetchError(Cause.NO_ADDRESS, host)


def _attempt(address: str, port: int, deadline: Deadline) -> Steps[BoundedSocket | OSError]:
    """Connect to an address; an error is a result like another."""
    try:
        return (yield from connected((address, port), deadline))
    except OSError as error:
        return error
