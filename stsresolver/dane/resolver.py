"""Finds out what DNS says of DANE for a next hop (RFC 7672 §2.2, RFC 7671 §7).

MX records first, then every host's addresses and TLSA records side by side, then what their aliases
lead to: three round trips. Only name servers are asked that are believed to validate. Nothing that
DNS does is raised: what goes wrong is a state.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

import dns.exception
import dns.name
from dns.rdatatype import RdataType

from ..mta_sts.next_hop import NextHop, parse_next_hop
from ..net.deadline import Deadline
from ..net.dns_messages import Answer
from ..net.nameservers import NameServerError, NameServers
from ..net.steps import SideBySide, Steps, run
from .states import Dane, DaneHost, HostState, MxState
from .tlsa import parse_tlsa

# Hosts that are looked up at once.
_HOSTS = 5
# Sockets that one lookup has open at once, at most: for a host and for the end of its aliases.
MAX_SOCKETS = 2 * _HOSTS
# The shortest and the longest time that an answer is remembered (seconds).
_MIN_TTL, _MAX_TTL = 5, 86_400
_SMTP = 25
_FAMILIES = (RdataType.A, RdataType.AAAA)

# What is asked, by a key that the answer is found under.
Questions: TypeAlias = Mapping[object, tuple[dns.name.Name, RdataType]]


class DaneResolver:
    """Looks at DANE.

    `timeout`: seconds for a lookup, as a total of all its questions.
    `resolv_conf`, `dns_port`, `nameservers`: as for `Resolver`.
    `trust_ad`: whether to believe the name servers that they have validated an answer; None: those
    on this host, and all if `resolv_conf` has the option trust-ad. Without a name server that is
    believed nothing is asked.

    Text that names no name server raises `ValueError`. May be used by any number of threads.
    """

    def __init__(
        self,
        timeout: float = 4.0,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        dns_port: int = 53,
        nameservers: Sequence[str] = (),
        trust_ad: bool | None = None,
    ) -> None:
        self._timeout = timeout
        self._name_servers = NameServers(resolv_conf, dns_port, nameservers, trust_ad)

    def look_up(self, next_hop: str) -> Dane:
        """Return what DNS says of DANE for a next hop: "example.com", "[host]:587" (transport(5)).

        Every host is waited for. Raise `ValueError` for text that is no next hop, an address
        literal included.
        """
        found = parse_next_hop(next_hop.encode(errors="surrogateescape"))
        if found is None:
            raise ValueError(f"no next hop: {next_hop!a}")
        return run(self.steps_of_look_up(found, whole=True))

    def steps_of_look_up(self, next_hop: NextHop, *, whole: bool) -> Steps[Dane]:
        """Return `look_up` in steps. Unless `whole`, the first host with TLSA records ends it."""
        if not self._name_servers.validating:
            return Dane(MxState.NOT_BELIEVED, ttl=_MIN_TTL)
        try:
            port = _port(next_hop.port)
        except OSError:
            return Dane(MxState.FAILED, detail=f"no such service: {next_hop.port}")
        lookup = _Lookup(self._name_servers, Deadline(self._timeout), port)
        found = yield from lookup.next_hop(next_hop, whole=whole)
        return replace(found, ttl=max(_MIN_TTL, min(lookup.ttl, _MAX_TTL)))


class _Lookup:
    """One lookup, all of it by `deadline`. `ttl`: the shortest of its answers."""

    def __init__(self, servers: NameServers, deadline: Deadline, port: int) -> None:
        self.ttl = _MAX_TTL
        self._servers = servers
        self._deadline = deadline
        self._port = port

    def next_hop(self, next_hop: NextHop, *, whole: bool) -> Steps[Dane]:
        """Look at the MX records of a domain and at the hosts that they name, or at a host."""
        name = dns.name.from_text(f"{next_hop.domain}.")
        if next_hop.is_host:
            return (yield from self._hosts(MxState.HOST, [name], whole=whole))
        answer = yield from self._ask(name, RdataType.MX)
        if isinstance(answer, str):
            return Dane(MxState.FAILED, detail=answer)
        # RFC 5321 §5.1: without MX records, the domain is the host.
        names = _exchanges(answer) if answer.records else [name]
        if not names or not answer.exists:
            return Dane(MxState.NO_MAIL)
        if not answer.authenticated:
            return Dane(MxState.INSECURE)
        return (yield from self._hosts(MxState.SECURE, names, whole=whole))

    def _hosts(self, mx: MxState, names: list[dns.name.Name], *, whole: bool) -> Steps[Dane]:
        """Look up the hosts, some at once, until the first that can be used ends it."""
        found: dict[dns.name.Name, DaneHost] = {}
        waiting = iter(names)
        with SideBySide() as under_way:
            for name in islice(waiting, _HOSTS):
                under_way.start(name, self._host(name))
            while len(found) < len(names):
                done = yield from under_way.first()
                assert done is not None
                name, found[name] = done
                if found[name].state is HostState.USABLE and not whole:
                    break
                for name in islice(waiting, 1):
                    under_way.start(name, self._host(name))
        hosts = [found.get(one) or DaneHost(_text(one), HostState.NOT_AWAITED) for one in names]
        return Dane(mx, tuple(hosts))

    def _host(self, name: dns.name.Name) -> Steps[DaneHost]:
        """Look at the addresses of a host, and at its TLSA records (RFC 7672 §2.2.2)."""
        host = _text(name)
        with SideBySide() as under_way:
            answers = _Answers(under_way, self._ask_each)
            # TLSA beside the addresses, and not waited for unless these are signed: some name
            # servers never answer it.
            tlsa = self._tlsa(name)
            places = list(tlsa)
            answers.ask({**tlsa, **{rdtype: (name, rdtype) for rdtype in _FAMILIES}})
            found = yield from _addresses(answers)
            if found is None:
                return DaneHost(host, HostState.NO_ADDRESS)
            if isinstance(found, str):
                return DaneHost(host, HostState.FAILED, found)
            if found.authenticated:
                if found.name != name and (tlsa := self._tlsa(found.name)):
                    places = [*tlsa, *places]
                    answers.ask(tlsa)
            else:
                # An alias may be signed while what it leads to is not.
                alias = yield from self._alias(name, found)
                if isinstance(alias, str):
                    return DaneHost(host, HostState.FAILED, alias)
                if alias is None or not alias.authenticated:
                    return DaneHost(host, HostState.INSECURE)
            state = HostState.NO_TLSA
            for place in places:
                answer = yield from answers.first(place)
                if isinstance(answer, str):
                    return DaneHost(host, HostState.FAILED, f"TLSA records: {answer}")
                if not answer.records:
                    continue
                if answer.authenticated:
                    return _judged(host, answer)
                state = HostState.NOT_SIGNED
            return DaneHost(host, state)

    def _alias(self, name: dns.name.Name, found: Answer) -> Steps[Answer | str | None]:
        """Return what DNS says of `name` as an alias, None if its addresses are its own."""
        if found.name == name:
            return None
        return (yield from self._ask(name, RdataType.CNAME))

    def _tlsa(self, name: dns.name.Name) -> Questions:
        """Return the question about the TLSA records of a host, none where its name is too long."""
        try:
            return {name: (dns.name.from_text(f"_{self._port}._tcp", name), RdataType.TLSA)}
        except dns.exception.DNSException:
            return {}

    def _ask(self, name: dns.name.Name, rdtype: RdataType) -> Steps[Answer | str]:
        """Return an answer, or why there is none."""
        answers: dict[object, Answer | str] = {}
        yield from self._ask_each({name: (name, rdtype)}, answers)
        return answers[name]

    def _ask_each(
        self, questions: Questions, answers: MutableMapping[object, Answer | str]
    ) -> Steps[None]:
        """Put each answer, or why there is none, into `answers` as soon as it is there."""
        keys = {rdtype: key for key, (_, rdtype) in questions.items()}

        def done(rdtype: RdataType, answer: Answer | NameServerError) -> None:
            if isinstance(answer, NameServerError):
                answers[keys[rdtype]] = str(answer)
            else:
                self.ttl = min(self.ttl, answer.ttl)
                answers[keys[rdtype]] = answer

        try:
            asked = self._servers.ask_each(questions.values(), self._deadline, done, validated=True)
            yield from asked
        except OSError as error:
            for key in questions:
                answers.setdefault(key, str(error))


class _Answers:
    """The answers to questions under way, each until it is taken. `ask_each`: asks some."""

    def __init__(
        self,
        under_way: SideBySide,
        ask_each: Callable[[Questions, MutableMapping[object, Answer | str]], Steps[None]],
    ) -> None:
        self._under_way = under_way
        self._ask_each = ask_each
        self._arrived: dict[object, Answer | str] = {}

    def ask(self, questions: Questions) -> None:
        """Ask some more, each of another type."""
        self._under_way.start(object(), self._ask_each(questions, self._arrived))

    def first(self, *keys: object) -> Steps[Answer | str]:
        """Return the first answer to one of the questions with these keys."""

        def until() -> float:
            return -math.inf if any(key in self._arrived for key in keys) else math.inf

        while not (arrived := [key for key in keys if key in self._arrived]):
            yield from self._under_way.first(until)
        return self._arrived.pop(arrived[0])


def _addresses(answers: _Answers) -> Steps[Answer | str | None]:
    """Return the first signed answer with addresses, else another, else why there is none.

    None where there are no addresses. One family that is signed will do.
    """
    unsigned: Answer | None = None
    failure: str | None = None
    for _ in _FAMILIES:
        answer = yield from answers.first(*_FAMILIES)
        if isinstance(answer, str):
            failure = answer
        elif answer.records:
            if answer.authenticated:
                return answer
            unsigned = answer
    return unsigned or failure


def _judged(host: str, answer: Answer) -> DaneHost:
    """Return the state of a host that has signed TLSA records."""
    records = tuple(map(parse_tlsa, answer.records))
    unusable = ", ".join(f"{one.unusable}" for one in records if one.unusable)
    usable = any(not one.unusable for one in records)
    state = HostState.USABLE if usable else HostState.UNUSABLE
    return DaneHost(host, state, unusable, _text(answer.name), records)


def _exchanges(answer: Answer) -> list[dns.name.Name]:
    """Return the hosts in MX records by preference, each once; a null MX is none (RFC 7505 §3)."""
    records = sorted(answer.records, key=lambda record: (record.preference, record.exchange))
    names = dict.fromkeys(record.exchange for record in records)
    return [name for name in names if name != dns.name.root]


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _port(text: str) -> int:
    """Return a port, from its number or its name in services(5). Raise `OSError`."""
    if not text:
        return _SMTP
    return int(text) if text.isdecimal() else socket.getservbyname(text, "tcp")
