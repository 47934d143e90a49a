"""Answers without end and answers that come too slowly: a limit of bytes or of time ends them.

A case is a reason, a reply (`hostile_https`), and the causes that a fetch may end in; without
causes the policy is accepted.
"""

from __future__ import annotations

import itertools

from stsresolver import Cause
from tests.support.hostile_http_answers import (
    CHUNKED,
    CONTINUE,
    HINTS,
    LENGTH,
    ONE_CHUNK,
    OTHER,
    UNFRAMED,
)
from tests.support.hostile_https import POLICY, Ending, chunk, dribble, head, raw
from tests.support.hostile_place import https, row

# Floods: they end at a limit of bytes, not at the time limit


def flood(start: bytes, more: bytes):
    """Return a reply that never ends."""
    return lambda _request: itertools.chain([start], itertools.repeat(more * (16384 // len(more))))


FLOODS = [
    row("endless body", flood(UNFRAMED, b"x"), Cause.SIZE),
    row("Content-Length of a terabyte", flood(head(f"Content-Length: {10**12}"), b"x"), Cause.SIZE),
    row("endless chunks", flood(CHUNKED, chunk(b"x" * 1000)), Cause.SIZE),
    row("endless chunks of one byte", flood(CHUNKED, chunk(b"x")), Cause.SIZE),
    row("a chunk of a terabyte", flood(CHUNKED + b"%x\r\n" % 10**12, b"x"), Cause.SIZE),
    row("chunk size -1 and no end", flood(CHUNKED + b"-1\r\n", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless chunk size", flood(CHUNKED, b"0"), Cause.SIZE, Cause.HTTP),
    row("endless chunk extension", flood(CHUNKED + b"5;", b"x"), Cause.SIZE, Cause.HTTP),
    row(
        "endless trailers",
        flood(CHUNKED + chunk(POLICY) + b"0\r\n", b"A: b\r\n"),
        Cause.SIZE,
        Cause.HTTP,
    ),
    row("endless status line", flood(b"HTTP/1.1 200 ", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless header", flood(b"HTTP/1.1 200 OK\r\nA: ", b"x"), Cause.SIZE, Cause.HTTP),
    row("endless headers", flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), Cause.SIZE, Cause.HTTP),
    row("1xx for ever", flood(b"", CONTINUE), Cause.SIZE, Cause.HTTP),
    row(
        "1xx with headers",
        flood(b"", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"),
        Cause.SIZE,
        Cause.HTTP,
    ),
    row("103 for ever", flood(b"", HINTS), Cause.SIZE, Cause.HTTP),
    row("endless garbage behind the body", flood(LENGTH + POLICY, b"x")),
    row("endless garbage behind the last chunk", flood(CHUNKED + ONE_CHUNK, b"x")),
    row("endless answers behind the body", flood(LENGTH + POLICY, b"".join(OTHER))),
    row("endless 302", flood(head("Location: /", status="302 Found"), b"x"), Cause.STATUS),
    row(
        "endless chunked 302",
        flood(head("Transfer-Encoding: chunked", status="302 Found"), chunk(b"x" * 999)),
        Cause.STATUS,
    ),
    row("endless 404", flood(head(status="404 Not Found"), b"x"), Cause.STATUS),
    row("endless 204", flood(head(status="204 No Content"), b"x"), Cause.STATUS),
    row("endless HTML", flood(head(kind="text/html"), b"x"), Cause.MEDIA_TYPE),
    row("endless gzip", flood(head("Content-Encoding: gzip"), b"x"), Cause.HTTP),
    row("endless HTTP/0.9", flood(b"", b"x"), Cause.SIZE, Cause.HTTP),
]


# Slowness: it ends at the time limit


def endless(*pieces):
    """Return a reply that repeats `pieces` for ever."""
    return lambda _request: itertools.cycle(pieces)


def begin(start: bytes, pieces):
    """Return a reply that sends `start` and then what `pieces` replies."""
    return lambda request: itertools.chain([start], pieces(request))


LATE = {
    "not a word after the request": https(raw(Ending.OPEN)),
    "status line byte by byte": https(lambda _: dribble(LENGTH, 0.2)),
    "headers byte by byte": https(begin(b"HTTP/1.1 200 OK\r\nA: ", endless(b"x", 0.2))),
    "a header line now and then": https(begin(b"HTTP/1.1 200 OK\r\n", endless(b"A: b\r\n", 0.2))),
    "1xx now and then": https(endless(CONTINUE, 0.2)),
    "a byte a second": https(lambda _: dribble(LENGTH + POLICY, 1.0)),
    "103 now and then": https(endless(HINTS, 0.2)),
    "no body": https(raw(LENGTH, Ending.OPEN)),
    "body stops before its end": https(raw(LENGTH, POLICY[:-1], Ending.OPEN)),
    "body byte by byte": https(lambda _: itertools.chain([LENGTH], dribble(POLICY, 0.2))),
    "unframed body byte by byte": https(begin(UNFRAMED, endless(b"\n", 0.2))),
    "unframed body without end": https(raw(UNFRAMED, POLICY, Ending.OPEN)),
    "chunk by chunk": https(begin(CHUNKED, endless(chunk(b"\n"), 0.2))),
    "chunk size byte by byte": https(begin(CHUNKED, endless(b"0", 0.2))),
    "chunk extension byte by byte": https(begin(CHUNKED + b"1;", endless(b"x", 0.2))),
    "chunk byte by byte": https(begin(CHUNKED + b"ff\r\n", endless(b"\n", 0.2))),
    "no last chunk": https(raw(CHUNKED, chunk(POLICY), Ending.OPEN)),
    "trailers byte by byte": https(
        begin(CHUNKED + chunk(POLICY) + b"0\r\nA: ", endless(b"x", 0.2))
    ),
    "just under the limit of each read": https(begin(LENGTH, endless(b"\n", 0.95))),
}
