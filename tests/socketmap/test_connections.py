"""The connections of the server: frames, clients that misbehave, idleness, the limit.

Loopback and UNIX sockets only.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from stsresolver.config.keys import Zone
from stsresolver.socketmap import connections, conversation, idle_limits, server
from stsresolver.socketmap.answer import Answers
from stsresolver.socketmap.netstring import MAX_REPLY, MAX_REQUEST
from stsresolver.socketmap.reply_cache import Reply
from tests.support.served import Served, Source, reply, warnings
from tests.support.socketmap_client import DEADLINE, Client, cpu_seconds, frame, wait_for

# FRAMES


@pytest.mark.requirement("WIRE-2")
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


@pytest.mark.requirement("WIRE-2")
def test_request_byte_by_byte(everywhere):
    wire = frame(b"zone now a")
    with everywhere.client() as client:
        for end in range(1, len(wire)):
            client.send(wire[end - 1 : end])
            everywhere.has_read(wire[:end])
        client.send(wire[-1:])
        assert client.reply() == b"NOW zone now a"


@pytest.mark.requirement("WIRE-3")
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


@pytest.mark.requirement("WIRE-3")
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
                assert len(one.unsent) < 2 * conversation.UNSENT_LIMIT
                assert len(one.received) < MAX_REQUEST + 2 * connections._READ
            assert other.ask(b"zone later b") == b"LATER zone later b"
            answers = late.replies(number)
        finally:
            # Also where an assertion failed: the sender must not outlive its socket.
            late.socket.shutdown(2)
            sender.join(DEADLINE)
    assert [text.partition(b" ")[2] for text in answers] == requests


@pytest.mark.requirement("WIRE-4")
@pytest.mark.parametrize("word", [b"now", b"later"])
def test_longest_request(everywhere, word):
    request = b"zone " + word + b" "
    request += b"x" * (MAX_REQUEST - len(request))
    with everywhere.client() as client:
        assert client.ask(request).endswith(request)
        assert client.ask(b"zone now a") == b"NOW zone now a"


@pytest.mark.requirement("WIRE-4")
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


@pytest.mark.requirement("WIRE-5")
@pytest.mark.parametrize(("data", "why"), BAD_FRAMES)
def test_bad_frame_closes_without_an_answer(serve, data, why):
    served = serve()
    with served.client() as client, served.client() as other:
        client.send(data)
        assert client.is_closed(), why
        assert other.ask(b"zone now a") == b"NOW zone now a"


@pytest.mark.requirement("WIRE-5")
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
        def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
            deliver(reply(b"GOT " + request))

    served = serve(source=Anything())
    texts = [b"", b" ", b"x", b"a b c", b"1:a,", bytes(range(256)), "münchen.example".encode()]
    with served.client() as client:
        assert [client.ask(text) for text in texts] == [b"GOT " + text for text in texts]


@pytest.mark.requirement("WIRE-7")
def test_request_without_a_space(serve):
    class Literal(Source):
        answers = Answers(SimpleNamespace(changes=0), Zone(), {})

        def look_up(self, request: bytes, deliver: Callable[[Reply], None]) -> None:
            self.answers.look_up(request, deliver)

    served = serve(source=Literal())
    with served.client() as client:
        assert client.ask(b"example.com") == b"PERM "
        assert client.ask(b"") == b"PERM "
        assert client.ask(b"zone [192.0.2.1]") == b"NOTFOUND "
        assert client.ask(b"zone .com") == b"NOTFOUND "


# CLIENTS THAT MISBEHAVE


@pytest.mark.parametrize("kind", ["tcp4", "unix"])
def test_client_that_never_reads(serve, kind):
    served = serve(kind, workers=1)
    with served.client(receive_buffer=4096) as deaf, served.client() as other:
        deaf.send(frame(b"zone much a") * 200)
        wait_for(served.is_full, "a full client")
        assert max(len(one.unsent) for one in served.connections) < 200_000
        for _ in range(50):
            assert other.ask(b"zone later b") == b"LATER zone later b"
        assert served.is_at_rest()
        assert all(reply.startswith(b"MUCH ") for reply in deaf.replies(200))


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
        wait_for(lambda: served.server._busy == 0, "the end of the lookup")
        assert client.has_nothing_to_read()
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
        wait_for(lambda: served.server.load().accepted == 301, "the last of them")
        served.has_connections(1)
        wait_for(lambda: open_descriptors() == running, "their descriptors back")
    served.close()
    assert open_descriptors() == before


def test_bug_closes_one_connection(serve, monkeypatch):
    def broken(received: bytes, start: int) -> None:
        raise RuntimeError("cut is broken")

    served = serve(bugs=True)
    with served.client() as client, served.client() as other:
        assert other.ask(b"zone constant a") == b"CONSTANT zone constant a"
        monkeypatch.setattr(conversation, "cut", broken)
        client.send(frame(b"zone now b"))
        assert client.is_closed()
        monkeypatch.undo()
        assert other.ask(b"zone now c") == b"NOW zone now c"


# IDLE CONNECTIONS


@pytest.mark.requirement("WIRE-11")
def test_idle_connections_cost_no_thread(serve):
    served = serve(workers=1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(50)]
        clients[0].ask(b"zone ready a")
        threads = threading.active_count()
        for word in (b"now", b"ready", b"constant"):
            for client in clients:
                assert client.ask(b"zone %b a" % word).endswith(b"zone %b a" % word)
        assert threading.active_count() == threads


@pytest.mark.requirement("WIRE-11")
def test_idle_connections_are_closed(serve, monkeypatch):
    monkeypatch.setattr(idle_limits, "IDLE_LIMIT", 0.3)
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


@pytest.mark.requirement("WIRE-11")
def test_connection_is_not_idle_after_a_long_lookup(serve, clock, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_LIMIT", math.inf)
    monkeypatch.setattr(idle_limits, "LOST_LIMIT", math.inf)
    served = serve()
    with served.client() as client, served.client() as idle:
        client.send(frame(b"zone held a"))
        wait_for(served.source.held(1), "the lookup")
        clock.later(idle_limits.IDLE_LIMIT)
        served.source.release()
        assert client.reply() == b"LATER zone held a"
        clock.later(server.IDLE_ROUND)
        # It wakes the server, which looks for idle ones.
        with served.client():
            assert idle.is_closed()
            assert client.ask(b"zone now b") == b"NOW zone now b"


def test_asking_connection_is_not_idle(serve, clock):
    served = serve()
    with served.client() as constant, served.client() as later, served.client() as idle:
        for _ in range(5):
            clock.later(idle_limits.IDLE_LIMIT / 2)
            assert constant.ask(b"zone constant a") == b"CONSTANT zone constant a"
            assert later.ask(b"zone later a") == b"LATER zone later a"
        assert idle.is_closed()


@pytest.mark.requirement("WIRE-12")
def test_two_thousand_idle_connections(serve):
    needed = 2 * 2000 + 200
    served = serve(workers=1)
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


# AS MANY CONNECTIONS AS MAY BE


@pytest.mark.requirement("KEEP-12")
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
    assert warnings(caplog) == ["no new connections for now: 3 are open, the limit"]


@pytest.fixture
def crowded(serve, clock) -> Served:
    """A server that takes three connections at once."""
    served = serve(run=False)
    served.server._connections.limit = 3
    served.start()
    return served


def look(served, clock) -> None:
    """Let the server look whose place it can give to others."""
    looked = threading.Event()
    served.server.soon(lambda: served.server._connections.make_room(clock.monotonic()))
    served.server.soon(looked.set)
    assert looked.wait(DEADLINE)


@pytest.mark.parametrize("sent", [b"", b"9:zone now", frame(b"zone now a")[:-1]])
def test_clients_that_never_ask_keep_nobody_out(crowded, sent, clock):
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(crowded.client()) for _ in range(3)]
        for client in silent:
            client.send(sent)
        crowded.has_connections(3)
        postfix = stack.enter_context(crowded.client())
        postfix.send(frame(b"zone now a"))
        look(crowded, clock)
        assert postfix.has_nothing_to_read(), "they have two seconds"
        clock.later(idle_limits.SILENT_LIMIT)
        look(crowded, clock)
        assert postfix.reply() == b"NOW zone now a"
        assert silent[0].is_closed(), "the first"
        look(crowded, clock)
        assert silent[1].has_nothing_to_read(), "nobody waits for its place"


@pytest.mark.requirement("WIRE-11")
def test_the_one_that_is_idle_longest_gives_way(crowded, clock, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_LIMIT", math.inf)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(crowded.client()) for _ in range(3)]
        for number in (1, 0, 2):
            assert clients[number].ask(b"zone now a") == b"NOW zone now a"
        clock.later(idle_limits.CROWDED_LIMIT - 60)
        assert clients[2].ask(b"zone now a") == b"NOW zone now a", "used since"
        clients[1].send(frame(b"zone held a"))
        wait_for(crowded.source.held(1), "the lookup")
        late = stack.enter_context(crowded.client())
        late.send(frame(b"zone now b"))
        look(crowded, clock)
        assert late.has_nothing_to_read(), "none of them has been idle for 120 s"
        clock.later(70)
        look(crowded, clock)
        assert late.reply() == b"NOW zone now b"
        assert clients[0].is_closed()
        crowded.source.release()
        assert clients[1].reply() == b"LATER zone held a", "it waited, and so was not idle"
        assert clients[2].ask(b"zone now a") == b"NOW zone now a"


def test_more_half_open_clients_than_places(serve, clock):
    """Each opens another connection as soon as it has lost one, and others get through."""
    served = serve(run=False)
    served.server._connections.limit = 136
    served.start()
    with contextlib.ExitStack() as stack:
        for _ in range(2 * 136):
            stack.enter_context(served.client()).send(b"9:zone")
        served.has_connections(136)
        postfix = stack.enter_context(served.client())
        postfix.send(frame(b"zone now a"))
        for _ in range(2):
            before = served.server._connections.accepted
            clock.later(idle_limits.SILENT_LIMIT)
            # It wakes the server, which then looks by itself.
            served.server.soon(lambda: None)
            wait_for(lambda last=before: served.server._connections.accepted > last, "others")
        assert postfix.reply() == b"NOW zone now a"


OUT_OF_DESCRIPTORS = """
import logging, math, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
logging.basicConfig(format="%(levelname)s %(message)s")
from stsresolver.socketmap.listeners import listen_tcp
from stsresolver.socketmap.reply_cache import Reply
from stsresolver.socketmap.server import SocketmapServer

class Source:
    changes = 0
    def look_up(self, request, deliver):
        deliver(Reply(b"3:NOW,", -math.inf))

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
