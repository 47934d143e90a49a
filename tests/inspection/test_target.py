"""What a person may name, and what is looked at then."""

from __future__ import annotations

import pytest

from stsresolver.inspection.target import parse_target
from stsresolver.mta_sts.next_hop import NextHop

DOMAIN = NextHop("example.com", False, "")
TARGETS = [
    ("example.com", DOMAIN, "a domain"),
    ("Example.COM.", DOMAIN, "capitals and a final dot"),
    ("user@example.com", DOMAIN, "an address"),
    ("<user@example.com>", DOMAIN, "an address as Postfix logs it"),
    ('"a@b"@example.com', DOMAIN, "a quoted local part"),
    (" example.com ", DOMAIN, "copied with spaces"),
    ("münchen.example", NextHop("xn--mnchen-3ya.example", False, ""), "U-labels"),
    ("user@münchen.example", NextHop("xn--mnchen-3ya.example", False, ""), "of an address"),
    ("[relay.example.net]:587", NextHop("relay.example.net", True, "587"), "a next hop"),
    ("[relay.example.net]", NextHop("relay.example.net", True, ""), "without a port"),
    ("example.com:submission", NextHop("example.com", False, "submission"), "a service"),
]


@pytest.mark.parametrize(("text", "target"), [(text, target) for text, target, _ in TARGETS])
def test_target(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    ["", "com", "a..b", ".example.com", "192.0.2.1", "[192.0.2.1]:25", "user@", "a b.example",
     "example.com:0", "\udcff.x", "user@localhost"],
)  # fmt: skip
def test_no_target(text):
    with pytest.raises(ValueError, match="no domain name, address or next hop: "):
        parse_target(text)
