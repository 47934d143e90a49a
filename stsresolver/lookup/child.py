"""The resolver process: looks up policies for the daemon, away from its caches and sockets.

It is the daemon's child (`resolver_process`), and talks with it in `lookup_messages` over the
socket that is its standard input. A thread reads what is asked, looks it up with the synchronous
`Resolver` and says what came of it; while it waits for the network, others do (`turns`). Everything
that strangers send is read here, by a process that holds nothing worth taking and has given up what
it does not need (`confinement`).

It ends when the daemon closes the socket, and leaves signals to the daemon.
"""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from ..mta_sts.resolver import Resolver
from ..mta_sts.results import Cause, Failure, Found
from ..net.proxy import Proxy
from ..version import __version__
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
from .scheduler import Scheduler

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
        threading.stack_size(_STACK)
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
        turns = Scheduler(daemon.fileno())
        resolver = functools.cache(functools.partial(Resolver, wait=turns.wait, **arguments))
        Workers(daemon, turns, resolver, workers).serve()


class Workers:
    """The threads that look up what the daemon asks, started as needed.

    `resolver` gives one for a time limit; `most`: lookups at once. There is one thread more, so
    that one sees the daemon go while the others look up.
    """

    def __init__(self, daemon: socket.socket, turns: Scheduler, resolver: Any, most: int) -> None:
        self._daemon = daemon
        self._turns = turns
        self._resolver = resolver
        self._left = most

    def serve(self) -> NoReturn:
        """Answer what is asked until the daemon closes the socket; then end the process."""
        self._turns.question()
        self._work()

    def _work(self) -> NoReturn:
        """Answer one question after the other, as each of the threads does."""
        status = 1
        try:
            while message := self._question():
                if self._left > 0 and not self._turns.idle:
                    self._start_another()
                _answer(self._daemon, self._resolver, message)
                self._turns.question()
            status = 0
        except Exception:
            log.exception("the resolver process met a bug of this program")
        finally:
            # Lookups that nobody waits for any more are not waited for.
            os._exit(status)

    def _question(self) -> bytes:
        """Return the next message, nothing once the daemon has gone."""
        try:
            return self._daemon.recv(_MAX_ASKED)
        except ConnectionError:
            return b""

    def _start_another(self) -> None:
        try:
            self._turns.start(self._work)
        except RuntimeError as error:
            # What is asked waits for the threads that there are.
            log.warning("no thread for another lookup: %s", error)
        else:
            self._left -= 1


def _answer(daemon: socket.socket, resolver: Any, message: bytes) -> None:
    """Look up one thing, and send what came of it."""
    number, what, (domain, timeout, *known_ids) = read(message)
    try:
        result = _look_up(resolver(timeout), what, domain, known_ids)
    except Exception as error:
        log.exception("%s: the lookup ended in a bug of this program", domain)
        result = Failure(Cause.PROCESS, f"{type(error).__name__}: {error}")
    try:
        daemon.send(write_result(number, result))
    except ConnectionError:
        # The next one to wait for the daemon sees that it has gone.
        return
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        policy_id = result.id if isinstance(result, Found) else ""
        why = "the socket buffers of this host are too small for it"
        daemon.send(write_result(number, Failure(Cause.SIZE, why, policy_id)))


def _look_up(resolver: Resolver, what: str, domain: str, known_ids: list[str]) -> Result:
    if what == RESOLVE:
        return resolver.resolve(domain, *known_ids)
    if what == POLICY_ID:
        return resolver.policy_id(domain)
    if what == FETCH:
        return resolver.fetch(domain)
    raise ValueError(f"not a lookup: {what!a}")


if __name__ == "__main__":
    sys.exit(main())
