"""HTTP with a policy host: one request and its answer, over a connection that somebody else opens.

requests asks through a transport adapter of ours, in which http.client does the HTTP (RFC 9112).
http.client hands the header to Python's parser of mail, which takes a line that is no field for the
beginning of a body, a bare CR for the end of a line, and computes as long as the sender wants; so
each line is looked at before.

Raises what http.client and the connection raise: `http.client.HTTPException`, `OSError`, and for
some sizes of chunks `ValueError` and `OverflowError`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

# What an answer may raise, whatever it is.
ERRORS = (http.client.HTTPException, OSError, ValueError, OverflowError)

# A line of a header: a field, what goes on with one, or nothing (RFC 9112 §5, §2.2 for the CR).
_HEADER_LINE = re.compile(rb"(?:[!-9;-~]+:|[ \t])[^\r\n]*\r?\n?|\r?\n?")
# A field on several lines (RFC 9112 §5.2).
_FOLD = re.compile(r"\r?\n[ \t]+")
# Bytes of a header line that are read at once, as http.client does.
_MAX_LINE = 65536


class _AnswerFile(io.BufferedReader):
    """What http.client reads an answer from. `in_header`: whether header lines come next."""

    in_header = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line; the empty one ends the header."""
        line = super().readline(size)
        if self.in_header:
            if not _HEADER_LINE.fullmatch(line):
                raise http.client.HTTPException(f"no header field: {line[:80]!r}")
            self.in_header = line not in (b"\r\n", b"\n", b"")
        return line


class _FinalAnswer(http.client.HTTPResponse):
    """Passes over every interim answer (RFC 9110 §15.2); http.client knows 100 and no other."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = self._file = _AnswerFile(self.fp.detach())

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                self._file.in_header = True
                return version, status, reason
            while self._file.readline(_MAX_LINE) not in (b"\r\n", b"\n", b""):
                pass


class PolicyHostConnection(http.client.HTTPConnection):
    """http.client's connection over TLS that `connect_tls` opens."""

    response_class = _FinalAnswer

    def __init__(self, host: str, connect_tls: Callable[[], Any]) -> None:
        super().__init__(host)
        self._connect_tls = connect_tls

    def connect(self) -> None:
        """Connect, and verify the certificate."""
        self.sock = self._connect_tls()


class PolicyHostAdapter(BaseAdapter):
    """requests' way to a policy host: one connection, which `connect_tls` opens.

    requests' own adapter is made for every use there is; what it does beside costs a third of what
    TLS costs.
    """

    def __init__(self, host: str, connect_tls: Callable[[], Any]) -> None:
        super().__init__()
        self._connection = PolicyHostConnection(host, connect_tls)

    def send(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        """Send a request; return the answer, whose body is still to be read."""
        # Who closes after saying all there is to say has answered as well.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(
                request.method or "GET", request.path_url, headers=request.headers
            )
        answer = self._connection.getresponse()
        response = requests.Response()
        response.status_code = answer.status
        # Once for a name: what stands in several fields is one list, as getheader has it.
        response.headers = CaseInsensitiveDict(
            (name, _FOLD.sub(" ", answer.getheader(name, "")))
            for name in {name.lower() for name in answer.headers}
        )
        response.raw = answer
        return response

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
