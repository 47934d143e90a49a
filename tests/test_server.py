"""The socketmap server with a made-up source of replies: no DNS, loopback and UNIX sockets only."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from socketmap_client import DEADLINE, Address, Client, cpu_seconds, frame, wait_for

from stsresolver import connections, server
from stsresolver.answer import Answers
from stsresolver.config import Zone
from stsresolver.listeners import listen_tcp, listen_unix
from stsresolver.netstring import MAX_REPLY, MAX_REQUEST
from stsresolver.ready import MAX_REQUEST as MAX_READY_REQUEST
from stsresolver.ready import Reply
from stsresolver.server import SocketmapServer

# Seconds in which a server that has nothing to do is watched.
WATCHED = 0.15


class Source:
    """Replies after the word behind the map name; the reply repeats the request.

    now, much: at once, and never again without asking. constant: at once and for ever.
    later: by a lookup. held: by one that waits for `release`. ready: by one, kept until `until`.
    bytes N: by one, N bytes. twice: by one that delivers two replies. broken: the lookup raises.
    broken-now: `at_once` raises.
    """

    def __init__(self) -> None:
        self.changes = 0
        self.until = math.inf
        self.asked: list[bytes] = []
        self.lookups: list[bytes] = []
        self.at_hand_works = True
        self._gates = queue.SimpleQueue[threading.Event]()
        self._open = threading.Event()

    def at_once(self, request: bytes) -> Reply | None:
        self.asked.append(request)
        word = request.split()[1]
        if word == b"now":
            return reply(b"NOW " + request)
        if word == b"much":
            return reply(b"MUCH " + request + b"." * 50_000)
        if word == b"constant":
            return reply(b"CONSTANT " + request, math.inf)
        if word == b"broken-now":
            raise RuntimeError("at_once is broken")
        return None

    def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
        self.lookups.append(request)
        _, word, *rest = request.split()
        change = self.changes
        if word == b"broken":
            raise RuntimeError("look_up is broken")
        if word == b"held":
            assert self._open.wait(DEADLINE), "nobody called release"
        if word == b"bytes":
            deliver(reply(b"x" * int(rest[0])))
        elif word == b"ready":
            deliver(reply(b"READY " + request, self.until, change=change))
        elif word == b"twice":
            deliver(reply(b"FIRST " + request))
            deliver(reply(b"SECOND " + request))
        else:
            deliver(reply(b"LATER " + request))

    def at_hand(self, request: bytes) -> Reply:
        if not self.at_hand_works:
            raise RuntimeError("at_hand is broken")
        return reply(b"TEMP ")

    def release(self) -> None:
        """Let the held lookups end, and those to come."""
        self._open.set()

    def held(self, number: int) -> Callable[[], bool]:
        """Return the condition that so many held lookups are under way."""
        return lambda: sum(b" held" in request for request in self.lookups) >= number


def reply(payload: bytes, until: float = -math.inf, change: int = 0) -> Reply:
    domain = "domain.example" if payload.startswith(b"READY") else ""
    return Reply(frame(payload), until, domain, change)


class Poll:
    """The server's epoll, counting how often it returns."""

    def __init__(self, poll) -> None:
        self._poll = poll
        self.count = 0

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.count += 1
        return self._poll.poll(timeout)

    def __getattr__(self, name: str) -> object:
        return getattr(self._poll, name)


class Served:
    """A server that runs in a thread of its own."""

    def __init__(self, server: SocketmapServer, source: Source, address: Address) -> None:
        self.server = server
        self.source = source
        self.address = address
        self.clean: bool | None = None
        self.poll = server._connections._poll = Poll(server._connections._poll)
        self._thread = threading.Thread(target=self._run, daemon=True)
        server.source = source

    def _run(self) -> None:
        self.clean = self.server.serve_forever()

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.poll.count or self.clean is not None, "the server to serve")

    def client(self, **options: int) -> Client:
        return Client(self.address, **options)

    def has_ended(self) -> bool:
        self._thread.join(DEADLINE)
        return not self._thread.is_alive()

    @property
    def connections(self) -> list[connections.Connection]:
        return list(self.server._connections._open.values())

    def is_full(self) -> bool:
        """Say whether replies wait for a client that does not read."""
        return any(one.unsent for one in self.connections)

    def has_stopped_listening(self) -> bool:
        return not self.server._connections._listeners

    def in_line(self, number: int) -> Callable[[], bool]:
        """Return the condition that so many requests wait for a worker."""
        return lambda: len(self.server._line) == number

    def has_connections(self, number: int) -> None:
        wait_for(lambda: len(self.connections) == number, f"{number} connections")

    def has_read(self, data: bytes) -> None:
        """Wait until the server holds just these bytes of an unfinished request."""
        wait_for(lambda: [one.received for one in self.connections] == [data], f"{data!r} read")

    def is_at_rest(self) -> bool:
        """Say whether the server leaves the processor alone while nothing happens."""
        before = self.poll.count
        threading.Event().wait(WATCHED)
        return self.poll.count - before <= 20

    def close(self) -> None:
        self.source.release()
        self.server.stop()
        self.server.stop()
        try:
            assert self.has_ended(), "serve_forever does not end"
        finally:
            self.server.server_close()


def listening(kind: str, tmp_path):
    if kind == "unix":
        path = str(tmp_path / "socket")
        return listen_unix(path, None), path
    host = "::1" if kind == "tcp6" else "127.0.0.1"
    try:
        listener = listen_tcp(host, 0, reuse_port=False)[0]
    except OSError as error:
        if kind == "tcp6":
            pytest.skip(f"no IPv6 on this machine: {error}")
        raise
    return listener, listener.getsockname()[:2]


@pytest.fixture
def serve(tmp_path, caplog) -> Iterator[Callable[..., Served]]:
    """Return what starts a server. A bug that one logs fails the test, unless `bugs` is true."""
    caplog.set_level(logging.INFO, "stsresolver")
    running: list[tuple[Served, bool]] = []

    def start(
        kind: str = "tcp4",
        *,
        workers: int = 4,
        source: Source | None = None,
        bugs: bool = False,
        run: bool = True,
        **options: float,
    ) -> Served:
        listener, address = listening(kind, tmp_path)
        server = SocketmapServer([listener], workers=workers, **options)
        served = Served(server, source or Source(), address)
        running.append((served, bugs))
        if run:
            served.start()
        return served

    yield start
    for served, _ in running:
        served.close()
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(bugs for _, bugs in running) or logged == []


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def everywhere(request, serve) -> Served:
    return serve(request.param)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# FRAMES


@pytest.mark.parametrize("request_", [b"zone now a", b"zone later a"])
def test_request_whole_and_split_anywhere(everywhere, request_):
    wire = frame(request_)
    with everywhere.client() as client:
        answer = client.ask(request_)
        assert answer.endswith(request_)
        for at in range(1, len(wire)):
            client.send(wire[:at])
            everywhere.has_read(wire[:at])
            client.send(wire[at:])
            assert client.reply() == answer


def test_request_byte_by_byte(everywhere):
    wire = frame(b"zone now a")
    with everywhere.client() as client:
        for end in range(1, len(wire)):
            client.send(wire[end - 1 : end])
            everywhere.has_read(wire[:end])
        client.send(wire[-1:])
        assert client.reply() == b"NOW zone now a"


def test_pipelined_requests_are_answered_in_order(everywhere):
    words = [b"now", b"later", b"constant", b"later", b"later", b"now"] * 20
    requests = [b"zone %b %d" % (word, number) for number, word in enumerate(words)]
    with everywhere.client() as client:
        client.send(b"".join(map(frame, requests)))
        assert [text.partition(b" ")[2] for text in client.replies(len(words))] == requests


def test_pipelined_request_split_behind_whole_ones(serve):
    served = serve()
    with served.client() as client:
        first, second = frame(b"zone now 1"), frame(b"zone now 2")
        client.send(first + second[:7])
        assert client.reply() == b"NOW zone now 1"
        client.send(second[7:] + first)
        assert client.replies(2) == [b"NOW zone now 2", b"NOW zone now 1"]


@pytest.mark.parametrize("kind", ["tcp4", "unix"])
def test_thousands_pipelined_for_a_client_that_reads_late(serve, kind):
    served = serve(kind)
    number = 20_000
    requests = [
        b"zone %b %d" % (b"later" if index % 500 == 250 else b"now", index) + b"x" * 400
        for index in range(number)
    ]
    with served.client(receive_buffer=4096) as late, served.client() as other:
        sender = threading.Thread(target=late.send, args=(b"".join(map(frame, requests)),))
        sender.start()
        try:
            wait_for(served.is_full, "a full client")
            assert served.is_at_rest()
            for one in served.connections:
                assert len(one.unsent) < 2 * connections._UNSENT_LIMIT
                assert len(one.received) < MAX_REQUEST + 2 * connections._READ
            assert other.ask(b"zone later b") == b"LATER zone later b"
            answers = late.replies(number)
        finally:
            # Also where an assertion failed: the sender must not outlive its socket.
            late.socket.shutdown(2)
            sender.join(DEADLINE)
    assert [text.partition(b" ")[2] for text in answers] == requests


@pytest.mark.parametrize("word", [b"now", b"later"])
def test_longest_request(everywhere, word):
    request = b"zone " + word + b" "
    request += b"x" * (MAX_REQUEST - len(request))
    with everywhere.client() as client:
        assert client.ask(request).endswith(request)
        assert client.ask(b"zone now a") == b"NOW zone now a"


def test_request_one_byte_over(everywhere):
    with everywhere.client() as client:
        client.send(b"%d:zone now " % (MAX_REQUEST + 1))
        assert client.is_closed()
    with everywhere.client() as client:
        assert client.ask(b"zone now a") == b"NOW zone now a"


BAD_FRAMES = [
    (b"GET / HTTP/1.1\r\n\r\n", "another protocol"),
    (b":,", "no length"),
    (b"-1:a,", "a sign"),
    (b"01:a,", "a leading zero"),
    (b"10:zone now a;", "no comma"),
    (b"99999999999999999999", "a length without end"),
    (b"\x00" * 20_000, "more than one read of anything"),
]


@pytest.mark.parametrize(("data", "why"), BAD_FRAMES)
def test_bad_frame_closes_without_an_answer(serve, data, why):
    served = serve()
    with served.client() as client, served.client() as other:
        client.send(data)
        assert client.is_closed(), why
        assert other.ask(b"zone now a") == b"NOW zone now a"


@pytest.mark.parametrize(("data", "why"), BAD_FRAMES)
def test_good_requests_before_a_bad_frame_are_answered(serve, data, why):
    served = serve()
    good = [b"zone now 1", b"zone held 2", b"zone now 3"]
    with served.client() as client:
        client.send(b"".join(map(frame, good)) + data)
        assert client.reply() == b"NOW zone now 1"
        wait_for(served.source.held(1), "the lookup")
        served.source.release()
        assert client.replies(2) == [b"LATER zone held 2", b"NOW zone now 3"]
        assert client.is_closed(), why


def test_text_of_requests_is_for_the_source_alone(serve):
    """Empty, without a space, and with any byte: frames all the same."""

    class Anything(Source):
        def at_once(self, request: bytes) -> Reply | None:
            return reply(b"GOT " + request)

    served = serve(source=Anything())
    texts = [b"", b" ", b"x", b"a b c", b"1:a,", bytes(range(256)), "münchen.example".encode()]
    with served.client() as client:
        assert [client.ask(text) for text in texts] == [b"GOT " + text for text in texts]


def test_request_without_a_space(serve):
    class Literal(Source):
        answers = Answers(None, Zone(), {})

        def at_once(self, request: bytes) -> Reply | None:
            return self.answers.at_once(request)

    served = serve(source=Literal())
    with served.client() as client:
        assert client.ask(b"example.com") == b"PERM "
        assert client.ask(b"") == b"PERM "
        assert client.ask(b"zone [192.0.2.1]") == b"NOTFOUND "
        assert client.ask(b"zone .com") == b"NOTFOUND "


# REPLIES


def test_longest_reply(everywhere):
    with everywhere.client() as client:
        assert client.ask(b"zone bytes %d" % MAX_REPLY) == b"x" * MAX_REPLY
        assert client.ask(b"zone now a") == b"NOW zone now a"


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


def test_ready_reply_is_said_without_asking(serve):
    served = serve()
    with served.client() as client, served.client() as other:
        for _ in range(3):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
            assert other.ask(b"zone constant a") == b"CONSTANT zone constant a"
        client.send(frame(b"zone ready a") * 3)
        assert client.replies(3) == [b"READY zone ready a"] * 3
    assert served.source.lookups == [b"zone ready a"]
    assert sorted(served.source.asked) == [b"zone constant a", b"zone ready a"]


def test_ready_reply_expires(serve):
    served = serve()
    served.source.until = time.monotonic() + 0.3
    with served.client() as client:
        for _ in range(2):
            assert client.ask(b"zone ready a") == b"READY zone ready a"
        if time.monotonic() < served.source.until:
            assert len(served.source.lookups) == 1
        wait_for(lambda: time.monotonic() > served.source.until, "the reply's end")
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


def test_long_request_is_answered_and_not_kept(serve):
    served = serve()
    long = b"zone ready ".ljust(MAX_READY_REQUEST, b"x")
    with served.client() as client:
        assert client.ask(long) == client.ask(long) == b"READY " + long
    assert served.source.lookups == [long, long]


# CLIENTS THAT MISBEHAVE


@pytest.mark.parametrize("kind", ["tcp4", "unix"])
def test_client_that_never_reads(serve, kind):
    served = serve(kind, workers=1)
    with served.client(receive_buffer=4096) as deaf, served.client() as other:
        deaf.send(frame(b"zone much a") * 200)
        wait_for(served.is_full, "a full client")
        for _ in range(50):
            assert other.ask(b"zone later b") == b"LATER zone later b"
        assert served.is_at_rest()


def test_client_that_sends_a_byte_now_and_then(serve):
    served = serve(workers=1)
    with served.client() as slow, served.client() as other:
        for byte in frame(b"zone later a"):
            slow.send(bytes([byte]))
            assert other.ask(b"zone later b") == b"LATER zone later b"
        assert slow.reply() == b"LATER zone later a"


@pytest.mark.parametrize("word", [b"now", b"held"])
def test_half_closed_client_gets_its_replies(everywhere, word):
    requests = [b"zone now 1", b"zone %b 2" % word, b"zone later 3", b"zone now 4"]
    with everywhere.client() as client:
        client.send(b"".join(map(frame, requests)) + b"10:zone no")
        client.finish()
        assert client.reply() == b"NOW zone now 1"
        if word == b"held":
            wait_for(everywhere.source.held(1), "the lookup")
            assert everywhere.is_at_rest()
            everywhere.source.release()
        assert [text.partition(b" ")[2] for text in client.replies(3)] == requests[1:]
        assert client.is_closed()


@pytest.mark.parametrize("way", ["close", "reset"])
def test_client_gone_while_its_request_is_looked_up(everywhere, way):
    if way == "reset" and isinstance(everywhere.address, str):
        way = "close"
    gone = everywhere.client()
    gone.send(frame(b"zone held 1") + frame(b"zone later 2"))
    wait_for(everywhere.source.held(1), "the lookup")
    getattr(gone, way)()
    assert everywhere.is_at_rest()
    with everywhere.client() as client:
        assert client.ask(b"zone later 3") == b"LATER zone later 3"
        everywhere.source.release()
        assert client.ask(b"zone later 4") == b"LATER zone later 4"
        everywhere.has_connections(1)


@pytest.mark.parametrize("size", [10, MAX_REPLY + 1])
def test_reply_for_a_gone_client_does_not_touch_the_next_one(serve, size):
    """The next client has the descriptor of the one that is gone."""

    class Late(Source):
        def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
            super().look_up(
                request,
                deliver if b" held " not in request else lambda _: deliver(reply(b"x" * size)),
            )

    served = serve(source=Late(), bugs=size > MAX_REPLY)
    gone = served.client()
    gone.send(frame(b"zone held a"))
    wait_for(served.source.held(1), "the lookup")
    descriptor = served.connections[0].fd
    gone.reset()
    served.has_connections(0)
    with served.client() as client:
        assert client.ask(b"zone now b") == b"NOW zone now b"
        assert served.connections[0].fd == descriptor
        served.source.release()
        for _ in range(10):
            assert client.ask(b"zone later c") == b"LATER zone later c"


def test_descriptors_are_given_back(serve):
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    served = serve()
    with served.client() as first:
        first.ask(b"zone later a")
        running = open_descriptors()
        for index in range(300):
            with served.client() as client:
                if index % 3:
                    client.send(frame(b"zone later a"))
                if index % 5 == 0:
                    client.finish()
                if index % 7 == 0:
                    client.reset()
        served.has_connections(1)
        assert open_descriptors() == running
    served.close()
    assert open_descriptors() == before


# IDLE CONNECTIONS


def test_idle_connections_cost_no_thread(serve):
    served = serve()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(50)]
        clients[0].ask(b"zone later a")
        threads = threading.active_count()
        for client in clients:
            assert client.ask(b"zone now a") == b"NOW zone now a"
        assert threading.active_count() == threads
        for client in clients:
            assert client.ask(b"zone later a") == b"LATER zone later a"
        # One more, where the next request came before the worker had said that it was free.
        assert threading.active_count() <= threads + 1


def test_idle_connections_are_closed(serve, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_LIMIT", 0.3)
    monkeypatch.setattr(server, "IDLE_ROUND", 0.05)
    served = serve()
    with (
        served.client() as silent,
        served.client() as asked,
        served.client() as slow,
        served.client(receive_buffer=4096) as deaf,
        served.client() as waiting,
    ):
        waiting.send(frame(b"zone held a"))
        deaf.send(frame(b"zone much a") * 200)
        assert asked.ask(b"zone now a") == b"NOW zone now a"
        began = time.monotonic()
        wire = iter(frame(b"zone now a".ljust(5000)))
        with contextlib.suppress(ConnectionError):
            while len(served.connections) > 1:
                slow.send(bytes([next(wire)]))
                assert time.monotonic() < began + DEADLINE
                threading.Event().wait(0.01)
        assert silent.is_closed()
        assert asked.is_closed()
        assert slow.is_closed()
        served.has_connections(1)
        served.source.release()
        assert waiting.reply() == b"LATER zone held a"
        assert waiting.is_closed()


def test_asking_connection_is_not_idle(serve, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_LIMIT", 0.4)
    monkeypatch.setattr(server, "IDLE_ROUND", 0.02)
    served = serve()
    with served.client() as constant, served.client() as later:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert constant.ask(b"zone constant a") == b"CONSTANT zone constant a"
            assert later.ask(b"zone later a") == b"LATER zone later a"
            threading.Event().wait(0.01)


def test_two_thousand_idle_connections(serve):
    needed = 2 * 2000 + 200
    served = serve()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < needed:
        pytest.skip(f"needs {needed} open files, the hard limit is lower")
    with contextlib.ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(2000):
            stack.enter_context(served.client())
        client = stack.enter_context(served.client())
        served.has_connections(2001)
        for _ in range(100):
            assert client.ask(b"zone constant a") == b"CONSTANT zone constant a"
        assert client.ask(b"zone later a") == b"LATER zone later a"
        assert threading.active_count() <= threads + 1
        assert served.is_at_rest()


# WORKERS


def test_lookups_run_side_by_side_up_to_the_number_of_workers(serve):
    served = serve(workers=3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(5)]
        threads = threading.active_count()
        for client in clients:
            client.send(frame(b"zone held a"))
        wait_for(served.source.held(3), "three lookups")
        wait_for(served.in_line(2), "two in line")
        assert len(served.source.lookups) == 3
        assert threading.active_count() == threads + 3
        with served.client() as other:
            assert other.ask(b"zone now a") == b"NOW zone now a"
        served.source.release()
        assert [client.reply() for client in clients] == [b"LATER zone held a"] * 5
        assert threading.active_count() == threads + 3


def test_line_is_first_come_first_served(serve):
    served = serve(workers=1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(10)]
        clients[0].send(frame(b"zone held 0"))
        wait_for(served.source.held(1), "the lookup")
        for index, client in enumerate(clients[1:], 1):
            client.send(frame(b"zone later %d" % index))
            wait_for(served.in_line(index), "a place in line")
        served.source.release()
        for client in clients:
            client.reply()
    assert served.source.lookups[1:] == [b"zone later %d" % index for index in range(1, 10)]


def test_request_that_waits_too_long_gets_what_is_at_hand(serve, monkeypatch, caplog):
    monkeypatch.setattr(server, "LINE_LIMIT", 0.2)
    served = serve(workers=2)
    with served.client() as one, served.client() as two, served.client() as three:
        one.send(frame(b"zone held 1"))
        two.send(frame(b"zone held 2"))
        wait_for(served.source.held(2), "two lookups")
        three.send(frame(b"zone later 3") + frame(b"zone now 4") + frame(b"zone later 5"))
        assert three.replies(3) == [b"TEMP ", b"NOW zone now 4", b"TEMP "]
        served.source.release()
        assert one.reply() == b"LATER zone held 1"
        assert two.reply() == b"LATER zone held 2"
        assert three.ask(b"zone later 6") == b"LATER zone later 6"
        assert b"zone later 3" not in served.source.lookups
    assert 1 <= len(warnings(caplog)) <= 2
    assert "workers are busy" in warnings(caplog)[0]


def test_lookup_that_raises_is_answered_and_the_worker_survives(serve):
    served = serve(workers=1, bugs=True)
    with served.client() as client:
        assert client.ask(b"zone later a") == b"LATER zone later a"
        threads = threading.active_count()
        for _ in range(5):
            assert client.ask(b"zone broken a") == b"TEMP "
            assert client.ask(b"zone later a") == b"LATER zone later a"
        assert threading.active_count() == threads


def test_lookup_that_raises_with_nothing_at_hand_closes(serve):
    served = serve(workers=1, bugs=True)
    served.source.at_hand_works = False
    with served.client() as client, served.client() as other:
        client.send(frame(b"zone broken a"))
        assert client.is_closed()
        assert other.ask(b"zone later a") == b"LATER zone later a"


@pytest.mark.parametrize("before", [b"", frame(b"zone later a"), frame(b"zone now a")])
def test_source_that_raises_on_the_serving_thread(serve, before):
    served = serve(bugs=True)
    with served.client() as client, served.client() as other:
        client.send(before + frame(b"zone broken-now b") + frame(b"zone now c"))
        if before:
            assert client.reply().endswith(b" a")
        assert client.reply() == b"LATER zone broken-now b"
        assert client.reply() == b"NOW zone now c"
        assert other.ask(b"zone later d") == b"LATER zone later d"


def test_jobs_behind_wait_until_the_line_is_empty(serve):
    served = serve(workers=1)
    ran = queue.SimpleQueue[tuple[int, int]]()
    with served.client() as first, served.client() as second:
        first.send(frame(b"zone held 1"))
        wait_for(served.source.held(1), "the lookup")
        for number in range(3):
            served.server.behind(
                lambda number=number: ran.put((number, len(served.source.lookups)))
            )
        wait_for(lambda: len(served.server._behind) == 3, "the jobs")
        second.send(frame(b"zone later 2") + frame(b"zone later 3"))
        wait_for(served.in_line(1), "the line")
        served.source.release()
        assert second.reply() == b"LATER zone later 2"
        jobs = [ran.get(timeout=DEADLINE) for _ in range(3)]
        assert [number for number, _ in jobs] == [0, 1, 2]
        assert jobs[0][1] >= 2, "a job ran before the request in line"
        assert second.reply() == b"LATER zone later 3"


def test_job_behind_that_raises(serve):
    served = serve(workers=1, bugs=True)
    ran = threading.Event()
    served.server.behind(lambda: 1 // 0)
    served.server.behind(ran.set)
    assert ran.wait(DEADLINE)
    with served.client() as client:
        assert client.ask(b"zone later a") == b"LATER zone later a"


@pytest.mark.parametrize("failures", [1, 2])
def test_thread_that_cannot_be_started(serve, monkeypatch, caplog, failures):
    """With nothing else happening, the request does not wait for its time in line to end."""
    served = serve()
    with served.client() as client:
        assert client.ask(b"zone now a") == b"NOW zone now a"
        start = threading.Thread.start
        left = [None] * failures

        def fail(thread: threading.Thread) -> None:
            if left:
                left.pop()
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", fail)
        assert client.ask(b"zone later a") == b"LATER zone later a"
        assert not left
    assert warnings(caplog) == ["no thread for another lookup: can't start new thread"]


def test_no_thread_at_all(serve, monkeypatch):
    """What a worker there is can do is done; the others get what is at hand."""
    monkeypatch.setattr(server, "LINE_LIMIT", 0.3)
    served = serve()
    with served.client() as client, served.client() as other:
        assert client.ask(b"zone later a") == b"LATER zone later a"

        def fail(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", fail)
        client.send(frame(b"zone held b"))
        wait_for(served.source.held(1), "the lookup")
        assert other.ask(b"zone later c") == b"TEMP "
        served.source.release()
        assert client.reply() == b"LATER zone held b"
        assert other.ask(b"zone later c") == b"LATER zone later c"


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


# AS MANY CONNECTIONS AS MAY BE


def test_connection_limit(serve, caplog):
    served = serve(run=False)
    served.server._connections.limit = 3
    served.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(6)]
        for client in clients[:3]:
            assert client.ask(b"zone later a") == b"LATER zone later a"
        for client in clients:
            client.send(frame(b"zone now a"))
        assert [client.reply() for client in clients[:3]] == [b"NOW zone now a"] * 3
        assert served.is_at_rest()
        assert all(client.has_nothing_to_read() for client in clients[3:])
        for index in range(3):
            clients[index].close()
            assert clients[index + 3].reply() == b"NOW zone now a"
            assert served.is_at_rest()
        served.has_connections(3)
    assert warnings(caplog) == ["no new connections for now: 3 are open, as many as may be"]


def test_connection_limit_follows_the_limit_of_open_files():
    """The soft limit is raised to the hard one; workers and files have their share left."""
    program = """
import resource
from stsresolver.server import SocketmapServer
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
    assert 500 <= connections <= 1000 - 2 * 150


OUT_OF_DESCRIPTORS = """
import logging, math, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
logging.basicConfig(format="%(levelname)s %(message)s")
from stsresolver.listeners import listen_tcp
from stsresolver.ready import Reply
from stsresolver.server import SocketmapServer

class Source:
    changes = 0
    def at_once(self, request):
        return Reply(b"3:NOW,", -math.inf)

listeners = listen_tcp("127.0.0.1", 0, reuse_port=False)
server = SocketmapServer(listeners, workers=1)
server._connections.limit = 1000
server.source = Source()
signal.signal(signal.SIGTERM, lambda *_: server.stop())
print(listeners[0].getsockname()[1], flush=True)
server.serve_forever()
server.server_close()
"""


def test_out_of_descriptors():
    """It waits, without a spin and with one warning, and goes on when there are some again."""
    process = subprocess.Popen(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        address = "127.0.0.1", int(process.stdout.readline())
        clients = [stack.enter_context(Client(address)) for _ in range(40)]
        for client in clients:
            client.send(frame(b"zone now a"))
        assert clients[0].reply() == b"NOW"
        wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) >= 30, "full descriptors")
        assert clients[-1].has_nothing_to_read()
        before = cpu_seconds(process.pid)
        threading.Event().wait(1.5)
        assert cpu_seconds(process.pid) - before < 0.3
        assert clients[0].ask(b"zone now b") == b"NOW"
        for client in clients[:20]:
            client.close()
        assert clients[-1].reply() == b"NOW"
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE)
    assert errors == "WARNING no new connections for now: [Errno 24] Too many open files\n"
    assert process.returncode == 0


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


def test_stop_answers_requests_that_wait_in_line(serve):
    served = serve(workers=1)
    with served.client() as first, served.client() as second:
        first.send(frame(b"zone held 1"))
        wait_for(served.source.held(1), "the lookup")
        second.send(frame(b"zone later 2"))
        wait_for(served.in_line(1), "the line")
        served.server.stop()
        wait_for(served.has_stopped_listening, "the stop")
        served.source.release()
        assert first.reply() == b"LATER zone held 1"
        assert second.reply() == b"LATER zone later 2"
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
    served = serve()
    with served.client() as client:
        client.send(frame(b"zone held a"))
        wait_for(served.source.held(1), "the lookup")
        served.close()
        threads = threading.active_count()
        served.source.release()
        assert threading.active_count() <= threads
