"""The policy domain of a next hop, after the key rules of Postfix and RFC 8461 §3.4."""

import pytest

from stsresolver.mta_sts.next_hop import NextHop, parse_next_hop

LABEL_63 = "a" * 63
NAME_253 = ".".join(["a" * 49] * 5) + ".com"

NEXT_HOPS = [
    ("example.com", "example.com", "a domain"),
    ("Foo.Example.COM", "foo.example.com", "as written; never case-folded by Postfix"),
    ("example.com.", "example.com", "the trailing dot is not part of the name"),
    ("example.com:587", "example.com", "with a port"),
    ("example.com:submission", "example.com", "with a service name"),
    ("[example.com]", "example.com", "a smart host without MX lookup"),
    ("[example.com]:587", "example.com", "the policy domain of a smart host (§3.4)"),
    ("[example.com]:submission", "example.com", "port by name"),
    ("[Relay.Example.NET.]:465", "relay.example.net", "all at once"),
    ("mail.example.com", "mail.example.com", "sub-domains never inherit (§3.4)"),
    ("münchen.example", "xn--mnchen-3ya.example", "raw UTF-8"),
    ("BÜCHER.example", "xn--bcher-kva.example", "UTS 46 folds case"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example", "the same domain, as A-label"),
    ("XN--BCHER-KVA.example", "xn--bcher-kva.example", "A-labels fold as well"),
    ("straße.example", "xn--strae-oqa.example", "nontransitional: not strasse.example"),
    ("Ⅷ.example", "viii.example", "compatibility characters are mapped once, here"),
    ("bücher。example", "xn--bcher-kva.example", "an ideographic full stop is a dot"),
    ("[bücher.example]:25", "xn--bcher-kva.example", "in brackets too"),
    ("r3---sn.example.com", "r3---sn.example.com", "hyphens in third and fourth place"),
    ("1.example.com", "1.example.com", "a label of digits that is not the last"),
    ("3com.com", "3com.com", "a leading digit"),
    (f"{LABEL_63}.com", f"{LABEL_63}.com", "the longest label"),
    (NAME_253, NAME_253, "the longest name"),
    ("", None, "empty"),
    (".", None, "the root"),
    (".example.com", None, "Postfix asks for parent domains so; no inheritance"),
    (".com", None, "leading dot"),
    ("localhost", None, "a single label"),
    ("com", None, "a single label"),
    ("com.", None, "a single label"),
    ("[localhost]:25", None, "a single label"),
    ("192.0.2.1", None, "an address"),
    ("[192.0.2.1]", None, "an address literal"),
    ("[192.0.2.1]:25", None, "an address literal"),
    ("[IPv6:2001:db8::1]", None, "an address literal"),
    ("[ipv6:2001:db8::1]:25", None, "an address literal"),
    ("[2001:db8::1]:25", None, "an address literal"),
    ("2001:db8::1", None, "an address"),
    ("::1", None, "an address"),
    ("１９２.0.2.1", None, "an address in full-width digits"),
    ("example.123", None, "no top-level domain is all digits"),
    ("a..b", None, "an empty label"),
    ("example.com..", None, "two trailing dots"),
    ("a" * 64 + ".com", None, "a label over 63"),
    ("a" + NAME_253, None, "a name over 253"),
    ("a." * 5000 + "com", None, "the longest key that Postfix sends"),
    ("ü" * 4000 + ".com", None, "much text that is not ASCII"),
    ("-a.com", None, "a label that begins with a hyphen"),
    ("a-.com", None, "a label that ends with a hyphen"),
    ("a_b.com", None, "an underscore"),
    ("*.example.com", None, "no name"),
    ("exa mple.com", None, "a space inside"),
    (" example.com", None, "a leading space"),
    ("example.com ", None, "a trailing space"),
    ("example.com\n", None, "a line end, which $ would allow"),
    ("example.com:25\n", None, "a line end"),
    ("example\x00.com", None, "NUL"),
    ("example.com:", None, "a port that is no port"),
    ("example.com:0", None, "a port that is no port"),
    ("example.com:65536", None, "a port that is no port"),
    ("example.com:99999999", None, "a port that is no port"),
    ("example.com:²", None, "a digit for isdigit() alone"),
    ("example.com:25:25", None, "two ports"),
    ("example.com:-", None, "no service name"),
    ("example.com:averylongservicename", None, "service names have 15 characters at most"),
    ("[example.com", None, "a bracket never closed"),
    ("example.com]", None, "a bracket never opened"),
    ("[[example.com]]", None, "brackets twice"),
    ("[]", None, "nothing in brackets"),
    ("[example.com]x", None, "text after the bracket"),
    ("[example.com]25", None, "a port without a colon"),
    ("user@example.com", None, "an address of mail"),
    ("\ud800.example".encode("utf-8", "surrogatepass"), None, "a surrogate is no UTF-8"),
    (b"\xff.example", None, "invalid UTF-8"),
    (b"b\xfccher.example", None, "Latin-1"),
    ("\u200d.example", None, "a joiner alone"),
    ("\u202eexample.com", None, "a direction override"),
]


@pytest.mark.requirement("APPLY-4", "KEY-7")
@pytest.mark.requirement(
    {
        "sub-domains never inherit (\\xa73.4)": "APPLY-2",
        "the policy domain of a smart host (\\xa73.4)": "APPLY-3",
        "the longest label": "DNS-10",
        "the longest name": "DNS-10",
        "a label over 63": "DNS-10",
        "a name over 253": "DNS-10",
        "a leading digit": "DNS-11",
        "hyphens in third and fourth place": "DNS-11",
        "a label that begins with a hyphen": "DNS-11",
        "a label that ends with a hyphen": "DNS-11",
        "an underscore": "DNS-11",
        "no top-level domain is all digits": "DNS-12",
        "an address0": "DNS-12",
        "a label of digits that is not the last": "DNS-12",
        "raw UTF-8": ("DNS-13", "KEY-6"),
        "UTS 46 folds case": "DNS-13",
        "nontransitional: not strasse.example": "DNS-13",
        "compatibility characters are mapped once, here": ("DNS-13", "LIB-5"),
        "an ideographic full stop is a dot": "DNS-13",
        "the same domain, as A-label": "DNS-13",
        "the longest key that Postfix sends": "WIRE-4",
        "as written; never case-folded by Postfix": "KEY-1",
        "with a port": "KEY-1",
        "with a service name": "KEY-1",
        "a smart host without MX lookup": "KEY-1",
        "all at once": "KEY-1",
        "port by name": "KEY-2",
        "service names have 15 characters at most": "KEY-2",
        "no service name": "KEY-2",
        "Postfix asks for parent domains so; no inheritance": "KEY-3",
        "an address literal0": "KEY-4",
        "an address1": "KEY-4",
        "a single label0": "KEY-4",
        "the trailing dot is not part of the name": "KEY-5",
        "two trailing dots": "KEY-5",
        "much text that is not ASCII": "LIB-6",
    }
)
@pytest.mark.parametrize(
    ("next_hop", "domain", "why"), NEXT_HOPS, ids=[case[2] for case in NEXT_HOPS]
)
def test_next_hop(next_hop, domain, why):
    key = next_hop if isinstance(next_hop, bytes) else next_hop.encode()
    found = parse_next_hop(key)
    assert (found and found.domain) == domain, why


@pytest.mark.requirement("KEY-1")
@pytest.mark.parametrize(
    ("next_hop", "parts"),
    [
        ("example.com", NextHop("example.com")),
        ("example.com:587", NextHop("example.com", port="587")),
        ("[example.com]", NextHop("example.com", is_host=True)),
        ("[example.com]:smtp", NextHop("example.com", is_host=True, port="smtp")),
    ],
)
def test_a_next_hop_is_written_as_postfix_writes_it(next_hop, parts):
    assert parse_next_hop(next_hop.encode()) == parts
    assert str(parts) == next_hop
