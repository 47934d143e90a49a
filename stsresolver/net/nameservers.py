"""Asks the name servers of resolv.conf(5): one question, one answer, one deadline.

It sends a lost datagram again, asks over TCP for a truncated answer, and passes over what does not
answer the question (RFC 5452 §9.1). A name server that fails is not asked again for this question.

dnspython's own resolver pauses between tries without a look at the clock, and reads answers of any
size.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading

import dns.inet
import dns.name
import dns.rdatatype

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

    def ask(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> Steps[Answer]:
        """Return an answer: records, or that there are none. Raise `NameServerError`."""
        servers = self._configured()
        share = deadline.left() / max(_TRIES, len(servers) + 1)
        failures: dict[str, str] = {}
        while servers:
            for server in list(servers):
                try:
                    seconds = min(share, deadline.left())
                except TimeoutError:
                    raise NameServerError(_listed(failures)) from None
                try:
                    question = Question(name, rdtype)
                    return (yield from self._exchange(server, question, seconds, deadline))
                except TimeoutError:
                    failures[server] = "no answer in time"
                except (NameServerError, MessageError, OSError) as error:
                    failures[server] = str(error)
                    servers.remove(server)
        raise NameServerError(_listed(failures))

    def _exchange(
        self, server: str, question: Question, seconds: float, deadline: Deadline
    ) -> Steps[Answer]:
        """Ask one name server, within `seconds` over UDP and, by `deadline`, as much over TCP.

        Raise `TimeoutError`, `OSError`, or `NameServerError` and `MessageError` for an answer that
        is of no use.
        """
        try:
            return (yield from self._over_udp(server, question, deadline.within(seconds)))
        except Truncated:
            pass
        try:
            return (yield from self._over_tcp(server, question, deadline.within(seconds)))
        except Truncated:
            raise NameServerError("an answer cut short over TCP") from None

    def _over_udp(self, server: str, question: Question, deadline: Deadline) -> Steps[Answer]:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with BoundedSocket(family, socket.SOCK_DGRAM, deadline) as udp:
            yield from udp.connect((server, self._port))
            yield from udp.sendall(question.wire)
            while True:
                answer = question.read((yield from udp.recv(65535)))
                if answer is not None:
                    return answer

    def _over_tcp(self, server: str, question: Question, deadline: Deadline) -> Steps[Answer]:
        with (yield from connected((server, self._port), deadline.left(), deadline)) as tcp:
            yield from tcp.sendall(_LENGTH.pack(len(question.wire)) + question.wire)
            (length,) = _LENGTH.unpack((yield from _exactly(tcp, _LENGTH.size)))
            answer = question.read((yield from _exactly(tcp, length)))
        if answer is None:
            raise NameServerError("no answer to the question")
        return answer

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


def _listed(failures: dict[str, str]) -> str:
    return ", ".join(f"{server}: {failure}" for server, failure in failures.items())
