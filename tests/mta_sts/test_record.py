"""The TXT record, after RFC 8461 §3.1: one line a case, with its reason."""

import pytest

from stsresolver.mta_sts.record import RecordError, SeveralRecords, domain_id, record_id

ID_32 = "a1" * 16

GOOD = [
    ("v=STSv1; id=a", "a", "the plain form"),
    ("v=STSv1;id=a", "a", "no white space"),
    ("v=STSv1; id=20160831085700Z;", "20160831085700Z", "the RFC's own example"),
    ("v=STSv1; id=a \t; ", "a", "white space around the last delimiter"),
    ("v=STSv1 ; id=a", "a", "white space before the first delimiter"),
    ("v=STSv1\t;\tid=a;", "a", "tabs are white space"),
    (f"v=STSv1; id={ID_32}", ID_32, "32 characters"),
    ("v=STSv1; id=a; id=b", "a", "duplicate: the first counts"),
    ("v=STSv1; id=a; id=b-c", "a", "an ignored duplicate is an extension field"),
    ("v=STSv1; foo=b:c; id=a", "a", "an extension field before the id"),
    ("v=STSv1; id=a; foo=b:c", "a", "an extension field after the id"),
    ("v=STSv1; id=a; " + "f" * 32 + "=b", "a", "a field name of 32 characters"),
    ("v=STSv1; id=a; a.b-c_d=!~", "a", "every kind of character in a name; first and last value"),
    ("v=STSv1; ID=b; id=a", "a", "ID is an extension: names are case-sensitive"),
    ("v=STSv1; v=STSv1; id=a", "a", "a second version is an extension field"),
]

NOT_STS = [
    ("", "empty"),
    ("id=a; v=STSv1", "version comes first"),
    ("V=STSv1; id=a", "the name of the version is case-sensitive"),
    ("v=stsv1; id=a", "its value is, too"),
    ("v=STSv10; id=a", "another version"),
    ("v=STSv1", "no delimiter"),
    ("v=STSv1 id=a", "no delimiter"),
    (" v=STSv1; id=a", "leading space"),
    ("v=spf1 -all", "another record"),
    ("\ufeffv=STSv1; id=a", "a BOM"),
    ("v=STSv1\x0b; id=a", "a vertical tab is no white space"),
]

BAD = [
    ("v=STSv1;", "no field"),
    ("v=STSv1; ", "no field"),
    ("v=STSv1; foo=b", "no id"),
    ("v=STSv1; ID=a", "ID is an extension, so there is no id"),
    ("v=STSv1; id=", "an empty id"),
    (f"v=STSv1; id={ID_32}x", "33 characters"),
    ("v=STSv1; id=a-b", "a hyphen in the id"),
    ("v=STSv1; id=a-b; id=a", "the first id counts, and is wrong"),
    ("v=STSv1; id=é", "not ASCII"),
    ("v=STSv1; id=１", "a digit that is not ASCII"),
    ("v=STSv1; id=a; foo=é", "not ASCII in an extension"),
    ("v=STSv1; id = a", "white space around ="),
    ("v=STSv1; id=a b", "white space in a value"),
    ("v=STSv1;; id=a", "an empty field"),
    ("v=STSv1; id=a;;", "an empty field"),
    ("v=STSv1; id=a; ;", "an empty field"),
    ("v=STSv1; id=a ", "a trailing space without a delimiter"),
    ("v=STSv1; id=a\n", "a line end, which $ would allow"),
    ("v=STSv1; id=a;\n", "a line end is no white space here"),
    ("v=STSv1; id=a;\x0b", "nor is a vertical tab, which strip() removes"),
    ("v=STSv1; id=a; foo=", "an extension without a value"),
    ("v=STSv1; id=a; foo", "an extension without ="),
    ("v=STSv1; id=a; =b", "an extension without a name"),
    ("v=STSv1; id=a; foo=a=b", "= in a value"),
    ("v=STSv1; id=a; " + "f" * 33 + "=b", "a field name of 33 characters"),
    ("v=STSv1; id=a; _f=b", "a field name that begins with an underscore"),
    ("v=STSv1; id=a; f=\x7f", "a control character"),
    ("v=STSv1; id=a\x00", "NUL"),
]


@pytest.mark.requirement(
    {
        "the plain form": "TXT-1",
        "no white space": "TXT-2",
        "white space around the last delimiter": "TXT-2",
        "white space before the first delimiter": "TXT-2",
        "tabs are white space": "TXT-2",
        "32 characters": "TXT-4",
        "duplicate: the first counts": "TXT-5",
        "an ignored duplicate is an extension field": "TXT-5",
        "an extension field before the id": "TXT-6",
        "an extension field after the id": "TXT-6",
        "a field name of 32 characters": "TXT-6",
        "every kind of character in a name; first and last value": "TXT-6",
        "ID is an extension: names are case-sensitive": "TXT-7",
    }
)
@pytest.mark.parametrize(("record", "policy_id", "why"), GOOD, ids=[case[2] for case in GOOD])
def test_good(record, policy_id, why):
    assert record_id(record.encode()) == policy_id, why
    assert domain_id([record.encode()]) == policy_id, why


@pytest.mark.requirement("TXT-1")
@pytest.mark.parametrize(("record", "why"), NOT_STS, ids=[case[1] for case in NOT_STS])
def test_not_an_sts_record(record, why):
    assert record_id(record.encode()) is None, why
    assert domain_id([record.encode()]) is None, why


@pytest.mark.requirement(
    {
        "white space around =": "TXT-3",
        "white space in a value": "TXT-3",
        "an empty field0": "TXT-3",
        "an empty field1": "TXT-3",
        "an empty field2": "TXT-3",
        "a trailing space without a delimiter": "TXT-3",
        "a line end, which $ would allow": "TXT-3",
        "a line end is no white space here": "TXT-3",
        "nor is a vertical tab, which strip() removes": "TXT-3",
        "33 characters": "TXT-4",
        "an empty id": "TXT-4",
        "a hyphen in the id": "TXT-4",
        "a digit that is not ASCII": "TXT-4",
        "no id": "TXT-4",
        "the first id counts, and is wrong": "TXT-5",
        "a field name of 33 characters": "TXT-6",
        "a field name that begins with an underscore": "TXT-6",
        "an extension without a value": "TXT-6",
        "an extension without =": "TXT-6",
        "an extension without a name": "TXT-6",
        "= in a value": "TXT-6",
        "a control character": "TXT-6",
        "NUL": "TXT-6",
        "ID is an extension, so there is no id": "TXT-7",
        "not ASCII": "TXT-8",
        "not ASCII in an extension": "TXT-8",
    }
)
@pytest.mark.parametrize(("record", "why"), BAD, ids=[case[1] for case in BAD])
def test_bad(record, why):
    for parse in (record_id, lambda text: domain_id([text])):
        with pytest.raises(RecordError):
            parse(record.encode())
            pytest.fail(f"taken: {why}")


SEVERAL = [
    (["v=STSv1; id=a", "v=STSv1; id=b"], "two"),
    (["v=STSv1; id=a", "v=STSv1; id=a"], "two of the same text"),
    (["v=STSv1; id=a", "v=STSv1; id="], "one of them malformed"),
    (["v=STSv1;", "v=STSv1;"], "both malformed"),
]


@pytest.mark.requirement("TXT-9")
@pytest.mark.parametrize(("records", "why"), SEVERAL, ids=[case[1] for case in SEVERAL])
def test_several(records, why):
    with pytest.raises(SeveralRecords):
        domain_id(map(str.encode, records))
        pytest.fail(f"taken: {why}")


@pytest.mark.requirement("TXT-10")
def test_of_several_records_only_the_plain_beginning_counts():
    assert domain_id([b"v=STSv1; id=a", b"v=STSv1 ; id=b"]) == "a"
    assert domain_id([b"v=spf1 -all", b"v=STSv1 ; id=b"]) is None
    assert domain_id([b"v=STSv1 ; id=b"]) == "b", "alone it is what the grammar allows"


@pytest.mark.requirement("TXT-9")
def test_other_records_do_not_count():
    others = [text.encode() for text, _ in NOT_STS]
    assert domain_id([*others, b"v=STSv1; id=a"]) == "a"
    assert domain_id([]) is None


@pytest.mark.requirement("HTTPS-20")
def test_the_error_quotes_a_stranger_safely():
    with pytest.raises(RecordError, match=r"^not a field: 'a\\nb") as caught:
        record_id(b"v=STSv1; a\nb" + b"\xff" * 5000)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
