"""DNS messages: a question as bytes, and bytes as the answer to it (RFC 1035 §4, RFC 6891).

dnspython reads the names and the records' data. Its own messages are made for every use there is,
and cost more than all the rest of a lookup; so only what a lookup asks for is read here: records of
the type in question and aliases, and the zone's SOA for how long "there is none" may be remembered.

An answer of 64 kilobytes, which any domain may give, can take seconds of computing. Such a one is
refused unread; how many records it has stands in its first twelve bytes (§4.1.1).

Pure: bytes in, data out. Reading raises `MessageError` for an answer that is of no use, and
`Truncated` for one that has to be asked for over TCP.
"""

from __future__ import annotations

import secrets
import struct
from typing import Any, NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.wire

# Answers up to this size come in one UDP datagram without fragments (DNS flag day 2020).
_UDP_PAYLOAD = 1232
# Bytes of an answer, and questions and records in it, all sections together. What we ask for is far
# below; reading 4,300 records of long names took 1.5 s.
MAX_ANSWER = 4096
MAX_RECORDS = 200
# Aliases that are followed one after the other.
_MAX_ALIASES = 16

_HEADER = struct.Struct("!6H")
_IN = 1
_RECURSION_DESIRED = 0x0100
# In a question: say it in the answer (RFC 6840 §5.7).
_AUTHENTIC = 0x0020
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
# OPT: the root's name, our payload as its class, no flags, no options (RFC 6891 §6.1.2).
_OPT = struct.pack("!BHHIH", 0, dns.rdatatype.OPT, _UDP_PAYLOAD, 0, 0)
# A name server that could not read the question may leave it out.
_WITHOUT_QUESTION = (
    dns.rcode.FORMERR,
    dns.rcode.SERVFAIL,
    dns.rcode.NOTIMP,
    dns.rcode.REFUSED,
)


# Records whose data is read.
_READ = frozenset(
    (
        dns.rdatatype.A,
        dns.rdatatype.AAAA,
        dns.rdatatype.CNAME,
        dns.rdatatype.SOA,
        dns.rdatatype.TXT,
    )
)


class MessageError(Exception):
    """The answer to the question, and it is of no use; the text says why."""


class Truncated(Exception):
    """The answer to the question did not fit in a datagram."""


class _Record(NamedTuple):
    owner: dns.name.Name
    rdtype: int
    ttl: int
    data: Any


class Answer(NamedTuple):
    """What a name server says.

    `records`: of the type in question, at the end of the aliases. `negative_ttl`: how many seconds
    the zone's SOA lets it be remembered that there are none (RFC 2308 §5), 0 without an SOA.
    `authenticated`: whether the name server has validated it by DNSSEC, in its own words.
    """

    records: list[Any]
    negative_ttl: int
    authenticated: bool


class Question:
    """A question about `name`, and `wire` to send it. A new one has a new id."""

    def __init__(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        self._name = name
        self._rdtype = rdtype
        self._id = secrets.randbits(16)
        self._asked = (name.to_wire() or b"") + struct.pack("!HH", rdtype, _IN)
        self.wire = (
            _HEADER.pack(self._id, _RECURSION_DESIRED | _AUTHENTIC, 1, 0, 0, 1) + self._asked + _OPT
        )

    def read(self, wire: bytes) -> Answer | None:
        """Return the answer in `wire`; None if it is none to this question (RFC 5452 §9.1)."""
        if len(wire) < _HEADER.size:
            return None
        number, flags, questions, *counts = _HEADER.unpack_from(wire)
        if number != self._id or flags & (_RESPONSE | _OPCODE) != _RESPONSE:
            return None
        records = questions + sum(counts)
        if records > MAX_RECORDS or len(wire) > MAX_ANSWER:
            raise MessageError(f"an answer of {records} records, {len(wire)} bytes: too large")
        rcode = flags & _RCODE
        end = _HEADER.size
        if questions:
            end += len(self._asked)
            # Case does not count in names, and the lengths of labels are no letters.
            if questions > 1 or wire[_HEADER.size : end].lower() != self._asked.lower():
                return None
        elif rcode not in _WITHOUT_QUESTION:
            return None
        if flags & _TRUNCATED:
            raise Truncated
        parser = dns.wire.Parser(wire, end)
        try:
            answers, authority, additional = (
                [_record(parser) for _ in range(count)] for count in counts
            )
        except (dns.exception.DNSException, ValueError):
            return None
        rcode |= _extension(additional)
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise MessageError(dns.rcode.Rcode.to_text(rcode))
        found = self._follow(answers)
        if not found and rcode == dns.rcode.NOERROR and _is_referral(authority):
            raise MessageError("a referral instead of an answer: it does not look names up")
        return Answer(found, _negative_ttl(authority), bool(flags & _AUTHENTIC))

    def _follow(self, records: list[_Record]) -> list[Any]:
        """Return the data of the records that are asked for, at the end of the aliases."""
        name = self._name
        for _ in range(_MAX_ALIASES):
            # What is of another class than IN, or was not read, has no data.
            here = [record for record in records if record.data is not None]
            here = [record for record in here if record.owner == name]
            found = [record.data for record in here if record.rdtype == self._rdtype]
            aliases = [record.data for record in here if record.rdtype == dns.rdatatype.CNAME]
            if found or not aliases:
                return found
            name = aliases[0].target
        raise MessageError(f"more than {_MAX_ALIASES} aliases, or a loop of them")


def _record(parser: dns.wire.Parser) -> _Record:
    owner = dns.name.from_wire_parser(parser)
    rdtype, rdclass, ttl, length = parser.get_struct("!HHIH")
    if rdtype in _READ and rdclass == _IN:
        with parser.restrict_to(length):
            data = dns.rdata.from_wire_parser(rdclass, rdtype, parser)
        return _Record(owner, rdtype, ttl, data)
    parser.get_bytes(length)
    return _Record(owner, rdtype, ttl, None)


def _extension(additional: list[_Record]) -> int:
    """Return the upper bits of the status, which an OPT record has (RFC 6891 §6.1.3)."""
    for record in additional:
        if record.rdtype == dns.rdatatype.OPT:
            return record.ttl >> 24 << 4
    return 0


def _is_referral(authority: list[_Record]) -> bool:
    """Say whether an empty answer only points to other name servers (RFC 2308 §2.2).

    It does not say that there is nothing, as one with an SOA, or without NS records, does.
    """
    types = {record.rdtype for record in authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types


def _negative_ttl(authority: list[_Record]) -> int:
    for record in authority:
        if record.rdtype == dns.rdatatype.SOA and record.data is not None:
            return min(record.ttl, int(record.data.minimum))
    return 0
