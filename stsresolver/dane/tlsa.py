"""TLSA records, and which of them can be used with SMTP (RFC 6698 §2.1, RFC 7672 §3.1).

Pure: bytes in, data out.
"""

from __future__ import annotations

from typing import NamedTuple

# RFC 7672 §3.1: trust anchor and end entity. The two that ask for a public CA are unusable.
_USAGES = (2, 3)
_CERTIFICATE, _KEY = 0, 1
_WHOLE = 0
# Bytes of a digest, by matching type (RFC 6698 §2.1.3).
_DIGESTS = {1: 32, 2: 64}
# Tags of DER (X.690 §8.1.2).
_SEQUENCE, _BIT_STRING = 0x30, 0x03
# What is in the outer sequence of a certificate and of a key (RFC 5280 §4.1).
_PARTS = {_CERTIFICATE: [_SEQUENCE, _SEQUENCE, _BIT_STRING], _KEY: [_SEQUENCE, _BIT_STRING]}


class Tlsa(NamedTuple):
    """A TLSA record. `data`: a digest, or all of a certificate or key."""

    usage: int
    selector: int
    matching_type: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching_type} {self.data.hex()}"

    @property
    def unusable(self) -> str:
        """Why the record cannot be used with SMTP, "" if it can."""
        if self.usage not in _USAGES:
            return f"usage {self.usage}, and only 2 and 3 are for SMTP"
        if self.selector not in _PARTS:
            return f"unknown selector {self.selector}"
        if self.matching_type == _WHOLE:
            if not _is_sequence_of(_PARTS[self.selector], self.data):
                what = "key" if self.selector == _KEY else "certificate"
                return f"its data are no {what}"
            return ""
        size = _DIGESTS.get(self.matching_type)
        if size is None:
            return f"unknown matching type {self.matching_type}"
        if len(self.data) != size:
            return f"a digest of {len(self.data)} bytes in place of {size}"
        return ""


def parse_tlsa(data: bytes) -> Tlsa:
    """Return the record with these data. One that is too short is unusable."""
    usage, selector, matching_type = data[:3].ljust(3, b"\xff")
    return Tlsa(usage, selector, matching_type, data[3:])


def _is_sequence_of(tags: list[int], data: bytes) -> bool:
    """Say whether `data` are one DER sequence with values of these tags, and no more."""
    try:
        tag, begin, end = _value(data, 0)
        found = []
        while begin < end:
            inner, _, begin = _value(data, begin)
            found.append(inner)
    except IndexError:
        return False
    return tag == _SEQUENCE and begin == end == len(data) and found == tags


def _value(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER value at an offset, and where its contents begin and end.

    Raise `IndexError` where the data are too short.
    """
    tag, length = data[at], data[at + 1]
    at += 2
    if length > 0x80:
        size = length - 0x80
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    if at + length > len(data):
        raise IndexError("a value that is cut short")
    return tag, at, at + length
