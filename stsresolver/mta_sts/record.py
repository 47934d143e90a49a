"""The TXT record of a domain with an MTA-STS policy (RFC 8461 §3.1).

Pure functions on bytes. The comment above each regular expression is the ABNF rule that it
implements. A record is taken whole or refused whole: `RecordError` says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# sts-ext-name / sts-policy-ext-name = (ALPHA / DIGIT) *31(ALPHA / DIGIT / "_" / "-" / ".")
FIELD_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"


class RecordError(ValueError):
    """The TXT record is an STS record, and malformed."""


class SeveralRecords(RecordError):
    """The domain publishes more than one STS record."""


# sts-text-record = sts-version 1*(sts-field-delim sts-field) [sts-field-delim]
# sts-version     = %s"v=STSv1"
# sts-field-delim = *WSP ";" *WSP
_SEVERAL_PREFIX = b"v=STSv1;"
_STS_RECORD = re.compile(rb"v=STSv1[ \t]*;")
# sts-field       = sts-id / sts-extension
# sts-extension   = sts-ext-name "=" sts-ext-value
# sts-ext-value   = 1*(%x21-3A / %x3C / %x3E-7E)   ; no "=", ";", SP, CTL
_FIELD = re.compile(rb"(" + FIELD_NAME.encode() + rb")=([!-:<>-~]+)")
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
            raise RecordError(f"not a field: {excerpt(text)}")
        # A field that stands again is ignored (§3.1), so the first id counts.
        if field[1] == b"id" and policy_id is None:
            policy_id = checked_id(field[2])
    if policy_id is None:
        raise RecordError("no id")
    return policy_id


def checked_id(text: bytes) -> str:
    """Return a policy id. Raise `RecordError` if it is none, from DNS or from a store."""
    if not _ID.fullmatch(text):
        raise RecordError(f"id is not 1 to 32 letters and digits: {excerpt(text)}")
    return text.decode("ascii")


def domain_id(records: Iterable[bytes]) -> str | None:
    """Return the policy id among a domain's TXT records, None if none is an STS record.

    Of several records, those that do not begin with `v=STSv1;` are ignored (§3.1). White space
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


def excerpt(text: bytes, limit: int = 60) -> str:
    """Return a stranger's text fit for a log line: short, printable ASCII."""
    return repr(text[:limit])[1:] + "..." * (len(text) > limit)
