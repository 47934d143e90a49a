"""What holds for any text whatever: a result or an error with a name, and nothing else in Postfix.

The promises themselves are in `fuzz/targets.py`.
"""

from itertools import pairwise

import dns.message
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsresolver.cache.entry import Entry
from stsresolver.config import postgres_options, redis_options
from stsresolver.config.postgres_options import postgres_settings
from stsresolver.config.redis_options import connection_options, sentinel_options
from stsresolver.config.store_options import OptionsError
from stsresolver.mta_sts.policy import parse_policy
from stsresolver.socketmap.netstring import encode
from stsresolver.stores.entry_json import from_json, to_json
from stsresolver.stores.sqlite import _entry as from_row
from tests.fuzz import targets
from tests.fuzz.meaning import DOMAIN, HEAD, is_sound
from tests.fuzz.targets import TARGETS
from tests.support.hostile_text import (
    SETTINGS,
    anything,
    configurations,
    hosts,
    policies,
    records,
    requests,
    sound_policies,
    texts,
)


@pytest.mark.parametrize("target", TARGETS)
@SETTINGS
@given(data=anything)
def test_any_bytes(target, data):
    TARGETS[target](data)


@SETTINGS
@given(
    payloads=st.lists(st.binary(max_size=40), max_size=5),
    last=st.sampled_from([b"", b"7:", b"12", b"x", b"01:", b"3:abc;", b"99999:"]),
    splits=st.lists(st.integers(0, 250), max_size=8),
)
def test_netstrings_split_anywhere_are_the_same_requests(payloads, last, splits):
    stream = b"".join(map(encode, payloads)) + last
    bounds = [0, *sorted(min(split, len(stream)) for split in splits), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    refused = last[:1] == b"x" or last in (b"01:", b"3:abc;", b"99999:")
    assert targets.cut_up(pieces) == (payloads, None if refused else last)


@SETTINGS
@given(policies())
def test_no_policy_changes_what_postfix_sees(text):
    targets.policy(text)
    targets.stored(text)


@SETTINGS
@given(sound_policies())
def test_no_extension_changes_what_postfix_sees(text):
    parse_policy(text)
    targets.policy(text)


@SETTINGS
@given(records())
def test_records(text):
    targets.record(text)


@SETTINGS
@given(requests())
def test_next_hops(request):
    targets.next_hop(request)


@SETTINGS
@given(configurations())
def test_configurations(text):
    targets.configuration(text)


def answer(rdtype, texts_, mutate):
    query = dns.message.make_query(f"_mta-sts.{DOMAIN}.", rdtype)
    reply = dns.message.make_response(query)
    owner = f"_mta-sts.{DOMAIN}."
    for kind, text in texts_:
        reply.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, text))
    wire = bytearray(reply.to_wire()[2:])
    for at, byte in mutate:
        wire[at % len(wire)] = byte
    return bytes(wire)


RECORDS = st.sampled_from(
    [
        ("TXT", '"v=STSv1; id=1"'),
        ("TXT", '"v=STSv1;" " id=2;"'),
        ("TXT", '"" "\\000\\255"'),
        ("CNAME", "a.example."),
        ("DNAME", "b.example."),
        ("SOA", "a. b. 1 2 3 4 5"),
        ("A", "192.0.2.1"),
        ("RRSIG", "TXT 8 2 3600 20300101000000 20200101000000 1 example.com. AAAA"),
    ]
)


@SETTINGS
@given(
    st.lists(RECORDS, max_size=4, unique_by=lambda record: record[0]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_dns_messages_with_bytes_changed_and_cut_off(texts_, mutate, length):
    wire = answer("TXT", texts_, mutate)
    targets.dns_message(wire)
    targets.dns_message(wire[:length])


TIMES = st.floats(allow_nan=False, allow_infinity=False)


@SETTINGS
@given(hosts, st.from_regex("[A-Za-z0-9]{1,32}", fullmatch=True), sound_policies(), texts,
       st.tuples(TIMES, TIMES, TIMES, TIMES, TIMES))  # fmt: skip
def test_what_is_stored_is_read_back(domain, policy_id, text, failure, times):
    *four, failed = times
    entry = Entry(domain, policy_id, parse_policy(text), *four, failed, failure)
    back = from_json(to_json(entry), domain)
    assert (back.domain, back.id, back.policy, back.fetched) == (
        domain,
        policy_id,
        entry.policy,
        entry.fetched,
    )
    assert back.failure == (failure if failure.isprintable() else ascii(failure))


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    anything,
    st.sampled_from([DOMAIN.encode(), b"a", HEAD, 0.0, 1.0, 86401.0]),
)


@SETTINGS
@given(st.tuples(*[VALUES] * 11))
def test_a_row_of_the_database_is_an_entry_or_refused(row):
    sound = (1, DOMAIN.encode(), b"a", HEAD, 1.0, 1.0, 1.0, 1.0, 0.0, b"", 86401.0)
    assert from_row(sound).domain == DOMAIN
    for one in (row, *((*sound[:at], row[at], *sound[at + 1 :]) for at in range(len(row)))):
        try:
            entry = from_row(one)
        except ValueError as error:
            assert str(error)
        else:
            is_sound(entry.policy)


OPTIONS = st.sampled_from(
    [
        *redis_options._WHERE,
        *redis_options._HOW,
        *redis_options._SENTINEL,
        *redis_options._OLD_NAMES,
    ]
    + ["url", "address", "sentinels", "sentinel_kwargs", "minsize", "prefix", "x"] * 3
)
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=2)),
    max_leaves=4,
)
URLS = st.tuples(
    st.sampled_from(["redis://", "rediss://", "unix://", "http://", ""]),
    texts,
    st.sampled_from(["", "@h", "@[::1]", "@[", ":0", ":1x", "/1", "?db=1", "?timeout=nan", "#"]),
).map("".join)


@SETTINGS
@given(st.dictionaries(OPTIONS, st.one_of(URLS, NESTED), max_size=4), st.booleans())
def test_options_of_redis_are_settings_or_refused_without_the_password(options, by_sentinels):
    secret = "correct-horse"
    given_ = {**options, "password": secret}
    try:
        parse = sentinel_options if by_sentinels else connection_options
        read, warnings = parse(given_)
    except OptionsError as error:
        told = str(error)
        assert told
    else:
        told = f"{read.name} {warnings} {read!r}"
        assert read.keywords["socket_timeout"] > 0
        assert all(0 < port < 65536 for _, port in read.sentinels)
    assert secret not in told


DSNS = st.tuples(
    st.sampled_from(["postgresql://", "postgres://", "mysql://", "host=h ", "host = '", ""]),
    texts,
    st.sampled_from(["", "@h", "@[::1]", "@[", ":0", ":1,b:2", ",b", "/d", "?user=u", "?a=%", "'"]),
).map("".join)
OF_POSTGRES = st.sampled_from(
    [*postgres_options._KEYWORDS, *postgres_options._OURS, *postgres_options._OLD_NAMES]
    + ["dsn", "ssl", "min_size", "x"] * 3
)


@SETTINGS
@given(st.dictionaries(OF_POSTGRES, st.one_of(DSNS, NESTED), max_size=4))
def test_options_of_postgresql_are_settings_or_refused_without_the_password(options):
    secret = "correct-horse"
    try:
        read, warnings = postgres_settings({**options, "password": secret})
    except OptionsError as error:
        told = str(error)
        assert told
    else:
        told = f"{read.name} {warnings} {read!r}"
        assert read.keywords["connect_timeout"] >= 2
        assert read.keywords["password"] == secret
        assert all(isinstance(value, str | int) for value in read.keywords.values())
    assert secret not in told


@settings(SETTINGS, max_examples=30)
@given(
    names=st.integers(1, 6000),
    width=st.integers(1, 60),
    extensions=st.integers(0, 1100),
    value=st.sampled_from(["y", "y" * 100, "}", "a, b"]),
    again=st.sampled_from(["x", "mx", "mode"]),
)
def test_no_length_of_a_policy_makes_an_answer_too_long(names, width, extensions, value, again):
    lines = [f"mx:{'a' * width}{number:x}.bc\n" for number in range(names)]
    more = "a.bc" if again == "mx" else value
    lines += [f"{again}:{more}\n" for _ in range(extensions)]
    targets.policy("".join(lines).encode()[: 65_000 - len(HEAD)].rpartition(b"\n")[0])
