"""Notes what a lookup tells its observer, and when."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..mta_sts.observer import Observer
from ..mta_sts.results import Failure, Found, Lookup, NoPolicy
from ..net.tls import BoundedTls
from .certificate import from_fields
from .findings import Certificate, Part, PolicyHost, Record

# In this order; what is not begun yet takes no time.
_ORDER = (Part.RECORD, Part.ADDRESSES, Part.CONNECTION, Part.TLS, Part.HTTP)


class Recorder(Observer):
    """Listens to the lookup of `domain`, which begins now. `times`: seconds of each part."""

    def __init__(self, domain: str) -> None:
        self.times: dict[Part, float] = {}
        self._domain = domain
        self._texts: tuple[str, ...] | None = None
        self._addresses: list[str] | None = None
        self._reached: str | None = None
        self._certificate: Certificate | None = None
        self._status: int | None = None
        self._media_type: str | None = None
        self._body: bytes | None = None
        self._part = Part.RECORD
        self._since = time.monotonic()

    def record(self, texts: Sequence[bytes]) -> None:
        """Note the TXT records."""
        self._texts = tuple(map(_text, texts))
        self._done(Part.RECORD)

    def addresses(self, addresses: Sequence[str]) -> None:
        """Note addresses of the policy host."""
        self._addresses = [*(self._addresses or ()), *addresses]
        self._done(Part.ADDRESSES)

    def connected(self, address: str) -> None:
        """Note which of them answered."""
        self._reached = address
        self._done(Part.CONNECTION)

    def verified(self, tls: BoundedTls) -> None:
        """Note the certificate."""
        self._certificate = from_fields(tls.certificate_fields())
        self._done(Part.TLS)

    def answered(self, status: int, media_type: str) -> None:
        """Note the header of the answer."""
        self._status = status
        self._media_type = media_type or None

    def served(self, body: bytes) -> None:
        """Note its body."""
        self._body = body

    def ended(self, result: Lookup, shown: Certificate | None) -> tuple[Record, PolicyHost | None]:
        """Return what was seen.

        `shown`: the certificate of a policy host whose certificate is not valid.
        """
        policy_id = None if isinstance(result, NoPolicy) else result.id or None
        record = Record(f"_mta-sts.{self._domain}", self._texts, policy_id)
        if not isinstance(result, Found | Failure) or not result.id:
            return record, None
        body = self._body
        host = PolicyHost(
            f"mta-sts.{self._domain}",
            None if self._addresses is None else tuple(self._addresses),
            self._reached,
            self._certificate or shown,
            self._status,
            self._media_type,
            None if body is None else len(body),
            None if body is None else _text(body),
        )
        return record, host

    def stop(self) -> None:
        """Count the time since the last note for the part that was under way."""
        self._done(self._part)

    def _done(self, part: Part) -> None:
        now = time.monotonic()
        self.times[part] = self.times.get(part, 0.0) + now - self._since
        self._since = now
        self._part = _ORDER[min(_ORDER.index(part) + 1, len(_ORDER) - 1)]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
