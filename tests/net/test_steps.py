"""Steps on a thread of their own: `run` waits no longer than told, and closes what is open."""

from __future__ import annotations

import select
import socket
import time

import pytest

from stsresolver.net.steps import Wait, run

SHORT = 0.2


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def waits(ours, event, seconds):
    came = yield Wait(ours.fileno(), event, time.monotonic() + seconds)
    return came


def test_without_a_wait():
    def steps():
        return 1
        yield

    assert run(steps()) == 1


@pytest.mark.parametrize("seconds", [SHORT, 0.0, -1.0])
def test_it_waits_no_longer_than_told(pair, seconds):
    started = time.monotonic()
    assert run(waits(pair[0], select.POLLIN, seconds)) is False
    assert time.monotonic() - started >= seconds - 0.01
    assert run(waits(pair[0], select.POLLOUT, seconds)) is True


@pytest.mark.parametrize("seconds", [1e7, 1e100, float("inf")])
def test_it_waits_for_longer_than_poll_can(pair, seconds):
    assert run(waits(pair[0], select.POLLOUT, seconds)) is True


def test_what_is_raised_comes_out_and_what_is_open_is_closed(pair, monkeypatch):
    closed = []

    def steps():
        try:
            yield Wait(pair[0].fileno(), select.POLLOUT, time.monotonic())
        finally:
            closed.append(True)

    def broken():
        raise MemoryError

    monkeypatch.setattr(select, "poll", broken)
    with pytest.raises(MemoryError):
        run(steps())
    assert closed
