"""What follows from an inspection: a line for each rule of problems and verdict."""

from __future__ import annotations

import pytest

from stsresolver import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.config.settings import Zone
from stsresolver.inspection.findings import MailHost, Severity
from stsresolver.inspection.judgement import ADVICE, is_weak
from tests.support.inspections import entry, inspection, policy

FAILED = Failure(Cause.CONNECT, "192.0.2.1: Connection refused", "2016")
ENFORCED = "mail to example.com goes only over verified TLS"
WITHOUT = "mail to example.com goes as without a policy: "

VERDICTS = [
    ("all is well", inspection(), ENFORCED),
    (
        "one of two",
        inspection(mx=("mail.example.com", "mx2.example.com")),
        "mail to example.com will be refused by mx2.example.com: its name is not in the policy",
    ),
    (
        "more than three",
        inspection(mx=tuple(f"{one}.example.org" for one in "abcde")),
        "mail to example.com will be refused by a.example.org: its name is not in the policy"
        " and b.example.org: its name is not in the policy"
        " and c.example.org: its name is not in the policy and 2 more",
    ),
    ("a wildcard", inspection(Found(policy("*.example.com"), "1")), ENFORCED),
    ("MX hosts unknown", inspection(mx=None, mx_failure="SERVFAIL"), ENFORCED),
    (
        "a null MX",
        inspection(mx=()),
        "mail to example.com is not possible: the domain says that it takes none",
    ),
    (
        "testing",
        inspection(Found(policy(mode="testing"), "1"), mx=("mx.example.org",)),
        f"{WITHOUT}its mode is testing",
    ),
    (
        "testing, which the zone enforces",
        inspection(Found(policy(mode="testing"), "1"), zone=Zone(strict_testing=True)),
        ENFORCED,
    ),
    ("none", inspection(Found(policy(mode="none"), "1")), f"{WITHOUT}its mode is none"),
    (
        "no record",
        inspection(NoPolicy(Cause.NO_RECORD), texts=()),
        "example.com has no MTA-STS policy: the domain publishes no MTA-STS record",
    ),
    ("a failure", inspection(FAILED), f"{WITHOUT}{Cause.CONNECT.value}"),
    (
        "a failure of this host",
        inspection(Failure(Cause.PROCESS)),
        f"mail to example.com waits in the queue: {Cause.PROCESS.value}",
    ),
    (
        "a failure, and a policy in the cache",
        inspection(FAILED, entry=entry()),
        f"{ENFORCED}, by the policy in the cache",
    ),
    (
        "a failure, and a policy that has ended",
        inspection(FAILED, entry=entry(age=604_800.0)),
        f"{WITHOUT}{Cause.CONNECT.value}",
    ),
    (
        "no record any more, and a policy in the cache",
        inspection(NoPolicy(Cause.NO_RECORD), texts=(), entry=entry()),
        f"{ENFORCED}, by the policy in the cache",
    ),
    (
        "no record, and a policy in the cache that is not enforced",
        inspection(NoPolicy(Cause.NO_RECORD), texts=(), entry=entry("testing")),
        "mail to example.com goes as without a policy: mode testing is in force",
    ),
    (
        "a known id",
        inspection(NotChanged("2016"), mx=None),
        "example.com: the MTA-STS policy is still 2016",
    ),
]


@pytest.mark.parametrize(
    ("seen", "sentence"), [pytest.param(seen, text, id=why) for why, seen, text in VERDICTS]
)
def test_verdict(seen, sentence):
    assert seen.verdict == sentence


ERROR, WARNING = Severity.ERROR, Severity.WARNING
PROBLEMS = [
    ("none", inspection(), [], False),
    ("another MX host", inspection(mx=("a.example.org",)), [(ERROR, "mx-mismatch")], True),
    (
        "another MX host, testing",
        inspection(Found(policy(mode="testing"), "1"), mx=("a.example.org",)),
        [(WARNING, "mx-mismatch")],
        True,
    ),
    (
        "another MX host, mode none",
        inspection(Found(policy(mode="none"), "1"), mx=("a.example.org",)),
        [],
        False,
    ),
    ("13 days", inspection(certificate_days=13.5), [(WARNING, "certificate-ends")], True),
    ("14 days", inspection(certificate_days=14.5), [], False),
    (
        "a day less a second",
        inspection(Found(policy(max_age=86_399), "1")),
        [(WARNING, "max-age-short")],
        True,
    ),
    ("a day", inspection(Found(policy(max_age=86_400), "1")), [], False),
    (
        "max_age again",
        inspection(Found(policy(more="max_age: 1\n"), "1")),
        [(WARNING, "field-repeated")],
        False,
    ),
    (
        "a blank line",
        inspection(text="version: STSv1\r\n\r\nmode: enforce\r\n"),
        [(WARNING, "blank-line")],
        False,
    ),
    ("none at the end", inspection(text="version: STSv1\r\nmode: enforce\r\n"), [], False),
    (
        "MX hosts unknown",
        inspection(mx=None, mx_failure="SERVFAIL"),
        [(WARNING, "mx-lookup")],
        False,
    ),
    ("a null MX", inspection(mx=()), [(WARNING, "null-mx")], False),
    ("no record", inspection(NoPolicy(Cause.NO_RECORD), texts=()), [], False),
    (
        "a record that is nearly one",
        inspection(NoPolicy(Cause.NO_RECORD), texts=("v=STSv2; id=1", "v=spf1 -all")),
        [(WARNING, "record-ignored")],
        False,
    ),
    (
        "a bad record",
        inspection(NoPolicy(Cause.BAD_RECORD, "no id")),
        [(ERROR, "bad-record")],
        False,
    ),
    ("a failure", inspection(FAILED), [(ERROR, "connect")], False),
    (
        "a failure, and a cached policy without one of the MX hosts",
        inspection(FAILED, mx=(MailHost("a.example.org", 1),), entry=entry()),
        [(ERROR, "connect"), (ERROR, "mx-mismatch")],
        True,
    ),
]


@pytest.mark.parametrize(
    ("seen", "codes", "weak"), [pytest.param(*case, id=why) for why, *case in PROBLEMS]
)
def test_problems(seen, codes, weak):
    assert [(one.severity, one.code) for one in seen.problems] == codes
    assert is_weak(seen) is weak


def test_each_cause_has_its_advice():
    assert set(ADVICE) == set(Cause)


@pytest.mark.parametrize(
    ("zone", "answer", "code", "verdict"),
    [
        (Zone(exempt=("example.com",)), "NOTFOUND ", "exempt",
         "mail to example.com goes as without a policy: it is exempt by example.com"),
        (Zone(observe=True), "NOTFOUND ", "observed",
         "mail to example.com goes as without a policy: the zone observes"),
    ],
)  # fmt: skip
def test_a_zone_that_protects_nothing(zone, answer, code, verdict):
    seen = inspection(zone=zone)
    assert (seen.answer, seen.verdict) == (answer, verdict)
    assert [(one.severity, one.code) for one in seen.problems] == [("warning", code)]
    assert seen.would_be == "OK secure match=mail.example.com servername=hostname"
