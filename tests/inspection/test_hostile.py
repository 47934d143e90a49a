"""Each server that misbehaves gives a screen that names the step that failed. Nothing is raised."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from stsresolver import Cause, Failure, NoPolicy
from stsresolver.inspection.as_json import as_json
from stsresolver.inspection.findings import Part
from stsresolver.inspection.judgement import ADVICE
from stsresolver.inspection.screen import WIDTH, Paint, screen
from tests.support import hostile_dns_cases, hostile_https_cases
from tests.support.hostile_dns import txt
from tests.support.hostile_place import Place

# Many looks share the machine with their servers.
LIMIT = 2 * hostile_dns_cases.LIMIT
# What a look at one domain may take: DNS, HTTPS, the certificate, MX, each its limit and half.
MOST = 4 * 1.5 * LIMIT
STEPS = {
    Cause.NO_ADDRESS: Part.ADDRESSES,
    Cause.ADDRESS: Part.ADDRESSES,
    Cause.CONNECT: Part.CONNECTION,
    Cause.CERTIFICATE: Part.TLS,
    Cause.TLS: Part.TLS,
}


def looked_at(seen, valid) -> dict:
    """Check what is written of a domain: it can be shown anywhere, and it is all there."""
    lines = list(screen(seen, Paint(on=False), verbose=True))
    assert all(line.isascii() and line.isprintable() and len(line) <= WIDTH for line in lines)
    found = valid(as_json(seen))
    whole = " ".join(" ".join(lines).split())
    if seen.cause not in (None, Cause.NO_RECORD):
        advice = ADVICE[seen.cause]
        assert f"Failed in step {advice.step}: {seen.cause.value}" in whole
        assert advice.remedy in whole
    assert "Verdict" in whole
    assert seen.seconds < MOST
    return found


def test_name_servers(world, valid):
    # DANE has hostile cases of its own, and would take the time of these.
    inspector = world.inspector(timeout=LIMIT, dane=False)
    cases = hostile_dns_cases.CASES
    for number, case in enumerate(cases):
        world.dns.zone[f"_mta-sts.dns{number}.example TXT"] = case.behaviour
        world.dns.zone[f"dns{number}.example MX"] = case.behaviour
    with ThreadPoolExecutor(8) as pool:
        domains = [f"dns{number}.example" for number in range(len(cases))]
        for case, seen in zip(cases, pool.map(inspector.inspect, domains), strict=True):
            found = looked_at(seen, valid)
            if isinstance(case.expected, str):
                # There is no policy host.
                assert found["record"]["id"] == case.expected, case.reason
                assert found["cause"] == "connect", case.reason
            else:
                kind, cause, *_ = case.expected
                assert type(seen.result) is kind, case.reason
                assert seen.cause is cause, case.reason
                assert found["policy_host"] is None
            if kind_of_failure(case):
                assert found["record"]["texts"] is None, case.reason


def kind_of_failure(case) -> bool:
    return not isinstance(case.expected, str) and case.expected[0] is Failure


@pytest.mark.parametrize("late", [False, True])
def test_policy_hosts(world, valid, late):
    cases = [case for case in hostile_https_cases.CASES if case.late is late]
    world.dns.zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=1")

    def look(case):
        with case.start(Place(world.authority)) as host:
            return world.inspector(host.port, LIMIT, dane=False).inspect("example.com")

    with ThreadPoolExecutor(8) as pool:
        for case, seen in zip(cases, pool.map(look, cases), strict=True):
            found = looked_at(seen, valid)
            assert found["record"]["id"] == "1"
            assert not isinstance(seen.result, NoPolicy)
            # A busy machine makes each of them late.
            allowed = {*(case.causes or (None,)), Cause.DEADLINE}
            assert seen.cause in allowed, case.reason
            if seen.cause is not None:
                assert found["policy"] is None
                assert seen.cause not in STEPS or STEPS[seen.cause] in seen.times, case.reason
            if seen.cause in (Cause.CERTIFICATE, Cause.TLS):
                assert found["policy_host"]["status"] is None
            if seen.cause in (Cause.STATUS, Cause.MEDIA_TYPE, Cause.SYNTAX):
                assert found["policy_host"]["status"] is not None
                assert found["policy_host"]["certificate"] is not None
            assert (found["policy_host"]["text"] is not None) >= (seen.cause is Cause.SYNTAX)
