"""Asking the name servers of resolv.conf(5): one question, one answer, one deadline.

dnspython makes and reads the messages. Sending them is done here for two reasons: its resolver
pauses between tries without a look at the clock, and it reads whatever comes. An answer of 64
kilobytes, which any domain may give, can take seconds of computing. Such a one is refused unread;
how many records it has stands in its first twelve bytes (RFC 1035 §4.1.1).

A lost datagram is sent again, a truncated answer asked for over TCP, and what does not fit the
question (RFC 5452 §9.1) passed over. A name server that fails is not asked again for this question.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading

import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from .deadline import Deadline
from .files import Stamp, stamp

log = logging.getLogger(__name__)

# Answers up to this size come in one UDP datagram without fragments (DNS flag day 2020).
_UDP_PAYLOAD = 1232
# Bytes of an answer, and questions and records in it, all sections together. What we ask for is far
# below; reading 4,300 records of long names took 1.5 s.
MAX_ANSWER = 4096
MAX_RECORDS = 200
# Tries within the time limit at least, so that a lost datagram is sent again; and more where every
# name server but the last may be dead.
_TRIES = 3

_COUNTS = struct.Struct("!2x2x4H")
_LENGTH = struct.Struct("!H")


class NameServerError(Exception):
    """A question got no answer; the text says why, for each name server."""


class NameServers:
    """The name servers of `resolv_conf`, which is read again when it changes.

    May be used by any number of threads at once.
    """

    def __init__(self, resolv_conf: str, port: int) -> None:
        self._resolv_conf = resolv_conf
        self._port = port
        self._lock = threading.Lock()
        self._seen: Stamp = None
        self._addresses: list[str] = []

    def ask(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: Deadline
    ) -> dns.message.QueryMessage:
        """Return an answer with the status NOERROR or NXDOMAIN. Raise `NameServerError`."""
        servers = self._configured()
        share = deadline.left() / max(_TRIES, len(servers) + 1)
        query = dns.message.make_query(name, rdtype, use_edns=0, payload=_UDP_PAYLOAD)
        failures: dict[str, str] = {}
        while servers:
            for server in list(servers):
                try:
                    seconds = min(share, deadline.left())
                except TimeoutError:
                    raise NameServerError(_listed(failures)) from None
                try:
                    return self._exchange(server, query, seconds, deadline)
                except TimeoutError:
                    failures[server] = "no answer in time"
                except (NameServerError, OSError) as error:
                    failures[server] = str(error)
                    servers.remove(server)
        raise NameServerError(_listed(failures))

    def _exchange(
        self, server: str, query: dns.message.Message, seconds: float, deadline: Deadline
    ) -> dns.message.QueryMessage:
        """Ask one name server, within `seconds` over UDP and, by `deadline`, as much over TCP.

        Raise `TimeoutError`, `OSError`, or `NameServerError` for an answer that is of no use.
        """
        wire = query.to_wire()
        try:
            answer = self._over_udp(server, query, wire, Deadline(seconds))
        except dns.message.Truncated:
            try:
                seconds = min(seconds, deadline.left())
                answer = self._over_tcp(server, query, wire, Deadline(seconds))
            except dns.message.Truncated:
                raise NameServerError("an answer cut short over TCP") from None
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise NameServerError(dns.rcode.to_text(answer.rcode()))
        if not isinstance(answer, dns.message.QueryMessage):
            raise NameServerError("an answer to no query")
        if _is_referral(answer):
            raise NameServerError("a referral instead of an answer: it does not look names up")
        return answer

    def _over_udp(
        self, server: str, query: dns.message.Message, wire: bytes, deadline: Deadline
    ) -> dns.message.Message:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.connect((server, self._port))
            udp.send(wire)
            while True:
                udp.settimeout(deadline.left())
                answer = _read(udp.recv(65535), query)
                if answer is not None:
                    return answer

    def _over_tcp(
        self, server: str, query: dns.message.Message, wire: bytes, deadline: Deadline
    ) -> dns.message.Message:
        with socket.create_connection((server, self._port), deadline.left()) as tcp:
            tcp.sendall(_LENGTH.pack(len(wire)) + wire)
            (length,) = _LENGTH.unpack(_exactly(tcp, _LENGTH.size, deadline))
            answer = _read(_exactly(tcp, length, deadline), query)
        if answer is None:
            raise NameServerError("no answer to the question")
        return answer

    def _configured(self) -> list[str]:
        """Return the addresses that resolv.conf has now."""
        seen = stamp(self._resolv_conf)
        with self._lock:
            if not self._addresses or seen != self._seen:
                self._addresses = self._read()
                self._seen = seen
            return list(self._addresses)

    def _read(self) -> list[str]:
        """Return the addresses in resolv.conf. As libc does, pass over what is none."""
        try:
            with open(self._resolv_conf, encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file]
        except OSError as error:
            log.warning("%s: %s", self._resolv_conf, error.strerror)
            lines = []
        found = [line[1] for line in lines if line[:1] == ["nameserver"] and len(line) > 1]
        addresses = [address for address in found if dns.inet.is_address(address)]
        # resolv.conf(5): without a name server, the one on this host.
        return list(dict.fromkeys(addresses)) or ["127.0.0.1"]


def _read(wire: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """Return the message in `wire` if it answers `query`, else None.

    Raise `dns.message.Truncated` if it does so in part, `NameServerError` if it is too large.
    """
    if len(wire) < 12 or wire[:2] != query.id.to_bytes(2, "big"):
        return None
    records = sum(_COUNTS.unpack_from(wire))
    if records > MAX_RECORDS or len(wire) > MAX_ANSWER:
        raise NameServerError(f"an answer of {records} records, {len(wire)} bytes: too large")
    try:
        message = dns.message.from_wire(wire, raise_on_truncation=True)
    except dns.message.Truncated as error:
        if query.is_response(error.message()):  # type: ignore[no-untyped-call]
            raise
        return None
    except (dns.exception.DNSException, ValueError) as error:
        log.debug("a DNS message that cannot be read: %s", error)
        return None
    return message if query.is_response(message) else None


def _is_referral(answer: dns.message.Message) -> bool:
    """Say whether `answer` only points to other name servers (RFC 2308 §2.2).

    It does not say that there is nothing, as one with an SOA, or without NS records, does.
    """
    (question,) = answer.question
    authority = {rrset.rdtype for rrset in answer.authority}
    return (
        answer.rcode() == dns.rcode.NOERROR
        and all(rrset.rdtype != question.rdtype for rrset in answer.answer)
        and dns.rdatatype.NS in authority
        and dns.rdatatype.SOA not in authority
    )


def _exactly(tcp: socket.socket, size: int, deadline: Deadline) -> bytes:
    """Read `size` bytes. Raise `TimeoutError`, or `NameServerError` if the connection ends."""
    data = b""
    while len(data) < size:
        tcp.settimeout(deadline.left())
        part = tcp.recv(size - len(data))
        if not part:
            raise NameServerError("the connection ended early")
        data += part
    return data


def _listed(failures: dict[str, str]) -> str:
    return ", ".join(f"{server}: {failure}" for server, failure in failures.items())
