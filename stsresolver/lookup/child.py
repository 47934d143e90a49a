"""The resolver process: looks up policies for the daemon, away from its caches and sockets.

It is the daemon's child (`resolver_process`), and talks with it in `lookup_messages` over the
socket that is its standard input. A thread reads what is asked, looks it up with the synchronous
`Resolver` and says what came of it; while it waits for the network, others do (`turns`). Everything
that strangers send is read here, by a process that holds nothing worth taking and has given up what
it does not need (`confinement`).

It ends when the daemon closes the socket, and leaves signals to the daemon.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any, NoReturn

from ..mta_sts.resolver import Resolver
from ..mta_sts.results import Cause, Failure
from ..net.proxy import Proxy
from ..net.steps import Steps
from ..version import __version__
from .loop import Loop
from .messages import (
    FETCH,
    HELLO,
    LOG,
    MAX_LINE,
    MAX_MESSAGE,
    POLICY_ID,
    RESOLVE,
    Result,
    read,
    write,
    write_result,
)
from .sandbox import confine

# By name: as the program of a process this module is `__main__`.
log = logging.getLogger("stsresolver.lookup.child")

# Bytes of data: the interpreter and its modules, and what each lookup may take of it.
_BASE_MEMORY = 256 << 20
_LOOKUP_MEMORY = 2 << 20
# A repeated answer is worth more than a new one sooner, where there are fewer cores than threads
# that compute.
_NICE = 5
# Bytes of a question: a domain and few words.
_MAX_ASKED = 4096
# Bytes of a thread's stack; the system's usual 8 MB would be more than the limit above.
_STACK = 512 << 10


class ToDaemon(logging.Handler):
    """Sends log records to the daemon, which writes the log."""

    def __init__(self, daemon: socket.socket) -> None:
        super().__init__()
        self._daemon = daemon

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record as text."""
        try:
            text = self.format(record)[:MAX_LINE]
            self._daemon.send(write(0, LOG, record.levelno, record.name, text))
        except OSError:
            self.handleError(record)


def main() -> int:
    """Serve the daemon at standard input until it closes. Return the exit status."""
    # A service manager signals every process; the daemon still needs its answers then.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as daemon:
        _, _, (settings,) = read(daemon.recv(MAX_MESSAGE))
        workers = settings["workers"]
        # What is there now stays, and need not be looked through again and again.
        gc.freeze()
        confined = confine(_BASE_MEMORY + workers * _LOOKUP_MEMORY)
        logger = logging.getLogger("stsresolver")
        logger.setLevel(settings["level"])
        logger.addHandler(ToDaemon(daemon))
        try:
            daemon.send(write(0, HELLO, __version__))
        except ConnectionError:
            # It was stopped meanwhile.
            return 0
        log.debug("the resolver process is confined: %s", confined)
        arguments = settings["resolver"]
        if "proxy" in arguments:
            arguments["proxy"] = Proxy(**arguments["proxy"])
        resolver = functools.cache(functools.partial(Resolver, **arguments))
        Child(daemon, resolver, _most_lookups()).serve()


class Child:
    """Looks up what the daemon asks, and sends what came of it.

    `resolver` gives one for a time limit; `most`: lookups at once.
    """

    def __init__(self, daemon: socket.socket, resolver: Any, most: int) -> None:
        self._daemon = daemon
        self._resolver = resolver
        self._loop = Loop(daemon.fileno(), most)
        self._results: list[bytes] = []

    def serve(self) -> NoReturn:
        """Answer what is asked until the daemon closes the socket; then end the process."""
        status = 1
        try:
            while True:
                if self._loop.turn():
                    packet = self._daemon.recv(MAX_MESSAGE)
                    if not packet:
                        break
                    for message in packet.split(b"\n"):
                        self._begin(message)
                self._send()
            status = 0
        except ConnectionError:
            status = 0
        except Exception:
            log.exception("internal error in the resolver process")
        finally:
            os._exit(status)

    def _begin(self, message: bytes) -> None:
        number, what, (domain, timeout, *known_ids) = read(message)
        steps = _steps(self._resolver(timeout), what, domain, known_ids)
        self._loop.start(steps, functools.partial(self._done, number))

    def _done(self, number: int, result: Result) -> None:
        self._results.append(write_result(number, result))

    def _send(self) -> None:
        """Send the results of this turn, in as few packets as they fit into."""
        if not self._results:
            return
        results, self._results = self._results, []
        packet = b"\n".join(results)
        if len(packet) <= MAX_MESSAGE:
            self._daemon.send(packet)
            return
        for result in results:
            self._daemon.send(result)


def _most_lookups() -> int:
    """Return how many lookups may be under way: each has one socket at a time, and some spare."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(16, min(hard, 8192) - 64)


def _steps(resolver: Resolver, what: str, domain: str, known_ids: list[str]) -> Steps[Result]:
    try:
        return (yield from _look_up(resolver, what, domain, known_ids))
    except Exception as error:
        log.exception("%s: internal error while looking up the policy", domain)
        return Failure(Cause.PROCESS, f"{type(error).__name__}: {error}")


def _look_up(resolver: Resolver, what: str, domain: str, known_ids: list[str]) -> Steps[Any]:
    if what == RESOLVE:
        return resolver.steps_of_resolve(domain, *known_ids)
    if what == POLICY_ID:
        return resolver.steps_of_policy_id(domain)
    if what == FETCH:
        return resolver.steps_of_fetch(domain)
    raise ValueError(f"not a lookup: {what!a}")


if __name__ == "__main__":
    sys.exit(main())
