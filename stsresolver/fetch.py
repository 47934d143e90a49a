"""What HTTPS says: the policy of a domain, from its policy host (RFC 8461 §3.3).

One GET of https://mta-sts.<domain>/.well-known/mta-sts.txt under one deadline for everything:
addresses, connection, handshake, headers and body. Whatever goes wrong comes back as a `Failure`
with its cause; nothing is raised.

requests' transport adapter does the HTTP. It is used without a Session, so that no cookie, no
redirect, no .netrc and nothing of the environment (proxies, REQUESTS_CA_BUNDLE) comes in.

The connection under it is ours (`reach`, `tls`), so that all of it ends by the deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from .deadline import Deadline
from .discovery import Discovery
from .reach import FetchError, Reach
from .results import Cause, Failure
from .settings import Proxy
from .sts import MAX_POLICY_SIZE, Policy, PolicyError, parse_policy
from .tls import BoundedTls, TooMuch
from .trust import TrustStore
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


class FinalResponse(http.client.HTTPResponse):
    """Passes over every interim answer (RFC 9110 §15.2); http.client knows 100 and no other."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(_MAX_LINE) not in (b"\r\n", b"\n", b""):
                pass


class PolicyHostConnection(HTTPConnection):
    """urllib3's connection over TLS that `connect_tls` opens."""

    response_class = FinalResponse

    def __init__(self, *args: Any, connect_tls: Callable[[], BoundedTls], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connect_tls = connect_tls

    def connect(self) -> None:
        """Connect, and verify the certificate."""
        self.sock = self._connect_tls()


class PolicyHostAdapter(HTTPAdapter):
    """requests' adapter over one connection, which `connect_tls` opens."""

    def __init__(self, host: str, connect_tls: Callable[[], BoundedTls]) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._connection = HTTPConnectionPool(host, maxsize=1)
        # partial: urllib3 calls it as it would call a class.
        make: Any = partial(PolicyHostConnection, connect_tls=connect_tls)
        self._connection.ConnectionCls = make

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        """Return our connection: nothing that requests knows of TLS or proxies comes in."""
        return self._connection

    # Its name before requests 2.32.
    get_connection = get_connection_with_tls_context

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return what `_body` reads of the answer. A policy host's cookies are not even parsed."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = requests.structures.CaseInsensitiveDict(resp.headers)
        response.raw = resp
        return response


class Fetcher:
    """Fetches policies, each within `timeout` seconds in all.

    `proxy`: the way out to the policy hosts, None for the direct one. May be used by any number of
    threads at once.
    """

    def __init__(
        self, timeout: float, discovery: Discovery, tcp_port: int, proxy: Proxy | None = None
    ) -> None:
        self._timeout = timeout
        self._reach = Reach(discovery, tcp_port, proxy)
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
        host = f"mta-sts.{domain}"
        # As prepare() would make it, for a third of the time of the whole exchange.
        request = requests.PreparedRequest()
        request.method = "GET"
        request.url = f"https://{host}/.well-known/mta-sts.txt"
        request.headers = requests.structures.CaseInsensitiveDict(_HEADERS)
        with contextlib.ExitStack() as opened:
            adapter = PolicyHostAdapter(host, partial(self._connect, host, deadline, opened))
            opened.callback(adapter.close)
            response = adapter.send(request, stream=True, timeout=deadline.left(), proxies={})
            opened.callback(response.close)
            return _body(response)

    def _connect(self, host: str, deadline: Deadline, opened: contextlib.ExitStack) -> BoundedTls:
        """Connect to `host` and verify its certificate; `opened` closes the connection."""
        connection = opened.enter_context(self._reach.connect(host, deadline))
        try:
            return BoundedTls(connection, self._trust.context(), host, _MAX_READ)
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise FetchError(Cause.CERTIFICATE, error.verify_message) from error
        except OSError as error:
            raise FetchError(Cause.TLS, str(error)) from error


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
        if isinstance(link, TooMuch):
            return Failure(Cause.SIZE, str(link))
    if any(isinstance(link, TimeoutError) for link in chain):
        return Failure(Cause.DEADLINE)
    first = chain[-1]
    return Failure(Cause.HTTP, f"{type(first).__name__}: {str(first)[:160]!a}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # urllib3 1.26 raises some errors "from None", inside the handling of one of its own.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
