"""Ready replies: what a request was answered, to be said again without asking anybody.

From the bytes of a request on the wire to the bytes of its reply, each until a monotonic time.
Bounded in number and in bytes: there are two tables, and when the newer one is full it becomes the
older one and what was the older is dropped. What is asked for again moves to the newer table, so
that what is in use stays.

Not thread-safe: the serving thread alone reads and writes it, so it needs no lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# A longer request is not remembered (bytes of the netstring).
MAX_REQUEST = 512
# For each of the two tables: number of replies, and bytes of requests and replies.
MAX_REPLIES = 131_072
MAX_BYTES = 32 << 20


class Count:
    """How often replies of one kind were said: `first` after looking, `again` as ready ones.

    Only the serving thread counts, so it needs no lock.
    """

    __slots__ = ("again", "first")

    def __init__(self) -> None:
        self.first = 0
        self.again = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as it goes over the wire.

    `data`: the netstring. `until`: the monotonic time up to which it may be said again. `domain`:
    the policy domain that it speaks of, empty where there is none. `change`: see
    `policies.InForce`. `count`: where it counts.
    """

    data: bytes
    until: float
    domain: str = ""
    change: int = 0
    count: Count = field(default_factory=Count, compare=False, repr=False)


class _Table:
    """One of the two tables, with the requests that speak of each domain."""

    __slots__ = ("bytes", "replies", "requests")

    def __init__(self) -> None:
        self.replies: dict[bytes, Reply] = {}
        self.requests: dict[str, list[bytes]] = {}
        self.bytes = 0


class ReplyCache:
    """The two tables as one."""

    def __init__(self, max_replies: int = MAX_REPLIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_replies = max_replies
        self._max_bytes = max_bytes
        self._newer = _Table()
        self._older = _Table()

    @property
    def newer(self) -> dict[bytes, Reply]:
        """The newer table: most of what is asked for is there. Valid until the next change."""
        return self._newer.replies

    def get(self, request: bytes, now: float) -> bytes | None:
        """Return the reply to `request` that may be said at the monotonic time `now`."""
        ready = self._newer.replies.get(request)
        if ready is None:
            ready = self._older.replies.get(request)
            if ready is None:
                return None
            self._add(request, ready)
        if now >= ready.until:
            return None
        ready.count.again += 1
        return ready.data

    def put(self, request: bytes, reply: Reply) -> None:
        """Remember the reply to `request`."""
        if len(request) <= MAX_REQUEST:
            self._add(request, reply)

    def forget(self, domain: str) -> None:
        """Drop the replies that speak of `domain`."""
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

    def _add(self, request: bytes, ready: Reply) -> None:
        table = self._newer
        if len(table.replies) >= self._max_replies or table.bytes >= self._max_bytes:
            self._older = table
            self._newer = table = _Table()
        known = table.replies.get(request)
        if known is not None:
            table.bytes -= len(request) + len(known.data)
        elif ready.domain:
            table.requests.setdefault(ready.domain, []).append(request)
        table.replies[request] = ready
        table.bytes += len(request) + len(ready.data)
