"""Asking the resolver process: real children, real DNS and HTTPS on loopback."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stsresolver import Resolver
from stsresolver.lookup import questions, resolver_process, supervisor
from stsresolver.lookup.messages import POLICY_ID, Result
from stsresolver.mta_sts.policy import MAX_POLICY_SIZE, Policy
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from tests.lookup.processes import NAMES, TIMEOUT, errors, logged, once, ready
from tests.support.authority import Authority
from tests.support.socketmap_client import DEADLINE, wait_for
from tests.support.waited import Waited

RECORDS = {
    "example.com": str,
    "none.example": NoPolicy,
    "bad.example": NoPolicy,
    "two.example": NoPolicy,
    "broken.example": Failure,
}


POLICIES = {
    "example.com": Policy,
    "1.example": Policy,
    "0.example": Failure,
    "none.example": Failure,
    "wrong.name.example": Failure,
}


RESOLVED = [
    ("example.com", [], Found),
    ("example.com", ["0", "2"], Found),
    ("example.com", ["1"], NotChanged),
    ("example.com", [*"abcdefgh", "1"], NotChanged),
    ("0.example", [], Failure),
    ("0.example", ["0"], NotChanged),
    ("1.example", [], Found),
    *((domain, ["1"], kind) for domain, kind in RECORDS.items() if kind is not str),
]


def test_what_is_found_is_what_the_library_finds(served, process):
    library = Resolver(TIMEOUT, **served.settings)
    lookups = Waited(process(served.settings), TIMEOUT)
    for domain, kind in RECORDS.items():
        expected = library.policy_id(domain)
        assert isinstance(expected, kind), expected
        assert lookups.policy_id(domain) == expected
    for domain, kind in POLICIES.items():
        expected = library.fetch(domain)
        assert isinstance(expected, kind), expected
        assert lookups.fetch(domain) == expected
    for domain, known_ids, kind in RESOLVED:
        expected = library.resolve(domain, *known_ids)
        assert isinstance(expected, kind), expected
        assert lookups.resolve(domain, *known_ids) == expected


def test_the_largest_policy(served, process):
    policy = Waited(process(served.settings), TIMEOUT).fetch("1.example")
    assert isinstance(policy, Policy), policy
    assert len(policy.body.encode()) >= MAX_POLICY_SIZE - 100


def test_many_lookups_at_once_are_not_mixed_up(served, process):
    lookups = Waited(process(served.settings), TIMEOUT)
    with ThreadPoolExecutor(16) as threads:
        domains = [f"{n % (4 * NAMES)}.example" for n in range(200)]
        assert list(threads.map(lookups.policy_id, domains)) == [d.split(".")[0] for d in domains]


def test_lookups_run_side_by_side(served, process):
    """None is answered until all are asked, so one after the other would never be answered."""
    names = [f"_mta-sts.{n}.example" for n in range(NAMES)]
    asked = served.dns.asked
    for name in names:
        answer = served.dns.zone[f"{name} TXT"]
        served.dns.zone[f"{name} TXT"] = once(lambda: all(asked(n, "TXT") for n in names), answer)
    one = process(served.settings)
    ready(one)
    with ThreadPoolExecutor(NAMES) as threads:
        found = threads.map(Waited(one, TIMEOUT).policy_id, [f"{n}.example" for n in range(NAMES)])
        assert list(found) == [str(n) for n in range(NAMES)]


def test_results_are_read_by_the_thread_that_watches(served, process):
    watched: queue.SimpleQueue[tuple[socket.socket, Callable[[], None]]] = queue.SimpleQueue()
    threads: list[int] = []
    one = process(served.settings, watch=lambda *these: watched.put(these))
    for name in "1.example", "2.example":
        one.ask(POLICY_ID, name, TIMEOUT, (), lambda result: threads.append(threading.get_ident()))
        one.flush()
    reads, job = watched.get(timeout=DEADLINE)
    while one.under_way:
        assert select.select([reads], [], [], DEADLINE)[0]
        job()
    assert threads == [threading.get_ident()] * 2
    job()
    assert one.ready, "there is nothing to read, which is no end"


def test_one_whose_answers_wait_to_be_read_does_not_hang(served, process, monkeypatch, caplog):
    """The thread that reads may have been stopped."""
    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    watched: queue.SimpleQueue[tuple[socket.socket, Callable[[], None]]] = queue.SimpleQueue()
    results: list[Result] = []
    one = process(served.settings, watch=lambda *these: watched.put(these))
    reads, job = watched.get(timeout=DEADLINE)
    while not one.ready:
        assert select.select([reads], [], [], DEADLINE)[0]
        job()
    one.ask(POLICY_ID, "1.example", 0.5, (), results.append)
    one.flush()
    wait_for(lambda: results, "the listening thread to look")
    assert errors(caplog) == []


def test_many_questions_are_sent_before_the_flush(served, process):
    results: queue.SimpleQueue[Result] = queue.SimpleQueue()
    one = process(served.settings)
    ready(one)
    for number in range(4):
        one.ask(POLICY_ID, f"{number}.example", TIMEOUT, (), results.put)
    assert one._questions.unsent == 0
    for _ in range(4):
        assert isinstance(results.get(timeout=DEADLINE), str)


def test_the_name_servers_are_read_again_when_they_change(served, process):
    served.resolv_conf.write_text("nameserver 127.0.0.2\n")
    lookups = Waited(process(served.settings), TIMEOUT)
    assert isinstance(lookups.policy_id("example.com"), Failure)
    served.resolv_conf.write_text("nameserver 127.0.0.1\n")
    wait_for(lambda: lookups.policy_id("example.com") == "1", "the change to be seen")


def test_the_certificates_are_read_again_when_they_change(served, process, monkeypatch, tmp_path):
    store = tmp_path / "store.pem"
    (tmp_path / "other").mkdir()
    store.write_bytes(Authority(tmp_path / "other").bundle.read_bytes())
    trusted = Path(os.environ["SSL_CERT_FILE"]).read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    lookups = Waited(process(served.settings), TIMEOUT)
    assert lookups.fetch("example.com").cause is Cause.CERTIFICATE
    store.write_bytes(trusted)
    wait_for(lambda: isinstance(lookups.fetch("example.com"), Policy), "the change to be seen")


def test_all_that_wait_are_answered_though_one_callback_fails(process, child, caplog):
    child("hello()\nasked()\nos._exit(3)")
    one = process()
    ready(one)
    results = queue.SimpleQueue()

    def broken(result):
        raise RuntimeError("a bug of the caller")

    for done in (broken, *[results.put] * 20):
        one.ask("policy id", "example.com", TIMEOUT, (), done)
    one.flush()
    found = [results.get(timeout=30) for _ in range(20)]
    assert {result.cause for result in found} == {Cause.PROCESS}
    assert logged(caplog, "internal error after a lookup")()
    caplog.clear()


def test_no_second_answer_is_taken(process, child, caplog):
    child("""
hello()
number, *_ = asked()
for answer in "123":
    say(number, "id", answer)
say(0, "log", 40, "", "that was all")
asked()
""")
    one = process()
    answers = []
    one.ask("policy id", "example.com", TIMEOUT, (), answers.append)
    wait_for(logged(caplog, "that was all"), "the end")
    assert answers == ["1"]


def test_more_questions_while_it_loads_than_the_socket_holds(
    process, child, caplog, monkeypatch, tmp_path
):
    loads = tmp_path / "loads"
    os.mkfifo(loads)
    child(f"""
# Waits for the other end.
open({str(loads)!r}).close()
hello()
while True:
    say(asked()[0], "id", "new")
""")
    monkeypatch.setattr(resolver_process, "MAX_MESSAGE", 10_000)
    monkeypatch.setattr(questions, "MAX_MESSAGE", 200)
    # However busy this machine is.
    monkeypatch.setattr(supervisor, "_FULL", 30)
    one = process()
    with ThreadPoolExecutor(200) as threads:
        found = threads.map(Waited(one, TIMEOUT).policy_id, ("example.com",) * 200)
        wait_for(lambda: one.under_way == 200, "all questions")
        loads.open("w").close()
        assert list(found) == ["new"] * 200
    assert errors(caplog) == []


def test_questions_that_wait_for_its_first_word_are_under_way(process, child):
    child("asked()")
    one = process()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(Waited(one, TIMEOUT).policy_id, "example.com")
        wait_for(lambda: one.under_way == 4, "the lookups to be counted")
        one.close()
    assert one.under_way == 0
