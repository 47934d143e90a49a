"""Every case of the tables of misbehaviour in a process of its own: answer, time, CPU and memory.

What a case does is in `hostile_dns_cases` and `hostile_https_cases`; how it is measured, in
`measured_lookups`.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stsresolver import Cause
from tests.support import hostile_dns_cases, hostile_https_cases
from tests.support.authority import Authority
from tests.support.hostile_dns import NameServer, addresses, txt
from tests.support.hostile_http_answers import BOMB
from tests.support.hostile_https import page
from tests.support.hostile_place import Place, check, https
from tests.support.measured_lookups import CLEAR_REFS, Looker, Result, looker

pytestmark = pytest.mark.skipif(
    not CLEAR_REFS.exists(), reason="no /proc/self/clear_refs (Linux) to measure a peak with"
)

# Seconds: the limit of a case that ends by itself, of one that does not, and what comes on top.
QUICK, SLOW, GRACE = 2.0, 0.5, 0.5
# Bytes that a lookup may take.
MEMORY = 5_000_000
# What may be computed before a certificate is verified, DNS included: seconds of CPU, or on a slow
# machine so many times what an honest lookup takes.
CPU, HONEST = 0.01, 9
PROCESSES = 3

Measured = tuple[Result, float, float, int]


class Measurement:
    """Processes that look up, warm already, and the servers that they all need."""

    def __init__(self, authority: Authority, dns: NameServer, lookers: list[Looker]) -> None:
        self._authority = authority
        self._dns = dns
        self._idle = queue.SimpleQueue[Looker]()
        for one in lookers:
            self._idle.put(one)
            # What the first of all lookups loads and keeps is not the case's.
            for _ in range(2):
                for warm in self.dns_case, self.https_case:
                    warm(WARM[warm.__name__])

    @contextlib.contextmanager
    def _looker(self) -> Iterator[Looker]:
        one = self._idle.get()
        try:
            yield one
        finally:
            self._idle.put(one)

    def dns_case(self, case: hostile_dns_cases.Case) -> Measured:
        zone = {"_mta-sts.example.com TXT": case.behaviour}
        with self._looker() as one, NameServer(zone) as server:
            return one.look_up("policy_id", dns_port=server.port, limit=limit(case))

    def https_case(self, case: hostile_https_cases.Case, what: str = "fetch") -> Measured:
        with self._looker() as one, case.start(Place(self._authority)) as server:
            return one.look_up(
                what, dns_port=self._dns.port, https_port=server.port, limit=limit(case)
            )


WARM = {
    "dns_case": hostile_dns_cases.Case("honest", txt("v=STSv1; id=1"), "1"),
    "https_case": hostile_https_cases.Case("honest", https(page()), ()),
}


def limit(case: hostile_dns_cases.Case | hostile_https_cases.Case) -> float:
    return SLOW if case.late else QUICK


@pytest.fixture(scope="module")
def measurement(tmp_path_factory) -> Iterator[Measurement]:
    directory = tmp_path_factory.mktemp("measured")
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    authority = Authority(directory)
    with (
        NameServer(otherwise=addresses("127.0.0.1")) as dns,
        contextlib.ExitStack() as stack,
    ):
        lookers = [
            stack.enter_context(looker(resolv_conf, authority.bundle)) for _ in range(PROCESSES)
        ]
        yield Measurement(authority, dns, lookers)


def side_by_side(run: Callable, cases: list) -> dict[str, Measured]:
    with ThreadPoolExecutor(PROCESSES) as pool:
        return dict(zip([case.reason for case in cases], pool.map(run, cases), strict=True))


@pytest.fixture(scope="module")
def dns_results(measurement) -> dict[str, Measured]:
    return side_by_side(measurement.dns_case, hostile_dns_cases.CASES)


@pytest.fixture(scope="module")
def https_results(measurement) -> dict[str, Measured]:
    return side_by_side(measurement.https_case, hostile_https_cases.CASES)


@pytest.fixture(scope="module")
def honest(measurement) -> float:
    """Seconds of CPU that an honest lookup takes here."""
    case = hostile_https_cases.Case("honest", https(page()), ())
    return min(measurement.https_case(case)[2] for _ in range(5))


def each(cases: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.reason for case in cases])


@each(hostile_dns_cases.CASES)
def test_nameserver(dns_results, case):
    result, seconds, _, memory = dns_results[case.reason]
    assert hostile_dns_cases.summary(result) == case.expected
    assert seconds < limit(case) + GRACE
    assert memory < MEMORY


@each(hostile_https_cases.CASES)
def test_policy_host(https_results, case):
    result, seconds, _, memory = https_results[case.reason]
    check(result, case.causes)
    assert seconds < limit(case) + GRACE
    assert memory < MEMORY


def ends_before_http(case: hostile_https_cases.Case) -> bool:
    return bool(case.causes) and {Cause.TLS, Cause.CERTIFICATE, Cause.CONNECT}.issuperset(
        case.causes
    )


@pytest.mark.requirement("HTTP-20")
@each([case for case in hostile_https_cases.CASES if ends_before_http(case)])
def test_little_is_computed_for_one_without_a_certificate(measurement, https_results, honest, case):
    _, _, least, _ = https_results[case.reason]
    # What else the machine does can make a computation longer, and never shorter.
    most = max(CPU, HONEST * honest)
    for _ in range(3):
        if least < most:
            break
        least = min(least, measurement.https_case(case)[2])
    assert least < most


def test_reasons_are_told_apart():
    for cases in hostile_dns_cases.CASES, hostile_https_cases.CASES:
        assert len({case.reason for case in cases}) == len(cases)


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_measure_sees_a_bomb(measurement, time):
    """A client without bounds takes the 50 MB, and the second time is not hidden by the first."""
    bomb = https(page(BOMB, extra=["Content-Encoding: gzip"]))
    result, *_, memory = measurement.https_case(hostile_https_cases.Case(time, bomb, ()), "plain")
    assert int(result.split()[0]) > 50_000_000
    assert memory > 50_000_000
