"""What an inspection shows of DANE, and what follows: made-up states, and zones really signed."""

from __future__ import annotations

import json

import pytest

from stsresolver.config.settings import DnsSettings, Zone
from stsresolver.dane.states import Dane, DaneHost, HostState, MxState, Verdict
from stsresolver.dane.tlsa import Tlsa
from stsresolver.inspection.as_json import as_json
from stsresolver.inspection.inspector import Inspector
from stsresolver.inspection.screen import WIDTH, Paint, screen
from tests.support import signed_zones
from tests.support.inspections import inspection

PLAIN = Paint(on=False)
RECORD = Tlsa(3, 1, 1, bytes(32))
OLD = Tlsa(1, 1, 1, bytes(32))
USABLE = DaneHost("mx.example.com", HostState.USABLE, "", "mx.example.com", (RECORD,))
NO_TLSA = DaneHost("plain.example.com", HostState.NO_TLSA)
UNUSABLE = DaneHost("old.example.com", HostState.UNUSABLE, OLD.unusable, "old.example.com", (OLD,))
FAILED = DaneHost("b.example.com", HostState.FAILED, "SERVFAIL \x1b[2J")
ON = Zone(dane=True)
ALL = Dane(MxState.SECURE, (USABLE,), ttl=60)
SOME = Dane(MxState.SECURE, (USABLE, NO_TLSA, UNUSABLE), ttl=60)
NONE = Dane(MxState.SECURE, (NO_TLSA,), ttl=60)
UNKNOWN = Dane(MxState.SECURE, (FAILED,), ttl=60)
FORGED = Dane(MxState.INSECURE, ttl=60)
OFF = Dane(MxState.NOT_BELIEVED, ttl=5)
LOST = Dane(MxState.FAILED, detail="SERVFAIL", ttl=5)
SECURE = "OK secure match=mail.example.com servername=hostname"
VERIFIED = "mail to example.com goes only over verified TLS"
WAITS = "TEMP DNS does not say whether DANE applies to this next hop"


@pytest.mark.parametrize(
    ("dane", "zone", "answer", "verdict", "codes"),
    [
        (ALL, ON, "OK dane-only", "mail to example.com goes only over TLS that DANE verifies", []),
        (SOME, ON, "OK dane-only", "mail to example.com goes only over TLS that DANE verifies",
         ["dane-hosts"]),
        (NONE, ON, SECURE, VERIFIED, []),
        (FORGED, ON, SECURE, VERIFIED, []),
        (UNKNOWN, ON, WAITS,
         "mail to example.com waits in the queue: it is not known whether DANE applies",
         ["dane-unknown"]),
        (LOST, ON, WAITS,
         "mail to example.com waits in the queue: it is not known whether DANE applies",
         ["dane-unknown"]),
        (OFF, ON, SECURE, VERIFIED, ["dane-off"]),
        (SOME, Zone(), SECURE, VERIFIED, []),
        (UNKNOWN, Zone(), SECURE, VERIFIED, []),
        (OFF, Zone(), SECURE, VERIFIED, []),
        (None, ON, SECURE, VERIFIED, []),
    ],
    ids=str,
)  # fmt: skip
def test_what_follows(dane, zone, answer, verdict, codes, valid):
    seen = inspection(dane=dane, zone=zone)
    assert (seen.answer, seen.verdict) == (answer, verdict)
    assert [problem.code for problem in seen.problems] == codes
    valid(as_json(seen))


def test_hosts_that_no_pattern_names_are_no_error_under_dane():
    seen = inspection(mx=("other.example.net",), dane=ALL, zone=ON)
    assert [(one.code, one.severity) for one in seen.problems] == [("mx-mismatch", "warning")]
    assert seen.refused == ()


def section(seen, *, verbose=False):
    lines = list(screen(seen, PLAIN, verbose=verbose))
    assert all(line.isascii() and line.isprintable() and len(line) <= WIDTH for line in lines)
    begin = next((n for n, line in enumerate(lines) if line.startswith("DANE")), None)
    if begin is None:
        return None
    end = next(n for n, line in enumerate(lines) if n > begin and line[0] != " ")
    return [line[13:] for line in lines[begin:end]]


def test_host_by_host():
    assert section(inspection(dane=SOME, zone=ON)) == [
        "the MX records are signed",
        "mx.example.com has TLSA records",
        "  3 1 1",
        "  0000000000000000000000000000000000000000000000000000000000000000",
        "plain.example.com has no TLSA records",
        "old.example.com has only TLSA records that cannot be used: usage 1,",
        "  and only 2 and 3 are for SMTP",
        "  1 1 1",
        "  0000000000000000000000000000000000000000000000000000000000000000",
        "  (cannot be used: usage 1, and only 2 and 3 are for SMTP)",
    ]


def test_a_policy_that_overrides_it_is_named():
    assert section(inspection(dane=ALL))[-1] == (
        "(the policy overrides it in a zone without dane: true)"
    )
    assert "overrides" not in " ".join(section(inspection(dane=ALL, zone=ON)))


@pytest.mark.parametrize("dane", [FORGED, OFF])
def test_nothing_to_see_is_shown_to_who_wants_all(dane):
    assert section(inspection(dane=dane)) is None
    lines = [dane.mx.value]
    if dane is OFF:
        lines.append("(run one that validates on this host: docs/dane.rst)")
    assert section(inspection(dane=dane), verbose=True) == lines
    assert section(inspection(dane=dane, zone=ON)) == lines
    assert section(inspection()) is None


def test_a_look_at_zones_that_are_signed(tmp_path, valid):
    """The name server knows no policy; DANE is seen all the same."""
    zones = {
        "good.example": signed_zones.Zone(
            f"@ MX 10 mx\n@ MX 20 plain\nmx A 192.0.2.1\nplain A 192.0.2.1\n"
            f"_25._tcp.mx TLSA 3 1 1 {bytes(32).hex()}\n"
        )
    }
    with signed_zones.validating_resolver(tmp_path, zones) as port:
        dns = DnsSettings((f"127.0.0.1:{port}",))
        seen = Inspector(10.0, dns=dns).inspect("good.example")
        assert Inspector(10.0, dns=dns, dane=False).inspect("good.example").dane is None
    assert seen.dane.verdict is Verdict.DANE
    assert [host.host for host in seen.mx] == ["mx.good.example", "plain.good.example"]
    assert "plain.good.example has no TLSA records" in section(seen)
    found = json.loads(as_json(seen))["dane"]
    assert (found["verdict"], found["mx"]) == ("dane", "secure")
    assert [(host["state"], len(host["tlsa"])) for host in found["hosts"]] == [
        ("usable", 1),
        ("no-tlsa", 0),
    ]
    valid(as_json(seen))
