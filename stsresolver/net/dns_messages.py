"""DNS messages: a question as bytes, and bytes as the answer to it (RFC 1035 §4, RFC 6891).

dnspython reads names, aliases, and the records of a question for any type but TXT, A and AAAA. Its
message class, and its classes for the records that each lookup asks for, are general-purpose and
cost more than the rest of a lookup. So those three are read here. Of all other records only fields
at a fixed place are read: the type, and in the zone's SOA for how long "there is none" may be
remembered.

An answer of 64 kilobytes, which any domain may give, can take seconds to compute. An answer with
too many bytes or records is refused unread; its first twelve bytes tell the number (§4.1.1). How
many are too many depends on the type in question.

The data of a TLSA record are bytes: dnspython takes one of the wrong length for a broken message,
and it is just one that cannot be used (RFC 6698 §2.1, `dane.tlsa`).

Pure: bytes in, data out. Reading raises `MessageError` for an answer that is of no use, and
`Truncated` for one that has to be asked for over TCP.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any, NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

# Answers up to this size come in one UDP datagram without fragments (DNS flag day 2020).
_UDP_PAYLOAD = 1232
# Bytes of an answer, and questions and records in it, all sections together. What we ask for is far
# below; reading 4,300 records of long names took 1.5 s.
MAX_ANSWER = 4096
MAX_RECORDS = 200
# A domain may have many MX hosts, and a TLSA record may hold a whole certificate. The names of the
# MX records are read, which takes 50 ms for the worst answer; the data of TLSA records are not.
_LARGER = {dns.rdatatype.MX: (16_384, 300), dns.rdatatype.TLSA: (65_535, 300)}
# Aliases that are followed one after the other.
_MAX_ALIASES = 16
# The longest time to live (RFC 2181 §8).
_MAX_TTL = 2**31 - 1

_HEADER = struct.Struct("!6H")
_IN = dns.rdataclass.IN
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


# What follows a record's name: type, class, time to live, length of the data.
_FIXED = struct.Struct("!2HIH")
# A name that is the one in the question, which follows the header (RFC 1035 §4.1.4).
_NAME_IN_QUESTION = struct.pack("!H", 0xC000 | _HEADER.size)
# An SOA's data end with MINIMUM, the last of five numbers after two names (RFC 1035 §3.3.13).
_MINIMUM = struct.Struct("!I")
_MIN_SOA = 2 + 5 * _MINIMUM.size


class MessageError(Exception):
    """The answer to the question, and it is of no use; the text says why."""


class Refused(MessageError):
    """The name server answers no question of this kind or from this host (RFC 1035 §4.1.1)."""


class Truncated(Exception):
    """The answer to the question did not fit in a datagram."""


class _Record(NamedTuple):
    """A record, and where in the message its name begins, its data begin, and they end."""

    name: int
    rdtype: int
    rdclass: int
    ttl: int
    data: int
    end: int


# The labels of a name.
_Owner = tuple[bytes, ...]
# Owner, type, time to live and data.
_Read = tuple[dns.name.Name, int, int, Any]


class Answer(NamedTuple):
    """What a name server says.

    `records`: of the type in question, at the end of the aliases: addresses as text, TXT as a tuple
    of strings in bytes, TLSA as bytes, others as dnspython has them.
    `negative_ttl`: how many seconds the zone's SOA lets it be remembered that there are none (RFC
    2308 §5), 0 without an SOA.
    `authenticated`: whether the name server has validated all of it by DNSSEC, in its own words.
    `name`: that of the records: the one in question, or the end of its aliases.
    `ttl`: how many seconds the records and aliases may be remembered.
    `exists`: False if there is nothing of any type at `name` (NXDOMAIN).
    """

    records: list[Any]
    negative_ttl: int
    authenticated: bool
    name: dns.name.Name
    ttl: int
    exists: bool


def is_refusal(wire: bytes) -> bool:
    """Say whether an answer, whatever it is for, says REFUSED."""
    return len(wire) >= _HEADER.size and wire[3] & _RCODE == dns.rcode.REFUSED


class Question:
    """A question about `name`, and `wire` to send it. A new one has a new id."""

    def __init__(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        self._name = name
        self._rdtype = rdtype
        self._max_answer, self._max_records = _LARGER.get(rdtype, (MAX_ANSWER, MAX_RECORDS))
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
        number = questions + sum(counts)
        if number > self._max_records or len(wire) > self._max_answer:
            raise MessageError(f"an answer of {number} records, {len(wire)} bytes: too large")
        rcode = flags & _RCODE
        end = _HEADER.size
        if questions:
            end += len(self._asked)
            # Names are compared without case, and the lengths of labels are no letters.
            if questions > 1 or wire[_HEADER.size : end].lower() != self._asked.lower():
                return None
        elif rcode not in _WITHOUT_QUESTION:
            return None
        if flags & _TRUNCATED:
            raise Truncated
        try:
            records = _records(wire, end)
            answers, authority, additional = (list(islice(records, count)) for count in counts)
            found = [*self._read(wire, answers)]
        except (dns.exception.DNSException, IndexError, ValueError, struct.error):
            return None
        rcode |= _extension(additional)
        if rcode == dns.rcode.REFUSED:
            raise Refused("REFUSED")
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise MessageError(dns.rcode.Rcode.to_text(rcode))
        data, name, ttl = self._follow(found)
        if not data and rcode == dns.rcode.NOERROR and _is_referral(authority):
            raise MessageError("a referral instead of an answer: it does not look names up")
        negative_ttl = _negative_ttl(wire, authority)
        return Answer(
            data,
            negative_ttl,
            bool(flags & _AUTHENTIC),
            name,
            ttl if data else min(ttl, negative_ttl),
            rcode != dns.rcode.NXDOMAIN,
        )

    def _read(self, wire: bytes, records: list[_Record]) -> Iterator[_Read]:
        """Yield owner, type, time and data of the records in question, and of aliases."""
        for record in records:
            rdtype = dns.rdatatype.CNAME if record.rdtype == dns.rdatatype.CNAME else self._rdtype
            if (record.rdtype, record.rdclass) == (rdtype, _IN):
                owner = self._name
                if not wire.startswith(_NAME_IN_QUESTION, record.name):
                    owner, _ = dns.name.from_wire(wire, record.name)
                if read := _READERS.get(rdtype):
                    data = read(wire[record.data : record.end])
                else:
                    length = record.end - record.data
                    data = dns.rdata.from_wire(_IN, rdtype, wire, record.data, length)
                yield owner, rdtype, record.ttl, data

    def _follow(self, records: list[_Read]) -> tuple[list[Any], dns.name.Name, int]:
        """Return data and name of the records at the end of the aliases, and the shortest TTL."""
        by_owner: dict[_Owner, list[tuple[int, Any]]] = {}
        for owner, rdtype, _, data in records:
            by_owner.setdefault(_lower(owner), []).append((rdtype, data))
        ttl = min((ttl for _, _, ttl, _ in records), default=_MAX_TTL)
        name = self._name
        for _ in range(_MAX_ALIASES):
            here = by_owner.get(_lower(name), [])
            # One that comes twice is one (RFC 2181 §5).
            found = list(dict.fromkeys(data for rdtype, data in here if rdtype == self._rdtype))
            aliases = [data for rdtype, data in here if rdtype == dns.rdatatype.CNAME]
            if found or not aliases:
                return found, name, ttl
            name = aliases[0].target
        raise MessageError(f"more than {_MAX_ALIASES} aliases, or a loop of them")


def _lower(name: dns.name.Name) -> _Owner:
    """Return a name as a key; dnspython's own hash takes longer than all the rest."""
    return tuple(map(bytes.lower, name.labels))


def _strings(data: bytes) -> tuple[bytes, ...]:
    """Return the strings of a TXT record, one at least (RFC 1035 §3.3.14). Raise `ValueError`."""
    strings = []
    at = 0
    while at < len(data):
        begin = at + 1
        at = begin + data[at]
        strings.append(data[begin:at])
    if not data or at > len(data):
        raise ValueError("a string that is missing or cut short")
    return tuple(strings)


def _ipv4(data: bytes) -> str:
    """Return the address in an A record (RFC 1035 §3.4.1). Raise `ValueError`."""
    return str(IPv4Address(data))


def _ipv6(data: bytes) -> str:
    """Return the address in an AAAA record (RFC 3596 §2.2). Raise `ValueError`."""
    return str(IPv6Address(data))


_READERS: dict[int, Callable[[bytes], Any]] = {
    dns.rdatatype.TXT: _strings,
    dns.rdatatype.A: _ipv4,
    dns.rdatatype.AAAA: _ipv6,
    dns.rdatatype.TLSA: bytes,
}


def _records(wire: bytes, at: int) -> Iterator[_Record]:
    """Yield the records from an offset on. Raise `ValueError`, `IndexError` or `struct.error`."""
    while True:
        name = at
        # A name ends with the root's empty label or with a pointer, which is two bytes long.
        while 0 < (length := wire[at]) < 64:
            at += 1 + length
        if 64 <= length < 0xC0:
            raise ValueError("a label of unknown type")
        at += 2 if length else 1
        rdtype, rdclass, ttl, length = _FIXED.unpack_from(wire, at)
        data = at + _FIXED.size
        at = data + length
        if at > len(wire):
            raise ValueError("a record that is cut short")
        yield _Record(name, rdtype, rdclass, ttl, data, at)


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


def _negative_ttl(wire: bytes, authority: list[_Record]) -> int:
    for record in authority:
        if (record.rdtype, record.rdclass) == (dns.rdatatype.SOA, _IN):
            if record.end - record.data < _MIN_SOA:
                continue
            (minimum,) = _MINIMUM.unpack_from(wire, record.end - _MINIMUM.size)
            return min(record.ttl, int(minimum))
    return 0
