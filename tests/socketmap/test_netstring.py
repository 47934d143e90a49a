"""Netstrings: each case whole, then byte by byte."""

import pytest

from stsresolver.socketmap.netstring import MAX_REQUEST, NetstringError, cut, encode

GOOD = [
    (b"0:,", b"", "an empty payload"),
    (b"3:a b,", b"a b", "a request"),
    (b"3:,:,,", b",:,", "delimiters inside the payload"),
    (b"2:\x00\xff,", b"\x00\xff", "any byte"),
    (b"12:0123456789ab,", b"0123456789ab", "two digits of length"),
    (encode(b"x" * MAX_REQUEST), b"x" * MAX_REQUEST, "the longest request"),
]

BAD = [
    (b"x", "no digit"),
    (b":,", "no length"),
    (b"-1:", "a sign"),
    (b"+1:a,", "a sign"),
    (b" 1:a,", "white space"),
    (b"01:a,", "a leading zero"),
    (b"00:,", "a leading zero"),
    (b"1_0:", "an underscore, which int() would take"),
    ("１:a,".encode(), "a Unicode digit, which int() would take"),
    (b"1a", "no colon after the length"),
    (b"1:ab", "no comma"),
    (b"3:abc;", "another final byte"),
    (b"10301:", "over the limit, refused before its payload comes"),
    (b"1000000", "more digits than any limit has"),
    (b"GET / HTTP/1.1\r\n", "another protocol"),
]


@pytest.mark.requirement("WIRE-1")
@pytest.mark.requirement(
    {
        "the longest request": "WIRE-4",
    }
)
@pytest.mark.parametrize(("frame", "payload", "why"), GOOD, ids=[case[2] for case in GOOD])
def test_good(frame, payload, why):
    assert cut(frame) == (payload, len(frame)), why
    assert cut(frame + b"3:abc,") == (payload, len(frame)), "what follows waits"
    assert cut(b"3:abc," + frame, 6) == (payload, 6 + len(frame)), "what came before is past"


@pytest.mark.requirement("WIRE-2")
@pytest.mark.parametrize(
    ("frame", "payload", "why"), GOOD[:-1], ids=[case[2] for case in GOOD[:-1]]
)
def test_good_byte_by_byte(frame, payload, why):
    for end in range(len(frame)):
        assert cut(frame[:end]) is None, f"{why}: {end} bytes are not all of it"


@pytest.mark.requirement("WIRE-5")
@pytest.mark.parametrize(("frame", "why"), BAD, ids=[case[1] for case in BAD])
def test_bad(frame, why):
    with pytest.raises(NetstringError):
        cut(frame)
        pytest.fail(f"taken: {why}")


@pytest.mark.requirement("WIRE-5")
@pytest.mark.parametrize(("frame", "why"), BAD, ids=[case[1] for case in BAD])
def test_bad_byte_by_byte(frame, why):
    """The first wrong byte is enough: nobody waits for the rest of what is already wrong."""
    refused = None
    for end in range(len(frame) + 1):
        try:
            assert cut(frame[:end]) is None, why
        except NetstringError:
            refused = end
            break
    assert refused is not None, why
    if frame.startswith(b"10301"):
        assert refused == len(frame)


@pytest.mark.requirement("WIRE-1")
def test_encode():
    assert encode(b"NOTFOUND ") == b"9:NOTFOUND ,"
    assert encode(b"") == b"0:,"
