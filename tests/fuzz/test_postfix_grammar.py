"""The reader of Postfix's grammar that our answers are held against knows right from wrong."""

import pytest

from tests.support.postfix_grammar import Deferred, reply, tls_policy

LONG = (
    b"secure match=mail.example.com:.example.net servername=hostname policy_type=sts"
    b" policy_domain=example.com { policy_string = mx: a, b = c } mx_host_pattern=*.example.net"
)

READ = [
    (b"secure", [], "a level alone"),
    (b"may ciphers=high", [(b"ciphers", b"high")], "one attribute"),
    (b" SECURE,\tMatch=a:b ,", [(b"match", b"a:b")], "separators and case do not count"),
    (b"secure { match = a b }", [(b"match", b"a b")], "braces hold white space"),
    (b"secure {\tmatch\t=a\tb\t}", [(b"match", b"a b")], "white space in braces becomes spaces"),
    (b"secure { match = {a} }", [(b"match", b"{a}")], "braces in braces"),
    (b"secure match={a b}", [(b"match", b"{a b}")], "braces inside of a word"),
    (b"secure match=a}", [(b"match", b"a}")], "a closing brace alone means nothing"),
    (b"secure match=a=b", [(b"match", b"a=b")], "the first equals sign counts"),
    (LONG, [
        (b"match", b"mail.example.com:.example.net"),
        (b"servername", b"hostname"),
        (b"policy_type", b"sts"),
        (b"policy_domain", b"example.com"),
        (b"policy_string", b"mx: a, b = c"),
        (b"mx_host_pattern", b"*.example.net"),
    ], "the long form"),
]  # fmt: skip

DEFERRED = [
    (b"", "nothing"),
    (b"safe", "no level"),
    (b"secure match", "no equals sign"),
    (b"secure =a", "no name"),
    (b"secure match=", "an empty match"),
    (b"may match=a", "a match where nothing is matched"),
    (b"secure colour=red", "an unknown name"),
    (b"secure { match = a", "an open brace"),
    (b"secure {{ match = a }", "one brace too many"),
    (b"secure { match = a }x", "text after a brace"),
    (b"secure servername=a servername=b", "what may stand once, twice"),
    (b"secure servername=a..b", "no host name"),
    (b"secure policy_string=x", "text for reports without a type"),
    (b"secure policy_type=x", "no type"),
    (b"secure policy_type=sts policy_string=x", "no pattern: some versions crash"),
    (b"secure match=a\0b", "a NUL"),
    (b"secure match=\xff", "no UTF-8"),
]

WIRE = [
    (b"9:NOTFOUND ,", (b"NOTFOUND", b"")),
    (b"9:OK secure,", (b"OK", b"secure")),
    (b"9:NOTFOUND ", None),
    (b"9:NOTFOUND ,x", None),
    (b"09:NOTFOUND ,", None),
    (b"8:NOTFOUND,", None),
    (b"3:ok ,", None),
    (b"100001:OK " + b"x" * 99_998 + b",", None),
]


@pytest.mark.parametrize(("data", "attributes", "why"), READ)
def test_read(data, attributes, why):
    assert tls_policy(data).attributes == attributes, why


@pytest.mark.parametrize(("data", "why"), DEFERRED)
def test_deferred(data, why):
    with pytest.raises(Deferred):
        tls_policy(data)
        pytest.fail(f"taken: {why}")


@pytest.mark.parametrize(("wire", "read"), WIRE, ids=[wire[:20] for wire, _ in WIRE])
def test_wire(wire, read):
    if read is None:
        with pytest.raises(Deferred):
            reply(wire)
    else:
        assert reply(wire) == read
