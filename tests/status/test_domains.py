"""What holds for a domain, as the status page says it."""

from dataclasses import replace

import pytest

from stsresolver.cache.entry import Entry
from stsresolver.config.settings import Zone
from stsresolver.dane.states import Verdict
from stsresolver.mta_sts.policy import Mode
from stsresolver.policies.faults import Fault
from stsresolver.policies.setbacks import Setback
from stsresolver.status.domains import Told, failing, setback, told, troubles
from tests.support.policies import DAY, policy

NOW = 1_800_000_000.0
NONE = frozenset()
SECURE = "OK secure match=mail.example.com servername=hostname"


def entry(domain="a.example", mode=Mode.ENFORCE, max_age=7 * DAY, **changes):
    made = Entry(domain, "1", policy(mode, max_age), NOW, NOW, NOW // DAY * DAY, NOW + DAY)
    return replace(made, **changes)


class State:
    def __init__(self, verdict):
        self.verdict = verdict


@pytest.mark.parametrize(
    ("zone", "exempt", "kept", "fault", "verdict", "answer", "would_be", "by", "why"),
    [
        (Zone(), NONE, entry(), None, None, SECURE, "", "", "enforced"),
        (Zone(), NONE, entry(mode=Mode.TESTING), None, None, "NOTFOUND ", "", "", "a test"),
        (Zone(strict_testing=True), NONE, entry(mode=Mode.TESTING), None, None, SECURE, "", "",
         "a test that is taken seriously"),
        (Zone(), NONE, entry(fetched=NOW - 8 * DAY), None, None, "", "", "", "expired"),
        (Zone(), NONE, None, None, None, "", "", "", "nothing is known"),
        (Zone(), NONE, None, "none", None, "NOTFOUND ", "", "", "no policy"),
        (Zone(), NONE, None, Fault.PROCESS, None, "TEMP the resolver process failed", "", "",
         "mail waits"),
        (Zone(observe=True), NONE, entry(), None, None, "NOTFOUND ", SECURE, "", "observed"),
        (Zone(), frozenset([".example"]), entry(), None, None, "NOTFOUND ", SECURE, ".example",
         "exempt"),
        (Zone(), frozenset(["a.example"]), None, None, None, "NOTFOUND ", "", "a.example",
         "exempt, and without a policy"),
        (Zone(dane=True), NONE, entry(), None, Verdict.DANE, "OK dane-only", "", "", "DANE"),
        (Zone(dane=True), NONE, entry(), None, Verdict.POLICY, SECURE, "", "", "no DANE"),
        (Zone(dane=True), NONE, entry(), None, None, "", "", "", "DANE is not known yet"),
        (Zone(), NONE, entry(), None, Verdict.DANE, SECURE, "", "", "the zone does not want it"),
    ],
)  # fmt: skip
def test_told(zone, exempt, kept, fault, verdict, answer, would_be, by, why):
    unknown = {"z": None if fault == "none" else fault} if fault else {}
    dane = {"z": State(verdict)} if verdict else {}
    found = told("a.example", kept, {"z": (zone, exempt)}, unknown, dane, NOW)
    assert found == [Told("z", answer, would_be, by)], why


@pytest.mark.parametrize(
    ("kept", "what", "why"),
    [
        (entry(), None, "in force"),
        (entry(failed=NOW, failure="404"), "policy in force could not be renewed: enforce",
         "failing"),
        (entry(mode=Mode.NONE, failed=NOW), None, "nothing is protected anyway"),
        (entry(fetched=NOW - 8 * DAY), None, "ended, since no mail asked for it"),
        (entry(fetched=NOW - 8 * DAY, failed=NOW, failure="404"), "policy expired: enforce",
         "ended because it failed"),
        (entry(max_age=0), None, "withdrawn by its owner"),
        (entry(mode=Mode.TESTING, failed=NOW, failure="x"),
         "policy in force could not be renewed: testing", "a test counts"),
    ],
)  # fmt: skip
def test_failing(kept, what, why):
    found = failing(kept, None, NOW)
    assert (found and found.what) == what, why


def test_what_ends_first_comes_first_and_setbacks_last():
    found = troubles(
        [
            entry("late.example", failed=NOW, failure="404"),
            entry("soon.example", failed=NOW, failure="404", fetched=NOW - 6 * DAY),
            entry("well.example"),
            entry("both.example", failed=NOW, failure="404", fetched=NOW - 3 * DAY),
        ],
        [
            (Setback("weaker.example", NOW - 5, Mode.ENFORCE, Mode.TESTING), None),
            (Setback("gone.example", NOW, Mode.ENFORCE, None, "SERVFAIL"), None),
            (Setback("both.example", NOW, Mode.ENFORCE, Mode.TESTING), None),
            (Setback("renewed.example", NOW, Mode.ENFORCE, None), entry("renewed.example")),
        ],
        {"late.example": NOW - DAY}.get,
        NOW,
    )
    assert [one.domain for one in found] == [
        "soon.example",
        "both.example",
        "late.example",
        "gone.example",
        "weaker.example",
    ]


def test_since_when():
    kept = entry(failed=NOW, failure="404")
    assert failing(kept, NOW - DAY, NOW).since == NOW - DAY
    assert failing(kept, None, NOW).since == NOW, "as far as this daemon knows"


def test_a_setback_in_words():
    weaker = setback(Setback("a.example", NOW, Mode.ENFORCE, Mode.NONE))
    assert weaker.what == "policy got weaker: enforce -> none"
    expired = setback(Setback("a.example", NOW, Mode.ENFORCE, None, "SERVFAIL"))
    assert (expired.what, expired.why) == ("policy expired: enforce", "SERVFAIL")
