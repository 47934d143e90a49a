"""Inspections of real servers on loopback: what each step has seen."""

from __future__ import annotations

import pytest

import stsresolver
from stsresolver import Cause, Failure, Found, NotChanged
from stsresolver.cache.store import StoreError
from stsresolver.config.settings import Zone
from stsresolver.control.messages import Missed
from stsresolver.inspection.as_json import fields
from stsresolver.inspection.findings import MailHost, Part
from stsresolver.net.proxy import Proxy
from tests.support.hostile_dns import addresses, alias, code, mx, nodata, nxdomain, txt
from tests.support.hostile_https import PolicyHost, hang_up, page
from tests.support.hostile_place import Place
from tests.support.inspections import entry

POLICY = b"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 604800\n"


@pytest.fixture
def host(world):
    """A policy host for example.com, whose record is there."""
    world.dns.zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=2016", "v=spf1 -all")
    context = world.authority.server("mta-sts.example.com")
    with PolicyHost(page(POLICY, kind="text/plain; charset=utf-8"), context) as host:
        yield host


def test_each_step(world, host):
    world.dns.zone["example.com MX"] = mx("20 MX2.example.com.", "10 b.org.", "10 a.example.com.")
    seen = world.inspector(host.port).inspect("user@Example.COM")
    assert isinstance(seen.result, Found)
    assert seen.domain == "example.com"
    assert sorted(seen.record.texts) == ["v=STSv1; id=2016", "v=spf1 -all"]
    assert seen.record.id == "2016"
    found = seen.policy_host
    assert (found.name, found.reached) == ("mta-sts.example.com", "127.0.0.1")
    assert found.addresses == ("127.0.0.1",)
    assert found.certificate.names == ("mta-sts.example.com",)
    assert found.certificate.issuer.startswith("CN=stsresolver test authority ")
    assert (found.status, found.media_type) == (200, "text/plain; charset=utf-8")
    assert (found.size, found.text) == (len(POLICY), POLICY.decode())
    assert [(one.preference, one.host, one.pattern) for one in seen.mx] == [
        (10, "a.example.com", "*.example.com"),
        (10, "b.org", None),
        (20, "mx2.example.com", "*.example.com"),
    ]
    assert seen.answer == "OK secure match=.example.com servername=hostname"
    assert set(seen.times) == set(Part)
    # The look at DANE is made beside that at the MX hosts.
    apart = [seconds for part, seconds in seen.times.items() if part is not Part.DANE]
    assert 0 < sum(apart) <= seen.seconds < 5


MX = [
    ("none, so the domain itself", nodata(), [MailHost("example.com", 0)]),
    ("no such name", nxdomain(), [MailHost("example.com", 0)]),
    ("a null MX", mx("0 ."), []),
    ("one", mx("10 mail.example.net."), [MailHost("mail.example.net", 10)]),
    ("by an alias", alias("b.org.", then=mx("1 a.b.org.")), [MailHost("a.b.org", 1)]),
    ("no host name", mx(r"1 a\032b\009.org."), [MailHost(r"a\032b\009.org", 1)]),
    ("a failure", code("SERVFAIL"), None),
]


@pytest.mark.parametrize(("behaviour", "hosts"), [pytest.param(*case, id=why) for why, *case in MX])
def test_mx_hosts(world, behaviour, hosts):
    world.dns.zone["_mta-sts.example.com TXT"] = nxdomain()
    world.dns.zone["example.com MX"] = behaviour
    seen = world.inspector().inspect("example.com")
    assert seen.mx == (None if hosts is None else tuple(hosts))
    assert seen.mx_failure == ("" if hosts is not None else "127.0.0.1: SERVFAIL")


def test_name_in_brackets_is_the_mail_host(world):
    seen = world.inspector().inspect("[relay.example.net]:587")
    assert seen.mx == (MailHost("relay.example.net", 0),)
    assert seen.port == "587"
    assert ("relay.example.net", "MX", "udp") not in world.dns.queries


def test_certificate_that_is_not_valid_is_shown(world, host):
    context = world.authority.server("other.example", days=(-9, -2))
    with PolicyHost(page(POLICY), context) as other:
        seen = world.inspector(other.port).inspect("example.com")
        assert other.heads == [], "nothing was asked of a policy host that is not verified"
    assert seen.cause is Cause.CERTIFICATE
    assert seen.policy_host.certificate.names == ("other.example",)
    assert seen.policy_host.certificate.days_left(seen.now) == -3
    assert seen.policy_host.status is None


def test_known_id(world, host):
    seen = world.inspector(host.port).inspect("example.com", "2016")
    assert seen.result == NotChanged("2016")
    assert (seen.policy_host, seen.mx, seen.problems) == (None, None, ())
    assert fields(seen)["result"] == "policy"
    assert host.connections == 0


def test_stored_policy_is_what_postfix_is_told(world):
    world.dns.zone["_mta-sts.example.com TXT"] = code("SERVFAIL")
    world.dns.zone["example.com MX"] = mx("10 mail.example.com.")
    stored = entry(age=-1e9)
    seen = world.inspector(cached=lambda domain: [stored]).inspect("example.com")
    assert isinstance(seen.result, Failure)
    assert (seen.entry, seen.in_force) == (stored, stored.policy)
    assert seen.answer == "OK secure match=mail.example.com servername=hostname"
    assert seen.mx[0].pattern == "mail.example.com"


def test_store_that_fails_is_a_problem(world):
    def cached(domain):
        raise StoreError("cache.db: another process keeps it locked")

    seen = world.inspector(cached=cached).inspect("example.com")
    assert seen.entry is None
    assert "cache" in [one.code for one in seen.problems]


def test_policy_that_the_daemon_does_not_see_yet(world, host):
    missed = Missed("example.com", 4.0, "no-record", "the domain publishes no record", 1234.0)
    seen = world.inspector(host.port, cached=lambda domain: [missed]).inspect("example.com")
    (problem,) = [one for one in seen.problems if one.code == "remembered-miss"]
    assert "for 1234 seconds more (the domain publishes no record)" in problem.text
    assert "mta-sts-query cache refresh example.com" in problem.text


def test_zone_says_how_postfix_is_answered(world, host):
    zone = Zone(tlsrpt=True, require_sni=False)
    seen = world.inspector(host.port, zone=zone).inspect("example.com")
    assert seen.answer.startswith("OK secure match=.example.com policy_type=sts policy_domain=")


def test_proxy(world, host):
    with Place(world.authority).listener(hang_up) as listener:
        proxy = Proxy("127.0.0.1", listener.port)
        seen = world.inspector(host.port, proxy=proxy).inspect("example.com")
    assert seen.cause is Cause.PROXY
    assert seen.policy_host.addresses is None


def test_addresses_that_do_not_answer(world):
    world.dns.zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=1")
    world.dns.zone["mta-sts.example.com A"] = addresses("127.0.0.1", "127.0.0.2")
    seen = world.inspector(9).inspect("example.com")
    assert seen.cause is Cause.CONNECT
    assert {"127.0.0.1", "127.0.0.2"} <= set(seen.policy_host.addresses)
    assert seen.policy_host.reached is None


def test_text_that_names_no_domain_is_the_one_error(world):
    with pytest.raises(ValueError, match="no domain name"):
        world.inspector().inspect("localhost")


def test_library(monkeypatch):
    """`inspect` makes an inspector with the arguments that it was given."""
    made = []

    class Made(stsresolver.Inspector):
        def __init__(self, *arguments, **keywords):
            made.append((arguments, keywords))

        def inspect(self, target):
            return target

    monkeypatch.setattr("stsresolver.inspection.inspector.Inspector", Made)
    zone = Zone()
    assert stsresolver.inspect("user@example.com", timeout=2, zone=zone) == "user@example.com"
    assert made == [((2,), {"proxy": None, "zone": zone})]
