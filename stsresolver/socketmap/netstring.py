"""Netstrings, the frames of Postfix's socketmap protocol (socketmap_table(5)).

    netstring = length ":" payload ","        length: decimal, no leading zero but "0" itself

Pure functions on bytes. A buffer that can never become a netstring raises `NetstringError`, as
early as its first wrong byte; one that merely is not complete yet is no error.
"""

from __future__ import annotations

import re

# A key is at most 10,000 bytes for Postfix; map name and space come on top.
MAX_REQUEST = 10_300
# Postfix refuses a longer reply and is out of step with the server from there on.
MAX_REPLY = 100_000

_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,5}):")
_LENGTH_BEGUN = re.compile(rb"(0|[1-9][0-9]{0,5})?")


class NetstringError(ValueError):
    """The bytes are no netstring, or one longer than allowed."""


def encode(payload: bytes) -> bytes:
    """Return `payload` as a netstring."""
    return b"%d:%b," % (len(payload), payload)


def cut(buffer: bytes, start: int = 0, limit: int = MAX_REQUEST) -> tuple[bytes, int] | None:
    """Find the netstring that begins at `start` in `buffer`.

    Return its payload and where it ends, or None while it is not complete. Raise `NetstringError`
    for anything else, and for a payload over `limit` bytes, under a million.
    """
    head = _LENGTH.match(buffer, start)
    if head is None:
        if _LENGTH_BEGUN.fullmatch(buffer, start):
            return None
        raise NetstringError(f"no netstring: {buffer[start : start + 16]!r}")
    length = int(head[1])
    if length > limit:
        raise NetstringError(f"a netstring of {length} bytes, over the limit of {limit}")
    end = head.end() + length
    if len(buffer) <= end:
        return None
    if buffer[end] != ord(","):
        raise NetstringError("a netstring without its final comma")
    return buffer[head.end() : end], end + 1
