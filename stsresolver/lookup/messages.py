"""The protocol between the daemon and its resolver process.

A packet holds messages, one a line. A message is a JSON array in UTF-8, `[number, type, ...]`. The
number is that of the lookup, 0 if the message belongs to none. The first message each way is
`HELLO`: the daemon sends the settings, the process its version.

The process reads what strangers wrote and may be compromised. So its messages pass the same grammar
as texts from the network, and none of them is code. Reading raises `ValueError`, which says what is
wrong, for anything that the other side never writes.
"""

from __future__ import annotations

import enum
import json
from typing import Any, TypeVar

from ..dane.states import Dane, DaneHost, HostState, MxState
from ..mta_sts.policy import MAX_STORED_SIZE, Policy, parse_policy
from ..mta_sts.record import checked_id
from ..mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged

# Questions about a policy, named like the methods of `Resolver`. Each has a domain and a timeout.
# The known ids follow those of `RESOLVE`.
POLICY_ID = "policy id"
FETCH = "fetch"
RESOLVE = "resolve"
# Questions about DANE. Each has a next hop, as Postfix writes it, and a timeout. The first one ends
# with the first host that has TLSA records, the second one with the last host.
DANE = "dane"
WHOLE_DANE = "whole dane"
# What the questions are called where they are counted, by what they ask.
STEPS = {
    POLICY_ID: "dns",
    FETCH: "https",
    RESOLVE: "resolve",
    DANE: "dane",
    WHOLE_DANE: "whole_dane",
}
# Other types of messages, and of results.
HELLO = "hello"
LOG = "log"
_ID = "id"
_POLICY = "policy"
_FOUND = "found"
_NOT_CHANGED = "not changed"
_NO_POLICY = "no policy"
_FAILURE = "failure"
_STATES = "states"

# Bytes of a packet: room for the largest stored policy, with each quote and backslash escaped.
MAX_MESSAGE = 2 * MAX_STORED_SIZE + 4096
# Characters of a log line.
MAX_LINE = 4000
_MAX_DETAIL = 1000
_MAX_TTL = 2**31
# Hosts of a next hop, characters of their names (RFC 1035 §2.3.4, with each byte escaped) and of
# what is said of each: all of them fit a message.
_MAX_HOSTS = 32
_MAX_NAME = 1020
_MAX_HOST_DETAIL = 200
# The hosts that decide the verdict are not left out.
_DECIDING = (HostState.USABLE, HostState.FAILED)

_State = TypeVar("_State", bound=enum.Enum)

Result = str | Policy | Found | NotChanged | NoPolicy | Failure | Dane

# Made once: `json.dumps` makes one for each message, and `json.loads` looks for the encoding.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_READ = json.JSONDecoder().raw_decode


def write(number: int, what: str, *values: object) -> bytes:
    """Return a message as bytes, without a newline."""
    text = _JSON.encode([number, what, *values])
    return text.encode(errors="backslashreplace")


def read(message: bytes) -> tuple[int, str, list[Any]]:
    """Return number, type and values of a message. Raise `ValueError` if it is none."""
    text = message.decode()
    try:
        (number, what, *values), end = _READ(text)
    except (RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error
    if end != len(text):
        raise ValueError("more than a message in a line")
    if type(number) is not int or not isinstance(what, str):
        raise ValueError("a message without a number or a type")
    return number, what, values


def write_result(number: int, result: Result) -> bytes:
    """Return the message with the result of a lookup."""
    match result:
        case str():
            return write(number, _ID, result)
        case Policy():
            return write(number, _POLICY, result.body)
        case Found():
            return write(number, _FOUND, result.id, result.policy.body)
        case NotChanged():
            return write(number, _NOT_CHANGED, result.id)
        case NoPolicy():
            return write(
                number, _NO_POLICY, result.cause.name, result.detail[:_MAX_DETAIL], result.ttl
            )
        case Failure():
            values = [result.cause.name, result.detail[:_MAX_DETAIL]]
            return write(number, _FAILURE, *values, *([result.id] if result.id else []))
        case Dane():
            hosts = sorted(result.hosts, key=lambda host: host.state not in _DECIDING)
            said = [
                [host.name, host.state.name, host.detail[:_MAX_HOST_DETAIL]]
                for host in hosts[:_MAX_HOSTS]
            ]
            detail = result.detail[:_MAX_DETAIL]
            return write(number, _STATES, result.mx.name, said, detail, result.ttl)


def read_result(what: str, values: list[Any]) -> Result:
    """Return the result of a lookup from its message. Raise `ValueError` if it is none."""
    match what, values:
        case "id", [str(text)]:
            return checked_id(text.encode())
        case "policy", [str(body)]:
            return _policy(body)
        case "found", [str(text), str(body)]:
            return Found(_policy(body), checked_id(text.encode()))
        case "not changed", [str(text)]:
            return NotChanged(checked_id(text.encode()))
        case "no policy", [str(cause), str(detail), int(ttl)]:
            return NoPolicy(_member(Cause, cause), _detail(detail), max(0, min(ttl, _MAX_TTL)))
        case "failure", [str(cause), str(detail)]:
            return Failure(_member(Cause, cause), _detail(detail))
        case "failure", [str(cause), str(detail), str(text)]:
            return Failure(_member(Cause, cause), _detail(detail), checked_id(text.encode()))
        case "states", [str(mx), list(hosts), str(detail), int(ttl)] if len(hosts) <= _MAX_HOSTS:
            ttl = max(0, min(ttl, _MAX_TTL))
            return Dane(_member(MxState, mx), tuple(map(_host, hosts)), _detail(detail), ttl)
    raise ValueError(f"unknown type of result, or wrong values: {what[:40]!a}")


def _policy(body: str) -> Policy:
    policy = parse_policy(body.encode(), MAX_STORED_SIZE)
    if policy.body != body:
        raise ValueError("a policy that is not in the form in which it is stored")
    return policy


def _detail(text: str) -> str:
    # JSON may hold half a surrogate pair, which no encoding can write.
    return text[:_MAX_DETAIL].encode(errors="backslashreplace").decode()


def _host(values: Any) -> DaneHost:
    match values:
        case [str(name), str(state), str(detail)] if name.isascii() and name.isprintable():
            detail = _detail(detail)[:_MAX_HOST_DETAIL]
            return DaneHost(name[:_MAX_NAME], _member(HostState, state), detail)
    raise ValueError("a host without name, state or detail")


def _member(kind: type[_State], name: str) -> _State:
    try:
        return kind[name]
    except KeyError:
        raise ValueError(f"unknown {kind.__name__}: {name[:40]!a}") from None
