"""What a ClientHello offers (RFC 8446 §4.1.2): bytes in, numbers out."""

from __future__ import annotations

_SUPPORTED_GROUPS = 10
# The header of a record, and of its message with version and random.
_HEADERS = 5 + 4 + 2 + 32


def groups(record: bytes) -> list[int]:
    """Return the groups for the key exchange that are offered, best first (§4.2.7).

    `record`: a client's first one, with a whole ClientHello.
    """
    listed = extensions(record).get(_SUPPORTED_GROUPS, b"")
    return [int.from_bytes(listed[at : at + 2]) for at in range(2, len(listed), 2)]


def extensions(record: bytes) -> dict[int, bytes]:
    """Return the contents of each extension, by its type (§4.2). `record`: as in `groups`."""
    at = _HEADERS
    # legacy_session_id, cipher_suites, legacy_compression_methods
    for size in (1, 2, 1):
        at += size + int.from_bytes(record[at : at + size])
    at += 2
    found = {}
    while at < len(record):
        kind, size = int.from_bytes(record[at : at + 2]), int.from_bytes(record[at + 2 : at + 4])
        at += 4 + size
        found[kind] = record[at - size : at]
    return found
