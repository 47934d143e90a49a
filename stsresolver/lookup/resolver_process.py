"""One resolver process, from its start to its end, and the daemon's end of the socket to it.

                     its first message
    start ---> LOADING -------------> READY -----> its end
                  |                     |             ^
                  +---------------------+--> KILLED --+
                    silent past its time limit

It decides nothing: `supervisor` does, and holds its lock where it calls what sends or closes.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from .messages import HELLO, MAX_MESSAGE, write
from .program import spawn

log = logging.getLogger(__name__)

# Seconds that a process may take to end by itself, before it is killed.
_END = 1.0
# Clock ticks a second, in which the kernel counts CPU time (proc(5)).
_TICKS = os.sysconf("SC_CLK_TCK")


class State(enum.Enum):
    """The state of a process between its start and its end."""

    LOADING = "loading"
    READY = "ready"
    KILLED = "killed"


# Which states may follow each, as drawn above.
_NEXT = {
    State.LOADING: (State.READY, State.KILLED),
    State.READY: (State.KILLED,),
    State.KILLED: (),
}


@dataclass(slots=True)
class Process:
    """A process, and the daemon's end of the socket to it.

    `heard`: when its last message came (monotonic).
    `greeted`: whether its first message came.
    `full`: since when its socket is full (monotonic), None while it is not.
    `overdue`: the domains that it did not answer for in time.
    """

    process: subprocess.Popen[bytes]
    socket: socket.socket
    heard: float
    state: State = State.LOADING
    greeted: bool = False
    full: float | None = None
    overdue: set[str] = field(default_factory=set)

    def become(self, state: State) -> bool:
        """Enter a state if the present one allows it; return whether it does."""
        if state not in _NEXT[self.state]:
            return False
        self.state = state
        return True

    def send(self, packet: bytes) -> bool:
        """Send a packet; return whether it was sent. If the socket is full, note since when."""
        try:
            self.socket.send(packet)
        except BlockingIOError:
            self.full = self.full or time.monotonic()
            return False
        except OSError as error:
            # The listening thread notices its end.
            log.debug("asking the resolver process: %s", error)
            return False
        self.full = None
        return True

    def receive(self, buffer: bytearray) -> bytes | None:
        """Return the packet that has come, empty after the end, None if none has come.

        `buffer`: used to read it.
        """
        try:
            size = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""
        self.heard = time.monotonic()
        return bytes(memoryview(buffer)[:size])

    def hang_up(self) -> None:
        """Have the listening thread see the end of the process."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Kill the process, which is still to be reaped."""
        self.process.kill()

    def reap(self) -> int:
        """Wait for the end, and kill the process if that takes too long. Return its status."""
        try:
            return self.process.wait(_END)
        except (subprocess.TimeoutExpired, OSError):
            # OSError: the sleep in `wait` fails if the clock jumps.
            self.process.kill()
            return self.process.wait()


def start(resolver: Mapping[str, object], level: int) -> Process:
    """Start a process, and tell it its settings. Raise `OSError` if it cannot start.

    `level`: of its log.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        for one in (ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
        ours.setblocking(False)
        try:
            process = spawn(theirs)
        except BaseException:
            ours.close()
            raise
    # The listening thread notices its end.
    with contextlib.suppress(ConnectionError):
        ours.send(write(0, HELLO, {"resolver": resolver, "level": level}))
    return Process(process, ours, time.monotonic())


def cpu_seconds(pid: int | None) -> float:
    """Return the seconds of CPU that a process has used so far, 0 if there is none (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold spaces itself.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
