"""What the fuzzer has found stays mended, and each target notices what it is there to notice."""

import re
from http.client import HTTPException

import pytest

from stsresolver.config import yaml_schema
from stsresolver.lookup import messages
from stsresolver.mta_sts import discovery, fetch, policy, record
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.socketmap import answer, netstring
from tests.fuzz.corpus import CORPUS, inputs
from tests.fuzz.smaller import smaller
from tests.fuzz.targets import TARGETS
from tests.support.postfix_grammar import Deferred


@pytest.mark.parametrize("path", inputs(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_input(path):
    TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_a_seed():
    assert {path.parent.name for path in inputs() if path.name.startswith("seed-")} == set(TARGETS)
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def unfiltered(policy):
    return [" ".join(f"{{ policy_string = {text} }}" for text in policy.text)]


# Each field as short as it may be, so that a space more makes the text longer than allowed.
LARGEST = (
    b"version:STSv1\nmode:enforce\nmax_age:1\n"
    + b"".join(b"mx:%d.%b.%b.%b\n" % (number, *[b"a" * 60] * 3) for number in range(650))
)  # fmt: skip

# What no policy's text says.
LOOSE = policy.Policy(policy.Mode.ENFORCE, ("a, ciphers=x",), 1, "x\nmax_age: 1")

BROKEN = [
    ("netstring", netstring, "_LENGTH", re.compile(rb"([0-9]+):"), b"\x0001:a,",
     "a leading zero, that is refused only where it is seen alone"),
    ("record", record, "_ID", re.compile(rb".+"), b"v=STSv1; id=a-b", "an id that is none"),
    ("policy", answer, "_policy_strings", unfiltered, b"x: } match=evil.example {", "a brace"),
    ("policy", answer, "_MAX_STRINGS", 3, b"x: y", "a text that is left out though it fits"),
    ("policy", policy, "_mx_pattern", lambda line, value: value, b"mx: a.com:b.com", "a separator"),
    ("policy", policy, "_mx_pattern", lambda line, value: value, b"mx: a, ciphers=x",
     "an attribute"),
    ("policy", policy, "excerpt", bytes.decode, b"\x07", "a bell in an error"),
    ("next_hop", answer, "parse_next_hop", lambda text: NextHop(text.decode()), b"x Example.Com",
     "no A-labels"),
    ("configuration", yaml_schema, "shown", lambda text, length=60: text, b'"a\\nb": 1',
     "a second line in an error"),
    ("dns_message", discovery, "RecordError", record.SeveralRecords,
     CORPUS.joinpath("dns_message/seed-malformed-record").read_bytes(), "an error that passes"),
    ("lookup_message", messages, "checked_id", bytes.decode, b'[1,"id","a b"]', "no id"),
    ("lookup_message", messages, "checked_id", bytes.decode, b'[1,"not changed","a b"]',
     "a known id that is none"),
    ("lookup_message", messages, "checked_id", bytes.decode, b'[1,"failure","TLS","","-"]',
     "an id with a failure that is none"),
    ("lookup_message", messages, "checked_id", bytes.decode,
     b'[1,"found","-","version: STSv1\\nmode: none\\nmax_age: 1"]', "an id found that is none"),
    ("lookup_message", messages, "parse_policy", lambda body, size: LOOSE,
     b'[1,"found","1","x\\nmax_age: 1"]', "a policy found that is none"),
    ("http_response", fetch, "ERRORS", (), b"", "an error that passes"),
    ("stored", policy, "MAX_POLICY_SIZE", 1 << 20, LARGEST, "a policy too large for an answer"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "module", "name", "broken", "data", "why"), BROKEN)
def test_a_target_notices(monkeypatch, target, module, name, broken, data, why):
    TARGETS[target](data)
    monkeypatch.setattr(module, name, broken)
    with pytest.raises((AssertionError, Deferred, record.RecordError, HTTPException)):
        TARGETS[target](data)
        pytest.fail(f"not noticed: {why}", pytrace=False)


def test_what_was_found_is_made_smaller():
    def target(data):
        assert not data.startswith(b"a") or b"z" not in data
        data.decode()

    assert smaller(target, b"abc" * 50 + b"xyz" * 50) == b"az"
    assert smaller(target, b"abc\xff" * 20 + b"z\xff") == b"az", "the first thing that fails counts"
    assert smaller(target, b"all is well") == b"all is well"


def test_a_store_cannot_hold_more_than_the_network_may_send():
    """Its answer would be over 100,000 bytes, after which Postfix is out of step."""
    assert policy.MAX_POLICY_SIZE < len(LARGEST) < policy.MAX_STORED_SIZE
    with pytest.raises(policy.PolicyError, match="larger than 65536 bytes"):
        policy.parse_policy(LARGEST, policy.MAX_STORED_SIZE)
