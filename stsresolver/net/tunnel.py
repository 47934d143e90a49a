"""The way through an HTTP proxy to a policy host: CONNECT (RFC 9110 §9.3.6).

The proxy gets the name of the policy host and looks it up itself. The policy host's TLS goes
through the tunnel; the proxy can neither read nor change it. The proxy's answer is bounded in time
and bytes.
"""

from __future__ import annotations

import re

from .deadline import BoundedSocket
from .proxy import Proxy
from .steps import Steps

# Bytes of the answer, interim ones (RFC 9110 §15.2) included.
_MAX_ANSWER = 16_384
# RFC 9112 §4; the reason may be empty. A line may end with LF alone (§2.2).
_HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n(?:[^\r\n]+\r?\n)*\r?\n")
_END = re.compile(rb"\n\r?\n")
_CREDENTIALS = " (the URL in https_proxy has to hold the right user and password)"
# tinyproxy says 401 to a wrong password.
_REMEDIES = {
    "401": _CREDENTIALS,
    "403": " (does it allow CONNECT to this port?)",
    "407": _CREDENTIALS,
}


class TunnelError(Exception):
    """The proxy did not open the tunnel; the text says what it did."""


def open_tunnel(connection: BoundedSocket, proxy: Proxy, host: str, port: int) -> Steps[None]:
    """Have `proxy`, at the other end of `connection`, connect it to `port` of `host`.

    Raise `TunnelError`, or what `connection` raises: `TimeoutError` past its deadline, `OSError`.
    """
    fields = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}"]
    if proxy.authorization:
        fields.append(f"Proxy-Authorization: {proxy.authorization}")
    request = "".join(f"{field}\r\n" for field in fields) + "\r\n"
    yield from connection.sendall(request.encode("ascii"))
    status, reason = yield from _answer(connection)
    if not status.startswith("2"):
        raise TunnelError(f"it answered CONNECT with {status} {reason}{_REMEDIES.get(status, '')}")


def _answer(connection: BoundedSocket) -> Steps[tuple[str, str]]:
    """Return status and reason of the final answer."""
    read = 0
    data = b""
    while read < _MAX_ANSWER:
        part = yield from connection.recv(_MAX_ANSWER - read)
        read += len(part)
        data += part
        while end := _END.search(data):
            head, data = data[: end.end()], data[end.end() :]
            status, reason = _status(head)
            if status.startswith("1"):
                continue
            # In TLS it is the client that speaks first.
            if data and status.startswith("2"):
                raise TunnelError("it sent something of its own behind its answer to CONNECT")
            return status, reason
        if not part:
            raise TunnelError("it closed the connection without an answer to CONNECT")
    raise TunnelError(f"its answer to CONNECT is longer than {_MAX_ANSWER} bytes")


def _status(head: bytes) -> tuple[str, str]:
    parts = _HEAD.fullmatch(head)
    if parts is None:
        raise TunnelError(f"it does not speak HTTP: {head[:80]!a}")
    reason = (parts[2] or b"")[:80].decode("latin-1")
    return parts[1].decode("ascii"), ascii(reason)[1:-1]
