"""A resolver process that lies: nothing that it sends does harm."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stsresolver.lookup import questions, resolver_process, supervisor
from stsresolver.lookup.messages import MAX_MESSAGE
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.mta_sts.results import Cause, Failure
from tests.lookup.processes import TIMEOUT, errors, logged, ready, state
from tests.support.socketmap_client import wait_for
from tests.support.waited import Waited

MODE_NONE = "version: STSv1\nmode: none\nmax_age: 1"


def test_an_answer_that_comes_twice(process, child):
    child("""
hello()
while True:
    number, *_ = asked()
    for answer in "1", "2", "3":
        say(number, "id", answer)
""")
    lookups = Waited(process(), TIMEOUT)
    assert [lookups.policy_id("example.com") for _ in range(50)] == ["1"] * 50


def test_an_answer_to_nobody(process, child):
    child("""
hello()
number, *_ = asked()
for wrong in number + 1, 10**21, 10**30:
    say(wrong, "id", "evil")
for wrong in b'[00,"id","evil"]', b"[" + b"9" * 200_000, b"9" * 300_000:
    daemon.send(wrong)
say(number, "id", "good")
asked()
""")
    assert Waited(process(), TIMEOUT).policy_id("example.com") == "good"


@pytest.mark.parametrize(
    "answer",
    [
        '"policy", "mode: enforce"',
        '"id", "a b"',
        '"failure", "EVIL", ""',
        '"policy", "x:y\\n" * 60_000',
        "1, 2, 3",
        '"hello", "1"',
        '"states", "SECURE", [["mx", "EVIL", ""]], "", 5',
    ],
)
def test_an_answer_that_cannot_be(process, child, caplog, answer):
    child(f"hello()\nwhile True:\n    say(asked()[0], {answer})")
    one = process()
    lookups = Waited(one, TIMEOUT)
    for look_up in lookups.policy_id, lookups.fetch, lookups.resolve:
        result = look_up("example.com")
        assert isinstance(result, Failure), result
        assert result.cause is Cause.PROCESS
    result = lookups.dane(NextHop("example.com"))
    assert isinstance(result, Failure), result
    assert result.cause is Cause.PROCESS
    assert len(errors(caplog)) == 4
    assert "invalid message from the resolver process" in errors(caplog)[0]


def test_an_answer_to_another_question(process, child, caplog):
    child("""
hello()
policy = "version: STSv1\\nmode: none\\nmax_age: 1"
while True:
    number, what, *_ = asked()
    say(number, *(("policy", policy) if what == "policy id" else ("id", "1")))
""")
    lookups = Waited(process(), TIMEOUT)
    answer = Failure(Cause.PROCESS, "it answered another question")
    assert lookups.policy_id("example.com") == answer
    assert lookups.fetch("example.com") == answer
    assert lookups.resolve("example.com") == answer
    assert lookups.dane(NextHop("example.com")) == answer
    assert all("answered another question" in line for line in errors(caplog))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (["policy", MODE_NONE], "a policy without its id"),
        (["id", "3"], "an id alone"),
        (["found", "1", MODE_NONE], "a policy of a known id"),
        (["found", "2", MODE_NONE], "of another known id"),
        (["not changed", "3"], "an id that nobody knows"),
        (["failure", "TLS", "", "1"], "a fetch that failed, of a known id"),
        (["failure", "TLS", ""], "a fetch that failed, of no id"),
        (["failure", "DNS", "", "3"], "no record, and its id"),
        (["failure", "PROCESS", "", "3"], "a lookup that was lost, and its id"),
        (["no policy", "TLS", "", 0], "no policy for what is no reason"),
    ],
)
def test_a_resolved_policy_that_makes_no_sense(process, child, caplog, answer, why):
    child(f"hello()\nwhile True:\n    say(asked()[0], *{answer!r})")
    result = Waited(process(), TIMEOUT).resolve("example.com", "1", "2")
    assert result == Failure(Cause.PROCESS, "it answered another question"), why
    (line,) = errors(caplog)
    assert "answered another question" in line


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\xff\x00", "no text"),
        (b"", "an empty packet, which is the end"),
        (b"[" * 200_000, "nested too deeply"),
        (b"x" * 300_000, "longer than a message"),
        (b"[-1,2]", "a negative number"),
        ('["٣",2]'.encode(), "digits that are not ASCII"),
        (b'[0,"hello"]', "a first word without a version"),
        (b'[0,"hello",' + b"[" * 900 + b"]" * 900 + b"]", "a version nested deeply"),
        (b'[0,"log",1e400,"",""]', "a level without end"),
        (b'[0,"log",60,"",""]', "a level that is none"),
        (b'[0,"log",' + b"9" * 4000 + b',"",""]', "a level of 4000 digits"),
        (b'[0,"log",40,"",null]', "a line that is none"),
        (b'[0,"shutdown"]', "a message that is none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_garbage(process, child, caplog, monkeypatch, garbage, why):
    monkeypatch.setattr(resolver_process, "_END", 0.05)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    child(f"hello()\nasked()\ndaemon.send({garbage!r})\nhang()")
    one = process()
    pid = ready(one)
    result = Waited(one, TIMEOUT).policy_id("example.com")
    assert result == Failure(Cause.PROCESS, "no such process is running"), why
    wait_for(lambda: state(pid) == "", "its end")
    wait_for(logged(caplog, "starting another"), "a word about it")
    said = [line for line in errors(caplog) if "invalid message from the resolver process" in line]
    assert len(said) == (0 if garbage == b"" else 1)


def test_half_a_surrogate_pair_in_a_line_of_the_log(process, child, caplog):
    child(r"""
hello()
daemon.send(b'[0,"log",40,"x","\\udc80 %s \\n"]')
asked()
""")
    process()
    wait_for(logged(caplog, "\udc80 %s \n"), "the line, which is text and no format")


def test_a_flood_costs_no_memory(process, child):
    child(f"""
hello()
number, *_ = asked()
big = json.dumps([10**12, "id", "x" * ({MAX_MESSAGE} - 100)]).encode()
for _ in range(1500):
    daemon.send(big)
for _ in range(20_000):
    daemon.send(b'[%d,"id","1"]' % number)
say(*asked()[:1], "id", "2")
asked()
""")
    lookups = Waited(process(), 20.0)
    before = resident()
    assert lookups.policy_id("example.com") == "1"
    assert lookups.policy_id("example.com") == "2"
    assert resident() - before < 16 << 20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_one_that_answers_what_it_has_not_been_asked(process, child, caplog, monkeypatch):
    """Its socket is full: the answers come before the questions."""
    child("""
hello()
asked()
for number in range(2, 100):
    say(number, "id", "early")
hang()
""")
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    monkeypatch.setattr(resolver_process, "MAX_MESSAGE", 3_000)
    monkeypatch.setattr(questions, "MAX_MESSAGE", 60)
    one = process()
    ready(one)
    with ThreadPoolExecutor(90) as threads:
        found = list(threads.map(Waited(one, 0.5).policy_id, ("example.com",) * 90))
    assert {type(each) for each in found} <= {str, Failure}
