"""mta-sts-daemon: the socketmap server as a process, from its arguments to its exit status.

Exit statuses are those of sysexits.h: 0 after a stop that was asked for, 1 after one that left
requests unanswered (asked for twice, or past shutdown_timeout), 64 for wrong arguments, 69 for an
address that cannot be listened on, 71 for a child that cannot be started, at first or for minutes
later, 73 for a file that cannot be written, 77 for a user it cannot become, 78 for a wrong
configuration. `--check-config` ends with 0 or 78, `--doctor` with 0, 78, or 1 where it found a
problem; both with 74 or 141 where what they say cannot be printed (`output`).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from .cache.store import StoreError
from .config.descriptors import own_descriptors
from .config.keys import DEFAULT_PATH, ConfigError, load
from .config.settings import (
    Config,
    LogSettings,
    MetricsSettings,
    SharedCache,
    StatusSettings,
    UnixAddress,
)
from .control.commands import Commands
from .control.server import MODE, ControlServer
from .lookup.supervisor import StartError
from .monitoring.http_server import Make, PageServer
from .net.file_changes import stamp
from .net.proxy import Proxy, ProxyError, from_environment
from .process.arguments import Arguments
from .process.daemon_log import LEVELS, Log
from .process.output import complain, say
from .process.pidfile import PidfileError, pidfile
from .process.privileges import PrivilegeError, become, group_id, user_id
from .process.signal_jobs import SignalJobs
from .process.systemd import ServiceManager, hands_sockets, listen_fds
from .service import Service
from .socketmap import listeners
from .socketmap.server import SocketmapServer
from .status.overview import Reader
from .status.pages import StatusPages
from .stores.opening import open_cache
from .version import __version__

log = logging.getLogger("stsresolver.daemon")

# Seconds that closing caches, log and resolver process may take after the last answer.
CLEANUP = 10.0
# When Python looks for cyclic garbage (gc.set_threshold). Hardly anything here makes any, but each
# look stops the serving thread, and by default it looks at all policies often.
_COLLECTOR = 5_000, 5, 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon. Return its exit status."""
    with ServiceManager() as manager:
        options = _arguments().parse_args(argv)
        # Then where to listen is ignored, owner and group included.
        options.handed_sockets = hands_sockets()
        try:
            config, source = _configuration(options)
            if options.check_config or options.doctor:
                return _look(config, source, options)
            return _run(config, source, options, manager)
        except ConfigError as error:
            status, why = os.EX_CONFIG, str(error)
        except listeners.ListenError as error:
            status, why = os.EX_UNAVAILABLE, str(error)
        except StartError as error:
            status, why = os.EX_OSERR, str(error)
        except PrivilegeError as error:
            status, why = os.EX_NOPERM, str(error)
        except (CannotWrite, PidfileError) as error:
            status, why = os.EX_CANTCREAT, str(error)
        except StoreError as error:
            status, why = os.EX_CONFIG, str(error)
        manager.refused(why)
        return _refuse(status, why)


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
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--check-config", action="store_true", help="print the configuration that holds")
    instead("--doctor", action="store_true", help="say what is wrong on this host")
    add("--postfix-config", metavar="DIR", help="Postfix's configuration, for --doctor")
    return parser


def _refuse(status: int, message: str) -> int:
    for line in message.splitlines():
        complain(f"mta-sts-daemon: {line}")
    return status


def _look(config: Config, source: str, options: argparse.Namespace) -> int:
    """Print the configuration, or what the doctor finds. Return the exit status."""
    # Loaded here: a daemon that serves needs none of it.
    if options.check_config:
        from .config.effective import effective  # noqa: PLC0415

        for warning in config.warnings:
            complain(f"mta-sts-daemon: warning: {warning}")
        for line in effective(config, source, os.environ):
            say("mta-sts-daemon", line)
        return os.EX_OK
    from .doctor.examination import examine  # noqa: PLC0415

    return examine(config, source, user=options.user, postfix_directory=options.postfix_config)


def _configuration(options: argparse.Namespace) -> tuple[Config, str]:
    """Return the configuration and a word about where it comes from."""
    path = options.config
    if path is None:
        if not os.path.exists(DEFAULT_PATH):
            return Config(), f"built-in defaults: there is no {DEFAULT_PATH}"
        path = DEFAULT_PATH
    config = load(path)
    _check_host(config, path, makes_sockets=not options.handed_sockets)
    return config, path


def _check_host(config: Config, path: str, *, makes_sockets: bool) -> None:
    """Raise `ConfigError` for all that the file `path` wants and this host does not have."""
    problems: list[tuple[int, str]] = []

    def lacks(key: str, what: str) -> None:
        line = config.lines[key]
        problems.append((line, f"{path}:{line}: {what}"))

    for one in config.unix_addresses if makes_sockets else ():
        for key, account, number in (("owner", one.owner, user_id), ("group", one.group, group_id)):
            try:
                if account is not None:
                    number(account)
            except PrivilegeError as error:
                lacks("listen" if config.listen else key, f"{key}: {error}")
    others = [one.path for one in config.unix_addresses]
    others += [one.path for one in (config.metrics, config.status) if one and one.path]
    if config.control is not None and config.control.path in others:
        lacks("control.path", f"control.path: {config.control.path} has another use already")
    # The extras are loaded now, because the user that the daemon becomes may not be able to.
    if config.metrics is not None:
        try:
            from .monitoring import metrics  # noqa: F401, PLC0415
        except ImportError as error:
            how = f"{sys.executable} -m pip install 'stsresolver[metrics]'"
            lacks("metrics", f"metrics: {error}: {how}")
    if isinstance(config.cache, SharedCache):
        try:
            # Nothing is connected before it is needed.
            open_cache(config.cache, config.cache_grace).close()
        except StoreError as error:
            lacks("cache.type", str(error))
    if problems:
        raise ConfigError(*(text for _, text in sorted(problems)))


def _run(config: Config, source: str, options: argparse.Namespace, manager: ServiceManager) -> int:
    """Serve until a signal ends it. Return the exit status. Raise `StartError` if it gives up."""
    gave_up = threading.Event()
    with contextlib.ExitStack() as cleanup:
        settings = _log_settings(config, options)
        try:
            output = Log(LEVELS[options.verbosity], settings)
        except OSError as error:
            raise CannotWrite(f"{settings.file}: cannot be written: {error.strerror}") from error
        cleanup.callback(output.close)
        log.info("stsresolver %s, configuration: %s", __version__, source)
        for warning in config.warnings:
            log.warning("%s", warning)
        try:
            server = _ready(config, source, options, cleanup, manager, gave_up)
        except Exception as error:
            if settings.target != "stderr":
                log.critical("not started: %s", error)
            raise
        gc.freeze()
        gc.set_threshold(*_COLLECTOR)
        clean = server.serve_forever()
        log.info("stopped")
    if gave_up.is_set():
        raise StartError("stopped for want of a resolver process; the log says why there is none")
    return os.EX_OK if clean else 1


def _log_settings(config: Config, options: argparse.Namespace) -> LogSettings:
    """Return how to log: the file of -l wins over the configuration's target."""
    if options.logfile is None:
        return config.log
    return replace(config.log, target="file", file=options.logfile)


def _proxy(config: Config) -> Proxy | None:
    """Return the proxy that policies are fetched through. Raise `ConfigError`."""
    try:
        proxy = from_environment(os.environ, config.https_proxy, config.no_proxy)
    except ProxyError as error:
        raise ConfigError(f"https_proxy in the environment: {error}") from error
    if proxy is not None:
        log.info("policies are fetched through the proxy %s", proxy)
    return proxy


def _ready(
    config: Config,
    source: str,
    options: argparse.Namespace,
    cleanup: contextlib.ExitStack,
    manager: ServiceManager,
    gave_up: threading.Event,
) -> SocketmapServer:
    """Return the server, listening and with its privileges given up.

    `source`: where the configuration comes from.
    `gave_up`: set if it stops because there is no resolver process.
    """
    sockets = cleanup.enter_context(_listening(config))
    page_sockets = cleanup.enter_context(_listening_for_pages(config))
    control_socket = cleanup.enter_context(_listening_for_control(config))
    server = SocketmapServer(
        sockets,
        workers=config.workers,
        shutdown_timeout=config.shutdown_timeout,
        own_descriptors=own_descriptors(config.cache),
    )
    cleanup.callback(server.server_close)

    orders = SignalJobs()

    def stop(*_: object) -> None:
        manager.stopping(server.shutdown_timeout + CLEANUP)
        server.stop()

    def give_up() -> None:
        gave_up.set()
        stop()

    def reload() -> None:
        manager.reloading()
        try:
            _reload(service, options)
        finally:
            manager.ready()

    def run_now() -> None:
        service.run_now()

    # Whoever reads the pidfile may send a signal at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: orders.give(reload))
    signal.signal(signal.SIGUSR1, lambda *_: orders.give(run_now))
    # A signal that comes just before the poll, or to another thread, does not interrupt it.
    signal.set_wakeup_fd(server.wake_descriptor, warn_on_full_buffer=False)
    cleanup.callback(signal.set_wakeup_fd, -1)
    if options.pidfile is not None:
        cleanup.enter_context(pidfile(options.pidfile))
    become(options.user, options.group)
    if os.geteuid() == 0:
        log.warning("the daemon goes on as root: -u USER makes it give that up")

    # Made now, because the cache's file is to belong to the user we have become.
    service = Service(server, config, _proxy(config))
    cleanup.callback(service.close)
    service.start(give_up if manager.starts_anew else None)
    orders.start()
    _serve_pages(service, config, source, page_sockets, cleanup)
    if control_socket is not None:
        _serve_control(service, control_socket, cleanup)
    names = [listeners.name(one) for one in sockets]
    for name in names:
        log.info("listening on %s", name)
    manager.serves(server.soon, f"Listening on {', '.join(names)}")
    return server


# Where pages are asked for, and which of them: "metrics", "status" or both.
_PageSockets: TypeAlias = list[tuple[socket.socket, list[str]]]


def _serve_pages(
    service: Service,
    config: Config,
    source: str,
    sockets: _PageSockets,
    cleanup: contextlib.ExitStack,
) -> None:
    """Serve metrics, health and status from now on, where there is a socket for them."""
    if not sockets:
        return
    made: dict[str, Mapping[str, Make]] = {}
    probes: Sequence[str] = ()
    if config.metrics is not None:
        # The extra may be missing where nobody wants metrics.
        from .monitoring import metrics  # noqa: PLC0415

        made["metrics"], probes = metrics.pages(service, config.cache), metrics.PROBES
    if config.status is not None:
        reader = Reader(service, config.cache, source)
        reader.history.start()
        cleanup.callback(reader.history.stop)
        made["status"] = StatusPages(reader, config.status.hosts).pages()
    for one, kinds in sockets:
        pages = {path: make for kind in kinds for path, make in made[kind].items()}
        server = PageServer(one, pages, probes)
        server.start()
        cleanup.callback(server.close)
        for kind in kinds:
            said = {"metrics": "metrics and health", "status": "status"}[kind]
            log.info("%s at %s", said, listeners.name(one))


def _serve_control(
    service: Service, listener: socket.socket, cleanup: contextlib.ExitStack
) -> None:
    """Answer `mta-sts-query cache` from now on."""
    commands = Commands(service.policies, lambda: service.proactive.timeout)
    server = ControlServer(listener, commands)
    server.start()
    cleanup.callback(server.close)
    log.info("control at %s", listeners.name(listener))


def _reload(service: Service, options: argparse.Namespace) -> None:
    """Go by the configuration as it is now; by the one before, if something is wrong with it."""
    try:
        config, source = _configuration(options)
        kept = service.reload(config, _proxy(config))
    except ConfigError as error:
        for line in str(error).splitlines():
            log.error("not reloaded: %s", line)
        return
    for warning in config.warnings:
        log.warning("%s", warning)
    log.info("reloaded, configuration: %s", source)
    if kept:
        log.warning("only a restart changes %s", ", ".join(kept))


@contextlib.contextmanager
def _listening(config: Config) -> Iterator[list[socket.socket]]:
    """Listen where the service manager or else the configuration says.

    The files of UNIX sockets that we made are removed at the end.
    """
    try:
        passed = listeners.take_over(listen_fds())
    except ValueError as error:
        raise listeners.ListenError(str(error)) from error
    if passed:
        log.info("using sockets from the service manager; ignoring host, port, path and listen")
        yield passed
        return
    with contextlib.ExitStack() as cleanup:
        found: list[socket.socket] = []
        for one in config.addresses:
            if isinstance(one, UnixAddress):
                uid = user_id(one.owner) if one.owner is not None else -1
                gid = group_id(one.group) if one.group is not None else -1
                found.append(cleanup.enter_context(_unix(one.path, one.mode, uid, gid)))
            else:
                found += listeners.listen_tcp(one.host, one.port, reuse_port=config.reuse_port)
        yield found


@contextlib.contextmanager
def _listening_for_pages(config: Config) -> Iterator[_PageSockets]:
    """Listen where metrics and status are asked for, if they are; once where both are."""
    wanted: dict[object, list[tuple[str, MetricsSettings | StatusSettings]]] = {}
    for kind, settings in (("metrics", config.metrics), ("status", config.status)):
        if settings is not None:
            where = settings.path or (settings.host, settings.port)
            wanted.setdefault(where, []).append((kind, settings))
    with contextlib.ExitStack() as cleanup:
        found: _PageSockets = []
        for asked in wanted.values():
            kinds, settings = [kind for kind, _ in asked], asked[0][1]
            if settings.path is not None:
                sockets = [cleanup.enter_context(_unix(settings.path, settings.mode))]
            else:
                assert settings.port is not None
                # As where Postfix asks, so that a new daemon can take over.
                shared = config.reuse_port
                sockets = listeners.listen_tcp(settings.host, settings.port, reuse_port=shared)
            found += [(cleanup.enter_context(one), kinds) for one in sockets]
        yield found


@contextlib.contextmanager
def _listening_for_control(config: Config) -> Iterator[socket.socket | None]:
    """Listen where the cache is looked after, if that is wanted. No mail waits for want of it."""
    if config.control is None:
        yield None
        return
    path = config.control.path
    with contextlib.ExitStack() as cleanup:
        listener = None
        try:
            # A daemon that this one takes over from may still listen there: the newest is asked.
            listener = cleanup.enter_context(_unix(path, MODE, replace=True))
            cleanup.enter_context(listener)
        except listeners.ListenError as error:
            log.warning("no control socket: %s", error)
        yield listener


@contextlib.contextmanager
def _unix(
    path: str, mode: int | None, uid: int = -1, gid: int = -1, *, replace: bool = False
) -> Iterator[socket.socket]:
    """Listen on a UNIX socket, and remove its file at the end."""
    listener = listeners.listen_unix(path, mode, uid, gid, replace=replace)
    ours = stamp(path, follow=False)
    try:
        yield listener
    finally:
        with _cleaning(path):
            listeners.remove_unix(path, ours)


@contextlib.contextmanager
def _cleaning(path: str) -> Iterator[None]:
    """Log that a file stays behind, where the user we became may not remove it."""
    try:
        yield
    except OSError as error:
        log.warning("%s stays: %s", path, error.strerror)


if __name__ == "__main__":
    sys.exit(main())
