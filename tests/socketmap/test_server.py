"""The server behind its connections: replies, workers and their line, waking, stopping.

Loopback only.
"""

from __future__ import annotations

import contextlib
import math
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from stsresolver.socketmap import connections, server
from stsresolver.socketmap.netstring import MAX_REPLY
from stsresolver.socketmap.reply_cache import MAX_REQUEST as MAX_READY_REQUEST
from stsresolver.socketmap.reply_cache import Reply
from tests.support.served import Source, warnings
from tests.support.socketmap_client import DEADLINE, Client, frame, wait_for

# REPLIES


@pytest.mark.requirement("WIRE-6")
def test_longest_reply(everywhere):
    with everywhere.client() as client:
        assert client.ask(b"zone bytes %d" % MAX_REPLY) == b"x" * MAX_REPLY
        assert client.ask(b"zone now a") == b"NOW zone now a"


@pytest.mark.requirement("WIRE-6")
def test_reply_that_postfix_would_refuse_closes(serve):
    served = serve(bugs=True)
    with served.client() as client, served.client() as other:
        client.send(frame(b"zone bytes %d" % (MAX_REPLY + 1)) + frame(b"zone now a"))
        assert client.is_closed()
        assert other.ask(b"zone now a") == b"NOW zone now a"


def test_second_reply_to_a_request_is_not_sent(serve):
    served = serve()
    with served.client() as client:
        assert client.ask(b"zone twice a") == b"FIRST zone twice a"
        assert client.ask(b"zone now a") == b"NOW zone now a"


@pytest.mark.requirement("LIB-8")
def test_ready_reply_is_said_without_asking(serve):
    served = serve()
    with served.client() as client, served.client() as other:
        for _ in range(3):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
            assert other.ask(b"zone constant a") == b"CONSTANT zone constant a"
        client.send(frame(b"zone ready a") * 3)
        assert client.replies(3) == [b"READY zone ready a"] * 3
    assert sorted(served.source.lookups) == [b"zone constant a", b"zone ready a"]


@pytest.mark.requirement("WIRE-10")
def test_ready_reply_expires(serve, clock):
    served = serve()
    served.source.until = clock.monotonic() + 60.0
    with served.client() as client:
        for _ in range(2):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
        assert len(served.source.lookups) == 1
        clock.later(60.0)
        assert client.ask(b"zone ready a") == b"READY zone ready a"
        assert client.ask(b"zone ready a") == b"READY zone ready a"
    assert len(served.source.lookups) == 3, "a reply past its end was kept"


def test_forgotten_reply_is_looked_up_again(serve):
    served = serve()
    with served.client() as client:
        for _ in range(2):
            client.ask(b"zone ready a")
            client.ask(b"other ready a")
        served.server.forget("another.example")
        client.ask(b"zone ready a")
        assert len(served.source.lookups) == 2
        served.server.forget("domain.example")
        for _ in range(2):
            client.ask(b"zone ready a")
            client.ask(b"other ready a")
        assert len(served.source.lookups) == 4


@pytest.mark.requirement("WIRE-10")
def test_reply_from_before_a_change_is_not_kept(serve):
    class Changing(Source):
        def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
            super().look_up(request, lambda made: self.change_and(deliver, made))

        def change_and(self, deliver: Callable[[Reply], None], made: Reply) -> None:
            self.changes += len(self.lookups) == 1
            deliver(made)

    served = serve(source=Changing())
    with served.client() as client:
        for _ in range(3):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
    assert len(served.source.lookups) == 2


def test_switch_drops_ready_replies_and_what_the_old_source_still_says(serve):
    served = serve()
    old, new = served.source, Source()
    with served.client() as client, served.client() as waiting:
        assert client.ask(b"zone constant a") == b"CONSTANT zone constant a"
        waiting.send(frame(b"zone held a"))
        wait_for(old.held(1), "the lookup")
        served.server.switch(new)
        assert client.ask(b"zone constant a") == b"CONSTANT zone constant a"
        assert new.lookups == [b"zone constant a"], "it is asked anew"
        old.until = math.inf
        old.release()
        new.release()
        assert waiting.replies(1) == [b"LATER zone held a"], "a request keeps its source"
        assert waiting.ask(b"zone ready a") == b"READY zone ready a"
        assert new.lookups[1:] == [b"zone ready a"]


def test_reply_of_the_source_before_is_not_kept(serve):
    class Switching(Source):
        def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
            served.server.switch(new)
            super().look_up(request, deliver)

    new = Source()
    served = serve(source=Switching())
    with served.client() as client:
        for _ in range(2):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
    assert new.lookups == [b"zone ready a"]


def test_long_request_is_answered_and_not_kept(serve):
    served = serve()
    long = b"zone ready ".ljust(MAX_READY_REQUEST, b"x")
    with served.client() as client:
        assert client.ask(long) == client.ask(long) == b"READY " + long
    assert served.source.lookups == [long, long]


# LOOKUPS AND WORKERS


@pytest.mark.requirement("KEEP-12")
def test_lookups_that_wait_hold_no_thread(serve):
    served = serve(workers=1)
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(50)]
        for client in clients:
            client.send(frame(b"zone held a"))
        wait_for(served.source.held(50), "fifty lookups")
        assert threading.active_count() == threads
        assert served.server.load().lookups == 50
        served.source.release()
        assert [client.reply() for client in clients] == [b"LATER zone held a"] * 50
    assert served.server.load().lookups == 0


def test_lookups_of_a_turn_are_sent_together(serve):
    served = serve()
    sent = []
    served.server.after_turn = lambda: sent.append(len(served.source.lookups))
    with served.client() as client:
        client.send(frame(b"zone held a"))
        wait_for(served.source.held(1), "the lookup")
        wait_for(lambda: sent == [1], "the end of the turn")
        with served.client() as other:
            for _ in range(3):
                assert other.ask(b"zone constant b") == b"CONSTANT zone constant b"
        served.source.release()
    assert sent == [1, 2], "a turn without a lookup sends nothing"


def test_clients_are_served_while_messages_do_not_end(serve):
    served = serve()
    over = threading.Event()

    def again() -> None:
        # The wait lets the other threads run, as a message's own work does.
        if not over.wait(0.0005):
            served.server.soon(again)

    served.server.soon(again)
    try:
        with served.client() as client:
            for _ in range(3):
                assert client.ask(b"zone now a") == b"NOW zone now a"
    finally:
        over.set()


def test_u_labels_are_converted_on_a_worker(serve):
    served = serve(workers=1)
    gate = threading.Event()
    served.server.hand(lambda: gate.wait(DEADLINE))
    request = "zone later bücher.example".encode()
    with served.client() as client, served.client() as other:
        client.send(frame(request))
        wait_for(served.is_queued(1), "the job")
        assert other.ask(b"zone later a") == b"LATER zone later a"
        assert request not in served.source.lookups
        gate.set()
        assert client.reply() == b"LATER " + request


def test_jobs_run_side_by_side_up_to_the_number_of_workers(serve):
    served = serve(workers=3)
    threads = threading.active_count()
    gate, ran = threading.Event(), queue.SimpleQueue[int]()
    for number in range(5):
        served.server.hand(lambda number=number: (ran.put(number), gate.wait(DEADLINE)))
    assert sorted(ran.get(timeout=DEADLINE) for _ in range(3)) == [0, 1, 2]
    wait_for(served.is_queued(2), "two in the queue")
    assert threading.active_count() == threads + 3
    gate.set()
    assert sorted(ran.get(timeout=DEADLINE) for _ in range(2)) == [3, 4]
    assert threading.active_count() == threads + 3


@pytest.mark.requirement("WIRE-8", "WIRE-9")
def test_request_that_waits_too_long_is_answered_from_the_cache(serve, monkeypatch, caplog):
    monkeypatch.setattr(server, "ANSWER_LIMIT", 0.2)
    served = serve()
    with served.client() as one, served.client() as three:
        one.send(frame(b"zone held 1"))
        three.send(frame(b"zone held 3") + frame(b"zone now 4") + frame(b"zone held 5"))
        assert three.replies(3) == [b"TEMP ", b"NOW zone now 4", b"TEMP "]
        assert one.reply() == b"TEMP "
        served.source.release()
        assert three.ask(b"zone later 6") == b"LATER zone later 6"
        assert one.has_nothing_to_read(), "a reply that comes too late is not sent"
    assert served.server.load().overdue == 3
    assert warnings(caplog)[0] == "no answer within 0.2 s: answering from the cache"


def test_lookup_that_raises_is_answered(serve):
    served = serve(bugs=True)
    with served.client() as client:
        for _ in range(5):
            assert client.ask(b"zone broken a") == b"TEMP "
            assert client.ask(b"zone later a") == b"LATER zone later a"


def test_lookup_that_raises_with_nothing_cached_closes(serve):
    served = serve(bugs=True)
    served.source.cached_works = False
    with served.client() as client, served.client() as other:
        client.send(frame(b"zone broken a"))
        assert client.is_closed()
        assert other.ask(b"zone later a") == b"LATER zone later a"


@pytest.mark.parametrize("before", [b"", frame(b"zone later a"), frame(b"zone now a")])
def test_lookup_that_raises_between_others_is_answered(serve, before):
    served = serve(bugs=True)
    with served.client() as client, served.client() as other:
        client.send(before + frame(b"zone broken b") + frame(b"zone now c"))
        if before:
            assert client.reply().endswith(b" a")
        assert client.reply() == b"TEMP "
        assert client.reply() == b"NOW zone now c"
        assert other.ask(b"zone later d") == b"LATER zone later d"


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Have the server hand on one request between the rounds for repeated ones."""
    monkeypatch.setattr(connections, "SLICE", 0.0)


def at_once(served, clients, last=lambda client: None):
    """Send a first request from each client, all of which the server reads in one round."""
    held, gate = threading.Event(), threading.Event()

    def hold():
        held.set()
        gate.wait(DEADLINE)

    served.server.soon(hold)
    assert held.wait(DEADLINE)
    for number, client in enumerate(clients):
        client.send(frame(b"zone later %d" % number))
        last(client)
    gate.set()


@pytest.mark.usefixtures("one_at_a_time")
def test_repeated_requests_do_not_wait_for_many_first_ones(serve):
    served = serve()
    look_up = served.source.look_up
    with contextlib.ExitStack() as stack:
        known, *new = [stack.enter_context(served.client()) for _ in range(4)]
        assert known.ask(b"zone ready") == b"READY zone ready"
        before = []

        def another(request, deliver):
            # A repeated request comes while the first of the new ones is handed on.
            if not before:
                known.send(frame(b"zone ready"))
            before.append(not known.has_nothing_to_read())
            look_up(request, deliver)

        served.source.look_up = another
        at_once(served, new)
        assert [one.reply() for one in new] == [b"LATER zone later %d" % n for n in range(3)]
        assert before == [False, True, True], "it was answered before the second"


@pytest.mark.usefixtures("one_at_a_time")
def test_first_requests_of_clients_that_say_no_more_are_answered(serve):
    served = serve()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(3)]
        at_once(served, clients, Client.finish)
        for number, client in enumerate(clients):
            assert client.reply() == b"LATER zone later %d" % number
            assert client.is_closed()


@pytest.mark.usefixtures("one_at_a_time")
def test_first_requests_that_were_read_are_answered_in_a_stop(serve):
    served = serve()
    look_up = served.source.look_up

    def stop(request, deliver):
        if not served.server._stops:
            served.server.stop()
        look_up(request, deliver)

    served.source.look_up = stop
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(3)]
        at_once(served, clients)
        for number, client in enumerate(clients):
            assert client.reply() == b"LATER zone later %d" % number
    assert served.has_ended()
    assert served.clean


def test_jobs_behind_wait_until_the_queue_is_empty(serve):
    served = serve(workers=1)
    gate, ran = threading.Event(), queue.SimpleQueue[str]()
    served.server.hand(lambda: gate.wait(DEADLINE))
    for number in range(3):
        served.server.behind(lambda number=number: ran.put(f"behind {number}"))
    wait_for(lambda: len(served.server._behind) == 3, "the jobs")
    for number in range(2):
        served.server.hand(lambda number=number: ran.put(f"request {number}"))
    wait_for(served.is_queued(2), "the queue")
    gate.set()
    order = [ran.get(timeout=DEADLINE) for _ in range(5)]
    assert order == ["request 0", "request 1", "behind 0", "behind 1", "behind 2"]


@pytest.mark.parametrize("kind", ["hand", "behind"])
def test_job_that_raises(serve, kind):
    served = serve(workers=1, bugs=True)
    ran = threading.Event()
    getattr(served.server, kind)(lambda: 1 // 0)
    getattr(served.server, kind)(ran.set)
    assert ran.wait(DEADLINE)


@pytest.mark.parametrize("failures", [1, 2])
def test_thread_that_cannot_be_started(serve, monkeypatch, caplog, failures):
    """With nothing else happening, the job is tried again."""
    served = serve()
    start = threading.Thread.start
    left = [None] * failures

    def fail(thread: threading.Thread) -> None:
        if left:
            left.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    ran = threading.Event()
    served.server.hand(ran.set)
    assert ran.wait(DEADLINE)
    assert not left
    assert warnings(caplog) == ["no thread for another job: can't start new thread"]


def test_connection_limit_follows_the_limit_of_open_files():
    """The soft limit is raised to the hard one; workers and files have their share left."""
    program = """
import resource
from stsresolver.socketmap.server import SocketmapServer
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))
server = SocketmapServer([], workers=150)
print(server._connections.limit, *resource.getrlimit(resource.RLIMIT_NOFILE))
server.server_close()
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    connections, soft, hard = map(int, run.stdout.split())
    assert soft == hard == 1000
    assert 500 <= connections < 1000


# WAKING


def test_wake_that_comes_after_its_message_was_read(serve):
    """A thread may be stopped between adding its message and waking the server."""
    served = serve()
    with served.client() as client:
        assert client.ask(b"zone later a") == b"LATER zone later a"
        served.server._woken = True
        served.server._wake_out.send(b"\0")
        assert served.is_at_rest()
        for _ in range(10):
            assert client.ask(b"zone later b") == b"LATER zone later b"


def test_many_clients_at_once_lose_nothing(serve):
    """Random requests, pieces and pipelines from several threads: each gets its own, in order."""
    served = serve(workers=3)
    seed = random.randrange(1 << 32)
    failures = queue.SimpleQueue[str]()

    def converse(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        words = [b"now", b"later", b"constant", b"ready"]
        try:
            with served.client() as client:
                for round_ in range(40):
                    requests = [
                        b"%d %b %d" % (chance.choice([0, number]), chance.choice(words), round_ % 5)
                        for _ in range(chance.randrange(1, 20))
                    ]
                    wire = b"".join(map(frame, requests))
                    while wire:
                        at = chance.randrange(1, len(wire) + 1)
                        client.send(wire[:at])
                        wire = wire[at:]
                    got = [text.partition(b" ")[2] for text in client.replies(len(requests))]
                    assert got == requests
        except (AssertionError, OSError, EOFError) as error:
            failures.put(f"{number}: {error!r}")

    threads = [threading.Thread(target=converse, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        served.server.forget("domain.example")
        threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert failures.empty(), f"seed {seed}, client {failures.get()}"
    assert served.is_at_rest()


# STOPPING


def test_stop_ends_idle_connections_at_once_and_finishes_what_is_under_way(everywhere):
    with (
        everywhere.client() as idle,
        everywhere.client() as begun,
        everywhere.client() as waiting,
    ):
        assert idle.ask(b"zone now a") == b"NOW zone now a"
        begun.send(b"10:zone")
        waiting.send(frame(b"zone held b"))
        wait_for(everywhere.source.held(1), "the lookup")
        wait_for(lambda: any(one.received for one in everywhere.connections), "the piece")
        everywhere.server.stop()
        assert idle.is_closed()
        assert begun.is_closed()
        assert waiting.has_nothing_to_read()
        with pytest.raises(OSError):
            everywhere.client()
        assert everywhere.is_at_rest()
        everywhere.source.release()
        assert waiting.reply() == b"LATER zone held b"
        assert waiting.is_closed()
        assert everywhere.has_ended()
        assert everywhere.clean is True


def test_stop_answers_requests_whose_jobs_wait(serve):
    served = serve(workers=1)
    gate = threading.Event()
    served.server.hand(lambda: gate.wait(DEADLINE))
    request = "zone later ü".encode()
    with served.client() as client:
        client.send(frame(request))
        wait_for(served.is_queued(1), "the job")
        served.server.stop()
        wait_for(served.has_stopped_listening, "the stop")
        gate.set()
        assert client.reply() == b"LATER " + request
        assert served.has_ended()
        assert served.clean is True


def test_stop_sends_what_a_late_reader_has_not_read_yet(serve):
    served = serve()
    with served.client(receive_buffer=4096) as late:
        late.send(frame(b"zone much a") * 200)
        wait_for(served.is_full, "a full client")
        served.server.stop()
        wait_for(served.has_stopped_listening, "the stop")
        assert late.reply().startswith(b"MUCH ")
        while not late.is_closed():
            assert late.reply().startswith(b"MUCH ")
        assert served.has_ended()
        assert served.clean is True


def test_second_stop_ends_at_once(serve, caplog):
    served = serve()
    with served.client() as client:
        client.send(frame(b"zone held a"))
        wait_for(served.source.held(1), "the lookup")
        served.server.stop()
        wait_for(served.has_stopped_listening, "the stop")
        served.server.stop()
        assert served.has_ended()
        assert served.clean is False
        served.server.server_close()
        assert client.is_closed()


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_shutdown_timeout(serve, seconds):
    served = serve(shutdown_timeout=seconds)
    with served.client() as client, served.client(receive_buffer=4096) as deaf:
        client.send(frame(b"zone held a"))
        deaf.send(frame(b"zone much b") * 200)
        wait_for(served.source.held(1), "the lookup")
        wait_for(served.is_full, "a full client")
        began = time.monotonic()
        served.server.stop()
        assert served.has_ended()
        assert time.monotonic() - began >= seconds
        assert served.clean is False


@pytest.mark.requirement("LIB-17")
def test_shutdown_waits_for_the_end(serve):
    served = serve()
    with served.client() as client:
        assert client.ask(b"zone later a") == b"LATER zone later a"
        served.server.shutdown()
        assert client.is_closed()
        assert served.has_ended()
        assert served.clean is True


def test_stop_before_serving(serve):
    served = serve(run=False)
    served.server.stop()
    served.start()
    assert served.has_ended()
    assert served.clean is True


def test_reply_that_comes_after_the_end(serve):
    """A lookup may outlive the server; its reply must not fail on the closed sockets."""
    served = serve()
    with served.client() as client:
        client.send(frame(b"zone held a"))
        wait_for(served.source.held(1), "the lookup")
        served.server.stop()
        served.server.stop()
        assert served.has_ended()
        served.server.server_close()
        before = len(served.server._messages)
        served.source.release()
        assert len(served.server._messages) == before + 1
