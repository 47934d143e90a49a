"""Sockets that keep to a deadline, over loopback: each step, its errors, and the total."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stsresolver.net.deadline import BoundedSocket, Deadline, connected, datagrams
from stsresolver.net.steps import Wait, run

# Seconds: longer than any step here takes, a deadline that passes, and what a busy machine adds.
LONG = 20.0
SHORT = 0.2
LATE = 2.0


@contextlib.contextmanager
def in_time(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert seconds - 0.01 <= time.monotonic() - started < seconds + LATE


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def accepted(listener):
    """Return what gives both ends of a connection: ours, until `seconds`, and the other."""
    with contextlib.ExitStack() as opened:

        def make(seconds: float) -> tuple[BoundedSocket, socket.socket]:
            ours = run(connected(listener.getsockname(), Deadline(seconds)))
            opened.enter_context(ours)
            return ours, opened.enter_context(listener.accept()[0])

        yield make


@pytest.fixture
def full():
    """A listener that has no room for one more connection, until it accepts or closes."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        opened.enter_context(socket.create_connection(listener.getsockname(), LONG))
        yield listener


# TIME


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_left(seconds):
    deadline = Deadline(seconds)
    for ask in deadline.left, lambda: deadline.within(LONG):
        with pytest.raises(TimeoutError, match="the time limit is used up"):
            ask()


def test_a_step_ends_by_the_deadline_of_all():
    total = Deadline(10.0)
    assert 4.0 < total.within(5.0).left() <= 5.0
    assert 9.0 < total.within(50.0).left() <= 10.0


def driven(steps, wait: Callable[[Wait], bool]):
    """Take all steps; `wait` does the waiting, and tells whether the event came."""
    try:
        one = next(steps)
        while True:
            one = steps.send([descriptor for descriptor, _ in one.events] if wait(one) else [])
    except StopIteration as end:
        return end.value


def polled(wait: Wait) -> bool:
    ((descriptor, _),) = wait.events
    return bool(select.select([], [descriptor], [], LONG)[1])


# CONNECTING


def test_refused():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with pytest.raises(ConnectionRefusedError):
        run(connected(address, Deadline(LONG)))


def test_no_connection_in_time(full):
    with in_time(SHORT), pytest.raises(TimeoutError, match="no connection in time"):
        run(connected(full.getsockname(), Deadline(SHORT)))


def test_a_connection_that_takes_its_time(full):
    """It is sent for once more by the kernel, after a second."""
    waited = []

    def wait(one: Wait) -> bool:
        full.accept()[0].close()
        waited.extend(event for _, event in one.events)
        return polled(one)

    driven(connected(full.getsockname(), Deadline(LONG)), wait).close()
    assert waited == [select.POLLOUT]


def test_refused_after_a_while(full):
    def wait(one: Wait) -> bool:
        full.close()
        return polled(one)

    with pytest.raises(ConnectionRefusedError, match="Connection refused"):
        driven(connected(full.getsockname(), Deadline(LONG)), wait)


# RECEIVING


def test_what_comes_and_the_end(accepted):
    ours, theirs = accepted(LONG)

    def wait(_: Wait) -> bool:
        theirs.sendall(b"12345")
        return True

    assert driven(ours.recv(3), wait) == b"123"
    assert run(ours.recv(3)) == b"45"
    theirs.close()
    assert run(ours.recv(3)) == b"" == run(ours.recv(3))


def test_a_connection_that_is_reset(accepted):
    ours, theirs = accepted(LONG)
    run(ours.sendall(b"unread"))
    theirs.close()
    with pytest.raises(ConnectionResetError):
        run(ours.recv(3))


def test_nothing_comes(accepted):
    with in_time(SHORT), pytest.raises(TimeoutError, match="nothing came in time"):
        ours, _ = accepted(SHORT)
        run(ours.recv(3))


def test_a_sender_without_end_ends_with_the_deadline(accepted):
    """There is always more to read, as in a flood, or never much, as from one that dribbles."""
    with in_time(SHORT), pytest.raises(TimeoutError, match="the time limit is used up"):
        ours, theirs = accepted(SHORT)
        theirs.sendall(b"." * 100_000)
        while run(ours.recv(1)):
            theirs.sendall(b".")


def test_others_have_a_turn_before_each_part(accepted):
    waited = []

    def wait(one: Wait) -> bool:
        waited.append(one)
        return True

    ours, theirs = accepted(LONG)
    theirs.sendall(b"12")
    assert select.select([ours._socket], [], [], LONG)[0]
    assert driven(ours.recv(1), wait) + driven(ours.recv(1), wait) == b"12"
    assert len(waited) == 2


def test_a_datagram_that_is_none_in_the_end():
    """recvfrom(2): one with a wrong checksum is an event, and is gone when it is read."""
    waited = []

    def wait(_: Wait) -> bool:
        waited.append(len(waited))
        if len(waited) == 3:
            server.sendto(b"real", ours._socket.getsockname())
        return True

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with datagrams(server.getsockname(), Deadline(LONG)) as ours:
            assert driven(ours.recv(9), wait) == b"real"
    assert len(waited) == 3


def test_a_name_server_that_is_not_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        ours = datagrams(server.getsockname(), Deadline(LONG))
    with ours:
        ours.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            run(ours.recv(9))


# SENDING


def test_all_is_sent_part_by_part(accepted):
    ours, theirs = accepted(LONG)
    ours._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = bytes(range(256)) * 16_384
    read = bytearray()

    def reading() -> None:
        while part := theirs.recv(50_000):
            read.extend(part)

    thread = threading.Thread(target=reading)
    thread.start()
    run(ours.sendall(data))
    ours._socket.shutdown(socket.SHUT_WR)
    thread.join(LONG)
    assert read == data


def test_nothing_to_send(accepted):
    run(accepted(LONG)[0].sendall(b""))


def test_nobody_reads(accepted):
    # On a busy machine it may be over before it is waited for.
    text = "not everything could be sent in time|the time limit is used up"
    with in_time(SHORT), pytest.raises(TimeoutError, match=text):
        ours, _ = accepted(SHORT)
        run(ours.sendall(bytes(50_000_000)))


def test_sent_to_nobody(accepted):
    ours, theirs = accepted(LONG)
    theirs.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        run(ours.sendall(bytes(50_000_000)))
