"""Nameservers that misbehave on purpose, on loopback, over UDP and TCP.

    with NameServer({"_mta-sts.example.com TXT": txt("v=STSv1; id=1")}) as dns:
        ...  # ask 127.0.0.1, dns.port
        assert dns.queries == [("_mta-sts.example.com", "TXT", "udp")]

A *behaviour* is a function from a `Query` to what is sent for it, in turn: a message, bytes as
they are, something `Elsewhere`, a number of seconds to wait. Behaviours compose:
`in_turn(with_wrong_id(txt("evil")), txt("good"))` sends a forgery and then the truth.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

TTL = 3600
_PATIENCE = 20.0


@dataclass(frozen=True)
class Query:
    """What was asked, and over which transport."""

    message: dns.message.Message
    over_tcp: bool

    @property
    def name(self) -> dns.name.Name:
        return self.message.question[0].name

    @property
    def type(self) -> dns.rdatatype.RdataType:
        return self.message.question[0].rdtype

    def response(
        self,
        answer: Iterable[dns.rrset.RRset] = (),
        authority: Iterable[dns.rrset.RRset] = (),
        rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    ) -> dns.message.Message:
        """Return a message that answers this query."""
        message = dns.message.make_response(self.message, recursion_available=True)
        message.set_rcode(rcode)
        message.answer.extend(answer)
        message.authority.extend(authority)
        return message


@dataclass(frozen=True)
class Elsewhere:
    """A message that is sent from another port than the one that was asked."""

    message: dns.message.Message


Piece = dns.message.Message | Elsewhere | bytes | float
Behaviour = Callable[[Query], Iterable[Piece]]


class NameServer:
    """Answer queries as `zone` says: "name TYPE" in lower case and upper case -> behaviour.

    What is not in `zone` gets `otherwise`, by default NXDOMAIN. `queries` are the names, types
    and transports that were asked, in order. `zone` may be changed while the server runs.
    """

    def __init__(
        self,
        zone: Mapping[str, Behaviour] | None = None,
        otherwise: Behaviour | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ):
        self.zone = dict(zone or {})
        self.queries: list[tuple[str, str, str]] = []
        self._otherwise = otherwise or nxdomain()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._tcp, self._udp = bound_pair(address, port)
        self._address = self._udp.getsockname()
        self.port: int = self._address[1]

    def __enter__(self) -> NameServer:
        self._start(self._serve_udp)
        self._start(self._serve_tcp)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        self._udp.sendto(b"", self._address)  # wakes the thread that waits in recvfrom
        with self._lock:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        # The first two are those that listen; after them the list does not grow.
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a behaviour did not end"
        self._tcp.close()
        self._udp.close()

    def asked(self, name: str, rdtype: str) -> int:
        """Return how often this was asked."""
        return sum((name, rdtype) == query[:2] for query in self.queries)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _answer(self, wire: bytes, over_tcp: bool) -> Iterator[tuple[Query, Piece]]:
        """Yield what is to be sent for a query, pauses left out."""
        query = Query(dns.message.from_wire(wire), over_tcp)
        name = query.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(query.type)
        self.queries.append((name, rdtype, "tcp" if over_tcp else "udp"))
        for piece in self.zone.get(f"{name} {rdtype}", self._otherwise)(query):
            if not isinstance(piece, float | int):
                yield query, piece
            elif self._stopped.wait(piece):
                return

    def _serve_udp(self) -> None:
        while True:
            wire, client = self._udp.recvfrom(65535)
            if self._stopped.is_set():
                return
            self._start(self._answer_udp, wire, client)

    def _answer_udp(self, wire: bytes, client: tuple) -> None:
        for query, piece in self._answer(wire, over_tcp=False):
            if isinstance(piece, Elsewhere):
                with socket.socket(self._udp.family, socket.SOCK_DGRAM) as other:
                    other.bind((self._address[0], 0))
                    other.sendto(piece.message.to_wire(), client)
            elif isinstance(piece, bytes):
                self._udp.sendto(piece, client)
            else:
                self._udp.sendto(_datagram(query, piece), client)

    def _serve_tcp(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _address = self._tcp.accept()
            except OSError:
                return
            self._start(self._answer_tcp, connection)

    def _answer_tcp(self, connection: socket.socket) -> None:
        # A client that has seen enough hangs up.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._stopped.is_set():
                    return
                self._live.add(connection)
            try:
                with connection.makefile("rb") as stream:
                    while prefix := stream.read(2):
                        wire = stream.read(struct.unpack("!H", prefix)[0])
                        for _query, piece in self._answer(wire, over_tcp=True):
                            connection.sendall(_framed(piece))
            finally:
                with self._lock:
                    self._live.discard(connection)


def bound_pair(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return a TCP listener and a UDP socket that share a port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for attempt in range(10):
        tcp = socket.create_server((address, port), family=family)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind((address, tcp.getsockname()[1]))
        except OSError:
            tcp.close()
            udp.close()
            if port or attempt == 9:
                raise
        else:
            break
    return tcp, udp


def _datagram(query: Query, message: dns.message.Message) -> bytes:
    """Return `message` as a datagram, truncated if it is larger than the client takes."""
    limit = max(512, query.message.payload)
    try:
        return message.to_wire(max_size=limit)
    except dns.exception.TooBig:
        (cut,) = cut_short(query)
        return cut.to_wire()


def _framed(piece: Piece) -> bytes:
    if isinstance(piece, bytes):
        return piece
    assert isinstance(piece, dns.message.Message), "over TCP there is no other port"
    wire = piece.to_wire(max_size=65535)
    return struct.pack("!H", len(wire)) + wire


# Honest answers.


def txt(*records: str | tuple[str | bytes, ...]) -> Behaviour:
    """Answer with TXT records: text is cut into strings of 255 bytes, a tuple is taken as cut."""
    rdatas = [
        dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, _strings(record))
        for record in records
    ]
    return lambda query: [query.response([dns.rrset.from_rdata_list(query.name, TTL, rdatas)])]


def twice(then: Behaviour) -> Behaviour:
    """Answer like `then`, with each record twice."""

    def behave(query: Query) -> Iterable[Piece]:
        for message in then(query):
            assert isinstance(message, dns.message.Message)
            message.answer.extend(list(message.answer))
            yield message

    return behave


def _strings(record: str | tuple[str | bytes, ...]) -> list[bytes]:
    if isinstance(record, str):
        record = tuple(record[at : at + 255] for at in range(0, len(record), 255)) or ("",)
    return [part.encode() if isinstance(part, str) else part for part in record]


def addresses(*texts: str) -> Behaviour:
    """Answer A and AAAA with these, no data for a type that none of them is of."""

    def behave(query: Query) -> Iterable[Piece]:
        wanted = [text for text in texts if (":" in text) == (query.type == dns.rdatatype.AAAA)]
        if not wanted or query.type not in (dns.rdatatype.A, dns.rdatatype.AAAA):
            return nodata()(query)
        rrset = dns.rrset.from_text_list(query.name, TTL, "IN", query.type, wanted)
        return [query.response([rrset])]

    return behave


def mx(*texts: str) -> Behaviour:
    """Answer with MX records, each a preference and a name: "10 mail.example.com."."""
    return lambda query: [
        query.response([dns.rrset.from_text(query.name, TTL, "IN", "MX", *texts)])
    ]


def tlsa(*data: bytes) -> Behaviour:
    """Answer with TLSA records that have these data, right or wrong."""
    rdatas = [dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, one) for one in data]
    return lambda query: [query.response([dns.rrset.from_rdata_list(query.name, TTL, rdatas)])]


def validated(then: Behaviour) -> Behaviour:
    """Answer like `then`, and say that it was validated by DNSSEC (AD)."""

    def change(message: dns.message.Message) -> Piece:
        message.flags |= dns.flags.AD
        return message

    return _changed(then, change)


def with_ttl(ttl: int, then: Behaviour) -> Behaviour:
    """Answer like `then`, with this time to live."""

    def change(message: dns.message.Message) -> Piece:
        for rrset in (*message.answer, *message.authority):
            rrset.ttl = ttl
        return message

    return _changed(then, change)


def by_type(**behaviours: Behaviour) -> Behaviour:
    """Behave by the type that is asked, no data for any other: `by_type(A=..., TXT=...)`."""
    return lambda query: behaviours.get(dns.rdatatype.to_text(query.type), nodata())(query)


def nxdomain(ttl: int = 900, minimum: int = 900, zone: str | None = None) -> Behaviour:
    """Say that the name does not exist, with an SOA of the parent zone or of `zone`."""
    return lambda query: [
        query.response(authority=[_soa(query, ttl, minimum, zone)], rcode=dns.rcode.NXDOMAIN)
    ]


def nodata(ttl: int = 900, minimum: int = 900, zone: str | None = None) -> Behaviour:
    """Say that the name has nothing of this type, with an SOA of the parent zone or of `zone`."""
    return lambda query: [query.response(authority=[_soa(query, ttl, minimum, zone)])]


def _soa(query: Query, ttl: int, minimum: int, zone: str | None) -> dns.rrset.RRset:
    owner = dns.name.from_text(zone or ".")
    if not zone and query.name != dns.name.root:
        owner = query.name.parent()
    return dns.rrset.from_text(owner, ttl, "IN", "SOA", f"ns. root. 1 7200 900 1209600 {minimum}")


def extra(owner: str, rdtype: str, rdata: str, then: Behaviour) -> Behaviour:
    """Answer like `then`, with one more record in the answer section."""

    def behave(query: Query) -> Iterable[Piece]:
        for message in then(query):
            assert isinstance(message, dns.message.Message)
            message.answer.append(dns.rrset.from_text(owner, TTL, "IN", rdtype, rdata))
            yield message

    return behave


def code(rcode: str) -> Behaviour:
    """Answer with nothing but a response code; "NOERROR" and "NXDOMAIN" then lack the SOA."""
    return lambda query: [query.response(rcode=dns.rcode.from_text(rcode))]


def alias(*targets: str, then: Behaviour) -> Behaviour:
    """Answer with a chain of CNAMEs from the name through `targets`, and with what `then` says."""

    def behave(query: Query) -> Iterable[Piece]:
        owners = [query.name, *map(dns.name.from_text, targets)]
        chain = [
            dns.rrset.from_text(owner, TTL, "IN", "CNAME", target.to_text())
            for owner, target in itertools.pairwise(owners)
        ]
        asked = dns.message.make_query(owners[-1], query.type)
        for piece in then(Query(asked, query.over_tcp)):
            if isinstance(piece, dns.message.Message):
                message = query.response(chain, piece.authority, piece.rcode())
                message.answer.extend(piece.answer)
                yield message
            else:
                yield piece

    return behave


def referral(query: Query) -> Iterable[Piece]:
    """Point to the root's nameservers, as a server does that was never given the zone."""
    root = dns.rrset.from_text(".", TTL, "IN", "NS", "a.root-servers.net.")
    return [query.response(authority=[root])]


# Misbehaviour.


def silence(_query: Query) -> Iterable[Piece]:
    """Never answer."""
    return ()


def hang_up(_query: Query) -> Iterable[Piece]:
    """Close the connection; only over TCP."""
    raise ConnectionAbortedError


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Send what each of these sends, one after the other."""

    def behave(query: Query) -> Iterable[Piece]:
        for behaviour in behaviours:
            yield from behaviour(query)

    return behave


def taking_turns(*behaviours: Behaviour) -> Behaviour:
    """Answer the first query like the first of `behaviours` and so on, all others like the last."""
    turns = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))

    def behave(query: Query) -> Iterable[Piece]:
        return next(turns)(query)

    return behave


def after(seconds: float, then: Behaviour) -> Behaviour:
    """Wait, then behave like `then`."""
    return in_turn(lambda _query: [seconds], then)


def _changed(then: Behaviour, change: Callable[[dns.message.Message], Piece]) -> Behaviour:
    def behave(query: Query) -> Iterable[Piece]:
        for piece in then(query):
            yield change(piece) if isinstance(piece, dns.message.Message) else piece

    return behave


def with_wrong_id(then: Behaviour) -> Behaviour:
    """Answer like `then`, under another query's id."""

    def change(message: dns.message.Message) -> Piece:
        message.id ^= 1
        return message

    return _changed(then, change)


def with_wrong_question(then: Behaviour) -> Behaviour:
    """Answer like `then`, to a question that was not asked."""

    def change(message: dns.message.Message) -> Piece:
        message.question = dns.message.make_query("another.example", "TXT").question
        return message

    return _changed(then, change)


def as_a_query(then: Behaviour) -> Behaviour:
    """Answer like `then`, without the bit that says that it is an answer."""

    def change(message: dns.message.Message) -> Piece:
        message.flags &= ~dns.flags.QR
        return message

    return _changed(then, change)


def with_counts(then: Behaviour, answers: int) -> Behaviour:
    """Answer like `then`, with a header that claims so many answers (RFC 1035 §4.1.1)."""

    def change(message: dns.message.Message) -> Piece:
        wire = message.to_wire()
        return wire[:6] + struct.pack("!H", answers) + wire[8:]

    return _changed(then, change)


def name_that_points_at_itself(query: Query) -> Iterable[Piece]:
    """Answer with a record whose name is a compression pointer to itself (RFC 1035 §4.1.4)."""
    (wire,) = with_counts(lambda query: [_plain(query)], 1)(query)
    assert isinstance(wire, bytes)
    return [wire + struct.pack("!HHHIH", 0xC000 | len(wire), 16, 1, TTL, 0)]


def _plain(query: Query) -> dns.message.Message:
    """Return an empty answer without EDNS, so that what follows it is its answer section."""
    message = query.response()
    message.use_edns(False)
    return message


def from_another_port(then: Behaviour) -> Behaviour:
    """Answer like `then`, from a port that was not asked."""
    return _changed(then, Elsewhere)


def cut_short(query: Query) -> list[dns.message.Message]:
    """Say that the answer does not fit, over whatever transport."""
    message = query.response()
    message.flags |= dns.flags.TC
    return [message]


def truncated(over_tcp: Behaviour) -> Behaviour:
    """Say over UDP that the answer does not fit, and over TCP what `over_tcp` says."""
    return lambda query: over_tcp(query) if query.over_tcp else cut_short(query)


def dribbled(then: Behaviour, pause: float) -> Behaviour:
    """Over TCP send what `then` sends byte by byte with pauses, and make the client ask there."""

    def behave(query: Query) -> Iterable[Piece]:
        for piece in then(query):
            for byte in _framed(piece):
                yield bytes([byte])
                yield pause

    return truncated(behave)
