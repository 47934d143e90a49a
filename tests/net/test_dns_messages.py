"""The records that each lookup asks for, as they are on the wire (RFC 1035, RFC 3596)."""

from __future__ import annotations

import struct

import dns.name
import pytest
from dns.rdatatype import RdataType

from stsresolver.net.dns_messages import Question

NAME = dns.name.from_text("example.com")


def read(rdtype: RdataType, *data: bytes):
    """Return what is read of an answer with these records, None if it is no answer."""
    question = Question(NAME, rdtype)
    header = question.wire[:2] + struct.pack("!5H", 0x8180, 1, len(data), 0, 0)
    asked = question.wire[12:-11]
    records = b"".join(
        struct.pack("!HHHIH", 0xC00C, rdtype, 1, 300, len(one)) + one for one in data
    )
    answer = question.read(header + asked + records)
    return answer if answer is None else answer.records


READ = [
    pytest.param(RdataType.A, [b"\xc0\0\2\1"], ["192.0.2.1"], id="an address"),
    pytest.param(RdataType.A, [b"\xc0\0\2\1", b"\xc0\0\2\1"], ["192.0.2.1"], id="twice: one"),
    pytest.param(RdataType.A, [b"\xc0\0\2"], None, id="three bytes are no IPv4 address"),
    pytest.param(RdataType.A, [b"\xc0\0\2\1\0"], None, id="nor are five"),
    pytest.param(RdataType.A, [b""], None, id="nor is nothing"),
    pytest.param(
        RdataType.AAAA,
        [b"\x20\1\r\xb8" + bytes(11) + b"\1"],
        ["2001:db8::1"],
        id="an IPv6 one",
    ),
    pytest.param(RdataType.AAAA, [b"\xc0\0\2\1"], None, id="four bytes are no IPv6 address"),
    pytest.param(RdataType.TXT, [b"\1a"], [(b"a",)], id="a string"),
    pytest.param(RdataType.TXT, [b"\1a\0\2bc"], [(b"a", b"", b"bc")], id="strings, an empty one"),
    pytest.param(RdataType.TXT, [b"\0"], [(b"",)], id="an empty string"),
    pytest.param(RdataType.TXT, [b"\xff" + 255 * b"x"], [(255 * b"x",)], id="the longest"),
    pytest.param(RdataType.TXT, [b"\2ab", b"\1a\1b"], [(b"ab",), (b"a", b"b")], id="two records"),
    pytest.param(RdataType.TXT, [b""], None, id="no string"),
    pytest.param(RdataType.TXT, [b"\3ab"], None, id="a string that is cut short"),
    pytest.param(RdataType.TXT, [b"\2ab\5"], None, id="the second one is"),
    pytest.param(RdataType.TXT, [], [], id="no record"),
]


@pytest.mark.parametrize(("rdtype", "data", "records"), READ)
def test_records(rdtype, data, records):
    assert read(rdtype, *data) == records
