"""Puts a question to a running daemon over socketmap, as Postfix does, and explains the reply.

The protocol and its replies are those of socketmap_table(5); what an `OK ` holds is a TLS policy of
smtp_tls_policy_maps (postconf(5)).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..net.deadline import BoundedSocket, Deadline
from ..net.steps import Steps, run
from ..socketmap.netstring import MAX_REPLY, NetstringError, cut, encode

# Seconds that an answer may take. The daemon takes 20 at most.
ANSWER_LIMIT = 30.0
_PART = 65_536
# `HOST:PORT`, an IPv6 address in brackets, or `unix:PATH`; with Postfix's words before it or not.
_PLACE = re.compile(
    r"(?:socketmap:)?(?:unix:(?P<path>.+)"
    r"|(?:inet:)?(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>[0-9]{1,5}))"
)


class AskError(Exception):
    """There is no reply; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon listens: a UNIX socket `path`, or else `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_place(text: str) -> Place:
    """Return the place that `text` names. Raise `ValueError` for any other text."""
    parts = _PLACE.fullmatch(text)
    if parts is None or (parts["port"] and not 0 < int(parts["port"]) <= 65535):
        raise ValueError(f"neither HOST:PORT nor unix:PATH: {text!r}")
    if parts["path"]:
        return Place(parts["path"])
    return Place(host=parts["ipv6"] or parts["host"], port=int(parts["port"]))


def ask(place: Place, zone: str, next_hop: str, seconds: float = ANSWER_LIMIT) -> str:
    """Return the reply of the daemon at `place`, without its netstring. Raise `AskError`."""
    question = encode(f"{zone} {next_hop}".encode("utf-8", "surrogateescape"))
    deadline = Deadline(seconds)
    failures = []
    try:
        for family, address in _addresses(place):
            try:
                return run(_exchange(family, address, question, deadline))
            except (OSError, ValueError) as error:
                failures.append(getattr(error, "strerror", None) or str(error))
    except OSError as error:
        failures.append(error.strerror or str(error))
    raise AskError(f"no answer from {place}: {', '.join(dict.fromkeys(failures))}")


def _addresses(place: Place) -> list[tuple[int, Any]]:
    if place.path:
        return [(socket.AF_UNIX, os.fsencode(place.path))]
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _exchange(family: int, address: Any, question: bytes, deadline: Deadline) -> Steps[str]:
    """Send a question; return the reply. Raise `OSError`, `NetstringError`."""
    with BoundedSocket(family, socket.SOCK_STREAM, deadline) as connection:
        yield from connection.connect(address)
        yield from connection.sendall(question)
        received = b""
        while (found := cut(received, limit=MAX_REPLY)) is None:
            part = yield from connection.recv(_PART)
            if not part:
                raise NetstringError("it closed the connection without an answer")
            received += part
        return found[0].decode("utf-8", "backslashreplace")


def explained(reply: str, next_hop: str) -> tuple[str, list[str], int]:
    """Return what becomes of mail to `next_hop`, what the reply means, and the exit status."""
    word, _, policy = reply.partition(" ")
    mail = f"mail to {next_hop}"
    if word == "OK":
        return _policy(policy, mail)
    if word == "NOTFOUND":
        means = "no policy to be enforced is known: Postfix's own settings apply"
        return f"{mail} goes as without a policy", [means], 1
    if word in ("TEMP", "TIMEOUT"):
        means = "the daemon could not find out yet, or could not look; its log says why"
        words = [f"in its words: {policy}"] if policy else []
        return f"{mail} waits in the queue, and Postfix asks again", [means, *words], 2
    if word == "PERM":
        return f"{mail} waits in the queue", ["the daemon did not understand the question"], 2
    means = "no reply of a socketmap server: is this the daemon's address?"
    return f"{mail} waits in the queue", [means], 2


def _policy(policy: str, mail: str) -> tuple[str, list[str], int]:
    level, _, rest = policy.partition(" ")
    if level == "dane-only":
        means = "Postfix delivers only to servers that DANE verifies (RFC 7672)"
        return f"{mail} goes only over TLS that DANE verifies", [means], 0
    if level != "secure":
        return f"{mail} goes at level {level}", ["no answer that this daemon gives"], 0
    # What stands in braces is the policy's own text, for TLS reports.
    attributes = dict(
        word.partition("=")[::2] for word in re.sub(r"\{[^{}]*\}", "", rest).split() if "=" in word
    )
    return f"{mail} goes only over verified TLS", list(_attributes(attributes)), 0


def _attributes(attributes: dict[str, str]) -> Iterator[str]:
    names = [
        f"any name below {name[1:]}" if name.startswith(".") else name
        for name in attributes.get("match", "").split(":")
    ]
    yield f"the certificate must be valid, and for one of: {', '.join(names)}"
    if "servername" in attributes:
        yield "Postfix sends the name of the MX host as SNI"
    if attributes.get("policy_type") == "sts":
        yield (
            "from Postfix 3.10.5 on, the MX host must match an mx pattern, and the certificate be"
            " for that host"
        )
