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

import os
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
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

# What follows the id: flags, and the numbers of questions and records.
_HEADER = struct.Struct("!5H")
_ID_SIZE = 2
_HEADER_SIZE = _ID_SIZE + _HEADER.size
_IN = dns.rdataclass.IN
_RECURSION_DESIRED = 0x0100
# In a question: say it in the answer (RFC 6840 §5.7).
_AUTHENTIC = 0x0020
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_AFTER_ID = _HEADER.pack(_RECURSION_DESIRED | _AUTHENTIC, 1, 0, 0, 1)
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
# What stands before each label, by its length.
_LENGTHS = [bytes([length]) for length in range(64)]
# A name that is the one in the question, which follows the header (RFC 1035 §4.1.4).
_NAME_IN_QUESTION = struct.pack("!H", 0xC000 | _HEADER_SIZE)
# An SOA's data end with MINIMUM, the last of five numbers after two names (RFC 1035 §3.3.13).
_MINIMUM = struct.Struct("!I")
_MIN_SOA = 2 + 5 * _MINIMUM.size


class MessageError(Exception):
    """The answer to the question, and it is of no use; the text says why."""


class Refused(MessageError):
    """The name server answers no question of this kind or from this host (RFC 1035 §4.1.1)."""


class Truncated(Exception):
    """The answer to the question did not fit in a datagram."""


# A record: where in the message its name begins, its type, class and time to live, where its data
# begin, and where they end.
_Record = tuple[int, int, int, int, int, int]
# The labels of a name. The last is the root's, which is empty.
Labels = tuple[bytes, ...]
# Owner, type, time to live and data.
_Read = tuple[Labels, int, int, Any]


class Answer(NamedTuple):
    """What a name server says.

    `records`: of the type in question, at the end of the aliases: addresses as text, TXT as a tuple
    of strings in bytes, TLSA as bytes, others as dnspython has them.
    `negative_ttl`: how many seconds the zone's SOA lets it be remembered that there are none (RFC
    2308 §5), 0 without an SOA.
    `authenticated`: whether the name server has validated all of it by DNSSEC, in its own words.
    `labels`: of the name that has them: the one in question, or the end of its aliases.
    `ttl`: how many seconds the records and aliases may be remembered.
    `exists`: False if there is nothing of any type at `name` (NXDOMAIN).
    """

    records: list[Any]
    negative_ttl: int
    authenticated: bool
    labels: Labels
    ttl: int
    exists: bool

    @property
    def name(self) -> dns.name.Name:
        """The name with these labels."""
        return dns.name.Name(self.labels)


def is_refusal(wire: bytes) -> bool:
    """Say whether an answer, whatever it is for, says REFUSED."""
    return len(wire) >= _HEADER_SIZE and wire[3] & _RCODE == dns.rcode.REFUSED


class Question:
    """A question about `name`, and `wire` to send it. A new one has a new id."""

    def __init__(self, name: dns.name.Name | Labels, rdtype: dns.rdatatype.RdataType) -> None:
        self._labels = name.labels if isinstance(name, dns.name.Name) else name
        self._rdtype = rdtype
        self._max_answer, self._max_records = _LARGER.get(rdtype, (MAX_ANSWER, MAX_RECORDS))
        self._id = os.urandom(_ID_SIZE)
        name_in_wire = b"".join([_LENGTHS[len(label)] + label for label in self._labels])
        self._asked = name_in_wire + struct.pack("!HH", rdtype, _IN)
        self.wire = self._id + _AFTER_ID + self._asked + _OPT

    def read(self, wire: bytes) -> Answer | None:
        """Return the answer in `wire`; None if it is none to this question (RFC 5452 §9.1)."""
        if len(wire) < _HEADER_SIZE or not wire.startswith(self._id):
            return None
        flags, questions, answers, authorities, others = _HEADER.unpack_from(wire, _ID_SIZE)
        if flags & (_RESPONSE | _OPCODE) != _RESPONSE:
            return None
        number = questions + answers + authorities + others
        if number > self._max_records or len(wire) > self._max_answer:
            raise MessageError(f"an answer of {number} records, {len(wire)} bytes: too large")
        rcode = flags & _RCODE
        end = _HEADER_SIZE
        if questions:
            end += len(self._asked)
            # Names are compared without case, and the lengths of labels are no letters.
            if questions > 1 or wire[_HEADER_SIZE:end].lower() != self._asked.lower():
                return None
        elif rcode not in _WITHOUT_QUESTION:
            return None
        if flags & _TRUNCATED:
            raise Truncated
        try:
            answer, authority, additional = _sections(wire, end, answers, authorities, others)
            found = [*self._read(wire, answer)] if answer else []
        except (dns.exception.DNSException, IndexError, ValueError, struct.error):
            return None
        rcode |= _extension(additional)
        if rcode == dns.rcode.REFUSED:
            raise Refused("REFUSED")
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise MessageError(dns.rcode.Rcode.to_text(rcode))
        data, labels, ttl = self._follow(found) if found else ([], self._labels, _MAX_TTL)
        if not data and rcode == dns.rcode.NOERROR and _is_referral(authority):
            raise MessageError("a referral instead of an answer: it does not look names up")
        negative_ttl = _negative_ttl(wire, authority)
        return Answer(
            data,
            negative_ttl,
            bool(flags & _AUTHENTIC),
            labels,
            ttl if data else min(ttl, negative_ttl),
            rcode != dns.rcode.NXDOMAIN,
        )

    def _read(self, wire: bytes, records: list[_Record]) -> Iterator[_Read]:
        """Yield owner, type, time and data of the records in question, and of aliases."""
        for name, rdtype, rdclass, ttl, begin, end in records:
            if rdtype in (self._rdtype, dns.rdatatype.CNAME) and rdclass == _IN:
                owner = self._labels
                if not wire.startswith(_NAME_IN_QUESTION, name):
                    owner = dns.name.from_wire(wire, name)[0].labels
                if read := _READERS.get(rdtype):
                    data = read(wire[begin:end])
                else:
                    known = dns.rdatatype.RdataType(rdtype)
                    data = dns.rdata.from_wire(_IN, known, wire, begin, end - begin)
                yield owner, rdtype, ttl, data

    def _follow(self, records: list[_Read]) -> tuple[list[Any], Labels, int]:
        """Return data and name of the records at the end of the aliases, and the shortest TTL."""
        by_owner: dict[Labels, list[tuple[int, Any]]] = {}
        for owner, rdtype, _, data in records:
            by_owner.setdefault(_lower(owner), []).append((rdtype, data))
        ttl = min(ttl for _, _, ttl, _ in records)
        name = self._labels
        for _ in range(_MAX_ALIASES):
            here = by_owner.get(_lower(name), [])
            # One that comes twice is one (RFC 2181 §5).
            found = list(dict.fromkeys(data for rdtype, data in here if rdtype == self._rdtype))
            aliases = [data for rdtype, data in here if rdtype == dns.rdatatype.CNAME]
            if found or not aliases:
                return found, name, ttl
            name = aliases[0].target.labels
        raise MessageError(f"more than {_MAX_ALIASES} aliases, or a loop of them")


def _lower(name: Labels) -> Labels:
    """Return a name as a key: case makes no difference."""
    return tuple(map(bytes.lower, name))


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
    if len(data) != 4:
        raise ValueError("an address that is too short or too long")
    return ".".join(map(str, data))


def _ipv6(data: bytes) -> str:
    """Return the address in an AAAA record (RFC 3596 §2.2). Raise `ValueError`."""
    return str(IPv6Address(data))


_READERS: dict[int, Callable[[bytes], Any]] = {
    dns.rdatatype.TXT: _strings,
    dns.rdatatype.A: _ipv4,
    dns.rdatatype.AAAA: _ipv6,
    dns.rdatatype.TLSA: bytes,
}


def _sections(wire: bytes, at: int, *counts: int) -> list[list[_Record]]:
    """Return so many records of each section, from an offset on.

    Raise `ValueError`, `IndexError` or `struct.error`.
    """
    sections = []
    for count in counts:
        records = []
        for _ in range(count):
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
            records.append((name, rdtype, rdclass, ttl, data, at))
        sections.append(records)
    return sections


def _extension(additional: list[_Record]) -> int:
    """Return the upper bits of the status, which an OPT record has (RFC 6891 §6.1.3)."""
    for _, rdtype, _, ttl, _, _ in additional:
        if rdtype == dns.rdatatype.OPT:
            return ttl >> 24 << 4
    return 0


def _is_referral(authority: list[_Record]) -> bool:
    """Say whether an empty answer only points to other name servers (RFC 2308 §2.2).

    It does not say that there is nothing, as one with an SOA, or without NS records, does.
    """
    types = {rdtype for _, rdtype, *_ in authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types


def _negative_ttl(wire: bytes, authority: list[_Record]) -> int:
    for _, rdtype, rdclass, ttl, begin, end in authority:
        if rdtype == dns.rdatatype.SOA and rdclass == _IN and end - begin >= _MIN_SOA:
            (minimum,) = _MINIMUM.unpack_from(wire, end - _MINIMUM.size)
            return min(ttl, int(minimum))
    return 0
