"""Connects to a policy host: TCP to one of its addresses, directly or through a proxy.

Addresses come from DNS alone, IPv4 first, and all tries share one deadline. Through a proxy only
the way differs: what the connection carries stays between us and the policy host.
"""

from __future__ import annotations

from dns.rdatatype import RdataType

from ..net.deadline import BoundedSocket, Deadline, connected
from ..net.proxy import Proxy, goes_through, known_addresses
from ..net.steps import Steps
from ..net.tunnel import TunnelError, open_tunnel
from .discovery import Discovery, DiscoveryError
from .observer import UNOBSERVED, Observer
from .results import Cause

# Addresses tried of each family; a policy host with more is not better reached.
_MAX_ADDRESSES = 4
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
        return (yield from self._connected(host, self._port, None, deadline, observer))

    def _through(self, proxy: Proxy, host: str, deadline: Deadline) -> Steps[BoundedSocket]:
        """Connect to `host` through `proxy`, which looks up its name."""
        try:
            known = known_addresses(proxy) or None
            connection = yield from self._connected(proxy.host, proxy.port, known, deadline)
            try:
                yield from open_tunnel(connection, proxy, host, self._port)
            except BaseException:
                connection.close()
                raise
        except FetchError as error:
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

    def _connected(
        self,
        host: str,
        port: int,
        known: list[list[str]] | None,
        deadline: Deadline,
        observer: Observer = UNOBSERVED,
    ) -> Steps[BoundedSocket]:
        """Connect to the first address of `host` that answers.

        `known`: its addresses of each family, if DNS is not to be asked. A family that has not been
        looked up yet gets as much of the time as one address.
        """
        refused: list[str] = []
        for family, rdtype in enumerate((RdataType.A, RdataType.AAAA)):
            try:
                if known is not None:
                    addresses = known[family]
                else:
                    addresses = yield from self._discovery.addresses(host, rdtype, deadline)
                    observer.addresses(addresses)
            except DiscoveryError as error:
                # With an address of one family refused, that says more than DNS about the other.
                if refused:
                    break
                raise FetchError(Cause.ADDRESS, str(error)) from error
            tried = addresses[:_MAX_ADDRESSES]
            for number, address in enumerate(tried):
                share = deadline.left() / (len(tried) - number + 1 - family)
                try:
                    connection = yield from connected((address, port), share, deadline)
                    observer.connected(address)
                    return connection
                except OSError as error:
                    refused.append(f"{address}: {error.strerror or error}")
        if not refused:
            raise FetchError(Cause.NO_ADDRESS, host)
        raise FetchError(Cause.CONNECT, ", ".join(refused))
