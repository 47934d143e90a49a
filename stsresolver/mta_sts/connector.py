"""The way to a policy host: a TCP connection to one of its addresses, directly or through a proxy.

Addresses come from DNS alone, IPv4 first; all that is tried shares one deadline. Through a proxy
only the way differs: what goes over the connection stays between us and the policy host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..net.deadline import BoundedSocket, Deadline, connected
from ..net.proxy import Proxy, goes_through, known_addresses
from ..net.tunnel import TunnelError, open_tunnel
from .discovery import Discovery, DiscoveryError
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

    def connect(self, host: str, deadline: Deadline) -> BoundedSocket:
        """Return a connection to `host`.

        Raise `FetchError`, or `TimeoutError` past the deadline.
        """
        if self._proxy is not None and goes_through(self._proxy, host):
            return self._through(self._proxy, host, deadline)
        families = self._discovery.addresses(host, deadline)
        return _connected(host, self._port, families, deadline)

    def _through(self, proxy: Proxy, host: str, deadline: Deadline) -> BoundedSocket:
        """Connect to `host` through `proxy`, which looks up its name."""
        try:
            families = known_addresses(proxy) or self._discovery.addresses(proxy.host, deadline)
            connection = _connected(proxy.host, proxy.port, families, deadline)
            try:
                open_tunnel(connection, proxy, host, self._port)
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
    host: str, port: int, families: Iterable[list[str]], deadline: Deadline
) -> BoundedSocket:
    """Connect to the first address of `host` that answers."""
    refused = []
    try:
        for address, share in _attempts(families, deadline):
            try:
                return connected((address, port), share, deadline)
            except OSError as error:
                refused.append(f"{address}: {error.strerror or error}")
    except DiscoveryError as error:
        # With an address of one family refused, that says more than DNS about the other.
        if not refused:
            raise FetchError(Cause.ADDRESS, str(error)) from error
    if not refused:
        raise FetchError(Cause.NO_ADDRESS, host)
    raise FetchError(Cause.CONNECT, ", ".join(refused))


def _attempts(families: Iterable[list[str]], deadline: Deadline) -> Iterator[tuple[str, float]]:
    """Yield each address with its share of the time left, in seconds.

    A family of addresses that has not been asked for yet counts as one address more.
    """
    for more, addresses in zip((1, 0), families, strict=False):
        tried = addresses[:_MAX_ADDRESSES]
        for number, address in enumerate(tried):
            yield address, deadline.left() / (len(tried) - number + more)
