"""What daemon and resolver process say to each other: all of it passes, and nothing else does."""

from __future__ import annotations

import json

import pytest

from stsresolver.dane.states import Dane, DaneHost, HostState, MxState, Verdict
from stsresolver.lookup.messages import (
    FETCH,
    LOG,
    MAX_LINE,
    MAX_MESSAGE,
    RESOLVE,
    read,
    read_result,
    write,
    write_result,
)
from stsresolver.mta_sts.policy import MAX_POLICY_SIZE, MAX_STORED_SIZE, parse_policy
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged

HEAD = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 86400\n"
POLICY = HEAD.decode().rstrip("\n")


def filled(field: str) -> bytes:
    """Return a policy of the largest size, full of one field."""
    line = field.encode() + b"\n"
    return HEAD + line * ((MAX_POLICY_SIZE - len(HEAD)) // len(line))


def returned(result: object) -> object:
    number, what, values = read(write_result(7, result))
    assert number == 7
    return read_result(what, values)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("20240101T000000", "an id"),
        (parse_policy(HEAD), "a policy"),
        (Found(parse_policy(HEAD), "1"), "a policy with its id"),
        (NotChanged("x" * 32), "an id that is known"),
        (Failure(Cause.STATUS, "404", "2016"), "a failure of a policy that is announced"),
        (NoPolicy(Cause.NO_RECORD), "nothing, and no SOA"),
        (NoPolicy(Cause.BAD_RECORD, 'an excerpt "\\x00"', 900), "a detail and a time to live"),
        (Failure(Cause.DNS), "no detail"),
        (Failure(Cause.TLS, "line\nline \u2028 \x1b[2J é 🦀"), "a stranger's text"),
        *((Failure(cause, "x"), "each cause has its name") for cause in Cause),
        (Dane(MxState.FAILED, (), "SERVFAIL", 5), "what DNS does not say of DANE"),
        *((Dane(mx, ttl=60), "each state of MX records") for mx in MxState),
        *(
            (Dane(MxState.HOST, (DaneHost("\\000\\.x", state, "é"),)), "each state of a host")
            for state in HostState
        ),
    ],
)
def test_a_result_comes_back_equal(result, why):
    assert returned(result) == result, why


@pytest.mark.parametrize(
    "field",
    [
        'x:"',
        "x:\\",
        'x:\\"' + '\\"' * 10_000,
        "x:" + "é" * 500,
        "x:🦀\u2028\u2029\x85",
        "x:a\u00a0b",
        "x:a \u3000 b",
        "x:\u3000\u00a0",
        "mx:a.b",
        "mx:*.a.b",
        "x:y",
        "x::",
    ],
    ids=ascii,
)
def test_the_largest_policy_fits_a_packet(field):
    policy = parse_policy(filled(field))
    assert len(policy.body.encode()) <= MAX_STORED_SIZE
    for result in policy, Found(policy, "x" * 32):
        message = write_result(2**63, result)
        assert len(message) <= MAX_MESSAGE
        number, what, values = read(message)
        assert (number, read_result(what, values)) == (2**63, result)


def test_no_more_hosts_than_fit_a_packet():
    """Those that decide the verdict come first, and the verdict stays."""
    name = "\\255" * 255
    others = [DaneHost(name, HostState.NO_TLSA, "\x00" * 1000)] * 200
    for deciding, expected in (
        (HostState.USABLE, Verdict.DANE),
        (HostState.FAILED, Verdict.UNKNOWN),
    ):
        last = DaneHost(name, deciding, "\x00" * 1000)
        message = write_result(2**63, Dane(MxState.SECURE, (*others, last), "\x00" * 1000))
        assert len(message) <= MAX_MESSAGE
        _, what, values = read(message)
        found = read_result(what, values)
        assert len(found.hosts) == 32
        assert (found.hosts[0].state, found.verdict) == (deciding, expected)


def test_a_long_detail_is_cut():
    result = returned(Failure(Cause.HTTP, "x" * 100_000))
    assert result == Failure(Cause.HTTP, "x" * 1000)


def test_half_a_surrogate_pair_can_be_written():
    for written in (
        write_result(1, Failure(Cause.DNS, "\udc80")),
        b'[1,"failure","DNS","\\udc80"]',
    ):
        _, what, values = read(written)
        assert read_result(what, values) == Failure(Cause.DNS, "\\udc80")


def test_the_longest_line_of_the_log_fits_a_packet():
    for char in ("\x00", "\udc80", "🦀"):
        message = write(0, LOG, 10, "stsresolver", char * MAX_LINE)
        assert len(message) <= MAX_MESSAGE
        assert read(message)[2][2] == char * MAX_LINE


def test_a_question():
    assert read(write(12, FETCH, "example.com", 4.0)) == (12, FETCH, ["example.com", 4.0])
    values = ["example.com", 4.0, "2016", "2017"]
    assert read(write(13, RESOLVE, *values)) == (13, RESOLVE, values)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "nothing"),
        (b"\xff\xfe\xfd", "no text"),
        (b"[1", "cut short"),
        (b"1", "no list"),
        (b"null", "nothing at all"),
        (b"[]", "an empty list"),
        (b"[1]", "no word"),
        (b"{}", "an empty object"),
        (b'{"1":2,"3":4}', "an object"),
        (b'["1","id","x"]', "a number as text"),
        (b'[true,"id","x"]', "a truth as number"),
        (b'[1.0,"id","x"]', "a fraction as number"),
        (b'[1,2,"x"]', "a number as word"),
        (b'[1,"id","x"]]', "more than one value"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply, as objects"),
        (b"[" + b"9" * 200_000 + b',"id","x"]', "a number too long to be read"),
    ],
)
def test_no_message(message, why):
    with pytest.raises(ValueError, match=r"."):
        read(message)


@pytest.mark.parametrize(
    ("what", "values", "why"),
    [
        ("id", [], "no id"),
        ("id", ["1", "2"], "one more"),
        ("id", [1], "a number"),
        ("id", [""], "empty"),
        ("id", ["a b"], "a space, which the record's grammar forbids"),
        ("id", ["1" * 33], "too long"),
        ("id", ["é"], "not ASCII"),
        ("id", ["\udc80"], "half a surrogate pair"),
        ("policy", [POLICY + "\n"], "not as it is stored: a blank line"),
        ("policy", [POLICY.replace(": ", ":")], "not as it is stored: no spaces"),
        ("policy", [POLICY.replace("mx: m", "mx:  m")], "not as it is stored: two spaces"),
        ("policy", [POLICY.replace("\n", "\r\n")], "not as it is stored: CRLF"),
        ("policy", [POLICY + "\nx: \udc80"], "half a surrogate pair"),
        ("policy", [POLICY + "\nx: \x00"], "a control character"),
        ("policy", [POLICY.replace("mail.example.com", "nexthop")], "a keyword of Postfix"),
        ("policy", [POLICY.replace("mail.example.com", "a.b secure")], "an attribute of Postfix"),
        ("policy", [POLICY + "\nx: " + "y" * MAX_STORED_SIZE], "too large"),
        ("policy", ["x:y\n" * 65_536], "too large, were it read"),
        ("policy", [None], "nothing"),
        ("policy", [{"mode": "none"}], "an object"),
        ("no policy", ["NO_RECORD", ""], "no time to live"),
        ("no policy", ["NO_RECORD", "", "900"], "a time to live as text"),
        ("no policy", ["NO_RECORD", "", 1e400], "a time to live without end"),
        ("no policy", ["no record", "", 900], "no cause"),
        ("failure", ["DNS"], "no detail"),
        ("failure", ["DNS", None], "nothing as detail"),
        ("failure", ["__class__", ""], "no cause, though an attribute of every class"),
        ("failure", [["DNS"], ""], "a list as cause"),
        ("failure", ["TLS", "", ""], "an empty id"),
        ("failure", ["TLS", "", "a b"], "an id with a space"),
        ("failure", ["TLS", "", None], "nothing as id"),
        ("failure", ["TLS", "", "1", "2"], "one id more"),
        ("found", ["1"], "an id without a policy"),
        ("found", [POLICY], "a policy without an id"),
        ("found", [POLICY, "1"], "in the other order"),
        ("found", ["a b", POLICY], "an id with a space, and a policy"),
        ("found", ["1", POLICY + "\n"], "an id, and a policy not as it is stored"),
        ("found", ["1", POLICY, "x"], "one more"),
        ("not changed", [], "no id that is known"),
        ("not changed", ["a b"], "a known id with a space"),
        ("not changed", [None], "nothing as known id"),
        ("states", ["SECURE", [], ""], "no time to live"),
        ("states", ["secure", [], "", 5], "no state of MX records"),
        ("states", ["USABLE", [], "", 5], "the state of a host"),
        ("states", ["SECURE", "mx", "", 5], "hosts as text"),
        ("states", ["SECURE", [["mx", "USABLE", ""]] * 33, "", 5], "too many hosts"),
        ("states", ["SECURE", [["mx", "SECURE", ""]], "", 5], "no state of a host"),
        ("states", ["SECURE", [["mx", "USABLE"]], "", 5], "a host without a detail"),
        ("states", ["SECURE", [["m\nx", "USABLE", ""]], "", 5], "a name of two lines"),
        ("states", ["SECURE", [["é", "USABLE", ""]], "", 5], "a name that is not ASCII"),
        ("states", ["SECURE", [[b"mx".hex(), "USABLE", None]], "", 5], "nothing as detail"),
        ("resolved", ["1"], "no such result"),
        ("", [], "no word at all"),
    ],
)
def test_no_result(what, values, why):
    with pytest.raises(ValueError, match=r"."):
        read_result(what, values)


@pytest.mark.parametrize(
    ("ttl", "kept"), [(-5, 0), (10**30, 2**31), (900, 900)], ids=["negative", "huge", "honest"]
)
def test_a_time_to_live_is_bounded(ttl, kept):
    _, what, values = read(json.dumps([1, "no policy", "NO_RECORD", "", ttl]).encode())
    assert read_result(what, values) == NoPolicy(Cause.NO_RECORD, "", kept)
