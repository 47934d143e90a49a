"""The two texts of MTA-STS: the TXT record and the policy (RFC 8461 §3.1, §3.2).

Pure functions on bytes, each regular expression under the rule of the RFC's ABNF that it
implements. Errata 6253 (LF as well as CRLF) is followed. `RecordError` and `PolicyError` say what
is wrong, the latter in which line. A text is taken whole or refused whole: what passes here is
safe to write into an answer to Postfix.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .domains import is_host_name

# One year (RFC 8461 §3.2); a larger max_age is taken as this.
MAX_MAX_AGE = 31_557_600
# RFC 8461 §3.3 suggests 64 kilobytes.
MAX_POLICY_SIZE = 65_536
# In `Policy.body` each field has a space after its colon.
MAX_STORED_SIZE = 2 * MAX_POLICY_SIZE

# sts-ext-name / sts-policy-ext-name = (ALPHA / DIGIT) *31(ALPHA / DIGIT / "_" / "-" / ".")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"


class RecordError(ValueError):
    """The TXT record is an STS record, and malformed."""


class SeveralRecords(RecordError):
    """The domain publishes more than one STS record."""


class PolicyError(ValueError):
    """The policy is malformed. `line` counts from 1; 0 where the whole text is meant."""

    def __init__(self, line: int, what: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {what}" if line else what)


# sts-text-record = sts-version 1*(sts-field-delim sts-field) [sts-field-delim]
# sts-version     = %s"v=STSv1"
# sts-field-delim = *WSP ";" *WSP
_SEVERAL_PREFIX = b"v=STSv1;"
_STS_RECORD = re.compile(rb"v=STSv1[ \t]*;")
# sts-field       = sts-id / sts-extension
# sts-extension   = sts-ext-name "=" sts-ext-value
# sts-ext-value   = 1*(%x21-3A / %x3C / %x3E-7E)   ; no "=", ";", SP, CTL
_FIELD = re.compile(rb"(" + _NAME.encode() + rb")=([!-:<>-~]+)")
# sts-id          = %s"id=" 1*32(ALPHA / DIGIT)
_ID = re.compile(rb"[A-Za-z0-9]{1,32}")


def record_id(record: bytes) -> str | None:
    """Return the policy id of a TXT record, None if it is no STS record.

    Raise `RecordError` for an STS record that is malformed.
    """
    if not _STS_RECORD.match(record):
        return None
    *fields, last = record.split(b";")[1:]
    fields = [field.strip(b" \t") for field in fields]
    # After the last field, white space is part of a delimiter or wrong.
    if last := last.lstrip(b" \t"):
        fields.append(last)
    policy_id: str | None = None
    for text in fields:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise RecordError(f"not a field: {_excerpt(text)}")
        # A field that stands again is ignored (§3.1), so the first id counts.
        if field[1] == b"id" and policy_id is None:
            policy_id = checked_id(field[2])
    if policy_id is None:
        raise RecordError("no id")
    return policy_id


def checked_id(text: bytes) -> str:
    """Return a policy id. Raise `RecordError` if it is none, from DNS or from a store."""
    if not _ID.fullmatch(text):
        raise RecordError(f"id is not 1 to 32 letters and digits: {_excerpt(text)}")
    return text.decode("ascii")


def domain_id(records: Iterable[bytes]) -> str | None:
    """Return the policy id among a domain's TXT records, None if none is an STS record.

    Of several records those that do not begin with `v=STSv1;` do not count (§3.1); white space
    before the semicolon, which the grammar allows, passes in a record that is the only one. Raise
    `SeveralRecords` if more than one is left, `RecordError` if the one is malformed: both mean that
    the domain has no policy.
    """
    ours = list(records)
    if len(ours) > 1:
        ours = [record for record in ours if record.startswith(_SEVERAL_PREFIX)]
    if len(ours) > 1:
        raise SeveralRecords(f"{len(ours)} records")
    return record_id(ours[0]) if ours else None


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
        """Say whether an MX host's name matches one of the mx patterns (§4.1).

        `*.` stands for exactly one label. Case and a trailing dot do not count.
        """
        name = host.lower().removesuffix(".")
        parent = name.partition(".")[2]
        return name in self.mx or (not name.startswith(".") and f"*.{parent}" in self.mx)


# sts-policy-field-delim = ":" *WSP, and *WSP may end the line
# sts-policy-ext-value   = sts-policy-vchar [*(%x20 / sts-policy-vchar) sts-policy-vchar]
# sts-policy-vchar       = %x21-7E / UTF8-2 / UTF8-3 / UTF8-4
_VALUE = r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?"
_LINE = re.compile(rf"({_NAME}):[ \t]*({_VALUE})[ \t]*")
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
            raise PolicyError(number, f"not a field: {_excerpt(content.encode())}")
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
        raise PolicyError(line, f"version is not STSv1: {_excerpt(value.encode())}")


def _mode(line: int, value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        what = f"mode is not enforce, testing or none: {_excerpt(value.encode())}"
        raise PolicyError(line, what) from None


def _max_age(line: int, value: str) -> int:
    if not _MAX_AGE.fullmatch(value):
        raise PolicyError(line, f"max_age is not 1 to 10 digits: {_excerpt(value.encode())}")
    return min(int(value), MAX_MAX_AGE)


def _mx_pattern(line: int, value: str) -> str:
    """Return an mx pattern in lower case.

    sts-policy-mx-value = ["*."] Domain; ours is narrower: a host name of two labels or more,
    because `hostname`, `nexthop` and `dot-nexthop` are keywords in Postfix's `match=`.
    """
    pattern = value.lower() if value.isascii() else ""
    if not is_host_name(pattern.removeprefix("*.")):
        raise PolicyError(line, f"mx is no host name pattern: {_excerpt(value.encode())}")
    return pattern


def _excerpt(text: bytes, limit: int = 60) -> str:
    """Return a stranger's text fit for a log line: short, printable ASCII."""
    return repr(text[:limit])[1:] + "..." * (len(text) > limit)
