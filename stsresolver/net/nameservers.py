"""Asks the name servers of resolv.conf(5) about a name, by one deadline.

It sends a lost datagram again, asks over TCP for a truncated answer, and passes over what does not
answer the question (RFC 5452 §9.1). A name server that fails is not asked again for this question.
Questions for several types of records go out together, from one socket: that costs hardly more than
one of them.

dnspython's own resolver pauses between tries without a look at the clock, and reads answers of any
size.
"""

from __future__ import annotations

import itertools
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterable

import dns.inet
import dns.name
from dns.rdatatype import RdataType

from .deadline import BoundedSocket, Deadline, connected
from .dns_messages import Answer, MessageError, Question, Truncated
from .file_changes import Watch
from .steps import Steps

log = logging.getLogger(__name__)

# Tries within the time limit at least, so that a lost datagram is sent again; and more where every
# name server but the last may be dead.
_TRIES = 3

_LENGTH = struct.Struct("!H")


class NameServerError(Exception):
    """A question got no answer; the text says why, for each name server."""


Done = Callable[[RdataType, Answer | NameServerError], None]


class Inquiry:
    """What is asked of the name servers in turn until one has an answer.

    `servers`: those that have not failed.
    `over`: whether `done` was called, with the answer or the failures of all.
    """

    def __init__(
        self, name: dns.name.Name, rdtype: RdataType, servers: Iterable[str], done: Done
    ) -> None:
        self.servers = list(servers)
        self.over = False
        self._name = name
        self._rdtype = rdtype
        self._question: Question
        self._failures: dict[str, str] = {}
        self._done = done

    def ask(self, server: str) -> bytes:
        """Return a new question for a name server."""
        self._failures[server] = "no answer in time"
        self._question = Question(self._name, self._rdtype)
        return self._question.wire

    def read(self, server: str, wire: bytes) -> bool:
        """Take the answer of a name server; return whether it is one. Raise `Truncated`."""
        try:
            answer = self._question.read(wire)
        except MessageError as error:
            self.fail(server, str(error))
            return True
        if answer is not None:
            self._end(answer)
        return answer is not None

    def fail(self, server: str, why: str) -> None:
        """Ask this name server no more."""
        self._failures[server] = why
        self.servers.remove(server)
        if not self.servers:
            self.give_up()

    def give_up(self) -> None:
        """End without an answer."""
        failures = (f"{server}: {failure}" for server, failure in self._failures.items())
        self._end(NameServerError(", ".join(failures)))

    def _end(self, result: Answer | NameServerError) -> None:
        self.over = True
        self._done(self._rdtype, result)


class NameServers:
    """The name servers of `resolv_conf`, which is read again when it changes.

    May be used by many threads.
    """

    def __init__(self, resolv_conf: str, port: int) -> None:
        self._resolv_conf = resolv_conf
        self._port = port
        self._lock = threading.Lock()
        self._watch = Watch(lambda: [resolv_conf])
        self._addresses: list[str] = []

    def ask(self, name: dns.name.Name, rdtype: RdataType, deadline: Deadline) -> Steps[Answer]:
        """Return an answer: records, or that there are none. Raise `NameServerError`."""
        answers: list[Answer | NameServerError] = []
        yield from self.ask_each(name, (rdtype,), deadline, lambda _, one: answers.append(one))
        (answer,) = answers
        if isinstance(answer, NameServerError):
            raise answer
        return answer

    def ask_each(
        self,
        name: dns.name.Name,
        rdtypes: Iterable[RdataType],
        deadline: Deadline,
        done: Done,
    ) -> Steps[None]:
        """Ask for several types side by side.

        `done` is called once for each type, as soon as it has got an answer or all name servers
        have failed.
        """
        servers = self._configured()
        share = deadline.left() / max(_TRIES, len(servers) + 1)
        inquiries = [Inquiry(name, rdtype, servers, done) for rdtype in rdtypes]
        for server in itertools.cycle(servers):
            inquiries = [one for one in inquiries if not one.over]
            if not inquiries:
                return
            try:
                yield from self._exchange(server, inquiries, share, deadline)
            except TimeoutError:
                break
        for one in inquiries:
            one.give_up()

    def _exchange(
        self, server: str, inquiries: list[Inquiry], share: float, deadline: Deadline
    ) -> Steps[None]:
        """Ask one name server, within `share` seconds over UDP and as much over TCP.

        Raise `TimeoutError` when the deadline is over.
        """
        asked = [one for one in inquiries if server in one.servers]
        if asked and (cut := (yield from self._over_udp(server, asked, deadline.within(share)))):
            yield from self._over_tcp(server, cut, deadline.within(share))

    def _over_udp(
        self, server: str, inquiries: list[Inquiry], deadline: Deadline
    ) -> Steps[Inquiry | None]:
        """Ask until each has an answer, or one of them needs TCP (returned) or another server."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        waiting = list(inquiries)
        try:
            with BoundedSocket(family, socket.SOCK_DGRAM, deadline) as udp:
                yield from udp.connect((server, self._port))
                for one in inquiries:
                    yield from udp.sendall(one.ask(server))
                while waiting:
                    wire = yield from udp.recv(65535)
                    for one in waiting:
                        try:
                            if one.read(server, wire):
                                break
                        except Truncated:
                            return one
                    else:
                        continue
                    if not one.over:
                        return None
                    waiting.remove(one)
        except TimeoutError:
            pass
        except OSError as error:
            for one in waiting:
                one.fail(server, str(error))
        return None

    def _over_tcp(self, server: str, inquiry: Inquiry, deadline: Deadline) -> Steps[None]:
        wire = inquiry.ask(server)
        try:
            with (yield from connected((server, self._port), deadline)) as tcp:
                yield from tcp.sendall(_LENGTH.pack(len(wire)) + wire)
                (length,) = _LENGTH.unpack((yield from _exactly(tcp, _LENGTH.size)))
                if not inquiry.read(server, (yield from _exactly(tcp, length))):
                    inquiry.fail(server, "no answer to the question")
        except TimeoutError:
            pass
        except Truncated:
            inquiry.fail(server, "an answer cut short over TCP")
        except (NameServerError, OSError) as error:
            inquiry.fail(server, str(error))

    def _configured(self) -> list[str]:
        """Return the addresses that resolv.conf has now."""
        with self._lock:
            if self._watch.changed():
                self._addresses = self._read()
            return list(self._addresses)

    def _read(self) -> list[str]:
        """Return the addresses in resolv.conf. As libc does, pass over what is none."""
        try:
            with open(self._resolv_conf, encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file]
        except OSError as error:
            text = "%s cannot be read, so 127.0.0.1 is asked: %s"
            log.warning(text, self._resolv_conf, error.strerror)
            lines = []
        found = [line[1] for line in lines if line[:1] == ["nameserver"] and len(line) > 1]
        addresses = [address for address in found if dns.inet.is_address(address)]
        # resolv.conf(5): without a name server, the one on this host.
        return list(dict.fromkeys(addresses)) or ["127.0.0.1"]


def _exactly(tcp: BoundedSocket, size: int) -> Steps[bytes]:
    """Read `size` bytes. Raise `TimeoutError`, or `NameServerError` if the connection ends."""
    data = b""
    while len(data) < size:
        part = yield from tcp.recv(size - len(data))
        if not part:
            raise NameServerError("the connection ended early")
        data += part
    return data
