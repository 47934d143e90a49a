"""HTTP with a policy host: one request and its answer, over a connection that is open already.

requests has the form of request and response. http.client does the HTTP (RFC 9112), on bytes in
memory: it would wait for a socket by itself. So this module finds out where the header ends and
when the body is complete, and http.client reads both.

http.client hands the header to Python's parser of mail, which takes a line that is no field for the
beginning of a body, a bare CR for the end of a line, and computes as long as the sender wants. So
each line is checked before.

Raises what http.client and the connection raise: `http.client.HTTPException`, `OSError`, and for
some sizes of chunks `ValueError` and `OverflowError`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re

import requests
from requests.structures import CaseInsensitiveDict

from ..net.steps import Steps
from ..net.tls import BoundedTls

# What an answer may raise, whatever it is.
ERRORS = (http.client.HTTPException, OSError, ValueError, OverflowError)

# RFC 9110 §15.2: interim answers come before the final one; 101 is none of them.
_INTERIM = re.compile(rb"HTTP/1\.[0-9] +1(?!01)[0-9]{2}[ \r\n]")
_STATUS_LINE = b"HTTP/"
# A line of a header: a field, or the continuation of one (RFC 9112 §5, §2.2 for the CR).
_HEADER_LINE = re.compile(rb"(?:[!-9;-~]+:|[ \t])[^\r\n]*\r?\n")
_EMPTY_LINE = (b"\r\n", b"\n")
# A field on several lines (RFC 9112 §5.2).
_FOLD = re.compile(r"\r?\n[ \t]+")
# The limits of http.client: it refuses a longer line, and more fields.
_MAX_LINE = 65536
_MAX_FIELDS = 100
# Bytes that are received at once, and bytes of a body that http.client reads at once.
_PART = 16_384
_READ = 8192


class _Bytes(io.BytesIO):
    """What http.client reads an answer from, in place of a socket."""

    def makefile(self, *_: object) -> _Bytes:
        """Return the file to read from."""
        return self


class _FinalAnswer(http.client.HTTPResponse):
    """Passes over every interim answer; http.client knows 100 and no other."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(_MAX_LINE) not in (*_EMPTY_LINE, b""):
                pass


class HttpExchange:
    """One request over TLS, and its answer.

    `most`: bytes of a body that are read; where a body has more, one more tells so.
    """

    def __init__(self, connection: BoundedTls, most: int) -> None:
        self._connection = connection
        self._most = most
        self._received = bytearray()
        self._ended = False
        self._file = _Bytes()
        self._answer = _FinalAnswer(self._file)  # type: ignore[arg-type]

    def send(self, request: requests.PreparedRequest) -> Steps[requests.Response]:
        """Send a request; return the answer, whose body is still to be read."""
        # A server that closes after its answer has answered as well.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            yield from self._connection.sendall(_request(request))
        header = _Header()
        while (end := header.end(self._received, self._ended)) is None:
            yield from self._receive()
        self._file.write(self._received[:end])
        self._file.seek(0)
        del self._received[:end]
        self._answer.begin()
        response = requests.Response()
        response.status_code = self._answer.status
        # Once for a name: what stands in several fields is one list, as getheader has it.
        response.headers = CaseInsensitiveDict(
            (name, _FOLD.sub(" ", self._answer.getheader(name, "")))
            for name in {name.lower() for name in self._answer.headers}
        )
        response.raw = self._answer
        return response

    def body(self) -> Steps[bytes]:
        """Return the body of the answer, as much of it as came before the connection ended."""
        body = _Body(self._answer, self._most)
        while not (self._ended or body.is_complete(self._received)):
            yield from self._receive()
        position = self._file.tell()
        self._file.write(self._received)
        self._file.seek(position)
        # In parts, because http.client keeps an object for each chunk until it returns.
        read = b""
        while len(read) <= self._most:
            part = self._answer.read(min(_READ, self._most + 1 - len(read)))
            if not part:
                break
            read += part
        return read

    def _receive(self) -> Steps[None]:
        data = yield from self._connection.recv(_PART)
        self._received += data
        self._ended = not data


class _Header:
    """Finds the end of a header in what has come so far."""

    def __init__(self) -> None:
        self._at = 0
        self._fields = -1
        self._interim = False

    def end(self, received: bytearray, ended: bool) -> int | None:
        """Return where the header ends, None while it does not.

        It also ends where http.client refuses what is there. `ended`: whether no more will come.
        Raise `http.client.HTTPException` for a line that is no field.
        """
        while True:
            newline = received.find(b"\n", self._at)
            if newline < 0:
                too_long = len(received) - self._at > _MAX_LINE
                return len(received) if ended or too_long else None
            line = bytes(received[self._at : newline + 1])
            self._at = newline + 1
            if self._is_over(line):
                return self._at

    def _is_over(self, line: bytes) -> bool:
        if self._fields < 0:
            self._interim = _INTERIM.match(line) is not None
            self._fields = 0
            return not line.startswith(_STATUS_LINE)
        if line in _EMPTY_LINE:
            self._fields = -1
            return not self._interim
        if not self._interim and not _HEADER_LINE.fullmatch(line):
            raise http.client.HTTPException(f"no header field: {line[:80]!r}")
        self._fields += 1
        return self._fields > _MAX_FIELDS


class _Body:
    """Finds out whether a body is complete, or longer than `most` bytes."""

    def __init__(self, answer: http.client.HTTPResponse, most: int) -> None:
        self._chunked = bool(answer.chunked)
        # Without a length it ends with the connection.
        self._needed = most + 1 if answer.length is None else min(answer.length, most + 1)
        self._most = most
        self._at = 0
        self._skip = 0
        self._data = 0
        self._last = False

    def is_complete(self, received: bytearray) -> bool:
        """Say whether http.client can read `received` to its end, or to the limit."""
        if not self._chunked:
            return len(received) >= self._needed
        while True:
            # RFC 9112 §7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
            here = min(self._skip, len(received) - self._at)
            self._at += here
            self._skip -= here
            if self._data - self._skip > self._most + 2:
                return True
            if self._skip:
                return False
            newline = received.find(b"\n", self._at)
            if newline < 0:
                return len(received) - self._at > _MAX_LINE
            line = bytes(received[self._at : newline])
            self._at = newline + 1
            if self._last:
                if line in (b"\r", b""):
                    return True
                continue
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                return True
            if size < 0:
                return True
            self._last = size == 0
            self._data += size
            self._skip = size + 2 if size else 0


def _request(request: requests.PreparedRequest) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{request.method} {request.path_url} HTTP/1.1\r\n{fields}\r\n".encode("ascii")
