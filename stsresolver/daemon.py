"""mta-sts-daemon: the socketmap server as a process, from its arguments to its exit status.

Exit statuses are those of sysexits.h: 0 after a stop that was asked for, 1 after one that left
requests unanswered (asked for twice, or past shutdown_timeout), 64 for wrong arguments, 69 for an
address that cannot be listened on, 73 for a file that cannot be written, 77 for a user it cannot
become, 78 for a wrong configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

from . import listeners
from .answer import Answers
from .arguments import Arguments
from .cache import StoreError
from .cache.opening import open_cache
from .config import DEFAULT_PATH, ConfigError, load
from .files import stamp
from .logs import LEVELS, Log
from .policies import Policies
from .privileges import PrivilegeError, become
from .proactive import Proactive
from .resolver_process import ResolverProcess
from .server import SocketmapServer
from .settings import Config, InternalCache
from .version import __version__

log = logging.getLogger("stsresolver.daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon. Return its exit status."""
    options = _arguments().parse_args(argv)
    try:
        config, source = _configuration(options.config)
        return _run(config, source, options)
    except ConfigError as error:
        return _refuse(os.EX_CONFIG, str(error))
    except listeners.ListenError as error:
        return _refuse(os.EX_UNAVAILABLE, f"cannot listen on {error}")
    except PrivilegeError as error:
        return _refuse(os.EX_NOPERM, str(error))
    except CannotWrite as error:
        return _refuse(os.EX_CANTCREAT, str(error))
    except StoreError as error:
        return _refuse(os.EX_CONFIG, str(error))


class CannotWrite(Exception):
    """A file named in the arguments cannot be written."""


def _arguments() -> Arguments:
    parser = Arguments(
        prog="mta-sts-daemon", description="Answers Postfix's smtp_tls_policy_maps after MTA-STS."
    )
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help=f"configuration (default: {DEFAULT_PATH})")
    add("-v", "--verbosity", choices=LEVELS, default="info", help="log level (default: info)")
    add("-l", "--logfile", metavar="FILE", help="log to this file instead of standard error")
    add("-p", "--pidfile", metavar="FILE", help="write the process id to this file")
    add("-u", "--user", help="become this user once socket, log and pidfile are open")
    add("-g", "--group", help="become this group once socket, log and pidfile are open")
    add("--disable-uvloop", action="store_true", help="accepted and ignored")
    return parser


def _refuse(status: int, message: str) -> int:
    for line in message.splitlines():
        print(f"mta-sts-daemon: {line}", file=sys.stderr)
    return status


def _configuration(path: str | None) -> tuple[Config, str]:
    """Return the configuration and a word about where it comes from."""
    if path is None:
        if not os.path.exists(DEFAULT_PATH):
            return Config(), f"built-in defaults: there is no {DEFAULT_PATH}"
        path = DEFAULT_PATH
    return load(path), path


def _run(config: Config, source: str, options: argparse.Namespace) -> int:
    """Serve until a signal ends it. Return the exit status."""
    with contextlib.ExitStack() as cleanup:
        try:
            output = Log(LEVELS[options.verbosity], options.logfile)
        except OSError as error:
            raise CannotWrite(f"{options.logfile}: {error.strerror}") from error
        cleanup.callback(output.close)
        log.info("stsresolver %s, configuration: %s", __version__, source)
        for warning in config.warnings:
            log.warning("%s", warning)
        try:
            server = _ready(config, options, cleanup)
        except Exception as error:
            if options.logfile is not None:
                log.critical("not started: %s", error)
            raise
        clean = server.serve_forever()
        log.info("stopped")
    return os.EX_OK if clean else 1


def _ready(
    config: Config, options: argparse.Namespace, cleanup: contextlib.ExitStack
) -> SocketmapServer:
    """Return the server, listening and with its privileges given up."""
    sockets = cleanup.enter_context(_listening(config))
    server = SocketmapServer(
        sockets, workers=config.workers, shutdown_timeout=config.shutdown_timeout
    )
    cleanup.callback(server.server_close)
    # Whoever reads the pidfile may send a signal at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    signal.signal(signal.SIGHUP, lambda *_: log.warning("SIGHUP: start the daemon anew instead"))
    # A signal that comes just before the poll, or to another thread, does not interrupt it.
    signal.set_wakeup_fd(server.wake_descriptor, warn_on_full_buffer=False)
    cleanup.callback(signal.set_wakeup_fd, -1)
    cleanup.enter_context(_pidfile(options.pidfile))
    become(options.user, options.group)

    # Opened now, because the cache's file is to belong to the user we have become.
    cache = open_cache(config.cache, config.cache_grace)
    cleanup.callback(cache.close)
    resolver = ResolverProcess(config.workers, {})
    resolver.start()
    cleanup.callback(resolver.close)
    policies = Policies(
        cache,
        functools.cache(resolver.lookups),
        grace=config.cache_grace,
        behind=server.behind,
        changed=server.forget,
        interval=config.proactive.interval,
        grace_ratio=config.proactive.grace_ratio,
    )
    server.source = Answers(policies, config.default_zone, config.zones)
    proactive = Proactive(
        cache,
        policies,
        behind=server.behind,
        fetch=config.proactive.enabled,
        timeout=config.default_zone.timeout,
        concurrency_limit=config.proactive.concurrency_limit,
        unused_after=config.proactive.unused_after,
        interval=config.proactive.interval,
    )
    if config.proactive.enabled or not isinstance(config.cache, InternalCache):
        proactive.start()
        cleanup.callback(proactive.stop)
    for one in sockets:
        log.info("listening on %s", listeners.name(one))
    return server


@contextlib.contextmanager
def _listening(config: Config) -> Iterator[list[socket.socket]]:
    """Listen where the configuration says; a UNIX socket's file is removed at the end."""
    if config.path is None:
        yield listeners.listen_tcp(config.host, config.port, reuse_port=config.reuse_port)
        return
    listener = listeners.listen_unix(config.path, config.mode)
    ours = stamp(config.path)
    try:
        yield [listener]
    finally:
        with _cleaning(config.path):
            listeners.remove_unix(config.path, ours)


@contextlib.contextmanager
def _pidfile(path: str | None) -> Iterator[None]:
    """Write the process id to `path`, and remove the file at the end if it still is ours."""
    if path is None:
        yield
        return
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise CannotWrite(f"{path}: {error.strerror}") from error
    ours = stamp(path)
    try:
        yield
    finally:
        with _cleaning(path):
            if stamp(path) == ours:
                os.unlink(path)


@contextlib.contextmanager
def _cleaning(path: str) -> Iterator[None]:
    """Log that a file stays behind, where the user we became may not remove it."""
    try:
        yield
    except OSError as error:
        log.warning("%s stays: %s", path, error.strerror)


if __name__ == "__main__":
    sys.exit(main())
