"""What HTTPS says: the policy of a domain, from its policy host (RFC 8461 §3.3).

One GET of https://mta-sts.<domain>/.well-known/mta-sts.txt under one deadline for everything:
addresses, connection, handshake, headers and body. Whatever goes wrong comes back as a `Failure`
with its cause; nothing is raised.

requests' transport adapter does the HTTP. It is used without a Session, so that no cookie, no
redirect, no .netrc and nothing of the environment (proxies, REQUESTS_CA_BUNDLE) comes in.

Through a proxy only the way differs (`tunnel`): TLS and its verification stay with the policy host.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.util.ssltransport import SSLTransport

from .deadline import Deadline
from .discovery import Discovery, DiscoveryError
from .proxy import goes_through, known_addresses
from .results import Cause, Failure
from .settings import Proxy
from .sts import MAX_POLICY_SIZE, Policy, PolicyError, parse_policy
from .trust import TrustStore
from .tunnel import TunnelError, open_tunnel
from .version import __version__

_HEADERS = {
    "User-Agent": f"stsresolver/{__version__} (MTA-STS, RFC 8461)",
    "Accept": "text/plain",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
# Bytes read for one policy, with TLS, headers and chunk sizes: chunks of one byte still fit.
# A header costs several times its size.
_MAX_READ = 8 * MAX_POLICY_SIZE
# Bytes of a header line that are read at once, as http.client does.
_MAX_LINE = 65536
# Bytes of a body that are read at once: http.client keeps an object for each chunk until then.
_PART = 8192
# What requests, urllib3 and http.client raise for whatever a server does; http.client lets a
# ValueError out for some chunk sizes.
_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
# Addresses tried of each family; a policy host with more is not better reached.
_MAX_ADDRESSES = 4
# What keeps a connection from a policy host, in the words for a proxy.
_NO_PROXY_THERE = {
    Cause.ADDRESS: "its address could not be looked up in DNS",
    Cause.NO_ADDRESS: "DNS has no address for it",
    Cause.CONNECT: "no connection",
}


class FetchError(OSError):
    """A step of the fetch failed. An OSError, because urllib3 and requests pass those on."""

    def __init__(self, cause: Cause, detail: str) -> None:
        self.cause = cause
        super().__init__(detail)


class BoundedSocket(socket.socket):
    """A TCP socket whose every read and write ends by `deadline`, and with it the exchange.

    TLS lies above it and is handed what was read. Reading by itself, OpenSSL would not come back
    while there is more to read and nothing to return, such as session tickets without end;
    a socket's own timeout does not end that, and requests' starts anew with every read.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        family, kind, protocol = connection.family, connection.type, connection.proto
        super().__init__(family, kind, protocol, connection.detach())
        self._deadline = deadline
        self._unread = _MAX_READ

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Read as a socket does. Raise `TimeoutError` or `FetchError` past a bound."""
        self.settimeout(self._deadline.left())
        data = super().recv(bufsize, flags)
        self._unread -= len(data)
        if self._unread < 0:
            raise FetchError(Cause.SIZE, f"more than {_MAX_READ} bytes with headers and framing")
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Write as a socket does. Raise `TimeoutError` past the deadline."""
        self.settimeout(self._deadline.left())
        super().sendall(data, flags)


class FinalResponse(http.client.HTTPResponse):
    """Passes over every interim answer (RFC 9110 §15.2); http.client knows 100 and no other."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(_MAX_LINE) not in (b"\r\n", b"\n", b""):
                pass


class PolicyHostConnection(HTTPSConnection):
    """Connects to addresses from `discovery`; URL, SNI and Host stay the policy host's name."""

    response_class = FinalResponse

    def __init__(
        self,
        *args: Any,
        discovery: Discovery,
        deadline: Deadline,
        tcp_port: int,
        way: Proxy | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._discovery = discovery
        self._deadline = deadline
        self._tcp_port = tcp_port
        # urllib3 has a `proxy` of its own.
        self._way = way

    def connect(self) -> None:
        """Connect and verify the certificate. Raise `FetchError`, or `TimeoutError` when late."""
        connection = BoundedSocket(self._new_conn(), self._deadline)
        self.sock = connection
        assert self.ssl_context is not None
        try:
            # A body that ends with the connection must end with TLS's own end, or it was cut.
            self.sock = SSLTransport(
                connection, self.ssl_context, self.host, suppress_ragged_eofs=False
            )
        except ssl.SSLCertVerificationError as error:
            raise FetchError(Cause.CERTIFICATE, error.verify_message) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise FetchError(Cause.TLS, str(error)) from error
        self.is_verified = True

    def _new_conn(self) -> socket.socket:
        """Return the TCP connection that TLS goes over."""
        if self._way is None or not goes_through(self._way, self.host):
            families = self._discovery.addresses(self.host, self._deadline)
            return self._connected(self.host, self._tcp_port, families)
        return self._through(self._way)

    def _through(self, proxy: Proxy) -> socket.socket:
        """Connect to the policy host through `proxy`, which looks up its name."""
        try:
            families = known_addresses(proxy) or self._discovery.addresses(
                proxy.host, self._deadline
            )
            connection = self._connected(proxy.host, proxy.port, families)
            try:
                open_tunnel(connection, proxy, self.host, self._tcp_port, self._deadline)
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

    def _connected(self, host: str, port: int, families: Iterable[list[str]]) -> socket.socket:
        """Connect to the first address of `host` that answers; all share the one deadline."""
        refused = []
        try:
            for address, share in self._attempts(families):
                try:
                    connection = socket.create_connection((address, port), share)
                except OSError as error:
                    refused.append(f"{address}: {error.strerror or error}")
                    continue
                try:
                    connection.settimeout(self._deadline.left())
                except TimeoutError:
                    connection.close()
                    raise
                return connection
        except DiscoveryError as error:
            # With an address of one family refused, that says more than DNS about the other.
            if not refused:
                raise FetchError(Cause.ADDRESS, str(error)) from error
        if not refused:
            raise FetchError(Cause.NO_ADDRESS, host)
        raise FetchError(Cause.CONNECT, ", ".join(refused))

    def _attempts(self, families: Iterable[list[str]]) -> Iterator[tuple[str, float]]:
        """Yield each address with its share of the time left, in seconds.

        A family of addresses that has not been asked for yet counts as one address more.
        """
        for more, addresses in zip((1, 0), families, strict=False):
            tried = addresses[:_MAX_ADDRESSES]
            for number, address in enumerate(tried):
                yield address, self._deadline.left() / (len(tried) - number + more)


class PolicyHostAdapter(HTTPAdapter):
    """requests' adapter over one `PolicyHostConnection` with a TLS context of our own."""

    def __init__(self, context: ssl.SSLContext, connection: partial[PolicyHostConnection]) -> None:
        self._context = context
        self._connection = connection
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager with our TLS context and connections."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool}

    def cert_verify(self, conn: Any, *_: Any) -> None:
        """Leave verification to the TLS context: requests would add certifi's CAs to it."""
        conn.cert_reqs = "CERT_REQUIRED"

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return what `_body` reads of the answer. A policy host's cookies are not even parsed."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = requests.structures.CaseInsensitiveDict(resp.headers)
        response.raw = resp
        return response

    def _pool(self, *args: Any, **kwargs: Any) -> HTTPSConnectionPool:
        pool = HTTPSConnectionPool(*args, **kwargs)
        pool.ConnectionCls = self._connection  # type: ignore[assignment]
        return pool


class Fetcher:
    """Fetches policies, each within `timeout` seconds in all.

    `proxy`: the way out to the policy hosts, None for the direct one. May be used by any number of
    threads at once.
    """

    def __init__(
        self, timeout: float, discovery: Discovery, tcp_port: int, proxy: Proxy | None = None
    ) -> None:
        self._timeout = timeout
        self._discovery = discovery
        self._tcp_port = tcp_port
        self._proxy = proxy
        self._trust = TrustStore()

    def fetch(self, domain: str) -> Policy | Failure:
        """Fetch and read the policy of `domain` (A-labels)."""
        deadline = Deadline(self._timeout)
        try:
            return parse_policy(self._get(domain, deadline))
        except PolicyError as error:
            return Failure(Cause.SYNTAX, str(error))
        except _ERRORS as error:
            return _failure(error)

    def _get(self, domain: str, deadline: Deadline) -> bytes:
        """Return the body of the policy file. Raise `FetchError` or what the libraries raise."""
        connection = partial(
            PolicyHostConnection,
            discovery=self._discovery,
            deadline=deadline,
            tcp_port=self._tcp_port,
            way=self._proxy,
        )
        url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
        request = requests.Request("GET", url, headers=_HEADERS).prepare()
        adapter = PolicyHostAdapter(self._trust.context(), connection)
        try:
            response = adapter.send(request, stream=True, timeout=deadline.left(), proxies={})
            try:
                return _body(response)
            finally:
                response.close()
        finally:
            adapter.close()


def _body(response: requests.Response) -> bytes:
    """Return the body of a 200 answer in text/plain, complete and not over the limit.

    Raise `FetchError` for any other answer; the body of such a one is not read.
    """
    headers = response.headers
    if response.status_code != 200:
        raise FetchError(Cause.STATUS, f"{response.status_code}")
    media_type = headers.get("Content-Type", "")
    if media_type.partition(";")[0].strip(" \t").lower() != "text/plain":
        raise FetchError(Cause.MEDIA_TYPE, ascii(media_type[:80]) if media_type else "none")
    if "Content-Encoding" in headers:
        raise FetchError(Cause.HTTP, f"Content-Encoding {headers['Content-Encoding'][:80]!a}")
    chunked = headers.get("Transfer-Encoding")
    if chunked and chunked.lower() != "chunked":
        raise FetchError(Cause.HTTP, f"Transfer-Encoding {chunked[:80]!a}")

    body = b""
    while len(body) <= MAX_POLICY_SIZE:
        size = min(_PART, MAX_POLICY_SIZE + 1 - len(body))
        part = response.raw.read(size, decode_content=False)
        if not part:
            break
        body += part
    if len(body) > MAX_POLICY_SIZE:
        raise FetchError(Cause.SIZE, "")
    length = headers.get("Content-Length")
    if length is not None and not chunked and not _is_number(length, len(body)):
        raise FetchError(Cause.HTTP, f"{len(body)} bytes came, Content-Length {length[:80]!a}")
    return body


def _is_number(text: str, number: int) -> bool:
    return text.isascii() and text.isdigit() and int(text) == number


def _failure(error: BaseException) -> Failure:
    """Return the failure behind an exception of requests or urllib3, which wrap the first cause."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, FetchError):
            return Failure(link.cause, str(link))
    if any(isinstance(link, TimeoutError) for link in chain):
        return Failure(Cause.DEADLINE)
    first = chain[-1]
    return Failure(Cause.HTTP, f"{type(first).__name__}: {str(first)[:160]!a}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # urllib3 1.26 raises some errors "from None", inside the handling of one of its own.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
