"""What is asked over the control socket and what is answered: a JSON object a line. Pure.

A request is one line, `{"command": "show", "domain": "example.com"}`. The reply is a line for each
entry and each miss, and a last one with `end` or `error`. What is read is checked by the grammar
that the stores use.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..cache.entry import Entry
from ..net.domain_names import is_host_name
from ..stores.entry_json import from_json, to_json

# Bytes of a request, and of a line of a reply: an entry with the largest policy, escaped.
MAX_REQUEST = 4096
MAX_LINE = 1 << 20


class Command(enum.StrEnum):
    """What can be asked for. `REFRESH` looks record and policy up now."""

    LIST = "list"
    SHOW = "show"
    FORGET = "forget"
    REFRESH = "refresh"


class MessageError(ValueError):
    """What came is no message."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command; `domain` in A-labels, "" for `LIST`."""

    command: Command
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Missed:
    """A lookup that gave no policy, and that is not repeated for now.

    `timeout`: seconds, of the zones that it was for.
    `cause`, `text`: the cause's name in lower case with hyphens, and why in a sentence.
    `left`: seconds for which it is believed.
    """

    domain: str
    timeout: float
    cause: str
    text: str
    left: float


@dataclass(frozen=True, slots=True)
class End:
    """The end of a reply. `error`: why it was not done, "" if it was."""

    error: str = ""


Item = Entry | Missed | End


def request_line(request: Request) -> bytes:
    """Return a request as a line."""
    return json.dumps(asdict(request)).encode() + b"\n"


def parse_request(line: bytes) -> Request:
    """Return the request in a line. Raise `MessageError`."""
    found = _object(line)
    try:
        command = Command(str(found.get("command")))
    except ValueError:
        raise MessageError("no such command") from None
    domain = found.get("domain", "")
    if command is not Command.LIST and not (isinstance(domain, str) and is_host_name(domain)):
        raise MessageError("no domain name in its A-labels")
    return Request(command, domain)


def item_line(item: Item) -> bytes:
    """Return a part of a reply as a line."""
    match item:
        case Entry():
            return b'{"entry": %b}\n' % to_json(item).encode()
        case Missed():
            return json.dumps({"missed": asdict(item)}).encode() + b"\n"
        case End():
            return json.dumps({"end": item.error}).encode() + b"\n"


def parse_item(line: bytes) -> Item:
    """Return the part of a reply in a line. Raise `MessageError`."""
    found = _object(line)
    try:
        match found:
            case {"entry": {"domain": str(domain)} as entry}:
                return from_json(json.dumps(entry), domain)
            case {"missed": {"domain": str(), "cause": str(), "text": str()} as missed}:
                timeout, left = float(missed["timeout"]), float(missed["left"])
                return Missed(missed["domain"], timeout, missed["cause"], missed["text"], left)
            case {"end": str(error)}:
                return End(error)
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError(f"no part of a reply: {error}") from error
    raise MessageError("no part of a reply")


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise MessageError(f"no JSON: {line[:60]!r}") from None
    if not isinstance(found, dict):
        raise MessageError("no JSON object")
    return found
