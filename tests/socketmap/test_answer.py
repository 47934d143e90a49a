"""The answers to Postfix: zones, keys, both forms, and what a hostile policy cannot do."""

import math

import pytest

from stsresolver.config.settings import Zone
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.policies.in_force import InForce
from stsresolver.socketmap.answer import Answers, answer
from stsresolver.socketmap.netstring import MAX_REPLY, cut

HEAD = "version: STSv1\nmode: enforce\nmax_age: 604800\n"
PLAIN = parse_policy((HEAD + "mx: mail.example.com\nmx: *.example.net\n").encode())
TESTING = parse_policy((HEAD + "mx: a.example.com").replace("enforce", "testing").encode())
NONE = parse_policy((HEAD + "mx: a.example.com").replace("enforce", "none").encode())

SHORT = b"OK secure match=mail.example.com:.example.net servername=hostname"
LONG = (
    SHORT + b" policy_type=sts policy_domain=example.com"
    b" { policy_string = version: STSv1 }"
    b" { policy_string = mode: enforce }"
    b" { policy_string = max_age: 604800 }"
    b" { policy_string = mx: mail.example.com }"
    b" { policy_string = mx: *.example.net }"
    b" mx_host_pattern=mail.example.com mx_host_pattern=*.example.net"
)

ANSWERS = [
    (PLAIN, Zone(), SHORT, "enforce, Postfix 3.4 and later"),
    (PLAIN, Zone(require_sni=False), SHORT.removesuffix(b" servername=hostname"), "before 3.4"),
    (PLAIN, Zone(tlsrpt=True), LONG, "3.10 and later"),
    (None, Zone(), b"NOTFOUND ", "no policy"),
    (None, Zone(tlsrpt=True), b"NOTFOUND ", "no policy"),
    (NONE, Zone(strict_testing=True, tlsrpt=True), b"NOTFOUND ", "none is never OK none"),
    (TESTING, Zone(tlsrpt=True), b"NOTFOUND ", "testing"),
    (
        TESTING,
        Zone(strict_testing=True),
        b"OK secure match=a.example.com servername=hostname",
        "testing, taken strictly",
    ),
]


@pytest.mark.requirement("APPLY-8", "ANSWER-4")
@pytest.mark.requirement(
    {
        "enforce, Postfix 3.4 and later": ("APPLY-7", "ANSWER-1"),
        "before 3.4": "ANSWER-2",
        "none is never OK none": "ANSWER-3",
        "testing": ("ANSWER-3", "ANSWER-11"),
        "testing, taken strictly": "ANSWER-3",
        "no policy0": "ANSWER-3",
        "3.10 and later": "ANSWER-5",
    }
)
@pytest.mark.parametrize(
    ("policy", "zone", "reply", "why"), ANSWERS, ids=[case[3] for case in ANSWERS]
)
def test_answer(policy, zone, reply, why):
    assert answer(policy, "example.com", zone) == reply, why


def attributes(reply):
    """Read a reply as Postfix does: names and values, split at white space outside of braces.

    After tls_policy_lookup_one() and mystrtokq(): a token ends at a comma, a space, a tab or a
    line end at brace level zero; `{ name = value }` is an attribute like `name=value`.
    """
    level, *policy = tokens(reply.removeprefix(b"OK ").decode())
    pairs = [token.strip("{}").partition("=") for token in policy]
    return level, [(name.strip(), value.strip()) for name, _, value in pairs]


def tokens(text):
    found, depth = [""], 0
    for char in text:
        depth += (char == "{") - (char == "}")
        assert depth >= 0, "a brace that was never opened"
        if depth == 0 and char in " ,\t\r\n":
            found.append("")
        else:
            found[-1] += char
    assert depth == 0, "a brace that is never closed: Postfix defers the mail"
    return [token for token in found if token]


HOSTILE = [
    ("x: } { policy_failure = x", "braces in an extension"),
    ("x: {", "an open brace"),
    ("x: }", "a closing brace"),
    ("x: a} match=evil.example {b", "a match of its own"),
    ("x: a, match=evil.example", "commas and equals signs are safe inside braces"),
    ("x: protocols=SSLv3", "an attribute's text"),
    ("x: a\u0085b", "a control character of ISO 8859-1"),
    ("x: a\u2028b", "a line separator"),
    ("x: \u202eb", "a direction override"),
    ("mode: {", "a duplicate, ignored, with a brace"),
    ("version: } policy_type=no-policy-found {", "a duplicate with attributes"),
    ("max_age: } mx_host_pattern=*.evil.example {", "a duplicate with attributes"),
    ("mx_host_pattern: *.evil.example", "an extension with an attribute's name"),
    ("policy_string: a = b", "an extension with an attribute's name"),
]


@pytest.mark.requirement("ANSWER-8")
@pytest.mark.parametrize(("line", "why"), HOSTILE, ids=[case[1] for case in HOSTILE])
def test_no_policy_text_adds_or_hides_an_attribute(line, why):
    policy = parse_policy((HEAD + f"mx: mail.example.com\n{line}\n").encode())
    assert answer(policy, "example.com", Zone()) == (
        b"OK secure match=mail.example.com servername=hostname"
    )
    level, pairs = attributes(answer(policy, "example.com", Zone(tlsrpt=True)))
    assert level == "secure"
    assert [pair for pair in pairs if pair[0] != "policy_string"] == [
        ("match", "mail.example.com"),
        ("servername", "hostname"),
        ("policy_type", "sts"),
        ("policy_domain", "example.com"),
        ("mx_host_pattern", "mail.example.com"),
    ], why
    strings = [value for name, value in pairs if name == "policy_string"]
    assert strings[:4] == ["version: STSv1", "mode: enforce", "max_age: 604800", strings[3]]
    assert all(string in policy.text for string in strings), why


LENGTHS = [
    ("".join(f"x{number}: y\n" for number in range(1020)), 1024, "as many strings as may be"),
    ("".join(f"x{number}: y\n" for number in range(1021)), 4, "one string too many"),
    ("".join(f"x{number}: {'y' * 90}\n" for number in range(640)), 644, "it fits"),
    ("".join(f"x{number}: {'y' * 5}\n" for number in range(1000)), 1004, "it fits"),
    ("".join(f"mx:{number}.example.com\n" for number in range(1020)), 1024, "many mx"),
    ("".join(f"mx:{number}.example.com\n" for number in range(1100)), 3, "mx fields go last"),
    ("".join(f"mx:{number:x}.bc\n" for number in range(5500)), 0, "the short form"),
]


@pytest.mark.requirement("ANSWER-6", "ANSWER-9")
@pytest.mark.parametrize(("lines", "strings", "why"), LENGTHS, ids=[case[2] for case in LENGTHS])
def test_what_does_not_fit_is_dropped_in_turn(lines, strings, why):
    policy = parse_policy((HEAD + "mx: mail.example.com\n" + lines).encode())
    reply = answer(policy, "example.com", Zone(tlsrpt=True))
    assert len(reply) <= MAX_REPLY
    assert reply.count(b"policy_string") == strings, why
    assert reply.count(b"mx_host_pattern=") == (len(policy.mx) if strings else 0)
    if not strings:
        assert reply == answer(policy, "example.com", Zone())


@pytest.mark.requirement("ANSWER-9")
def test_extension_text_is_dropped_first():
    mx = "".join(f"mx: {number}.{'a' * 50}.{'b' * 30}.com\n" for number in range(300))
    lines = "".join(f"x{number}: {'y' * 60}\n" for number in range(400))
    policy = parse_policy((HEAD + mx + lines).encode())
    reply = answer(policy, "example.com", Zone(tlsrpt=True))
    assert len(reply) <= MAX_REPLY
    assert reply.count(b"policy_string") == 303
    assert reply.count(b"mx_host_pattern") == 300


@pytest.mark.requirement("WIRE-6", "ANSWER-9")
def test_the_short_form_of_the_largest_policy_fits():
    head = "version:STSv1\nmode:enforce\nmax_age:1\n"
    lines = (f"mx:{number:03x}.co\n" for number in range(6300))
    policy = parse_policy((head + "".join(lines)).encode())
    assert len(policy.mx) > 4000
    assert len(answer(policy, "example.com", Zone())) <= MAX_REPLY


class Known:
    """Policies that know one domain."""

    changes = 7

    def __init__(self):
        self.asked = []

    def ask(self, domain, timeout, answer):
        self.asked.append((domain, timeout))
        answer(InForce(TESTING if domain == "example.com" else None, 100.0, self.changes))

    def cached(self, domain, timeout):
        return InForce(TESTING, 50.0, 7) if domain == "example.com" else None


@pytest.fixture
def known():
    return Known()


@pytest.fixture
def answers(known):
    zones = {"strict": Zone(strict_testing=True, timeout=9.0), "zöne": Zone(strict_testing=True)}
    return Answers(known, Zone(timeout=2.0), zones)


def reply(answers, request):
    replies = []
    answers.look_up(request, replies.append)
    (found,) = replies
    return cut(found.data, limit=MAX_REPLY)[0]


STRICT = b"OK secure match=a.example.com servername=hostname"

REQUESTS = [
    (b"postfix example.com", b"NOTFOUND ", ("example.com", 2.0), "an unknown name: default_zone"),
    (b"strict example.com", STRICT, ("example.com", 9.0), "a zone, with its own timeout"),
    ("zöne example.com".encode(), STRICT, ("example.com", 4.0), "built-in, not default_zone's"),
    (b"STRICT example.com", b"NOTFOUND ", ("example.com", 2.0), "zone names have case"),
    (b" example.com", b"NOTFOUND ", ("example.com", 2.0), "an empty name"),
    (b"strict EXAMPLE.com.", STRICT, ("example.com", 9.0), "as Postfix may write it"),
    (b"strict [example.com]:25", STRICT, ("example.com", 9.0), "a smart host"),
    ("strict bücher.example".encode(), b"NOTFOUND ", ("xn--bcher-kva.example", 9.0), "IDN"),
    (b"strict .example.com", b"NOTFOUND ", None, "parent domains: no lookup"),
    (b"strict [192.0.2.1]", b"NOTFOUND ", None, "an address literal: no lookup"),
    (b"strict localhost", b"NOTFOUND ", None, "a single label: no lookup"),
    (b"strict ", b"NOTFOUND ", None, "an empty key"),
    (b"strict  example.com", b"NOTFOUND ", None, "two spaces: the key begins with one"),
    (b"strict \xff.example", b"NOTFOUND ", None, "invalid UTF-8"),
    ("strict ü_.example".encode(), b"NOTFOUND ", None, "no domain, seen by a worker"),
    (b"strict", b"PERM ", None, "no space: no key"),
    (b"", b"PERM ", None, "nothing"),
]


@pytest.mark.requirement("WIRE-1")
@pytest.mark.requirement(
    {
        "a smart host": "APPLY-3",
        "an address literal: no lookup": ("APPLY-4", "KEY-4"),
        "no space: no key": "WIRE-7",
        "nothing": "WIRE-7",
        "parent domains: no lookup": "KEY-3",
        "a single label: no lookup": "KEY-4",
        "IDN": "KEY-6",
        "an empty key": "KEY-7",
        "invalid UTF-8": "KEY-7",
        "two spaces: the key begins with one": "KEY-7",
        "an unknown name: default_zone": "KEY-8",
        "a zone, with its own timeout": "KEY-8",
        "zone names have case": "KEY-8",
        "built-in, not default_zone's": "KEY-9",
    }
)
@pytest.mark.parametrize(
    ("request_", "want", "asked", "why"), REQUESTS, ids=[case[3] for case in REQUESTS]
)
def test_request(answers, known, request_, want, asked, why):
    assert reply(answers, request_) == want, why
    assert known.asked == ([asked] if asked else []), why


WITHOUT_DOMAIN = [
    (b"z .example.com", "a parent domain"),
    (b"z [192.0.2.1]:25", "a literal"),
    (b"z", "no request"),
    (b"z \xff", "no UTF-8"),
]


@pytest.mark.requirement({"a parent domain": "KEY-3"})
@pytest.mark.parametrize(
    ("request_", "why"), WITHOUT_DOMAIN, ids=[case[1] for case in WITHOUT_DOMAIN]
)
def test_what_can_have_no_policy_is_repeated_for_ever(answers, known, request_, why):
    replies = []
    answers.look_up(request_, replies.append)
    assert (replies[0].until, replies[0].change) == (math.inf, known.changes), why


@pytest.mark.requirement("WIRE-10")
def test_a_reply_says_how_long_it_holds(answers):
    replies = []
    answers.look_up(b"z example.com", replies.append)
    assert (replies[0].until, replies[0].domain, replies[0].change) == (100.0, "example.com", 7)
    assert answers.changes == 7


@pytest.mark.requirement("WIRE-9")
def test_cached(answers):
    assert answers.cached(b"strict example.com").data.endswith(STRICT + b",")
    unknown = answers.cached(b"strict example.net").data
    assert unknown == b"22:TEMP no answer in time,", "nobody knows yet"
    assert answers.cached(b"strict example.net").until == -math.inf, "never said again"
