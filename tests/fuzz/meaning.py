"""What a policy means to Postfix, held against what Postfix reads in our answers.

Each function asserts one thing; the targets of the fuzzer put them together.
"""

import itertools
import math
import re
from collections.abc import Callable

from stsresolver.config.settings import Zone
from stsresolver.mta_sts.next_hop import parse_next_hop
from stsresolver.mta_sts.policy import MAX_MAX_AGE, MAX_STORED_SIZE, Policy, parse_policy
from stsresolver.policies.in_force import InForce
from stsresolver.socketmap.answer import Answers
from tests.support import postfix_grammar

DOMAIN = "example.com"
HEAD = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmax_age: 86400\n"
KNOWN = parse_policy(HEAD)
OWN_FIELDS = ("version: ", "mode: ", "max_age: ")

ZONES = [
    Zone(strict_testing=strict, require_sni=sni, tlsrpt=tlsrpt)
    for strict, sni, tlsrpt in itertools.product((False, True), repeat=3)
]


class Known:
    """Policies that know one policy, for every domain, or none."""

    changes = 0

    def __init__(self, policy: Policy | None) -> None:
        self.policy = policy
        self.asked: list[str] = []

    def ask(self, domain: str, timeout: float, answer: Callable[[InForce], None]) -> None:
        self.asked.append(domain)
        answer(InForce(self.policy, math.inf, 0))

    def cached(self, domain: str, timeout: float) -> InForce:
        self.asked.append(domain)
        return InForce(self.policy, math.inf, 0)


def is_sound(read: Policy) -> None:
    assert read.mode in ("enforce", "testing", "none")
    assert 0 <= read.max_age <= MAX_MAX_AGE
    assert read.mx or read.mode == "none"
    assert len(set(read.mx)) == len(read.mx)
    for name in read.mx:
        one_form(name.removeprefix("*."))
    assert parse_policy(read.body.encode(), MAX_STORED_SIZE) == read


def lines(text: bytes) -> list[str]:
    """Return a policy's fields as they are stored, read in another way than `sts` does."""
    fields = (line.partition(":") for line in re.split("\r?\n", text.decode()))
    return [name + ": " + value.strip(" \t") for name, colon, value in fields if colon]


def says_what_is_meant(read: Policy) -> None:
    """Hold the answers in every zone against what Postfix reads in them."""
    for zone in ZONES:
        code, data = postfix_grammar.reply(answered(read, zone))
        if read.mode == "enforce" or (read.mode == "testing" and zone.strict_testing):
            assert code == b"OK"
            is_meant(postfix_grammar.tls_policy(data), read, zone)
        else:
            assert (code, data) == (b"NOTFOUND", b"")


def answered(read: Policy, zone: Zone) -> bytes:
    replies = []
    Answers(Known(read), zone, {}).look_up(b"postfix example.com", replies.append)
    (reply,) = replies
    return reply.data


def is_meant(seen: postfix_grammar.TlsPolicy, read: Policy, zone: Zone) -> None:
    """Assert that Postfix sees the attributes that `read` calls for, and no other."""
    match = ":".join(name.removeprefix("*") for name in read.mx)
    meant = [("match", match)] + [("servername", "hostname")] * zone.require_sni
    strings = [value.decode() for value in seen.values(b"policy_string")]
    if strings:
        meant += [("policy_type", "sts"), ("policy_domain", DOMAIN)]
        meant += [("mx_host_pattern", name) for name in read.mx]
        own = [next(text for text in read.text if text.startswith(name)) for name in OWN_FIELDS]
        assert set(own) <= set(strings), "what makes it a policy is always there"
        safe = [text for text in read.text if text.isprintable() and not set(text) & set("{}")]
        left = iter(safe)
        assert all(string in left for string in strings), "not the policy's own text, in its order"
        assert strings == safe or is_large(read)
    assert seen.level == b"secure"
    others = [pair for pair in seen.attributes if pair[0] != b"policy_string"]
    assert others == [(name.encode(), value.encode()) for name, value in meant]
    assert bool(strings) == zone.tlsrpt or (zone.tlsrpt and is_large(read))


def is_large(read: Policy) -> bool:
    """Say whether what is only said to reports may be left out, because it might not fit."""
    return len(read.text) > 1000 or len(read.body) > 10_000


def one_form(domain: str) -> None:
    """Assert that `domain` is a name in A-labels of two labels or more, and stays as it is."""
    assert postfix_grammar.is_host_name(domain.encode())
    assert domain == domain.lower()
    assert 1 <= domain.count(".") < len(domain) <= 253
    for again in (domain, f"[{domain}]:25", f"{domain.upper()}."):
        found = parse_next_hop(again.encode())
        assert found is not None and found.domain == domain


def in_one_line(error: object, *, ascii_only: bool = True) -> None:
    """Assert that an error's text fits into a line of the log."""
    text = str(error)
    assert text
    assert text.isprintable()
    assert text.isascii() or not ascii_only
