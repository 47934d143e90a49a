"""What can be asked for: `/status`, its further pages, and the same as JSON.

`/status.json`, `/status/domains` and `/status/domains.json` (`q`: what a domain contains, `after`:
the domain that the page before ended with), `/status/domain` and `/status/domain.json` (`name`).

The name in the header Host has to be one of this host's own, or one that the configuration lists.
Otherwise a page in an administrator's browser could have its name lead here, and read what is
answered (DNS rebinding). An address is no name, so nobody can turn it.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from urllib.parse import parse_qs

from ..monitoring.http_server import Make, Page, Request
from ..net.domain_names import a_labels
from . import as_json, html
from .overview import Reader
from .state import Listing

_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": html.POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Characters that are searched for: no domain is longer.
_LONGEST = 253


def may_ask(host: str | None, listed: Collection[str]) -> bool:
    """Say whether this header Host may be answered. `listed`: further names, in lower case.

    A request without one does not come from a browser.
    """
    if host is None:
        return True
    name = re.sub(r":[0-9]*$", "", host.strip()).removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost") or name in listed:
        return True
    if "%" in name:
        # Python takes what follows, whatever it is, for the zone of an IPv6 address.
        return False
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class StatusPages:
    """The pages of `reader`, for those whose header Host is allowed (`may_ask`)."""

    def __init__(self, reader: Reader, listed: Collection[str]) -> None:
        self._reader = reader
        self._listed = frozenset(name.lower() for name in listed)

    def pages(self) -> dict[str, Make]:
        """Return what is asked for, by its path."""
        made: dict[str, Callable[[Mapping[str, str]], Page]] = {
            "/status": self._overview,
            "/status.json": lambda _: _json(as_json.overview(self._reader.overview())),
            "/status/domains": self._domains,
            "/status/domains.json": lambda asked: _json(as_json.listing(self._listing(asked))),
            "/status/domain": lambda asked: self._domain(asked, as_page=True),
            "/status/domain.json": lambda asked: self._domain(asked, as_page=False),
        }
        return {path: self._checked(path, make) for path, make in made.items()}

    def _checked(self, path: str, make: Callable[[Mapping[str, str]], Page]) -> Make:
        as_page = not path.endswith(".json")

        def page(request: Request) -> Page:
            if not may_ask(request.host, self._listed):
                text = "The name in the address is not in status.hosts of the configuration."
                return _refused("Not here", text, HTTPStatus.MISDIRECTED_REQUEST, as_page=as_page)
            return make(_arguments(request.query))

        return page

    def _overview(self, _: Mapping[str, str]) -> Page:
        found = self._reader.overview()
        return _page(html.overview(found, self._reader.listing("", "")))

    def _domains(self, asked: Mapping[str, str]) -> Page:
        return _page(html.listing(self._listing(asked), time.time()))

    def _listing(self, asked: Mapping[str, str]) -> Listing:
        return self._reader.listing(
            _in_a_labels(asked.get("q", "")[:_LONGEST]), asked.get("after", "")
        )

    def _domain(self, asked: Mapping[str, str], *, as_page: bool) -> Page:
        try:
            domain = a_labels(asked.get("name", ""))
        except ValueError:
            text = "There is no such domain name."
            return _refused("No domain name", text, HTTPStatus.NOT_FOUND, as_page=as_page)
        found = self._reader.detail(domain)
        return _page(html.detail(found)) if as_page else _json(as_json.detail(found))


def _arguments(query: str) -> dict[str, str]:
    """Return the arguments of a query, each the first of its name; none of one that is wrong."""
    try:
        found = parse_qs(query, max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0].strip() for name, values in found.items()}


def _in_a_labels(text: str) -> str:
    """Return a part of a domain as policies' domains are written, where it can be."""
    try:
        return a_labels(text)
    except ValueError:
        return text.lower()


def _page(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Page:
    return Page(body, status, _HTML, _HEADERS)


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Page:
    return Page(body, status, _JSON, _HEADERS)


def _refused(title: str, text: str, status: HTTPStatus, *, as_page: bool) -> Page:
    if as_page:
        return _page(html.problem(title, text), status)
    return _json(as_json.problem(text), status)
