"""The lines of the control socket: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stsresolver.control.messages import (
    MAX_LINE,
    Command,
    End,
    MessageError,
    Missed,
    Request,
    item_line,
    parse_item,
    parse_request,
    request_line,
)
from tests.support.inspections import entry, policy

MISSED = Missed("example.com", 4.0, "dns", "the DNS lookup failed: \x1b[2J \u2603", 12.5)


@pytest.mark.parametrize(
    "request_", [Request(Command.LIST), Request(Command.FORGET, "example.com")]
)
def test_request(request_):
    line = request_line(request_)
    assert line.count(b"\n") == 1
    assert parse_request(line) == request_


@pytest.mark.parametrize(
    "item", [entry(), entry(failure="refused"), MISSED, End(), End("cache.db: no space is left")]
)
def test_item(item):
    line = item_line(item)
    assert (line.count(b"\n"), line.isascii()) == (1, True)
    assert parse_item(line) == item


def test_entry_with_the_largest_policy_fits():
    large = policy(more="".join(f"x{n}: \U0001f4e8\U0001f4e8\U0001f4e8\n" for n in range(3000)))
    assert len(large.body.encode()) > 50_000
    assert len(item_line(replace(entry(), policy=large))) < MAX_LINE


NO_REQUESTS = [
    b"", b"\n", b"null\n", b"[]\n", b"{}\n", b"GET / HTTP/1.1\r\n", b"\xff\n", b"[" * 4000,
    b'{"command": "drop"}\n', b'{"command": "show"}\n', b'{"command": "show", "domain": 1}\n',
    b'{"command": "forget", "domain": "com"}\n', b'{"command": "show", "domain": "A.org"}\n',
    b'{"command": ["list"]}\n',
]  # fmt: skip


@pytest.mark.parametrize("line", NO_REQUESTS)
def test_no_request(line):
    with pytest.raises(MessageError):
        parse_request(line)


GOOD = json.loads(item_line(entry()))["entry"]
NO_ITEMS = [
    b"", b"{}\n", b'{"entry": {}}\n', b'{"missed": {}}\n', b'{"end": 1}\n',
    b'{"missed": {"domain": "a.org", "cause": "dns", "text": "", "timeout": "x", "left": 1}}\n',
    json.dumps({"entry": GOOD | {"domain": "\x1b[2J"}}).encode(),
    json.dumps({"entry": GOOD | {"policy": "mode: enforce"}}).encode(),
    json.dumps({"entry": GOOD | {"fetched": "now"}}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("line", NO_ITEMS)
def test_no_item(line):
    with pytest.raises(MessageError):
        parse_item(line)
