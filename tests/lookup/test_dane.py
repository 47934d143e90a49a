"""Asking the resolver process about DANE: real children, and zones that are really signed."""

from __future__ import annotations

import pytest

from stsresolver.dane.resolver import DaneResolver
from stsresolver.dane.states import MxState, Verdict
from stsresolver.lookup.client import Ending
from stsresolver.lookup.messages import DANE
from stsresolver.mta_sts.next_hop import NextHop, parse_next_hop
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import TIMEOUT
from tests.support.signed_zones import Zone, validating_resolver
from tests.support.waited import Waited

DIGEST = "00" * 32
HOST = f"mx A 192.0.2.1\n_25._tcp.mx TLSA 3 1 1 {DIGEST}\n_587._tcp.mx TLSA 1 1 1 {DIGEST}\n"
ZONES = {
    "good.example": Zone(
        "@ MX 10 mx\n" + HOST + "plain A 192.0.2.1\nsome MX 10 mx\nsome MX 20 plain\n"
    ),
    "bogus.example": Zone("@ MX 10 mx66\nmx A 192.0.2.66\n", "bogus"),
    "unsigned.example": Zone("@ MX 10 mx.good.example.\n" + HOST, "no"),
}
TABLE = [
    ("good.example", Verdict.DANE),
    ("[mx.good.example]", Verdict.DANE),
    ("[mx.good.example]:587", Verdict.POLICY),
    ("good.example:submission", Verdict.POLICY),
    ("unsigned.example", Verdict.POLICY),
    ("bogus.example", Verdict.UNKNOWN),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with validating_resolver(tmp_path_factory.mktemp("zones"), ZONES) as port:
        yield {"nameservers": [f"127.0.0.1:{port}"]}


def test_what_is_found_is_what_the_library_finds(settings, pool):
    library = DaneResolver(TIMEOUT, **settings)
    one = pool(settings)
    lookups = Waited(one, TIMEOUT)
    for text, verdict in TABLE:
        found = lookups.dane(parse_next_hop(text.encode()), whole=True)
        expected = library.look_up(text)
        assert found.verdict is expected.verdict is verdict, text
        assert found.mx is expected.mx
        assert [(host.name, host.state) for host in found.hosts] == [
            (host.name, host.state) for host in expected.hosts
        ]
    ended = {ending: number for ending, number in one.endings.read().items() if number}
    assert ended == {
        Ending(DANE, "found", None): 2,
        Ending(DANE, "none", None): 3,
        Ending(DANE, "failure", Cause.DNS): 1,
    }


def test_the_first_host_ends_it(settings, process):
    lookups = Waited(process(settings), TIMEOUT)
    # The second host may have been faster.
    assert lookups.dane(NextHop("some.good.example")).verdict is Verdict.DANE
    whole = lookups.dane(NextHop("some.good.example"), whole=True)
    assert whole.is_whole
    assert [host.name for host in whole.unusable_hosts] == ["plain.good.example"]


@pytest.mark.parametrize(("trust_ad", "believed"), [(False, False), (None, True)])
def test_who_is_believed_is_a_setting(settings, process, trust_ad, believed):
    lookups = Waited(process(settings | {"trust_ad": trust_ad}), TIMEOUT)
    found = lookups.dane(NextHop("good.example"))
    assert (found.mx is not MxState.NOT_BELIEVED) is believed


def test_lost_with_the_process(process, child):
    child("hello()\nasked()\n")
    result = Waited(process(), TIMEOUT).dane(NextHop("good.example"))
    assert isinstance(result, Failure)
    assert result.cause is Cause.PROCESS
