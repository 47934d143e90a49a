"""The policy file, after RFC 8461 §3.2 and §4.1: one line a case, with its reason."""

import pytest

from stsresolver.mta_sts.policy import (
    MAX_MAX_AGE,
    MAX_STORED_SIZE,
    Mode,
    Policy,
    PolicyError,
    parse_policy,
)

HEAD = "version: STSv1\nmode: enforce\nmax_age: 604800\n"
PLAIN = HEAD + "mx: mail.example.com\n"
NAME_253 = ".".join(["a" * 49] * 5) + ".com"


def policy(mode=Mode.ENFORCE, mx=("mail.example.com",), max_age=604800):
    return mode, mx, max_age


GOOD = [
    (PLAIN, policy(), "LF"),
    (PLAIN.replace("\n", "\r\n"), policy(), "CRLF"),
    (PLAIN.replace("\n", "\r\n", 2), policy(), "mixed"),
    (PLAIN[:-1], policy(), "no final line end"),
    (PLAIN.replace("\n", "\r\n")[:-2], policy(), "no final line end after CRLF"),
    ("\n\r\n" + PLAIN.replace("\n", "\n\n") + " \t\n", policy(), "blank lines are ignored"),
    ("\n".join(reversed(PLAIN.split("\n"))), policy(), "any order of keys"),
    (PLAIN + "foo: bar x\n", policy(), "unknown keys are ignored"),
    (PLAIN + "foo: 日本語 é\n", policy(), "UTF-8 in an extension's value"),
    (PLAIN + "a.b-c_d: !~\n", policy(), "every kind of character in a name"),
    (PLAIN + "f" * 32 + ": x\n", policy(), "a name of 32 characters"),
    (PLAIN + "foo: a: b=c;d\n", policy(), "a colon in a value"),
    (PLAIN.replace(": ", ":"), policy(), "no white space"),
    (PLAIN.replace("mode: enforce", "mode:\tenforce \t"), policy(), "tabs, trailing white space"),
    (PLAIN + "version: STSv2\n", policy(), "duplicate version: the first counts"),
    (PLAIN + "mode: none\n", policy(), "duplicate mode: the first counts"),
    (PLAIN + "mode: Nonsense\n", policy(), "an ignored duplicate is not read"),
    (PLAIN + "max_age: 1\n", policy(), "duplicate max_age: the first counts"),
    (PLAIN + "Mode: none\n", policy(), "Mode is an unknown key"),
    (PLAIN + "mx: *.b.org\n", policy(mx=("mail.example.com", "*.b.org")), "mx accumulates"),
    (PLAIN + "mx: MAIL.example.com\n", policy(), "an mx that stands again counts once"),
    (HEAD + "mx: MAIL.Example.COM\n", policy(), "names are kept in lower case"),
    (HEAD + f"mx: {NAME_253}\n", policy(mx=(NAME_253,)), "the longest name"),
    (HEAD + "mx: xn--bcher-kva.example\n", policy(mx=("xn--bcher-kva.example",)), "an A-label"),
    (PLAIN.replace("enforce", "testing"), policy(Mode.TESTING), "testing"),
    (PLAIN.replace("enforce", "none"), policy(Mode.NONE), "none, with an mx"),
    ("version: STSv1\nmode: none\nmax_age: 1", policy(Mode.NONE, (), 1), "none needs no mx"),
    (PLAIN.replace("604800", "0"), policy(max_age=0), "max_age 0"),
    (PLAIN.replace("604800", "0000604800"), policy(), "leading zeros, ten digits"),
    (PLAIN.replace("604800", "31557600"), policy(max_age=31557600), "one year"),
    (PLAIN.replace("604800", "31557601"), policy(max_age=MAX_MAX_AGE), "over a year: capped"),
    (PLAIN.replace("604800", "9999999999"), policy(max_age=MAX_MAX_AGE), "ten nines: capped"),
    (PLAIN + "x: " + "a" * (65536 - len(PLAIN) - 3), policy(), "65,536 bytes"),
]

# (text, line that the error names, reason); line 0: the whole text is meant.
BAD = [
    ("", 0, "empty"),
    ("\n\n", 0, "only blank lines"),
    (PLAIN.replace("version: STSv1\n", ""), 0, "no version"),
    (PLAIN.replace("mode: enforce\n", ""), 0, "no mode"),
    (PLAIN.replace("max_age: 604800\n", ""), 0, "no max_age"),
    (HEAD, 0, "no mx in mode enforce"),
    (HEAD.replace("enforce", "testing"), 0, "no mx in mode testing"),
    (PLAIN.replace("STSv1", "stsv1"), 1, "the version is case-sensitive"),
    (PLAIN.replace("STSv1", "STSv2"), 1, "another version"),
    (PLAIN.replace("enforce", "Enforce"), 2, "modes are case-sensitive"),
    (PLAIN.replace("enforce", "report"), 2, "a mode of an old draft"),
    (PLAIN.replace("mode", "Mode"), 0, "Mode is an unknown key, so mode is missing"),
    (PLAIN.replace("\n", "\r"), 1, "bare CR"),
    (PLAIN[:-1] + "\r", 4, "a bare CR at the end"),
    (PLAIN.replace("\n", "\r\r\n"), 1, "a CR too many"),
    (PLAIN.replace("\n", "\x0b"), 1, "a vertical tab is no line end, as in splitlines()"),
    (PLAIN + "\u2028", 5, "nor is a line separator"),
    (PLAIN + "\x0c\n", 5, "a form feed is not blank"),
    (PLAIN.replace("mode: enforce", "mode : enforce"), 2, "white space before the colon"),
    (PLAIN.replace("mode: enforce", " mode: enforce"), 2, "a leading space"),
    (PLAIN.replace("mode: enforce", "mode=enforce"), 2, "no colon"),
    (PLAIN.replace("mode: enforce", "mode:"), 2, "no value"),
    (PLAIN + "foo:\n", 5, "an extension without a value"),
    (PLAIN + "foo: \t\n", 5, "white space is no value"),
    (PLAIN + ": x\n", 5, "no name"),
    (PLAIN + "_x: y\n", 5, "a name that begins with an underscore"),
    (PLAIN + "f" * 33 + ": x\n", 5, "a name of 33 characters"),
    (PLAIN + "é: x\n", 5, "a name that is not ASCII"),
    (PLAIN + "foo: a\tb\n", 5, "a tab inside a value"),
    (PLAIN + "foo: a\x00b\n", 5, "NUL"),
    (PLAIN + "foo: a\x7fb\n", 5, "a control character"),
    (PLAIN + "<html>\n", 5, "a web page"),
    ("\ufeff" + PLAIN, 1, "a BOM"),
    (PLAIN.encode() + b"foo: \xff\n", 5, "invalid UTF-8"),
    (PLAIN.encode() + b"foo: \xed\xa0\x80\n", 5, "a surrogate in UTF-8"),
    (PLAIN.encode() + b"foo: \xc0\x80\n", 5, "an overlong form"),
    (PLAIN.encode("utf-16-le"), 1, "UTF-16"),
    (PLAIN.encode("utf-16"), 1, "UTF-16 with its BOM"),
    (PLAIN.replace("604800", "-1"), 3, "a sign"),
    (PLAIN.replace("604800", "+1"), 3, "a sign"),
    (PLAIN.replace("604800", "1.5"), 3, "a fraction"),
    (PLAIN.replace("604800", "1_0"), 3, "an underscore, which int() takes"),
    (PLAIN.replace("604800", "１２"), 3, "digits that are not ASCII, which int() takes"),
    (PLAIN.replace("604800", "00000604800"), 3, "eleven digits"),
    (PLAIN.replace("604800", "604800s"), 3, "a unit"),
    (PLAIN.replace("604800", "0x10"), 3, "hexadecimal"),
    (PLAIN + "x: " + "a" * (65537 - len(PLAIN) - 3), 0, "65,537 bytes"),
]

BAD_MX = [
    ("*", "no domain"),
    ("*.", "no domain"),
    ("*a.com", "the star is a whole label"),
    ("a.*.com", "the star comes first"),
    ("*.*.com", "one star"),
    ("**.com", "one star"),
    ("*.com", "a single label after the star"),
    (".a.com", "a leading dot"),
    ("a.com.", "a trailing dot"),
    ("a..b", "an empty label"),
    ("a_b.com", "an underscore"),
    ("-a.com", "a hyphen first"),
    ("a-.com", "a hyphen last"),
    ("mail", "a single label"),
    ("hostname", "a keyword of Postfix's match="),
    ("nexthop", "a keyword of Postfix's match="),
    ("dot-nexthop", "a keyword of Postfix's match="),
    ("a" * 64 + ".com", "a label over 63"),
    ("a" + NAME_253, "a name over 253"),
    ("192.0.2.1", "an address"),
    ("[192.0.2.1]", "an address literal"),
    ("2001:db8::1", "an address"),
    ("[IPv6:2001:db8::1]", "an address literal"),
    ("bücher.example", "a U-label"),
    ("mail.example.com:25", "a port"),
    ("a.com b.com", "a space"),
    ("a.com\tb.com", "a tab"),
    ("a.com,b.com", "a comma"),
    ("a.com:.evil.example", "a colon, which separates names in match="),
    ("a.com protocols=SSLv3", "another attribute for Postfix"),
    ("a.com=b", "an equals sign"),
    ("{a.com}", "braces"),
    ('"a.com"', "quotes"),
    ("'a.com'", "quotes"),
    ("a.com\x01", "a control character"),
    ("\u212aelvin.example", "KELVIN SIGN, whose lower case is an ASCII k"),
]
BAD += [(f"{HEAD}mx: a.com\nmx: {mx}\n", 5, f"mx {mx!a}: {why}") for mx, why in BAD_MX]
BAD += [(f"version: STSv1\nmode: none\nmax_age: 1\nmx: {BAD_MX[0][0]}", 4, "a bad mx, mode none")]


@pytest.mark.requirement("POL-15")
@pytest.mark.requirement(
    {
        "LF": "POL-1",
        "CRLF": "POL-1",
        "mixed": "POL-1",
        "no final line end": "POL-1",
        "no final line end after CRLF": "POL-1",
        "blank lines are ignored": "POL-2",
        "any order of keys": "POL-3",
        "unknown keys are ignored": "POL-3",
        "every kind of character in a name": "POL-3",
        "a name of 32 characters": "POL-3",
        "a colon in a value": "POL-3",
        "no white space": "POL-4",
        "tabs, trailing white space": "POL-4",
        "Mode is an unknown key": "POL-5",
        "duplicate version: the first counts": "POL-6",
        "duplicate mode: the first counts": "POL-6",
        "an ignored duplicate is not read": "POL-6",
        "duplicate max_age: the first counts": "POL-6",
        "mx accumulates": "POL-6",
        "none needs no mx": "POL-7",
        "testing": "POL-8",
        "none, with an mx": "POL-8",
        "max_age 0": "POL-9",
        "leading zeros, ten digits": "POL-9",
        "one year": "POL-9",
        "over a year: capped": "POL-10",
        "ten nines: capped": "POL-10",
        "UTF-8 in an extension's value": "POL-11",
        "names are kept in lower case": "POL-12",
        "an A-label": "POL-12",
        "the longest name": "POL-12",
        "65,536 bytes": "HTTPS-12",
    }
)
@pytest.mark.parametrize(("text", "want", "why"), GOOD, ids=[case[2] for case in GOOD])
def test_good(text, want, why):
    got = parse_policy(text.encode())
    assert (got.mode, got.mx, got.max_age) == want, why
    assert parse_policy(got.body.encode(), MAX_STORED_SIZE) == got, "stored, it reads back the same"


@pytest.mark.requirement("POL-13", "HTTPS-20")
@pytest.mark.requirement(
    {
        "bare CR": "POL-1",
        "a bare CR at the end": "POL-1",
        "a CR too many": "POL-1",
        "a vertical tab is no line end, as in splitlines()": "POL-1",
        "nor is a line separator": "POL-1",
        "a form feed is not blank": "POL-2",
        "a name of 33 characters": "POL-3",
        "a name that begins with an underscore": "POL-3",
        "a name that is not ASCII": "POL-3",
        "an extension without a value": "POL-3",
        "no colon": "POL-3",
        "no value": "POL-3",
        "no name": "POL-3",
        "a web page": "POL-3",
        "white space before the colon": "POL-4",
        "a leading space": "POL-4",
        "white space is no value": "POL-4",
        "a tab inside a value": "POL-4",
        "Mode is an unknown key, so mode is missing": "POL-5",
        "modes are case-sensitive": "POL-5",
        "the version is case-sensitive": "POL-5",
        "empty": "POL-7",
        "no version": "POL-7",
        "no mode": "POL-7",
        "no max_age": "POL-7",
        "no mx in mode enforce": ("POL-7", "ANSWER-4"),
        "no mx in mode testing": "POL-7",
        "another version": "POL-8",
        "a mode of an old draft": "POL-8",
        "a sign0": "POL-9",
        "a sign1": "POL-9",
        "a fraction": "POL-9",
        "an underscore, which int() takes": "POL-9",
        "digits that are not ASCII, which int() takes": "POL-9",
        "eleven digits": "POL-9",
        "a BOM": "POL-11",
        "invalid UTF-8": "POL-11",
        "a surrogate in UTF-8": "POL-11",
        "an overlong form": "POL-11",
        "UTF-16": "POL-11",
        "NUL": "POL-11",
        "a control character": "POL-11",
        "mx '*': no domain": "POL-12",
        "mx '*a.com': the star is a whole label": "POL-12",
        "mx 'a.*.com': the star comes first": "POL-12",
        "mx '*.*.com': one star": "POL-12",
        "mx 'b\\\\xfccher.example': a U-label": "POL-12",
        "mx 'hostname': a keyword of Postfix's match=": "POL-13",
        "mx 'nexthop': a keyword of Postfix's match=": "POL-13",
        "mx 'dot-nexthop': a keyword of Postfix's match=": "POL-13",
        "mx '192.0.2.1': an address": "POL-13",
        "mx 'a.com:.evil.example': a colon, which separates names in match=": "POL-13",
        "mx 'a.com protocols=SSLv3': another attribute for Postfix": "POL-13",
        "a bad mx, mode none": "POL-13",
        "65,537 bytes": "HTTPS-12",
    }
)
@pytest.mark.parametrize(("text", "line", "why"), BAD, ids=[case[2] for case in BAD])
def test_bad(text, line, why):
    with pytest.raises(PolicyError) as caught:
        parse_policy(text if isinstance(text, bytes) else text.encode())
        pytest.fail(f"taken: {why}")
    assert caught.value.line == line
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable(), "fit for a log line whatever a stranger wrote"


@pytest.mark.requirement("POL-15")
def test_a_policy_near_the_limit_reads_back_though_its_text_has_grown():
    lines = "".join(f"mx:{number:x}.co\n" for number in range(6000))
    got = parse_policy((HEAD + lines).encode())
    assert parse_policy(got.body.encode(), MAX_STORED_SIZE) == got


@pytest.mark.requirement("APPLY-10")
def test_text_is_the_policys_own_lines_in_one_form():
    got = parse_policy(b"version:STSv1\r\nmode:\tnone \t\r\n\r\nmax_age: 1\r\nFoo:  bar  x \r\n")
    assert got.text == ("version: STSv1", "mode: none", "max_age: 1", "Foo: bar  x")


MATCHES = [
    ("mail.example.com", "mail.example.com", True, "the same name"),
    ("mail.example.com", "MAIL.example.COM.", True, "case and a trailing dot do not count"),
    ("mail.example.com", "x.mail.example.com", False, "no sub-domain"),
    ("mail.example.com", "example.com", False, "no parent"),
    ("*.example.com", "MAIL.example.com.", True, "one label"),
    ("*.example.com", "xn--x.example.com", True, "one A-label"),
    ("*.example.com", "example.com", False, "not no label"),
    ("*.example.com", "a.b.example.com", False, "not two labels"),
    ("*.example.com", ".example.com", False, "not an empty label"),
    ("*.example.com", "*.example.com", True, "the text of the pattern"),
    ("*.example.com", "", False, "no name"),
    ("*.example.com", ".", False, "the root"),
]


@pytest.mark.requirement("POL-14")
@pytest.mark.parametrize(
    ("pattern", "host", "matches", "why"), MATCHES, ids=[case[3] for case in MATCHES]
)
def test_matching(pattern, host, matches, why):
    assert Policy(Mode.ENFORCE, (pattern,), 1, "").matches(host) is matches, why
