"""Asks name servers about a name, those of resolv.conf(5) or others, by one deadline.

It sends a lost datagram again, asks over TCP for a truncated answer, and passes over what does not
answer the question (RFC 5452 §9.1). A name server that fails is not asked again for this question.
Questions for several types of records may go out together, from one socket: that costs hardly more
than one of them.

Silence and REFUSED may be the domain's fault or the name server's. So after one of them, the next
question goes out together with one for the SOA of the root, which every resolver knows.

dnspython's own resolver pauses between tries without a look at the clock, and reads answers of any
size.
"""

from __future__ import annotations

import itertools
import logging
import math
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import dns.name
from dns.rdatatype import RdataType

from .deadline import BoundedSocket, Deadline, connected, datagrams, is_out_of_room
from .dns_messages import (
    Answer,
    Labels,
    MessageError,
    Question,
    Refused,
    Truncated,
    is_refusal,
)
from .dns_servers import DnsServer, configured, named
from .file_changes import Watch
from .resolv_conf import read_servers
from .steps import Steps

log = logging.getLogger(__name__)

# Tries within the time limit at least, so that a lost datagram is sent again; and more where every
# name server but the last may be dead.
_TRIES = 3

_LENGTH = struct.Struct("!H")


class NameServerError(Exception):
    """A question got no answer; the text says why, for each name server."""


class Unreachable(NameServerError):
    """No name server answers any question: each is out of reach, silent, or refuses."""


class NoRoom(NameServerError):
    """This process or host has no descriptor or memory left for a question."""


Done = Callable[[RdataType, Answer | NameServerError], None]


class Heard:
    """`at`: when a name server last answered, whatever it was asked (monotonic seconds).

    Any answer but REFUSED shows that the server works.
    """

    def __init__(self) -> None:
        self.at = -math.inf


class Probe:
    """A question that every resolver answers: the SOA of the root.

    It is asked beside one that failed. Until it is answered nobody knows what a refusal means.
    """

    def __init__(self, heard: Heard) -> None:
        self._question: Question | None = Question(dns.name.root, RdataType.SOA)
        self.wire = self._question.wire
        self._heard = heard
        self._refusals: list[bytes] = []

    def sift(self, wire: bytes) -> list[bytes]:
        """Take a datagram; return those to be read now, the refusals so far after the answer."""
        if self._question is None:
            return [wire]
        try:
            if self._question.read(wire) is None:
                if not is_refusal(wire):
                    return [wire]
                self._refusals.append(wire)
                return []
            self._heard.at = time.monotonic()
        except Refused:
            pass
        except (MessageError, Truncated):
            # An answer too, if not a good one.
            self._heard.at = time.monotonic()
        self._question = None
        return self._refusals


class Inquiry:
    """What is asked of the name servers in turn until one has an answer.

    `servers`: those that have not failed.
    `heard`: when any of them last answered.
    `over`: whether `done` was called, with the answer or the failures of all.
    """

    def __init__(
        self,
        name: dns.name.Name | Labels,
        rdtype: RdataType,
        servers: Iterable[DnsServer],
        heard: Heard,
        done: Done,
    ) -> None:
        self.servers = list(servers)
        self.heard = heard
        self.over = False
        self._name = name
        self._rdtype = rdtype
        self._question: Question
        self._failures: dict[DnsServer, str] = {}
        self._refused: set[DnsServer] = set()
        # Whether a name server answered this question, if with an error.
        self._answered = False
        # Whether this host had no room for it.
        self._no_room = False
        # When it was asked again, because one had not answered (monotonic).
        self._again = math.inf
        self._done = done

    @property
    def in_doubt(self) -> bool:
        """Whether name servers failed, and none of them answered."""
        return bool(self._failures) and not self._answered

    def ask(self, server: DnsServer) -> bytes:
        """Return a new question for a name server."""
        if self._failures:
            self._again = min(self._again, time.monotonic())
        self._failures[server] = "no answer in time"
        self._question = Question(self._name, self._rdtype)
        return self._question.wire

    def read(self, server: DnsServer, wire: bytes) -> bool:
        """Take the answer of a name server; return whether it is one. Raise `Truncated`."""
        try:
            answer = self._question.read(wire)
        except Refused as error:
            if server in self._refused:
                self._fail(server, str(error))
            else:
                # It is asked once more, with the question that every resolver answers.
                self._refused.add(server)
                self._failures[server] = str(error)
            return True
        except MessageError as error:
            self.heard.at = time.monotonic()
            self.fail(server, str(error))
            return True
        except Truncated:
            self.heard.at = time.monotonic()
            self._answered = True
            raise
        if answer is None:
            return False
        self.heard.at = time.monotonic()
        self._end(answer)
        return True

    def fail(self, server: DnsServer, why: str) -> None:
        """Ask this name server no more: its answer is of no use."""
        self._answered = True
        self._fail(server, why)

    def out_of_reach(self, server: DnsServer, error: OSError) -> None:
        """Ask this name server no more: it cannot be asked."""
        self._no_room |= is_out_of_room(error)
        self._fail(server, str(error))

    def _fail(self, server: DnsServer, why: str) -> None:
        self._failures[server] = why
        self.servers.remove(server)
        if not self.servers:
            self.give_up()

    def give_up(self) -> None:
        """End without an answer."""
        text = ", ".join(f"{server}: {failure}" for server, failure in self._failures.items())
        if self._no_room:
            self._end(NoRoom(text))
        elif self.in_doubt and self.heard.at < min(self._again, time.monotonic()):
            self._end(Unreachable(text))
        else:
            self._end(NameServerError(text))

    def _end(self, result: Answer | NameServerError) -> None:
        self.over = True
        self._done(self._rdtype, result)


class NameServers:
    """The name servers of `resolv_conf`, which is read again when it changes.

    `port`: of name servers without a port of their own.
    `nameservers`: those to ask in place of the file's (`dns_servers.parse_server`).
    `trust_ad`: whether they are believed to validate by DNSSEC; None as `dns_servers` says.

    Text that names no name server raises `ValueError`. May be used by many threads.
    """

    def __init__(
        self,
        resolv_conf: str,
        port: int,
        nameservers: Sequence[str] = (),
        trust_ad: bool | None = None,
    ) -> None:
        self._resolv_conf = resolv_conf
        self._port = port
        self._trust_ad = trust_ad
        self._named = named(nameservers, port, trust_ad=trust_ad)
        self._lock = threading.Lock()
        self._watch = Watch(lambda: [resolv_conf])
        self._servers: list[DnsServer] = []
        self._heard = Heard()

    @property
    def validating(self) -> list[DnsServer]:
        """Those that are believed to validate."""
        return [server for server in self._configured() if server.is_believed]

    def ask(
        self,
        name: dns.name.Name | Labels,
        rdtype: RdataType,
        deadline: Deadline,
        *,
        validated: bool = False,
    ) -> Steps[Answer]:
        """Return an answer: records, or that there are none.

        `validated`: ask only name servers that are believed to validate.

        Raise `Unreachable` or `NoRoom` where that is the reason, else `NameServerError`.
        """
        answers: dict[RdataType, Answer | NameServerError] = {}
        questions = [(name, rdtype)]
        yield from self.ask_each(questions, deadline, answers.__setitem__, validated=validated)
        answer = answers[rdtype]
        if isinstance(answer, NameServerError):
            raise answer
        return answer

    def ask_each(
        self,
        questions: Iterable[tuple[dns.name.Name | Labels, RdataType]],
        deadline: Deadline,
        done: Done,
        *,
        validated: bool = False,
    ) -> Steps[None]:
        """Ask questions for different types side by side.

        `done` is called once for each type, as soon as it has got an answer or all name servers
        have failed. `validated`: as for `ask`.
        """
        servers = self.validating if validated else self._configured()
        share = deadline.left() / max(_TRIES, len(servers) + 1)
        waiting = [Inquiry(*question, servers, self._heard, done) for question in questions]
        for server in itertools.cycle(servers):
            asked = [one for one in waiting if server in one.servers]
            try:
                # `share` seconds over UDP, and as much over TCP.
                if asked:
                    cut = yield from self._over_udp(server, asked, deadline.within(share))
                    if cut:
                        yield from self._over_tcp(server, cut, deadline.within(share))
            except TimeoutError:
                break
            waiting = [one for one in waiting if not one.over]
            if not waiting:
                return
        for one in waiting:
            if not one.over:
                one.give_up()

    def _over_udp(
        self, server: DnsServer, inquiries: list[Inquiry], deadline: Deadline
    ) -> Steps[Inquiry | None]:
        """Ask until each has an answer, or one of them needs TCP (returned) or another server."""
        waiting = list(inquiries)
        probe = Probe(self._heard) if any(one.in_doubt for one in inquiries) else None
        try:
            with datagrams((server.address, server.port), deadline) as udp:
                if probe is not None:
                    udp.send(probe.wire)
                for one in inquiries:
                    udp.send(one.ask(server))
                while waiting:
                    came = yield from udp.recv(65535)
                    for wire in (came,) if probe is None else probe.sift(came):
                        for one in waiting:
                            if one.read(server, wire):
                                if not one.over:
                                    return None
                                waiting.remove(one)
                                break
        except Truncated:
            return one
        except TimeoutError:
            pass
        except OSError as error:
            for one in waiting:
                one.out_of_reach(server, error)
        return None

    def _over_tcp(self, server: DnsServer, inquiry: Inquiry, deadline: Deadline) -> Steps[None]:
        wire = inquiry.ask(server)
        try:
            with (yield from connected((server.address, server.port), deadline)) as tcp:
                yield from tcp.sendall(_LENGTH.pack(len(wire)) + wire)
                (length,) = _LENGTH.unpack((yield from _exactly(tcp, _LENGTH.size)))
                if not inquiry.read(server, (yield from _exactly(tcp, length))):
                    inquiry.fail(server, "no answer to the question")
        except TimeoutError:
            pass
        except Truncated:
            inquiry.fail(server, "an answer cut short over TCP")
        except NameServerError as error:
            inquiry.fail(server, str(error))
        except OSError as error:
            inquiry.out_of_reach(server, error)

    def _configured(self) -> list[DnsServer]:
        """Return the name servers that are asked now."""
        if self._named:
            return self._named
        with self._lock:
            if self._watch.changed():
                self._servers = self._read()
            return self._servers

    def _read(self) -> list[DnsServer]:
        """Return the name servers in resolv.conf."""
        try:
            return read_servers(self._resolv_conf, self._port, trust_ad=self._trust_ad)
        except OSError as error:
            text = "%s cannot be read, so 127.0.0.1 is asked: %s"
            log.warning(text, self._resolv_conf, error.strerror)
            return configured([], self._port, trust_ad=self._trust_ad)


def _exactly(tcp: BoundedSocket, size: int) -> Steps[bytes]:
    """Read `size` bytes. Raise `TimeoutError`, or `NameServerError` if the connection ends."""
    data = b""
    while len(data) < size:
        part = yield from tcp.recv(size - len(data))
        if not part:
            raise NameServerError("the connection ended early")
        data += part
    return data
