"""A policy host that one address family does not lead to: its addresses race (RFC 8305).

Each case by the library, which waits with poll, and by the resolver process, which waits with
epoll. The time limit is what the lookup has in all: a family that is broken must not use it up.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from stsresolver import Cause, Resolver
from stsresolver.mta_sts.connector import MAX_SOCKETS
from stsresolver.net.deadline import BoundedSocket
from stsresolver.net.happy_eyeballs import MAX_ATTEMPTS
from tests.lookup.processes import ROOT, Served
from tests.support.hostile_dns import Behaviour, addresses, after, code, nodata, nxdomain, silence
from tests.support.hostile_https import BlackHole, PolicyHost, has_ipv6_loopback, page
from tests.support.hostile_place import check
from tests.support.waited import Waited

pytestmark = pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 loopback (::1) here")

# Seconds: more than a race takes.
TIMEOUT = 2.0
V4, V6 = "127.0.0.1", "::1"
# Nothing listens there, and connect(2) fails at once: a link-local address without its link.
UNROUTABLE = "fe80::1"


@dataclass(frozen=True)
class Case:
    """What DNS says, which addresses answer, and which drop every SYN; the others refuse."""

    a: Behaviour
    aaaa: Behaviour
    answers: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    # Parts of the failure's text.
    says: tuple[str, ...] = field(default=())


CASES = {
    "A is dropped, AAAA is fine": Case(silence, addresses(V6), (V6,)),
    "A is SERVFAIL, AAAA is fine": Case(code("SERVFAIL"), addresses(V6), (V6,)),
    "A is REFUSED, AAAA is fine": Case(code("REFUSED"), addresses(V6), (V6,)),
    "A refuses connections, AAAA is fine": Case(addresses(V4), addresses(V6), (V6,)),
    "A drops SYNs, AAAA is fine": Case(addresses(V4), addresses(V6), (V6,), (V4,)),
    "AAAA is dropped, A is fine": Case(addresses(V4), silence, (V4,)),
    "AAAA is SERVFAIL, A is fine": Case(addresses(V4), code("SERVFAIL"), (V4,)),
    "AAAA refuses connections, A is fine": Case(addresses(V4), addresses(V6), (V4,)),
    "AAAA drops SYNs, A is fine": Case(addresses(V4), addresses(V6), (V4,), (V6,)),
    "AAAA has no route, A is fine": Case(addresses(V4), addresses(UNROUTABLE), (V4,)),
    "AAAA drops SYNs, A comes late": Case(after(0.3, addresses(V4)), addresses(V6), (V4,), (V6,)),
    "A drops SYNs, AAAA comes late": Case(addresses(V4), after(0.3, addresses(V6)), (V6,), (V4,)),
    "A drops SYNs at three addresses, and the fourth is fine": Case(
        addresses("127.0.0.3", "127.0.0.4", "127.0.0.5", V4),
        nodata(),
        (V4,),
        ("127.0.0.3", "127.0.0.4", "127.0.0.5"),
    ),
    "both are SERVFAIL": Case(
        code("SERVFAIL"), code("SERVFAIL"), causes=(Cause.ADDRESS,), says=("SERVFAIL",)
    ),
    "both are dropped": Case(
        silence, silence, causes=(Cause.ADDRESS,), says=("A lookup: ", "AAAA lookup: ")
    ),
    "A is dropped, there is no AAAA": Case(
        silence, nodata(), causes=(Cause.ADDRESS,), says=("A lookup: ",)
    ),
    "there is no A, AAAA is SERVFAIL": Case(
        nodata(), code("SERVFAIL"), causes=(Cause.ADDRESS,), says=("AAAA lookup: ", "SERVFAIL")
    ),
    "there is neither": Case(nxdomain(), nxdomain(), causes=(Cause.NO_ADDRESS,)),
    "both refuse connections": Case(
        addresses(V4),
        addresses(V6),
        causes=(Cause.CONNECT,),
        says=(f"{V6}: Connection refused", f"{V4}: Connection refused"),
    ),
    "both drop SYNs": Case(
        addresses(V4),
        addresses(V6),
        drops=(V4, V6),
        causes=(Cause.CONNECT,),
        says=(f"{V6}: no connection in time", f"{V4}: no connection in time"),
    ),
    "A is SERVFAIL, AAAA refuses connections": Case(
        code("SERVFAIL"),
        addresses(V6),
        causes=(Cause.CONNECT,),
        says=(f"{V6}: Connection refused", "A lookup: ", "SERVFAIL"),
    ),
}


@pytest.fixture(params=["library", "resolver process"])
def fetch(request, process) -> Callable[[Served, int], object]:
    """Return what fetches the policy of example.com."""

    def by(served: Served, port: int):
        settings = served.settings | {"https_port": port}
        if request.param == "library":
            return Resolver(TIMEOUT, **settings).fetch("example.com")
        return Waited(process(settings), TIMEOUT).fetch("example.com")

    return by


@contextlib.contextmanager
def hosts(case: Case, certificate):
    """Yield the policy hosts of a case, which share a port, by address, and that port."""
    while True:
        with contextlib.ExitStack() as opened:
            try:
                answering, port = _opened(case, certificate, opened)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                # A server of another test has this port at one of the addresses.
                continue
            yield answering, port
            return


def _opened(case: Case, certificate, opened: contextlib.ExitStack):
    # Whoever answers or not: the port is taken at an address that no case uses.
    port = opened.enter_context(PolicyHost(page(), certificate, "127.0.0.99")).port
    answering = {
        address: opened.enter_context(PolicyHost(page(), certificate, address, port))
        for address in case.answers
    }
    for address in case.drops:
        opened.enter_context(BlackHole(address, port))
    for address in {V4, V6} - {*case.answers, *case.drops}:
        # Bound and not listening, it refuses.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened.enter_context(socket.socket(family, socket.SOCK_STREAM)).bind((address, port))
    return answering, port


@pytest.mark.requirement("HTTPS-18", "HTTP-8")
@pytest.mark.parametrize("reason", CASES)
def test_one_family_is_broken(served, certificate, fetch, reason):
    case = CASES[reason]
    served.dns.zone |= {"mta-sts.example.com A": case.a, "mta-sts.example.com AAAA": case.aaaa}
    with hosts(case, certificate) as (_, port):
        result = fetch(served, port)
    check(result, case.causes)
    for text in case.says:
        assert text in result.detail


@pytest.mark.requirement("HTTPS-18")
def test_where_both_work_one_is_used(served, certificate, fetch):
    case = Case(addresses(V4), addresses(V6), (V4, V6))
    served.dns.zone |= {"mta-sts.example.com A": case.a, "mta-sts.example.com AAAA": case.aaaa}
    with hosts(case, certificate) as (answering, port):
        check(fetch(served, port), [])
        assert (answering[V6].connections, answering[V4].connections) == (1, 0)


@pytest.mark.requirement("KEEP-12")
def test_one_lookup_holds_no_more_sockets_than_promised(served, certificate, monkeypatch):
    """Every attempt hangs, and so does a question: that is all that can be open at once."""
    dark = [f"127.0.0.{number}" for number in range(3, 3 + 2 * MAX_ATTEMPTS)]
    case = Case(addresses(*dark), silence, drops=tuple(dark))
    opened, closed, most = [], [], [0]
    init, close = BoundedSocket.__init__, BoundedSocket.close

    def counted(self, *arguments):
        init(self, *arguments)
        opened.append(self)
        most[0] = max(most[0], len(opened) - len(closed))

    def uncounted(self):
        close(self)
        closed.append(self)

    monkeypatch.setattr(BoundedSocket, "__init__", counted)
    monkeypatch.setattr(BoundedSocket, "close", uncounted)
    served.dns.zone |= {"mta-sts.example.com A": case.a, "mta-sts.example.com AAAA": case.aaaa}
    with hosts(case, certificate) as (_, port):
        settings = served.settings | {"https_port": port}
        check(Resolver(TIMEOUT, **settings).fetch("example.com"), [Cause.CONNECT])
    assert most[0] == MAX_SOCKETS
    assert len(opened) == len(closed), "and all are closed in the end"


@pytest.mark.parametrize(("limit", "lookups"), [(4096, 812), (1024, 198), (33, 1)])
def test_lookups_at_once_follow_from_the_limit_of_descriptors(limit, lookups):
    program = (
        "import resource; from stsresolver.lookup.child import most_lookups;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); print(most_lookups())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) == lookups
