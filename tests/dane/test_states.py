"""Whether DANE or the policy holds, by what DNS says of the MX records and the hosts."""

from __future__ import annotations

import pytest

from stsresolver.dane.states import Dane, DaneHost, HostState, MxState, Verdict, verdict

USABLE, NO_TLSA, NOT_SIGNED, UNUSABLE, INSECURE, NO_ADDRESS, FAILED, NOT_AWAITED = HostState
DANE, POLICY, UNKNOWN = Verdict

TABLE = [
    # reason, MX records, hosts, what follows
    ("all hosts have TLSA records", MxState.SECURE, [USABLE, USABLE], DANE),
    ("the only one has", MxState.SECURE, [USABLE], DANE),
    ("some have, another has none", MxState.SECURE, [USABLE, NO_TLSA], DANE),
    ("some have, another's are not signed", MxState.SECURE, [NOT_SIGNED, USABLE], DANE),
    ("some have, another's cannot be used", MxState.SECURE, [UNUSABLE, USABLE], DANE),
    ("some have, another is not signed", MxState.SECURE, [USABLE, INSECURE], DANE),
    ("some have, another has no address", MxState.SECURE, [USABLE, NO_ADDRESS], DANE),
    ("some have, another fails", MxState.SECURE, [FAILED, USABLE], DANE),
    ("some have, another was not waited for", MxState.SECURE, [USABLE, NOT_AWAITED], DANE),
    ("none has any", MxState.SECURE, [NO_TLSA, NO_TLSA], POLICY),
    ("none has signed ones", MxState.SECURE, [NOT_SIGNED], POLICY),
    ("none has usable ones", MxState.SECURE, [UNUSABLE], POLICY),
    ("none is signed", MxState.SECURE, [INSECURE, INSECURE], POLICY),
    ("none has an address", MxState.SECURE, [NO_ADDRESS], POLICY),
    ("none, for several reasons", MxState.SECURE, [NO_TLSA, INSECURE, UNUSABLE], POLICY),
    ("none has any, and one fails", MxState.SECURE, [NO_TLSA, FAILED], UNKNOWN),
    ("the only one fails", MxState.SECURE, [FAILED], UNKNOWN),
    ("a host with TLSA records", MxState.HOST, [USABLE], DANE),
    ("a host without", MxState.HOST, [NO_TLSA], POLICY),
    ("a host that fails", MxState.HOST, [FAILED], UNKNOWN),
    ("MX records that anybody could forge", MxState.INSECURE, [USABLE], POLICY),
    ("the same, not looked further", MxState.INSECURE, [], POLICY),
    ("MX records that fail", MxState.FAILED, [], UNKNOWN),
    ("no such domain, or a null MX", MxState.NO_MAIL, [], POLICY),
    ("no name server is believed", MxState.NOT_BELIEVED, [], POLICY),
]


@pytest.mark.requirement("DANE-1", "DANE-2", "DANE-3", "DANE-4", "DANE-8")
@pytest.mark.parametrize(
    ("mx", "hosts", "expected"), [pytest.param(*row, id=reason) for reason, *row in TABLE]
)
def test_what_follows(mx, hosts, expected):
    assert verdict(mx, hosts) is expected
    assert Dane(mx, tuple(DaneHost("mx.example.com", state) for state in hosts)).verdict is expected


def dane(*hosts: DaneHost) -> Dane:
    return Dane(MxState.SECURE, hosts)


def test_hosts_that_mail_cannot_go_to():
    good = DaneHost("a.example.com", USABLE)
    bad = DaneHost("b.example.com", FAILED, "SERVFAIL")
    later = DaneHost("c.example.com", NOT_AWAITED)
    assert dane(good, bad, later).unusable_hosts == (bad,)
    assert dane(bad).unusable_hosts == ()
    assert dane(good, bad).is_whole
    assert not dane(good, later).is_whole


def test_as_a_sentence():
    none = DaneHost("a.example.com", NO_TLSA)
    bad = DaneHost("b.example.com", FAILED, "127.0.0.1: SERVFAIL")
    assert str(Dane(MxState.INSECURE)) == "the MX records are not signed"
    failed = Dane(MxState.FAILED, detail="127.0.0.1: SERVFAIL")
    assert str(failed) == "the MX records could not be looked up: 127.0.0.1: SERVFAIL"
    assert str(dane(none, bad)) == "b.example.com could not be looked up: 127.0.0.1: SERVFAIL"
    assert str(dane(none)) == "a.example.com has no TLSA records"
    assert str(dane(*[none] * 5)).endswith("records, ...")
