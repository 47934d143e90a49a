"""An entry as JSON text, for stores that keep text.

Anybody may have written what is read back, so it must pass the grammar that a record and a policy
from the network must pass. A text is taken whole or refused whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..cache.entry import Entry
from ..mta_sts.policy import MAX_STORED_SIZE, parse_policy
from ..mta_sts.record import checked_id
from ..net.domain_names import is_host_name

_TIMES = ("fetched", "checked", "asked", "due", "failed")


def to_json(entry: Entry) -> str:
    """Return `entry` as one line of ASCII. Raise `ValueError` if one of its times is not finite."""
    fields = {"domain": entry.domain, "id": entry.id, "policy": entry.policy.body}
    times = {name: getattr(entry, name) for name in _TIMES}
    return json.dumps({**fields, **times, "failure": _shown(entry.failure)}, allow_nan=False)


def from_json(text: bytes | str, domain: str) -> Entry:
    """Return the entry of `domain` that `text` holds.

    Raise `ValueError`, which says what is wrong, for anything that `to_json` does not write.
    """
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    if fields.get("domain") != domain or not is_host_name(domain):
        raise ValueError("not of this domain")
    policy_id = checked_id(_string(fields, "id").encode())
    policy = parse_policy(_string(fields, "policy").encode(), MAX_STORED_SIZE)
    times = {name: _time(fields, name) for name in _TIMES}
    return Entry(domain, policy_id, policy, failure=_shown(_string(fields, "failure")), **times)


def _shown(failure: str) -> str:
    # The log shows it, one line an event.
    return failure if failure.isprintable() else ascii(failure)


def _string(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: no text")
    return value


def _time(fields: Mapping[str, object], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: no number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"{name}: not finite")
    return seconds
