"""The policy that a policy host serves (RFC 8461 §3.2), and which MX hosts it allows (§4.1).

Pure functions on bytes, each regular expression under the rule of the RFC's ABNF that it
implements. Errata 6253 (LF as well as CRLF) is followed. A policy is taken whole or refused whole:
`PolicyError` says what is wrong and in which line. What passes here is safe to write into an answer
to Postfix.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..net.domain_names import is_host_name
from .record import FIELD_NAME, excerpt

# One year (RFC 8461 §3.2); a larger max_age is taken as this.
MAX_MAX_AGE = 31_557_600
# RFC 8461 §3.3 suggests 64 kilobytes.
MAX_POLICY_SIZE = 65_536
# In `Policy.body` each field has a space after its colon.
MAX_STORED_SIZE = 2 * MAX_POLICY_SIZE


class PolicyError(ValueError):
    """The policy is malformed. `line` counts from 1; 0 where the whole text is meant."""

    def __init__(self, line: int, what: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {what}" if line else what)


class Mode(enum.StrEnum):
    """What a policy asks of the sender (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that has passed the grammar.

    `mx`: patterns in lower case, `mail.example.com` or `*.example.com`, each once and in order.
    `max_age`: seconds, counted from the fetch. `body`: the policy's own fields in their order,
    one `name: value` a line, as one string because thousands of short ones take ten times the
    memory; `parse_policy(policy.body.encode(), MAX_STORED_SIZE)` gives the same policy back.
    """

    mode: Mode
    mx: tuple[str, ...]
    max_age: int
    body: str

    @property
    def text(self) -> tuple[str, ...]:
        """The fields of the policy one by one, for TLS reports (RFC 8460 §4.2)."""
        return tuple(self.body.split("\n"))

    def matches(self, host: str) -> bool:
        """Say whether an MX host's name matches one of the mx patterns (§4.1)."""
        return self.pattern_of(host) is not None

    def pattern_of(self, host: str) -> str | None:
        """Return the mx pattern that an MX host's name matches, None for none (§4.1).

        `*.` stands for exactly one label. Case and a trailing dot make no difference.
        """
        name = host.lower().removesuffix(".")
        if name in self.mx:
            return name
        wildcard = f"*.{name.partition('.')[2]}"
        return wildcard if wildcard in self.mx and not name.startswith(".") else None


# sts-policy-field-delim = ":" *WSP, and *WSP may end the line
# sts-policy-ext-value   = sts-policy-vchar [*(%x20 / sts-policy-vchar) sts-policy-vchar]
# sts-policy-vchar       = %x21-7E / UTF8-2 / UTF8-3 / UTF8-4
_VALUE = r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?"
_LINE = re.compile(rf"({FIELD_NAME}):[ \t]*({_VALUE})[ \t]*")
# sts-policy-max-age-value = 1*10(DIGIT)
_MAX_AGE = re.compile(r"[0-9]{1,10}")


def parse_policy(body: bytes, limit: int = MAX_POLICY_SIZE) -> Policy:
    """Read a policy file. Raise `PolicyError` if anything in it breaks the grammar (§3.2).

    `limit`: bytes; a stored policy may have become longer than it came (`MAX_STORED_SIZE`), by a
    space in each field and no more.

    Blank lines are ignored: the ABNF forbids them, real policies have them, and refusing one
    would leave the domain unprotected. An mx that is no DNS name of two labels or more refuses
    the whole policy.
    """
    if len(body) > limit:
        raise PolicyError(0, f"larger than {limit} bytes")
    try:
        lines = body.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise PolicyError(body.count(b"\n", 0, error.start) + 1, "not UTF-8") from error

    first: dict[str, tuple[int, str]] = {}
    mx: list[str] = []
    text: list[str] = []
    for number, line in enumerate(lines, 1):
        # sts-policy-term = LF / CRLF
        content = line.removesuffix("\r") if number < len(lines) else line
        if not content.strip(" \t"):
            continue
        field = _LINE.fullmatch(content)
        if field is None:
            raise PolicyError(number, f"not a field: {excerpt(content.encode())}")
        name, value = field[1], field[2]
        # Only mx may stand more than once; of the others the first counts (§3.2).
        first.setdefault(name, (number, value))
        if name == "mx":
            mx.append(_mx_pattern(number, value))
        text.append(f"{name}: {value}")

    stored = "\n".join(text)
    # Without those spaces, or a store could hold more than an answer to Postfix may.
    if len(stored.encode()) - len(text) > MAX_POLICY_SIZE:
        raise PolicyError(0, f"larger than {MAX_POLICY_SIZE} bytes")
    _version(*_required(first, "version"))
    mode = _mode(*_required(first, "mode"))
    max_age = _max_age(*_required(first, "max_age"))
    if not mx and mode is not Mode.NONE:
        raise PolicyError(0, "no mx")
    return Policy(mode, tuple(dict.fromkeys(mx)), max_age, stored)


def _required(fields: dict[str, tuple[int, str]], name: str) -> tuple[int, str]:
    if name not in fields:
        raise PolicyError(0, f"no {name}")
    return fields[name]


def _version(line: int, value: str) -> None:
    if value != "STSv1":
        raise PolicyError(line, f"version is not STSv1: {excerpt(value.encode())}")


def _mode(line: int, value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        what = f"mode is not enforce, testing or none: {excerpt(value.encode())}"
        raise PolicyError(line, what) from None


def _max_age(line: int, value: str) -> int:
    if not _MAX_AGE.fullmatch(value):
        raise PolicyError(line, f"max_age is not 1 to 10 digits: {excerpt(value.encode())}")
    return min(int(value), MAX_MAX_AGE)


def _mx_pattern(line: int, value: str) -> str:
    """Return an mx pattern in lower case.

    sts-policy-mx-value = ["*."] Domain; ours is narrower: a host name of two labels or more,
    because `hostname`, `nexthop` and `dot-nexthop` are keywords in Postfix's `match=`.
    """
    pattern = value.lower() if value.isascii() else ""
    if not is_host_name(pattern.removeprefix("*.")):
        raise PolicyError(line, f"mx is no host name pattern: {excerpt(value.encode())}")
    return pattern
