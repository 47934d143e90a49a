"""What nameservers do wrong, and what must come of it: one table for answer, time and memory.

A case is a reason, a behaviour (`hostile_dns`) and the expected result as `summary` writes it: the
id, or the class with its cause. What ends by itself stands in ANSWERS, FORGERIES and LOOPS; what
does not, in LATE.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from stsresolver import Cause, Failure, NoPolicy
from tests.support.hostile_dns import (
    Behaviour,
    after,
    alias,
    as_a_query,
    code,
    cut_short,
    dribbled,
    extra,
    from_another_port,
    hang_up,
    in_turn,
    name_that_points_at_itself,
    nodata,
    nxdomain,
    referral,
    silence,
    taking_turns,
    truncated,
    twice,
    txt,
    with_counts,
    with_wrong_id,
    with_wrong_question,
)

# The time limit of a lookup, and what a case may take beyond it, in seconds.
LIMIT, GRACE = 1.0, 0.5

GOOD = txt("v=STSv1; id=good")
EVIL = txt("v=STSv1; id=evil")


def none(cause: Cause = Cause.NO_RECORD, ttl: int = 0) -> tuple:
    return (NoPolicy, cause, ttl)


FAILED = (Failure, Cause.DNS)


def summary(result: str | NoPolicy | Failure) -> str | tuple:
    """Return what a table says of a result: the id, or the class with cause and ttl."""
    match result:
        case NoPolicy(cause, _, ttl):
            return (NoPolicy, cause, ttl)
        case Failure(cause, detail, policy_id):
            assert detail, "a failure without a word of why"
            assert detail.isprintable(), "a stranger's control characters"
            assert policy_id == ""
            return (Failure, cause)
    return result


def row(reason: str, behaviour: Behaviour, expected: str | tuple):
    return pytest.param(behaviour, expected, id=reason)


LETTERS = "abcdefghijklmnopqrstuvwxyz"
# A record of 255 strings of 255 bytes: the largest there can be.
LARGEST = ("v=STSv1; id=large; x=".ljust(255, "x"), *["y" * 255] * 254)

ANSWERS = [
    row("one record", GOOD, "good"),
    row("strings are joined without a space", txt(("v=STSv1; id=20", "16")), "2016"),
    row("255 strings", txt(tuple("v=STSv1; id=many; x=".ljust(255, "x"))), "many"),
    row("empty strings between", txt(("", "v=STSv1", "", "; id=a", "")), "a"),
    row("255 strings of 255 bytes: too large to be read", txt(LARGEST), FAILED),
    row("records of other kinds", txt("v=spf1 -all", "", "v=STSv10; id=a", "v=STSv1; id=b"), "b"),
    row(
        "40 records, one of them ours",
        txt(*(f"google-site-verification={n:044}" for n in range(39)), "v=STSv1; id=one"),
        "one",
    ),
    row(
        "201 records: too many to be read",
        txt(*(f"google-site-verification={n:044}" for n in range(200)), "v=STSv1; id=one"),
        FAILED,
    ),
    row("only records of other kinds", txt("v=spf1 -all", "id=a; v=STSv1"), none()),
    row("the same record twice in an answer", twice(GOOD), "good"),
    row("two records", txt("v=STSv1; id=a", "v=STSv1; id=b"), none(Cause.SEVERAL_RECORDS)),
    row("one of two malformed", txt("v=STSv1; id=a", "v=STSv1;"), none(Cause.SEVERAL_RECORDS)),
    row("malformed", txt("v=STSv1; id=a-b"), none(Cause.BAD_RECORD)),
    row("not ASCII", txt((b"v=STSv1; id=a; x=\xc3\xa4",)), none(Cause.BAD_RECORD)),
    row("NUL", txt((b"v=STSv1; id=a\0",)), none(Cause.BAD_RECORD)),
    row("no such name", nxdomain(), none(ttl=900)),
    row("no TXT at the name", nodata(), none(ttl=900)),
    row("SOA that lives shorter than its minimum", nxdomain(60, 3600), none(ttl=60)),
    row("SOA whose minimum is shorter", nodata(3600, 60), none(ttl=60)),
    row("SOA of no time", nodata(0, 3600), none(ttl=0)),
    row("no such name, no SOA", code("NXDOMAIN"), none()),
    row("no TXT, no SOA", code("NOERROR"), none()),
    row("a referral is no answer: a lame server sends it (RFC 2308 §2.2)", referral, FAILED),
    row("an alias, and a referral", alias("a.example.net.", then=referral), FAILED),
    row("alias", alias("a.example.net.", then=GOOD), "good"),
    row("alias of an alias", alias("a.example.net.", "b.example.org.", then=GOOD), "good"),
    row("eight aliases", alias(*(f"{c}.example.net." for c in LETTERS[:8]), then=GOOD), "good"),
    row("alias of no such name", alias("gone.example.net.", then=nxdomain()), none(ttl=900)),
    row("alias of a name without TXT", alias("a.example.net.", then=nodata()), none(ttl=900)),
    row("alias of nothing, no SOA", alias("gone.example.net.", then=code("NOERROR")), none()),
    row("SERVFAIL", code("SERVFAIL"), FAILED),
    row("REFUSED", code("REFUSED"), FAILED),
    row("FORMERR", code("FORMERR"), FAILED),
    row("NOTIMP", code("NOTIMP"), FAILED),
    row("NOTAUTH", code("NOTAUTH"), FAILED),
    row("YXDOMAIN", code("YXDOMAIN"), FAILED),
    row("BADVERS", code("BADVERS"), FAILED),
    row("a status without a name", code("12"), FAILED),
    row("a status without a name, in OPT too", code("3000"), FAILED),
    row("alias that fails", alias("a.example.net.", then=code("SERVFAIL")), FAILED),
    row("truncated, whole over TCP", truncated(GOOD), "good"),
    row("truncated, nothing over TCP", truncated(nxdomain()), none(ttl=900)),
    row("truncated, fails over TCP", truncated(code("SERVFAIL")), FAILED),
    row("truncated, hangs up over TCP", truncated(hang_up), FAILED),
    row("truncated, garbage over TCP", truncated(lambda _: [b"\0\x28" + b"\xff" * 40]), FAILED),
    row("truncated, an empty message over TCP", truncated(lambda _: [b"\0\0"]), FAILED),
    row("truncated, forged question over TCP", truncated(with_wrong_question(EVIL)), FAILED),
    row("truncated over TCP too", cut_short, FAILED),
    row(
        "truncated, hangs up inside the message over TCP",
        truncated(in_turn(lambda _: [b"\1\0" + b"\0" * 100], hang_up)),
        FAILED,
    ),
    row(
        "truncated, hangs up inside the length over TCP",
        truncated(in_turn(lambda _: [b"\1"], hang_up)),
        FAILED,
    ),
    row("65,535 bytes over TCP", truncated(lambda _: [b"\xff" * 65537]), FAILED),
    row(
        "1,900 records over TCP: too many to be read",
        truncated(txt(*(f"v=STSv1; id={number}" for number in range(1900)))),
        FAILED,
    ),
    row("65,535 records announced", with_counts(GOOD, 65535), FAILED),
    row("truncated, forged id over TCP", truncated(with_wrong_id(EVIL)), FAILED),
    row("over TCP byte by byte, in time", dribbled(GOOD, 0.0005), "good"),
    row("the truth twice", in_turn(GOOD, GOOD), "good"),
    row("an answer, then NXDOMAIN", in_turn(GOOD, nxdomain()), "good"),
    row(
        "a record of another name does not count",
        extra("_mta-sts.example.org.", "TXT", '"v=STSv1; id=evil"', then=nodata()),
        none(ttl=900),
    ),
    row(
        "nor beside ours",
        extra("_mta-sts.example.org.", "TXT", '"v=STSv1; id=evil"', then=GOOD),
        "good",
    ),
    row("a datagram is lost", taking_turns(silence, GOOD), "good"),
    row(
        "slow at first, as a nameserver is that must ask around",
        taking_turns(after(0.45, GOOD), GOOD),
        "good",
    ),
    row("a fifth of the limit late", after(0.2, GOOD), "good"),
]


FORGERIES = {
    "forged id": with_wrong_id(EVIL),
    "another question": with_wrong_question(EVIL),
    "another port": from_another_port(EVIL),
    "a query": as_a_query(EVIL),
    "forged NXDOMAIN": with_wrong_id(nxdomain()),
    "garbage": lambda _: [b"\xff" * 40],
    "empty datagram": lambda _: [b""],
}


def circle(*targets: str) -> Behaviour:
    """Answer with aliases that lead through `targets` back to the name that was asked."""
    return lambda query: alias(*targets, query.name.to_text(), then=nodata())(query)


LOOPS = {
    "alias of itself": circle(),
    "aliases in a circle": circle("a.example.net."),
    "aliases without end": alias(*(f"{n}.example.net." for n in range(200)), then=GOOD),
}


LATE = {
    "silence": silence,
    "answers after the time limit": after(LIMIT + GRACE, GOOD),
    "only a forged id": with_wrong_id(EVIL),
    "forged ids for ever": in_turn(*[after(0.05, with_wrong_id(EVIL))] * 60),
    "a thousand forged ids a second": in_turn(*[after(0.001, with_wrong_id(EVIL))] * 2000),
    "a name that points at itself": name_that_points_at_itself,
    "more records announced than there are": with_counts(GOOD, 99),
    "only another question": with_wrong_question(EVIL),
    "only from another port": from_another_port(EVIL),
    "only a query": as_a_query(EVIL),
    "only an empty datagram": lambda _query: [b""],
    "truncated, silence over TCP": truncated(silence),
    "truncated, byte by byte over TCP": dribbled(GOOD, 0.2),
    "truncated, a byte a second over TCP": dribbled(GOOD, 1.0),
    "truncated, 64 kB dribble over TCP": dribbled(txt(LARGEST), 0.0005),
    "truncated, half a message over TCP": truncated(lambda _: [b"\1\0" + b"\0" * 100, 9.0]),
    "truncated, half a length over TCP": truncated(lambda _: [b"\1", 9.0]),
}


@dataclass(frozen=True)
class Case:
    """A case of any of the tables; `late` says that only the time limit ends it."""

    reason: str
    behaviour: Behaviour
    expected: str | tuple
    late: bool = False


CASES = [
    *(Case(row.id, *row.values) for row in ANSWERS),
    *(Case(reason, in_turn(what, GOOD), "good") for reason, what in FORGERIES.items()),
    *(Case(reason, what, FAILED) for reason, what in LOOPS.items()),
    *(Case(reason, what, FAILED, late=True) for reason, what in LATE.items()),
]
