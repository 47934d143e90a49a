"""Fetches the policy of a domain from its policy host (RFC 8461 §3.3).

One GET of https://mta-sts.<domain>/.well-known/mta-sts.txt under one deadline for everything:
addresses, connection, handshake, header and body. Whatever goes wrong comes back as a `Failure`
with its cause; nothing is raised.

There are no cookies, no redirects, no .netrc and no variables of the environment (proxies,
REQUESTS_CA_BUNDLE): no requests.Session is involved.
"""

from __future__ import annotations

import ssl

import requests
from requests.structures import CaseInsensitiveDict

from ..net.ca_store import CaStore, looked_at
from ..net.deadline import Deadline, is_out_of_room
from ..net.proxy import Proxy
from ..net.steps import Steps
from ..net.tls import BoundedTls, RefusedCertificates, TooMuch
from ..version import __version__
from .connector import Connector, FetchError
from .discovery import Discovery
from .http_adapter import ERRORS, HttpExchange
from .observer import UNOBSERVED, Observer
from .policy import MAX_POLICY_SIZE, Policy, PolicyError, parse_policy
from .results import Cause, Failure

_HEADERS = {
    "User-Agent": f"stsresolver/{__version__} (MTA-STS, RFC 8461)",
    "Accept": "text/plain",
    "Accept-Encoding": "identity",
    "Connection": "close",
}
# Bytes read for one policy, with TLS, header and chunk sizes: chunks of 16 bytes still fit. A large
# header and small chunks cost many times what a body does.
_MAX_READ = 2 * MAX_POLICY_SIZE


class Fetcher:
    """Fetches policies, each within `timeout` seconds in all.

    `proxy`: the way out to the policy hosts, None for the direct one. May be used by any number of
    threads at once.
    """

    def __init__(
        self,
        timeout: float,
        discovery: Discovery,
        tcp_port: int,
        proxy: Proxy | None = None,
    ) -> None:
        self._timeout = timeout
        self._connector = Connector(discovery, tcp_port, proxy)
        self._trust = CaStore()

    def fetch(self, domain: str, observer: Observer = UNOBSERVED) -> Steps[Policy | Failure]:
        """Fetch and read the policy of `domain` (A-labels)."""
        deadline = Deadline(self._timeout)
        try:
            return parse_policy((yield from self._get(domain, deadline, observer)))
        except PolicyError as error:
            return Failure(Cause.SYNTAX, str(error))
        except ERRORS as error:
            return _failure(error)

    def _get(self, domain: str, deadline: Deadline, observer: Observer) -> Steps[bytes]:
        """Return the body of the policy file. Raise `FetchError` or what http.client raises."""
        host = f"mta-sts.{domain}"
        context = self._trust.context()
        if self._trust.empty:
            # No policy host could show a valid certificate.
            raise FetchError(Cause.CA_STORE, f"none in {looked_at()}")
        with (yield from self._connector.connect(host, deadline, observer)) as connection:
            tls = BoundedTls(connection, context, host, _MAX_READ)
            yield from _verified(tls)
            observer.verified(tls)
            return (yield from get_policy(tls, host, observer))


def get_policy(connection: BoundedTls, host: str, observer: Observer = UNOBSERVED) -> Steps[bytes]:
    """Return the policy file of `host` over a connection to it. Raises as `Fetcher._get` does."""
    request = requests.PreparedRequest()
    # As prepare() would make it, for a third of the time of the whole exchange.
    request.method = "GET"
    request.url = f"https://{host}/.well-known/mta-sts.txt"
    request.headers = CaseInsensitiveDict({"Host": host, **_HEADERS})
    exchange = HttpExchange(connection, MAX_POLICY_SIZE)
    response = yield from exchange.send(request)
    observer.answered(response.status_code, response.headers.get("Content-Type", ""))
    _check(response)
    body = yield from exchange.body()
    observer.served(body)
    _check_size(response, body)
    return body


def _verified(tls: BoundedTls) -> Steps[None]:
    """Shake hands. Raise `FetchError` where the certificate is not valid or TLS fails."""
    try:
        yield from tls.handshake()
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise FetchError(Cause.CERTIFICATE, error.verify_message) from error
    except RefusedCertificates as error:
        raise FetchError(Cause.CERTIFICATE, str(error)) from error
    except OSError as error:
        if is_out_of_room(error):
            raise
        raise FetchError(Cause.TLS, str(error)) from error


def _check(response: requests.Response) -> None:
    """Raise `FetchError` unless it is a 200 answer in text/plain; its body is not read yet."""
    headers = response.headers
    if response.status_code != 200:
        raise FetchError(Cause.STATUS, f"{response.status_code}")
    if len(response.raw.headers.get_all("Content-Type", [])) > 1:
        raise FetchError(Cause.MEDIA_TYPE, "several")
    media_type = headers.get("Content-Type", "")
    if media_type.partition(";")[0].strip(" \t").lower() != "text/plain":
        raise FetchError(Cause.MEDIA_TYPE, ascii(media_type[:80]) if media_type else "none")
    if "Content-Encoding" in headers:
        raise FetchError(Cause.HTTP, f"Content-Encoding {headers['Content-Encoding'][:80]!a}")
    chunked = headers.get("Transfer-Encoding")
    if chunked and chunked.lower() != "chunked":
        raise FetchError(Cause.HTTP, f"Transfer-Encoding {chunked[:80]!a}")


def _check_size(response: requests.Response, body: bytes) -> None:
    """Raise `FetchError` unless the body is complete and not over the limit."""
    if len(body) > MAX_POLICY_SIZE:
        raise FetchError(Cause.SIZE, "")
    length = response.headers.get("Content-Length")
    chunked = response.headers.get("Transfer-Encoding")
    if length is not None and not chunked and not _is_number(length.strip(" \t"), len(body)):
        raise FetchError(Cause.HTTP, f"{len(body)} bytes came, Content-Length {length[:80]!a}")


def _is_number(text: str, number: int) -> bool:
    return text.isascii() and text.isdigit() and int(text) == number


def _failure(error: Exception) -> Failure:
    """Return the failure that an exception means."""
    match error:
        case FetchError():
            return Failure(error.cause, str(error))
        case TooMuch():
            return Failure(Cause.SIZE, str(error))
        case TimeoutError():
            return Failure(Cause.DEADLINE)
        case OSError() if is_out_of_room(error):
            return Failure(Cause.NO_ROOM, str(error))
    return Failure(Cause.HTTP, f"{type(error).__name__}: {str(error)[:160]!a}")
