"""What policy hosts answer, right and wrong: framing, status, codings, text that is none.

A case is a reason, a reply (`hostile_https`), and the causes that a fetch may end in; without
causes the policy is accepted, with None among them it may be.
"""

from __future__ import annotations

import gzip

from stsresolver import Cause
from tests.support.hostile_https import POLICY, Ending, chunk, dribble, head, page, raw
from tests.support.hostile_place import row


def chunks(data: bytes, size: int) -> bytes:
    """Return `data` in chunks of `size` bytes, without the last, empty one."""
    return b"".join(chunk(data[at : at + size]) for at in range(0, len(data), size))


CHUNKED = head("Transfer-Encoding: chunked")
UNFRAMED = head()
LENGTH = head(f"Content-Length: {len(POLICY)}")
ONE_CHUNK = chunk(POLICY) + chunk(b"")
SIZE = b"%x\r\n" % len(POLICY)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
EVIL = POLICY.replace(b"mail.example.com", b"evil.example")
# A second answer, as to a request that was never made.
OTHER = (head(f"Content-Length: {len(EVIL)}"), EVIL)
BOMB = gzip.compress(POLICY + b"\n" * 50_000_000)


BODIES = [
    row("Content-Length", page()),
    row("chunks", raw(CHUNKED, ONE_CHUNK)),
    row(
        "chunk size in capitals behind zeros",
        raw(CHUNKED, b"000" + ONE_CHUNK.replace(SIZE, SIZE.upper(), 1)),
    ),
    row(
        "chunks and a length that lies (RFC 9112 §6.3)",
        raw(head("Transfer-Encoding: chunked", "Content-Length: 9"), ONE_CHUNK),
    ),
    row("another answer behind the last chunk", raw(CHUNKED, ONE_CHUNK, *OTHER)),
    row("another answer behind the body", raw(LENGTH, POLICY, *OTHER)),
    row("garbage behind the last chunk", raw(CHUNKED, ONE_CHUNK, b"\0\xff" * 9000)),
    row("a folded header (RFC 9112 §5.2)", page(kind="text/plain;\r\n charset=utf-8")),
    row("lines that end with LF", raw(LENGTH.replace(b"\r", b""), POLICY)),
    row("many small chunks", raw(CHUNKED, chunks(POLICY, 1), chunk(b""))),
    row("chunk extensions", raw(CHUNKED, ONE_CHUNK.replace(b"\r", b';a="b"\r', 1))),
    row("trailers", raw(CHUNKED, chunk(POLICY), b"0\r\nETag: x\r\n\r\n")),
    row("chunks in capitals", raw(head("Transfer-Encoding: Chunked"), chunk(POLICY), chunk(b""))),
    row("without framing, ended by close_notify", raw(UNFRAMED, POLICY)),
    row("HTTP/1.0", page(version="HTTP/1.0")),
    row("HTTP/1.0 without framing", raw(head(version="HTTP/1.0"), POLICY)),
    row("no reason phrase", page(status="200")),
    row("more than Content-Length", raw(LENGTH, POLICY, b"mx: evil.example\n" * 9)),
    row("FIN without close_notify after a whole body", raw(LENGTH, POLICY, Ending.CUT)),
    row("the same after the last chunk", raw(CHUNKED, ONE_CHUNK, Ending.CUT)),
    row("never closed", raw(LENGTH, POLICY, Ending.OPEN)),
    row("never closed after chunks", raw(CHUNKED, ONE_CHUNK, Ending.OPEN)),
    row("100 Continue first", raw(CONTINUE, LENGTH, POLICY)),
    row("103 Early Hints first", raw(*[HINTS] * 3, LENGTH, POLICY)),
    row(
        "100, 102 and 103 first",
        raw(CONTINUE, b"HTTP/1.1 102 Processing\r\n\r\n", HINTS, LENGTH, POLICY),
    ),
    row("103 alone", raw(HINTS), Cause.HTTP),
    row(
        "103, then 404", raw(HINTS, head("Content-Length: 0", status="404 Not Found")), Cause.STATUS
    ),
    row(
        "101 Switching Protocols", raw(head(status="101 Switching Protocols"), POLICY), Cause.STATUS
    ),
    row("slow, and in time", lambda _: (LENGTH, *dribble(POLICY, 0.005))),
    row("shorter than Content-Length", raw(LENGTH, POLICY[:-1]), Cause.HTTP),
    row("shorter, and FIN", raw(LENGTH, POLICY[:-1], Ending.CUT), Cause.HTTP),
    row("shorter, and RST", raw(LENGTH, POLICY[:-1], Ending.RESET), Cause.HTTP),
    row("nothing of Content-Length", raw(LENGTH), Cause.HTTP),
    row("Content-Length no number", raw(head("Content-Length: abc"), POLICY), Cause.HTTP),
    row("Content-Length negative", raw(head("Content-Length: -1"), POLICY), Cause.HTTP),
    row(
        "Content-Length of 5,000 digits",
        raw(head("Content-Length: " + "9" * 5000), POLICY),
        Cause.HTTP,
    ),
    row(
        "Content-Length with a sign",
        raw(head(f"Content-Length: +{len(POLICY)}"), POLICY),
        Cause.HTTP,
    ),
    row(
        "the same length twice in a field",
        raw(head(f"Content-Length: {len(POLICY)}, {len(POLICY)}"), POLICY),
        Cause.HTTP,
    ),
    row("a length with a space behind it", raw(head(f"Content-Length: {len(POLICY)} "), POLICY)),
    row("two lengths", page(extra=["Content-Length: 9"]), Cause.HTTP),
    row("cut inside a chunk", raw(CHUNKED, ONE_CHUNK[:-9]), Cause.HTTP),
    row("cut before the last chunk", raw(CHUNKED, chunk(POLICY)), Cause.HTTP),
    row("cut before the last chunk with FIN", raw(CHUNKED, chunk(POLICY), Ending.CUT), Cause.HTTP),
    row("cut in a chunk size", raw(CHUNKED, chunk(POLICY), b"1"), Cause.HTTP),
    row("no framing and FIN: perhaps cut", raw(UNFRAMED, POLICY, Ending.CUT), Cause.HTTP),
    row("no framing and RST: perhaps cut", raw(UNFRAMED, POLICY, Ending.RESET), Cause.HTTP),
    row("chunk size missing", raw(CHUNKED, b"\r\n", POLICY), Cause.HTTP),
    row("chunk size no number", raw(CHUNKED, b"zz\r\n", POLICY), Cause.HTTP),
    row("chunk size -1", raw(CHUNKED, b"-1\r\n", POLICY, chunk(b"")), Cause.HTTP),
    row("chunk size -5", raw(CHUNKED, b"-5\r\n", POLICY, chunk(b"")), Cause.HTTP),
    row(
        "chunk size of 80 bits",
        raw(CHUNKED, b"f" * 20 + b"\r\n", POLICY),
        Cause.HTTP,
        Cause.SIZE,
    ),
    row("chunk size of -80 bits", raw(CHUNKED, b"-" + b"f" * 20 + b"\r\n", POLICY), Cause.HTTP),
    row(
        "chunk longer than its size",
        raw(CHUNKED, b"1\r\n" + POLICY, b"\r\n", chunk(b"")),
        Cause.HTTP,
    ),
    # http.client reads these three as int() does: sloppy, and of no use to anybody.
    row("chunk size with 0x", raw(CHUNKED, b"0x" + ONE_CHUNK), None, Cause.HTTP),
    row("chunk size with +", raw(CHUNKED, b"+" + ONE_CHUNK), None, Cause.HTTP),
    row("chunk size with _", raw(CHUNKED, b"0_" + ONE_CHUNK), None, Cause.HTTP),
    row(
        "chunk without its line end",
        raw(CHUNKED, ONE_CHUNK.replace(b"\n\r\n0", b"\n0")),
        Cause.HTTP,
    ),
    row("chunked twice", raw(head("Transfer-Encoding: chunked, chunked"), ONE_CHUNK), Cause.HTTP),
    row("gzip", page(gzip.compress(POLICY), extra=["Content-Encoding: gzip"]), Cause.HTTP),
    row("gzip that is none", page(extra=["Content-Encoding: gzip"]), Cause.HTTP),
    row("br", page(extra=["Content-Encoding: br"]), Cause.HTTP),
    row("deflate and gzip", page(extra=["Content-Encoding: deflate, gzip"]), Cause.HTTP),
    row(
        "gzip as transfer coding",
        raw(head("Transfer-Encoding: gzip, chunked"), chunk(gzip.compress(POLICY)), chunk(b"")),
        Cause.HTTP,
    ),
    row(
        "a bomb: 48 kB that become 50 MB",
        page(BOMB, extra=["Content-Encoding: gzip"]),
        Cause.HTTP,
    ),
    row(
        "the same bomb as transfer coding",
        raw(head("Transfer-Encoding: gzip, chunked"), chunk(BOMB), chunk(b"")),
        Cause.HTTP,
    ),
    row("the same bomb as x-gzip", page(BOMB, extra=["Content-Encoding: x-gzip"]), Cause.HTTP),
    row(
        "the same bomb in a redirect",
        page(BOMB, status="302 Found", extra=["Location: /", "Content-Encoding: gzip"]),
        Cause.STATUS,
    ),
    row("empty body", page(b""), Cause.SYNTAX),
    row("an HTML page as text/plain", page(b"<html>Not here</html>\n"), Cause.SYNTAX),
    row("UTF-16", page(POLICY.decode().encode("utf-16")), Cause.SYNTAX),
    row("BOM", page(b"\xef\xbb\xbf" + POLICY), Cause.SYNTAX),
    row("HTTP/0.9", raw(b"<html>" + POLICY), Cause.HTTP),
    row("an empty line before the answer", raw(b"\r\n", LENGTH, POLICY), Cause.HTTP),
    row("same field 97 times", page(extra=["A: " + "b" * 1000] * 97)),
    row("a bare CR in a header", page(extra=["A: b\rC: d"]), Cause.HTTP),
    row("a bare CR before a line's end", page(extra=["A: b\r"]), Cause.HTTP),
    row("20,000 fields in a line", page(extra=["A: " + "\rb:" * 20_000]), Cause.HTTP),
    row("mail in mail", page(extra=["Content-Type:message/rfc822\r\r" * 1100]), Cause.HTTP),
    row(
        "parts in parts of mail",
        page(
            extra=[
                "".join(f"Content-Type:multipart/x;boundary={n}\r\r--{n}\r" for n in range(900)),
                *["--\r" * 20_000] * 5,
            ]
        ),
        Cause.HTTP,
    ),
    row(
        "parts of mail without a bare CR",
        page(extra=[f"Content-Type: multipart/x; boundary={'b' * 60_000}", "--" + "b" * 60_000]),
        Cause.HTTP,
    ),
    row("the beginning of mail", page(extra=["From a b:", "A: b"]), Cause.HTTP),
    row("a field without a name", page(extra=[": b"]), Cause.HTTP),
    row("200 header fields", page(extra=[f"A{n}: b" for n in range(200)]), Cause.HTTP),
    row("40 header fields of 2 kB", page(extra=[f"A{n}: {'b' * 2000}" for n in range(40)])),
    row("a header field of 60 kB", page(extra=["A: " + "b" * 60_000])),
    row(
        "3 header fields of 60 kB: too much to be read",
        page(extra=[f"A{n}: {'b' * 60_000}" for n in range(3)]),
        Cause.SIZE,
    ),
    row("a header field of 70 kB", page(extra=["A: " + "b" * 70_000]), Cause.HTTP),
    row("a header of 90,000 folded lines", page(extra=["A: b" + "\r\n b" * 90_000]), Cause.HTTP),
    row("NUL in a header", page(extra=["A: b\0c"])),
    row("HTTP/0.9, and no page", raw(POLICY), Cause.HTTP),
    row("garbage", raw(b"\x00\xff\x16\x03" * 64), Cause.HTTP),
    row("an HTTP/2 frame", raw(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), Cause.HTTP),
    row("HTTP/2 in the status line", page(version="HTTP/2"), Cause.HTTP),
    row("a status of four digits", page(status="2000 OK"), Cause.HTTP),
    row("a status that is no number", page(status="OK"), Cause.HTTP),
    row("closed without a word", raw(), Cause.HTTP),
    row("closed with FIN", raw(Ending.CUT), Cause.HTTP),
    row("closed with RST", raw(Ending.RESET), Cause.HTTP),
    row("cut in the status line", raw(b"HTTP/1.1 2"), Cause.HTTP),
    row(
        "a header line without colon",
        raw(b"HTTP/1.1 200 OK\r\nno field\r\nContent-Type: text/plain\r\n\r\n", POLICY),
        Cause.HTTP,
    ),
]


CONTROLS = "\x1b[31m\x07\x9b"
HOSTILE_TEXTS = [
    row("status", raw(f"HTTP/1.1 {CONTROLS}\r\n\r\n".encode()), Cause.HTTP),
    row("version", raw(f"{CONTROLS} 200 OK\r\n\r\n".encode()), Cause.HTTP),
    row("reason", page(status=f"404 {CONTROLS}"), Cause.STATUS),
    row("media type", page(kind=f"text/plain{CONTROLS}"), Cause.MEDIA_TYPE),
    row("long media type", page(kind="x" * 60000), Cause.MEDIA_TYPE),
    row("coding", page(extra=[f"Content-Encoding: {CONTROLS}"]), Cause.HTTP),
    row("length", raw(head(f"Content-Length: 1{CONTROLS}"), POLICY), Cause.HTTP),
    row("framing", raw(head(f"Transfer-Encoding: {CONTROLS}"), POLICY), Cause.HTTP),
    row("chunk size", raw(CHUNKED, CONTROLS.encode() + b"\r\n" + POLICY), Cause.HTTP),
    row("policy", page(POLICY + CONTROLS.encode()), Cause.SYNTAX),
    row("key", page(POLICY + b"a\x1b[31m: b"), Cause.SYNTAX),
    row("direction of writing", page(POLICY + "a \u202e b".encode()), Cause.SYNTAX),
]
