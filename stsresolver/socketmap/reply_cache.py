"""Reply cache: repeats a reply until it expires.

It maps the bytes of a request on the wire to the bytes of its reply, each until a monotonic time.
It is bounded in number and in bytes, by two tables. When the newer table is full, the older one is
dropped, the newer one becomes the older one, and an empty one follows. A reply from the older table
is copied to the newer one. So replies that are asked for stay, and others go.

Not thread-safe: the serving thread alone reads and writes it, so it needs no lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A longer request is not remembered (bytes of the netstring).
MAX_REQUEST = 512
# For each of the two tables: number of replies, and bytes of requests and replies.
MAX_REPLIES = 131_072
MAX_BYTES = 32 << 20


class ReplyCount:
    """How often replies of one kind were sent.

    `first`: after a look at the policy.
    `again`: from the cache.

    Only the serving thread counts, so it needs no lock.
    """

    __slots__ = ("again", "first")

    def __init__(self) -> None:
        self.first = 0
        self.again = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as it goes over the wire.

    `data`: the netstring.
    `until`: the monotonic time up to which it may be repeated.
    `domain`: the policy domain that it is about, empty where there is none.
    `change`: see `policies.in_force.InForce`.
    `count`: where it is counted.
    """

    data: bytes
    until: float
    domain: str = ""
    change: int = 0
    count: ReplyCount = field(default_factory=ReplyCount, compare=False, repr=False)


class _Table:
    """One of the two tables, with the requests that are about each domain."""

    __slots__ = ("bytes", "replies", "requests")

    def __init__(self) -> None:
        self.replies: dict[bytes, Reply] = {}
        self.requests: dict[str, list[bytes]] = {}
        self.bytes = 0


class ReplyCache:
    """Replies by request, in two tables of bounded size."""

    def __init__(self, max_replies: int = MAX_REPLIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_replies = max_replies
        self._max_bytes = max_bytes
        self._newer = _Table()
        self._older = _Table()

    def find(self, request: bytes, now: float) -> Reply | None:
        """Return the reply to `request` if it may be repeated at the monotonic time `now`."""
        reply = self._newer.replies.get(request)
        if reply is None:
            reply = self._older.replies.get(request)
            if reply is None:
                return None
            self._add(request, reply)
        return reply if now < reply.until else None

    def put(self, request: bytes, reply: Reply) -> None:
        """Remember the reply to `request`."""
        if len(request) <= MAX_REQUEST:
            self._add(request, reply)

    def forget(self, domain: str) -> None:
        """Drop the replies that are about `domain`."""
        for table in (self._newer, self._older):
            for request in table.requests.pop(domain, ()):
                known = table.replies.pop(request, None)
                if known is not None:
                    table.bytes -= len(request) + len(known.data)

    def clear(self) -> None:
        """Drop everything."""
        self._newer = _Table()
        self._older = _Table()

    def __len__(self) -> int:
        return len(self._newer.replies.keys() | self._older.replies.keys())

    def _add(self, request: bytes, reply: Reply) -> None:
        table = self._newer
        if len(table.replies) >= self._max_replies or table.bytes >= self._max_bytes:
            self._older = table
            self._newer = table = _Table()
        known = table.replies.get(request)
        if known is not None:
            table.bytes -= len(request) + len(known.data)
        elif reply.domain:
            table.requests.setdefault(reply.domain, []).append(request)
        table.replies[request] = reply
        table.bytes += len(request) + len(reply.data)
