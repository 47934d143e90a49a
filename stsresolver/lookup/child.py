"""The resolver process: looks up policies for the daemon, away from its caches and sockets.

The daemon starts it (`supervisor`), and asks over the socket that is its standard input
(`messages`). It uses the library's `Resolver` and `DaneResolver`, for many domains at once on
one thread (`loop`). It reads what strangers send. So it holds no cache, no password and no
listening socket, and gives up what it does not need before it reads the first byte (`sandbox`).

It ends when the daemon closes the socket, and leaves signals to the daemon.
"""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from ..dane.resolver import MAX_SOCKETS as MAX_DANE_SOCKETS
from ..dane.resolver import DaneResolver
from ..mta_sts.connector import MAX_SOCKETS
from ..mta_sts.next_hop import parse_next_hop
from ..mta_sts.resolver import Resolver
from ..mta_sts.results import Cause, Failure, Found
from ..net import certificate_guard
from ..net.proxy import Proxy
from ..net.steps import NoTurn, Steps
from ..version import __version__
from .loop import Loop
from .messages import (
    DANE,
    FETCH,
    HELLO,
    LOG,
    MAX_LINE,
    MAX_MESSAGE,
    POLICY_ID,
    RESOLVE,
    WHOLE_DANE,
    Result,
    read,
    write,
    write_result,
)
from .sandbox import confine

# `__name__` would be `__main__`, since this module is run as a program.
log = logging.getLogger("stsresolver.lookup.child")

# Bytes of data at most: the interpreter with its modules, and room for lookups.
_MEMORY = 768 << 20
# Lookups at once, if the limit of descriptors allows as many.
_MOST_LOOKUPS = 4096
# Descriptors kept for other uses, such as a file of certificates.
_SPARE_DESCRIPTORS = 32
# Repeated answers come before first ones, if cores are few (nice(2)).
_NICE = 5
# The settings that are arguments of `DaneResolver`; `trust_ad` is of that alone.
_DNS_ARGUMENTS = ("resolv_conf", "dns_port", "nameservers", "trust_ad")
# How many lookups of a policy hold as many sockets as one of DANE.
_DANE_SIZE = -(-MAX_DANE_SOCKETS // MAX_SOCKETS)


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
        # Exempts start-up objects from garbage collection.
        gc.freeze()
        guarded = certificate_guard.install()
        confined = confine(_MEMORY)
        logger = logging.getLogger("stsresolver")
        logger.setLevel(settings["level"])
        logger.addHandler(ToDaemon(daemon))
        try:
            daemon.send(write(0, HELLO, __version__))
        except ConnectionError:
            # The daemon has stopped already.
            return 0
        log.debug("the resolver process is confined: %s", confined)
        if not guarded:
            log.debug("this OpenSSL cannot be kept from reading certificates that cost much")
        resolvers = functools.cache(functools.partial(make_resolvers, settings["resolver"]))
        Child(daemon, resolvers, most_lookups()).serve()


class Resolvers(NamedTuple):
    """What makes the lookups with one time limit."""

    policies: Resolver
    dane: DaneResolver


def make_resolvers(arguments: Mapping[str, Any], timeout: float) -> Resolvers:
    """Return resolvers with these arguments, and a time limit in seconds."""
    dns = {name: arguments[name] for name in _DNS_ARGUMENTS if name in arguments}
    others = {name: arguments[name] for name in arguments if name != "trust_ad"}
    if "proxy" in others:
        others["proxy"] = Proxy(**others["proxy"])
    return Resolvers(Resolver(timeout, **others), DaneResolver(timeout, **dns))


def most_lookups() -> int:
    """Return how many lookups may be under way; raise the limit of descriptors for them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_LOOKUPS * MAX_SOCKETS + _SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(1, (most - _SPARE_DESCRIPTORS) // MAX_SOCKETS)


class Child:
    """Looks up what the daemon asks, and sends the results.

    `daemon`: the socket to the daemon.
    `resolvers`: returns those for a time limit in seconds.
    `most`: lookups at once.
    """

    def __init__(
        self, daemon: socket.socket, resolvers: Callable[[float], Resolvers], most: int
    ) -> None:
        self._daemon = daemon
        self._resolvers = resolvers
        self._loop = Loop(daemon.fileno(), most)
        self._results: list[tuple[int, Result]] = []
        # One for all packets: the system would have to find and clear memory for each.
        self._received = memoryview(bytearray(MAX_MESSAGE))

    def serve(self) -> NoReturn:
        """Answer until the daemon closes the socket; then end the process."""
        status = 1
        try:
            while True:
                if self._loop.turn():
                    size = self._daemon.recv_into(self._received)
                    if not size:
                        break
                    for message in self._received[:size].tobytes().split(b"\n"):
                        self._begin(message)
                self._send()
            status = 0
        except ConnectionError:
            status = 0
        except Exception:
            log.exception("internal error in the resolver process")
        finally:
            # The daemon no longer waits for the lookups under way.
            os._exit(status)

    def _begin(self, message: bytes) -> None:
        number, what, (domain, timeout, *known_ids) = read(message)
        steps = _answer(self._resolvers(timeout), what, domain, known_ids)
        size = _DANE_SIZE if what in (DANE, WHOLE_DANE) else 1
        self._loop.start(steps, functools.partial(self._done, number), size)

    def _done(self, number: int, result: Result) -> None:
        self._results.append((number, result))

    def _send(self) -> None:
        """Send the results of this turn of the loop, in one packet if they fit."""
        if not self._results:
            return
        results, self._results = self._results, []
        messages = [write_result(number, result) for number, result in results]
        packet = b"\n".join(messages)
        if len(packet) <= MAX_MESSAGE and self._sends(packet):
            return
        for message, (number, result) in zip(messages, results, strict=True):
            if not self._sends(message):
                policy_id = result.id if isinstance(result, Found) else ""
                why = "the socket buffers of this host are too small for it"
                self._daemon.send(write_result(number, Failure(Cause.SIZE, why, policy_id)))

    def _sends(self, packet: bytes) -> bool:
        """Send a packet; return whether the socket can take one of its size."""
        try:
            self._daemon.send(packet)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return False
        return True


def _answer(resolvers: Resolvers, what: str, domain: str, known_ids: list[str]) -> Steps[Result]:
    """Answer one question. An internal error ends this lookup alone."""
    try:
        result: Result = yield from _look_up(resolvers, what, domain, known_ids)
        return result
    except NoTurn:
        return Failure(Cause.PROCESS, "it got no CPU for 15 seconds: this host has too much to do")
    except Exception as error:
        log.exception("%s: internal error in a lookup", domain)
        return Failure(Cause.PROCESS, f"{type(error).__name__}: {error}")


def _look_up(resolvers: Resolvers, what: str, domain: str, known_ids: list[str]) -> Steps[Any]:
    if what == RESOLVE:
        return resolvers.policies.steps_of_resolve(domain, *known_ids)
    if what == POLICY_ID:
        return resolvers.policies.steps_of_policy_id(domain)
    if what == FETCH:
        return resolvers.policies.steps_of_fetch(domain)
    next_hop = parse_next_hop(domain.encode())
    if what in (DANE, WHOLE_DANE) and next_hop is not None:
        return resolvers.dane.steps_of_look_up(next_hop, whole=what == WHOLE_DANE)
    raise ValueError(f"not a lookup: {what!a}")


if __name__ == "__main__":
    sys.exit(main())
