"""Which name servers are asked, and which of them are believed (RFC 7672 §2.2, resolv.conf(5))."""

from __future__ import annotations

import pytest

from stsresolver.net.dns_servers import configured, named, parse_server

SERVERS = [
    ("192.0.2.1", ("192.0.2.1", None)),
    ("192.0.2.1:5353", ("192.0.2.1", 5353)),
    ("2001:db8::1", ("2001:db8::1", None)),
    ("[2001:db8::1]", ("2001:db8::1", None)),
    ("[2001:db8::1]:53", ("2001:db8::1", 53)),
    ("fe80::1%eth0", ("fe80::1%eth0", None)),
]


@pytest.mark.parametrize(("text", "expected"), SERVERS)
def test_a_name_server(text, expected):
    assert parse_server(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "dns.example.com", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2",
     "[192.0.2.1]", "[::1", "[::1]:dns", "192.0.2.1 "],
)  # fmt: skip
def test_no_name_server(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_server(text)


@pytest.mark.requirement("DANE-15")
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], [("127.0.0.1", True)]),
        (["nameserver ::1"], [("::1", True)]),
        (["nameserver 127.0.0.53"], [("127.0.0.53", True)]),
        (["nameserver 192.0.2.1"], [("192.0.2.1", False)]),
        (["nameserver 127.0.0.1", "nameserver 192.0.2.1"],
         [("127.0.0.1", True), ("192.0.2.1", False)]),
        (["nameserver 192.0.2.1", "options edns0 trust-ad"], [("192.0.2.1", True)]),
        (["nameserver 192.0.2.1", "# options trust-ad"], [("192.0.2.1", False)]),
        (["nameserver 192.0.2.1", "nameserver 192.0.2.1"], [("192.0.2.1", False)]),
        (["nameserver nonsense", "nameserver", "search example.com"], [("127.0.0.1", True)]),
    ],
)  # fmt: skip
def test_resolv_conf(lines, expected):
    servers = configured(lines, 53, trust_ad=None)
    assert [(one.address, one.is_believed) for one in servers] == expected


@pytest.mark.requirement("DANE-15")
@pytest.mark.parametrize("trust_ad", [True, False])
def test_trust_ad_has_the_last_word(trust_ad):
    believed = {one.is_believed for one in configured(["options trust-ad"], 53, trust_ad=trust_ad)}
    believed |= {one.is_believed for one in named(["192.0.2.1", "::1"], 53, trust_ad=trust_ad)}
    assert believed == {trust_ad}


def test_named():
    one, other = named(["127.0.0.1:5353", "192.0.2.1"], 53, trust_ad=None)
    assert (one.port, one.is_believed, str(one)) == (5353, True, "127.0.0.1:5353")
    assert (other.port, other.is_believed, str(other)) == (53, False, "192.0.2.1")
