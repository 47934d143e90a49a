"""How many descriptors the daemon needs itself."""

from __future__ import annotations

import pytest

from stsresolver.config.descriptors import own_descriptors
from stsresolver.config.keys import parse

SENTINELS = "sentinel_master_name: a, sentinels: [[a, 1], [b, 1]]"
BASE = own_descriptors(parse("", "config").cache)


@pytest.mark.parametrize(
    ("text", "more", "why"),
    [
        ("workers: 4096", 0, "a thread needs none"),
        ("cache: {type: internal}", 0, "memory needs none"),
        ("cache: {type: sqlite, options: {filename: a, threads: 100}}", 200, "the -wal file too"),
        ("cache: {type: redis, options: {max_connections: 50}}", 50, "one a connection"),
        ("cache: {type: postgres, options: {max_size: 50}}", 50, "one a connection"),
        (f"cache: {{type: redis_sentinel, options: {{{SENTINELS}}}}}", 34, "the sentinels, too"),
    ],
)
def test_own_descriptors(text, more, why):
    assert own_descriptors(parse(text, "config").cache) == BASE + more, why
