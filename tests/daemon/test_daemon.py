"""The daemon as a process: arguments, exit statuses, sockets, files, signals, log.

Only next hops that need no lookup are asked, or a made-up resolver answers: nothing leaves the
machine.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stsresolver.daemon import main
from stsresolver.socketmap.listeners import listen_tcp, listen_unix
from stsresolver.version import __version__
from tests.support.giving_up_root import gives_up_root
from tests.support.socketmap_client import DEADLINE, Address, Client, cpu_seconds, frame, wait_for

ROOT = Path(__file__).parent.parent.parent
DAEMON = [sys.executable, "-m", "stsresolver.daemon"]
NO_LOOKUP = b"zone [192.0.2.1]"
SECURE = b"OK secure match=mail.example servername=hostname"
AS_ROOT = "the daemon goes on as root"
LINE = re.compile(r"[0-9-]{10} [0-9:,]{12} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S.*)")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives it up")

# The daemon with a resolver that is told by the domain what to do. argv[1]: a directory.
WITH_RESOLVER = """
import os, sys, threading, time
from stsresolver import daemon, service
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.mta_sts.policy import parse_policy

class ResolverPool:
    absence = 0.0

    def __init__(self, resolver, watch):
        pass

    def start(self):
        pass

    def close(self):
        pass

    def change(self, resolver):
        pass

    def flush(self):
        pass

    def lookups(self, timeout):
        return self

    def begin_resolve(self, domain, known_ids, done):
        if domain == "bug.example":
            raise RuntimeError("two\\nlines")
        threading.Thread(target=lambda: done(self.resolve(domain, known_ids)), daemon=True).start()

    def begin_policy_id(self, domain, done):
        done(self.policy_id(domain))

    def begin_fetch(self, domain, done):
        done(self.fetch(domain))

    def resolve(self, domain, known_ids):
        found = self.policy_id(domain)
        if not isinstance(found, str):
            return found
        return NotChanged(found) if found in known_ids else Found(self.fetch(domain), found)

    def policy_id(self, domain):
        if domain == "hang.example":
            open(os.path.join(sys.argv[1], "asked"), "w").close()
            while not os.path.exists(os.path.join(sys.argv[1], "release")):
                time.sleep(0.005)
            return NoPolicy(Cause.NO_RECORD)
        if domain == "hostile.example":
            return Failure(Cause.DNS, "an answer\\nwith \\x1b[2J in it")
        return "1"

    def fetch(self, domain):
        return parse_policy(
            b"version: STSv1\\nmode: enforce\\nmx: mail.example\\nmax_age: 86400\\n"
        )

service.ResolverPool = ResolverPool
sys.exit(daemon.main(sys.argv[2:]))
"""


class Daemon:
    """A running daemon. What it writes to standard error is in `log`, unless `stderr` is given."""

    def __init__(
        self, command: list[str], directory: Path, *, number: int, stderr: int | None, **options
    ) -> None:
        self.log = directory / f"stderr-{number}"
        with contextlib.ExitStack() as stack:
            if stderr is None:
                stderr = stack.enter_context(self.log.open("wb")).fileno()
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                **options,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def has(self, text: str, path: Path | None = None) -> Callable[[], bool]:
        """Return the condition that the log, or the file at `path`, has a line with `text`."""
        file = path or self.log

        def condition() -> bool:
            assert self.process.poll() is None or text in file.read_text(), (
                f"ended with {self.process.returncode}: {self.log.read_text()}"
            )
            return file.exists() and text in file.read_text()

        return condition

    def addresses(self, path: Path | None = None) -> list[Address]:
        """Wait until the daemon listens, and return where."""
        wait_for(self.has("listening on ", path), "the daemon to listen")
        found: list[Address] = []
        for where in re.findall("listening on (.*)", (path or self.log).read_text()):
            host, colon, port = where.rpartition(":")
            found.append((host.strip("[]"), int(port)) if colon else where)
        return found

    def client(self) -> Client:
        return Client(self.addresses()[0])

    def ends(self) -> int:
        """Wait for the end, and return the exit status."""
        output, _ = self.process.communicate(timeout=DEADLINE)
        assert output == b"", "something was written to standard output"
        return self.process.returncode

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Return the exit status after a signal."""
        self.process.send_signal(number)
        return self.ends()

    def lines(self, path: Path | None = None) -> list[tuple[str, str]]:
        """Return level and text of each line of the log."""
        text = (path or self.log).read_text()
        found = [LINE.fullmatch(line) for line in text.splitlines()]
        assert all(found), text
        # The tests run as root in CI, and as somebody else elsewhere.
        return [(match[1], match[2]) for match in found if AS_ROOT not in match[2]]


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Daemon]]:
    """Return what starts a daemon with the configuration `text` and more arguments."""
    running: list[Daemon] = []

    def begin(
        text: str | None = "port: 0\n",
        *arguments: str | Path,
        program: list[str] | None = None,
        stderr: int | None = None,
        **options,
    ) -> Daemon:
        command = [*(program or DAEMON), *map(str, arguments)]
        if text is not None:
            path = tmp_path / f"config-{len(running)}.yml"
            path.write_text(text)
            command += ["-c", str(path)]
        daemon = Daemon(command, tmp_path, number=len(running), stderr=stderr, **options)
        running.append(daemon)
        return daemon

    yield begin
    for daemon in running:
        daemon.process.kill()
        daemon.process.communicate()


@pytest.fixture
def start_with_resolver(start, tmp_path) -> Callable[..., Daemon]:
    """Return what starts a daemon with the made-up resolver."""

    def begin(text: str = "port: 0\n", *arguments: str | Path) -> Daemon:
        program = [sys.executable, "-c", WITH_RESOLVER, str(tmp_path)]
        return start(text, *arguments, program=program)

    return begin


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that every user may enter, unlike `tmp_path`."""
    directory = Path(tempfile.mkdtemp(prefix="stsresolver-test-"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


# WHAT IT REFUSES


@pytest.fixture
def refused(capfd, tmp_path) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Return what runs `main` in this process, and returns exit status and standard error."""
    logger = logging.getLogger("stsresolver")
    before = logger.handlers[:], logger.level, logger.propagate
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str | Path) -> tuple[int, list[str]]:
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as end:
            status = end.code
        output, errors = capfd.readouterr()
        assert output == ""
        return status, errors.splitlines()

    yield run
    logger.handlers, level, logger.propagate = before
    logger.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def configuration(directory: Path, text: str) -> Path:
    path = directory / "config.yml"
    path.write_text(text)
    return path


@pytest.mark.requirement("LIB-18")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["-v", "loud"], "argument -v/--verbosity: invalid choice: 'loud'"),
        (["-c"], "argument -c/--config: expected one argument"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_wrong_arguments(refused, arguments, message):
    status, lines = refused(*arguments)
    assert status == 64
    assert lines[0].startswith("usage: mta-sts-daemon ")
    assert lines[-1].startswith(f"mta-sts-daemon: {message}")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/file", "No such file or directory"),
        ("/", "Is a directory"),
        ("/dev/null/file", "Not a directory"),
    ],
)
def test_configuration_that_cannot_be_read(refused, path, reason):
    assert refused("-c", path) == (78, [f"mta-sts-daemon: {path}: cannot be read: {reason}"])


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("port: http\n", [":1: port: "]),
        ("port: 0\nprot: 1\n", [":2: "]),
        ("port: [\n", [":2: "]),
        ("port: 70000\ncache:\n  type: nothing\n", [":1: port: ", ":3: cache.type: "]),
        ("cache_grace: -1\n", [":1: cache_grace: "]),
    ],
)
def test_wrong_configuration(refused, tmp_path, text, messages):
    path = configuration(tmp_path, text)
    status, lines = refused("-c", path)
    assert status == 78
    assert len(lines) == len(messages), lines
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"mta-sts-daemon: {path}{message}")


def test_wrong_configuration_touches_nothing(refused, tmp_path):
    log, pidfile, path = tmp_path / "log", tmp_path / "pid", tmp_path / "socket"
    config = configuration(tmp_path, f"path: {path}\nport: http\n")
    assert refused("-c", config, "-l", log, "-p", pidfile)[0] == 78
    assert not any(file.exists() for file in (log, pidfile, path))


@pytest.mark.parametrize("option", ["-l", "-p"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/directory/file", "No such file or directory"),
        ("/dev/null/file", "Not a directory"),
        ("/", "Is a directory"),
    ],
)
def test_file_that_cannot_be_written(refused, tmp_path, option, path, reason):
    status, lines = refused("-c", configuration(tmp_path, "port: 0\n"), option, path)
    assert status == 73
    assert lines[-1] == f"mta-sts-daemon: {path}: cannot be written: {reason}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-u", "no-such-user"], "there is no user 'no-such-user'"),
        (["-g", "no-such-group"], "there is no group 'no-such-group'"),
    ],
)
def test_user_or_group_that_is_not_there(refused, tmp_path, arguments, message):
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    config = configuration(tmp_path, f"path: {path}\n")
    status, lines = refused("-c", config, "-p", pidfile, *arguments)
    assert status == 77
    assert lines[-1] == f"mta-sts-daemon: {message}"
    assert not path.exists()
    assert not pidfile.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
@pytest.mark.parametrize("arguments", [["-u", "nobody"], ["-g", "nogroup"], ["-u", "root"]])
def test_ordinary_user_cannot_become_another(refused, tmp_path, arguments):
    status, lines = refused("-c", configuration(tmp_path, "port: 0\n"), *arguments)
    assert status == 77
    assert lines[-1].startswith("mta-sts-daemon: only root can change user and group")


UNUSABLE_SQLITE_FILES = [
    ("{directory}", "{directory}: cannot be opened or made", "a directory is no file"),
    ("{directory}/a/b", "{directory}/a/b: cannot be opened or made", "there is no directory a"),
    ("{config}", "{config}: is no sqlite database", "some other file"),
]


@pytest.mark.parametrize(("filename", "says", "why"), UNUSABLE_SQLITE_FILES)
def test_sqlite_file_that_cannot_be_used(start, tmp_path, filename, says, why):
    """Exit status 78, one plain line, and nothing stays behind."""
    path, pidfile, log = tmp_path / "socket", tmp_path / "pid", tmp_path / "log"
    names = {"directory": tmp_path, "config": tmp_path / "config-0.yml"}
    options = f"filename: {filename.format(**names)}"
    text = f"path: {path}\ncache: {{type: sqlite, options: {{{options}}}}}\n"
    daemon = start(text, "-p", pidfile, "-l", log)
    assert daemon.ends() == 78, why
    [line] = daemon.log.read_text().splitlines()
    assert line.startswith(f"mta-sts-daemon: {says.format(**names)}")
    [level, logged] = daemon.lines(log)[-1]
    assert level == "CRITICAL"
    assert logged == f"not started: {line.removeprefix('mta-sts-daemon: ')}"
    assert not path.exists()
    assert not pidfile.exists()


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
from stsresolver import daemon, service
sys.exit(daemon.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("looks", [[], ["--check-config"], ["--doctor"]])
@pytest.mark.parametrize(
    "cache",
    [
        "{type: redis}",
        "{type: redis_sentinel, options: {sentinel_master_name: m, sentinels: [[127.0.0.1, 1]]}}",
    ],
)
def test_redis_without_the_extra(start, cache, looks):
    program = [sys.executable, "-c", WITHOUT_REDIS, *looks]
    daemon = start(f"port: 0\ncache: {cache}\n", program=program)
    assert daemon.ends() == 78
    [line] = daemon.log.read_text().splitlines()
    place = f"{daemon.process.args[-1]}:2"
    assert line.startswith(f"mta-sts-daemon: {place}: cache: a Redis cache needs redis-py 5 or ")
    assert f"{sys.executable} -m pip install 'stsresolver[redis]'" in line


@pytest.mark.parametrize("looks", [[], ["--check-config"], ["--doctor"]])
def test_all_that_this_host_lacks_is_named_with_its_line(refused, tmp_path, monkeypatch, looks):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "stsresolver.stores.redis", raising=False)
    text = f"group: nosuch\ncache:\n  type: redis\nowner: '4000000000'\npath: {tmp_path}/s\n"
    config = configuration(tmp_path, text)
    status, lines = refused("-c", config, *looks)
    assert status == 78
    assert [line.partition(" (")[0] for line in lines] == [
        f"mta-sts-daemon: {config}:1: group: there is no group 'nosuch'",
        f"mta-sts-daemon: {config}:3: cache: a Redis cache needs redis-py 5 or later:"
        f" {sys.executable} -m pip install 'stsresolver[redis]'",
        f"mta-sts-daemon: {config}:4: owner: there is no user '4000000000'",
    ]


def test_owner_and_group_do_not_count_without_a_path(start):
    daemon = start("port: 0\nowner: nosuch\ngroup: nosuch\n")
    daemon.addresses()
    assert daemon.stop() == 0


@as_root
def test_sqlite_file_that_the_user_may_not_write(start, open_to_all):
    """It is opened as the user that the daemon becomes."""
    text = f"port: 0\ncache: {{type: sqlite, options: {{filename: {open_to_all}/cache.db}}}}\n"
    daemon = start(text, "-u", "nobody")
    assert daemon.ends() == 78
    line = daemon.log.read_text().splitlines()[-1]
    assert line.startswith(f"mta-sts-daemon: {open_to_all}/cache.db: cannot be opened or made")


@pytest.mark.parametrize(("argument", "status"), [("-c/no/such/file", 78), ("--unknown", 64)])
def test_exit_status_of_the_process(start, argument, status):
    daemon = start(None, argument)
    assert daemon.ends() == status
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--version", [f"mta-sts-daemon {__version__}"]),
        ("--help", ["-c", "-v", "-l", "-p", "-u", "-g", "--version", "--disable-uvloop"]),
    ],
)
def test_what_is_printed_on_request(capsys, argument, words):
    with pytest.raises(SystemExit) as end:
        main([argument])
    assert end.value.code == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert all(word in output for word in words)


# FROM START TO STOP


@pytest.mark.requirement("LIB-17")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_answer_stop(start, number):
    daemon = start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client()) for _ in range(20)]
        assert clients[0].ask(NO_LOOKUP) == b"NOTFOUND "
        assert clients[1].ask(b"zone .com") == b"NOTFOUND "
        assert clients[2].ask(b"no-space") == b"PERM "
        assert daemon.stop(number) == 0
        assert all(client.is_closed() for client in clients)
    with pytest.raises(OSError):
        daemon.client()
    texts = [text for _, text in daemon.lines()]
    assert texts == [
        f"stsresolver {__version__}, configuration: {daemon.process.args[-1]}",
        f"listening on 127.0.0.1:{daemon.addresses()[0][1]}",
        "stopping: no new connections, 20 are open",
        "stopped",
    ]


def test_stop_with_nobody_there(start):
    daemon = start()
    daemon.addresses()
    assert daemon.stop() == 0
    assert daemon.lines()[-1] == ("INFO", "stopped")


@pytest.mark.requirement("KEY-10")
def test_old_arguments_are_accepted(start, tmp_path):
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    daemon = start(f"path: {path}\n", "--disable-uvloop", "-v", "warn", "-p", pidfile)
    wait_for(pidfile.exists, "the daemon to listen")
    with Client(str(path)) as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert daemon.stop() == 0
    assert daemon.lines() == [], "more than warnings were logged"


def test_empty_environment(start):
    daemon = start(env={})
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        client.send("frames are ☃ no text".encode())
        assert client.is_closed()
    assert daemon.stop() == 0
    assert daemon.lines()[-1] == ("INFO", "stopped")


def test_without_standard_streams(start, tmp_path):
    """As some init scripts start it: nothing of the log may get into a socket."""
    log = tmp_path / "log"
    shell = ["/bin/sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", *DAEMON]
    logged = start("port: 0\n", "-l", log, program=shell)
    with Client(logged.addresses(log)[0]) as client:
        client.send(b"no frame")
        assert client.is_closed()
        assert logged.stop() == 0
    assert logged.lines(log)[-1] == ("INFO", "stopped")

    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    silent = start(f"path: {path}\n", "-p", pidfile, program=shell)
    wait_for(pidfile.exists, "the daemon to listen")
    with Client(str(path)) as client, Client(str(path)) as bad:
        bad.send(b"no frame")
        assert bad.is_closed()
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert client.has_nothing_to_read()
        assert silent.stop() == 0


@pytest.mark.parametrize("there", [False, True])
def test_without_an_argument(start, tmp_path, there):
    """The file in /etc is read if it is there, and the log says which configuration it is."""
    path = tmp_path / "mta-sts-daemon.yml"
    if there:
        path.write_text("host: 127.0.0.2\nport: 0\n")
    program = f"""
import functools, sys
from stsresolver import daemon, service
daemon.DEFAULT_PATH = {str(path)!r}
daemon.Config = functools.partial(daemon.Config, port=0)
sys.exit(daemon.main([]))
"""
    daemon = start(None, program=[sys.executable, "-c", program])
    [(host, _)] = daemon.addresses()
    assert host == ("127.0.0.2" if there else "127.0.0.1")
    source = path if there else f"built-in defaults: there is no {path}"
    assert daemon.lines()[0] == ("INFO", f"stsresolver {__version__}, configuration: {source}")
    assert daemon.stop() == 0


def test_default_path_that_cannot_be_read(start, tmp_path):
    path = tmp_path / "mta-sts-daemon.yml"
    path.mkdir()
    program = f"""
import sys
from stsresolver import daemon, service
daemon.DEFAULT_PATH = {str(path)!r}
sys.exit(daemon.main([]))
"""
    daemon = start(None, program=[sys.executable, "-c", program])
    assert daemon.ends() == 78


def test_warnings_of_the_configuration_are_logged(start, tmp_path):
    daemon = start(f"path: {tmp_path}/socket\nmode: 432\n")
    daemon.addresses()
    assert daemon.stop() == 0
    [(level, text)] = [line for line in daemon.lines() if line[0] != "INFO"]
    assert level == "WARNING"
    assert text.startswith(f"{tmp_path}/config-0.yml:2: mode: ")


@pytest.mark.requirement("LIB-16")
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_proactive_policy_fetching_does_not_hold_up_the_stop(start, enabled):
    daemon = start(f"port: 0\nproactive_policy_fetching: {{enabled: {enabled}, interval: 86400}}\n")
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert daemon.stop() == 0


def test_limit_of_open_files_is_raised(start):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    shell = ["/bin/sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh", *DAEMON]
    daemon = start(program=shell)
    daemon.addresses()
    [line] = [
        line
        for line in Path(f"/proc/{daemon.pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    ]
    expected = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    assert line.split()[3:5] == [expected, expected]
    assert daemon.stop() == 0


@pytest.mark.requirement("WIRE-12")
def test_workers_take_no_place_of_connections(start):
    shell = ["/bin/sh", "-c", 'ulimit -n 400; exec "$@"', "sh", *DAEMON]
    daemon = start("port: 0\nworkers: 4096\n", program=shell)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client()) for _ in range(300)]
        assert {client.ask(NO_LOOKUP) for client in clients} == {b"NOTFOUND "}
    assert daemon.stop() == 0


def test_idle_daemon_rests(start):
    daemon = start()
    with daemon.client() as first, daemon.client() as second:
        for client in (first, second):
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        before = cpu_seconds(daemon.pid)
        threading.Event().wait(0.5)
        assert cpu_seconds(daemon.pid) - before < 0.1
    assert daemon.stop() == 0


# SIGNALS WHILE REQUESTS ARE UNDER WAY


def test_stop_finishes_what_is_under_way(start_with_resolver, tmp_path):
    daemon = start_with_resolver()
    with daemon.client() as client, daemon.client() as idle:
        client.send(frame(b"zone hang.example"))
        wait_for((tmp_path / "asked").exists, "the lookup")
        daemon.process.terminate()
        assert idle.is_closed()
        assert client.has_nothing_to_read()
        (tmp_path / "release").touch()
        assert client.reply() == b"NOTFOUND "
        assert client.is_closed()
        assert daemon.ends() == 0


@pytest.mark.requirement("LIB-16")
def test_second_signal_ends_it_hard(start_with_resolver, tmp_path):
    daemon = start_with_resolver("port: 0\nshutdown_timeout: 3600\n")
    with daemon.client() as client, daemon.client() as idle:
        client.send(frame(b"zone hang.example"))
        wait_for((tmp_path / "asked").exists, "the lookup")
        daemon.process.terminate()
        assert idle.is_closed()
        assert daemon.stop(signal.SIGINT) == 1
        assert client.is_closed()
    assert daemon.lines()[-2:] == [
        ("WARNING", "stopping at once: 1 connections are cut"),
        ("INFO", "stopped"),
    ]


@pytest.mark.requirement("LIB-16")
def test_shutdown_timeout(start_with_resolver, tmp_path):
    daemon = start_with_resolver("port: 0\nshutdown_timeout: 0.2\n")
    with daemon.client() as client:
        client.send(frame(b"zone hang.example"))
        wait_for((tmp_path / "asked").exists, "the lookup")
        assert daemon.stop() == 1
        assert client.is_closed()


def test_signal_as_soon_as_the_pidfile_is_there(start, tmp_path):
    """As from a script that starts and stops it at once: sockets and files are cleaned up."""
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    for _ in range(3):
        daemon = start(f"path: {path}\n", "-p", pidfile)
        wait_for(pidfile.exists, "the pidfile")
        assert daemon.stop() == 0
        assert not path.exists()
        assert not pidfile.exists()


@pytest.mark.requirement("LIB-17")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_that_does_not_interrupt_the_poll(start, number):
    """It may come between the last look for signals and the poll, or to another thread."""
    program = """
import signal, sys
from stsresolver import daemon, service
signals = {signal.SIGTERM, signal.SIGINT}
daemon.become = lambda user, group: signal.pthread_sigmask(signal.SIG_BLOCK, signals)
sys.exit(daemon.main(sys.argv[1:]))
"""
    daemon = start(program=[sys.executable, "-c", program])
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert daemon.stop(number) == 0


# TCP


def test_ipv6(start):
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        daemon = start('host: "::1"\nport: 0\n')
        with daemon.client() as client:
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert f"listening on [::1]:{daemon.addresses()[0][1]}" in daemon.log.read_text()
        return
    pytest.skip("no IPv6 on this machine")


def test_host_name(start):
    daemon = start("host: localhost\nport: 0\n")
    for address in daemon.addresses():
        with Client(address) as client:
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "


@pytest.mark.parametrize("reuse_port", ["true", "false"])
def test_busy_port(start, tmp_path, reuse_port):
    log = tmp_path / "log"
    [listener] = listen_tcp("127.0.0.1", 0, reuse_port=False)
    with listener:
        port = listener.getsockname()[1]
        daemon = start(f"port: {port}\nreuse_port: {reuse_port}\n", "-l", log)
        assert daemon.ends() == 69
    why = f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert daemon.log.read_text().splitlines()[-1] == f"mta-sts-daemon: {why}"
    assert daemon.lines(log)[-1] == ("CRITICAL", f"not started: {why}")


@pytest.mark.requirement("WIRE-13")
def test_second_instance_takes_over(start):
    first = start("port: 0\nreuse_port: true\n")
    port = first.addresses()[0][1]
    second = start(f"port: {port}\nreuse_port: true\n")
    assert second.addresses() == first.addresses()
    text = f"another process listens on 127.0.0.1:{port} too (reuse_port)"
    assert [text in daemon.log.read_text() for daemon in (first, second)] == [False, True]
    with first.client() as old:
        old.ask(NO_LOOKUP)
        assert first.stop() == 0
    for _ in range(20):
        with second.client() as client:
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert second.stop() == 0


def test_without_reuse_port_there_is_one_instance(start):
    first = start("port: 0\nreuse_port: false\n")
    port = first.addresses()[0][1]
    assert start(f"port: {port}\nreuse_port: false\n").ends() == 69
    assert start(f"port: {port}\nreuse_port: true\n").ends() == 69
    with first.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert first.stop() == 0
        third = start(f"port: {port}\nreuse_port: false\n")
        with third.client() as again:
            assert again.ask(NO_LOOKUP) == b"NOTFOUND "


# UNIX


@pytest.mark.parametrize(
    ("line", "mode"),
    [("mode: 0666", 0o666), ('mode: "0660"', 0o660), ("", 0o755)],
)
def test_unix_socket(start, tmp_path, line, mode):
    path = tmp_path / "socket"
    daemon = start(f"path: {path}\n{line}\nport: 1\n", umask=0o022)
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert daemon.stop() == 0
        assert client.is_closed()
    assert not path.exists()
    assert f"listening on {path}" in daemon.log.read_text()


def test_stale_unix_socket_is_replaced(start, tmp_path):
    path = tmp_path / "socket"
    killed = start(f"path: {path}\n")
    killed.addresses()
    killed.process.kill()
    killed.process.wait(DEADLINE)
    assert path.is_socket()
    daemon = start(f"path: {path}\n")
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert daemon.stop() == 0


def test_living_unix_socket_is_an_error(start, tmp_path):
    path = tmp_path / "socket"
    first = start(f"path: {path}\n")
    first.addresses()
    second = start(f"path: {path}\n")
    assert second.ends() == 69
    assert second.log.read_text().splitlines()[-1] == (
        f"mta-sts-daemon: cannot listen on {path}: another process listens there already"
    )
    with first.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert first.stop() == 0


def test_file_that_is_no_socket_is_an_error(start, tmp_path):
    path = tmp_path / "socket"
    path.write_text("precious")
    daemon = start(f"path: {path}\n")
    assert daemon.ends() == 69
    assert "a file that is no socket is there already" in daemon.log.read_text()
    assert path.read_text() == "precious"


def test_unix_socket_of_a_successor_stays(start, tmp_path):
    path = tmp_path / "socket"
    daemon = start(f"path: {path}\n")
    daemon.addresses()
    path.unlink()
    with listen_unix(str(path), None):
        assert daemon.stop() == 0
        assert path.is_socket()


# FILES


def test_pidfile(start, tmp_path):
    path = tmp_path / "pid"
    path.write_text("999999999 of one that was killed\n")
    daemon = start("port: 0\n", "-p", path)
    daemon.addresses()
    assert path.read_text() == f"{daemon.pid}\n"
    assert daemon.stop() == 0
    assert not path.exists()


def test_second_daemon_with_the_same_pidfile_is_refused(start, refused, tmp_path):
    path, config = tmp_path / "pid", tmp_path / "second.yml"
    config.write_text("port: 0\n")
    first = start("port: 0\n", "-p", path)
    first.addresses()
    status, lines = refused("-c", config, "-p", path)
    assert status == 73
    assert lines[-1] == f"mta-sts-daemon: {path}: held by process {first.pid}, which is running"
    assert path.read_text() == f"{first.pid}\n"
    assert first.stop() == 0
    assert not path.exists()


def test_pidfile_that_a_killed_daemon_left(start, tmp_path):
    path = tmp_path / "pid"
    first = start("port: 0\n", "-p", path)
    first.addresses()
    first.process.kill()
    first.process.wait()
    second = start("port: 0\n", "-p", path)
    second.addresses()
    assert path.read_text() == f"{second.pid}\n"
    assert second.stop() == 0
    assert not path.exists()


@gives_up_root
def test_warning_of_a_daemon_that_goes_on_as_root(start):
    daemon = start("port: 0\n")
    daemon.addresses()
    assert daemon.log.read_text().count(AS_ROOT) == 1
    given_up = start("port: 0\n", "-u", "nobody")
    given_up.addresses()
    assert AS_ROOT not in given_up.log.read_text()


# RELOAD


def rewrite(daemon: Daemon, text: str) -> Path:
    """Write another configuration into the daemon's file, and signal it."""
    path = Path(daemon.process.args[-1])
    path.write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    return path


def test_reload_changes_the_answers_and_keeps_connections(start_with_resolver):
    daemon = start_with_resolver("port: 0\n")
    with daemon.client() as client:
        assert client.ask(b"zone a.example") == SECURE
        path = rewrite(daemon, "port: 0\nzones: {zone: {require_sni: false}}\n")
        wait_for(daemon.has(f"reloaded, configuration: {path}"), "the reload")
        assert client.ask(b"zone a.example") == SECURE.removesuffix(b" servername=hostname")
        assert client.ask(b"other a.example") == SECURE
    assert daemon.stop() == 0


def test_reload_of_a_wrong_configuration_keeps_the_one_before(start_with_resolver):
    daemon = start_with_resolver("port: 0\n")
    with daemon.client() as client:
        path = rewrite(daemon, "port: 0\nzones: {zone: {require_sni: false, tmeout: 4}}\n")
        wait_for(daemon.has(f"not reloaded: {path}:2: zones.zone.tmeout: "), "the refusal")
        assert client.ask(b"zone a.example") == SECURE
        rewrite(daemon, "path: /s\ngroup: nosuch\nzones: {zone: {require_sni: false}}\n")
        wait_for(daemon.has(f"not reloaded: {path}:2: group: there is no group"), "the refusal")
        assert client.ask(b"zone a.example") == SECURE
        path.unlink()
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(daemon.has(f"not reloaded: {path}: cannot be read: "), "the refusal")
        assert client.ask(b"zone a.example") == SECURE
    assert daemon.stop() == 0


def test_several_addresses(start, tmp_path):
    """Each is served as if it were alone, and each file of a socket is removed at the end."""
    paths = [tmp_path / "a", tmp_path / "b"]
    text = f"""
listen:
  - 127.0.0.1:0
  - localhost:0
  - unix:{paths[0]}
  - {{address: 'unix:{paths[1]}', mode: 0640}}
"""
    daemon = start(text)
    wait_for(daemon.has(f"listening on {paths[1]}"), "the daemon to listen")
    addresses = daemon.addresses()
    assert len(addresses) >= 4
    assert addresses[-2:] == [str(path) for path in paths]
    for address in addresses:
        with Client(address) as client:
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert stat.S_IMODE(paths[1].stat().st_mode) == 0o640
    rewrite(daemon, text.replace("localhost:0", "127.0.0.1:1"))
    wait_for(daemon.has("only a restart changes listen"), "the reload")
    assert daemon.stop() == 0
    assert not any(path.exists() for path in paths)


def test_one_of_several_addresses_is_taken(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = start(f"listen: ['unix:{tmp_path}/a', '127.0.0.1:{port}']\n")
        assert daemon.ends() == 69
    last = daemon.log.read_text().splitlines()[-1]
    assert last.startswith(f"mta-sts-daemon: cannot listen on 127.0.0.1 port {port}: ")
    assert not (tmp_path / "a").exists()


def test_listen_is_held_against_this_host(refused, tmp_path):
    text = (
        f"listen:\n- {{address: 'unix:{tmp_path}/a', owner: nosuch}}\n- unix:{tmp_path}/b\n"
        f"control: {{path: {tmp_path}/b}}\n"
    )
    config = configuration(tmp_path, text)
    status, lines = refused("-c", config)
    assert status == 78
    assert lines == [
        f"mta-sts-daemon: {config}:1: owner: there is no user 'nosuch'",
        f"mta-sts-daemon: {config}:4: control.path: {tmp_path}/b has another use already",
    ]


def test_reload_names_what_only_a_restart_changes(start):
    daemon = start("port: 0\n")
    daemon.addresses()
    rewrite(daemon, "port: 1\ncache: {options: {cache_size: 7}}\nworkers: 3\n")
    wait_for(daemon.has("only a restart changes port, cache"), "the reload")
    assert daemon.stop() == 0


def test_reload_before_the_daemon_is_ready_is_not_lost(start, tmp_path):
    path = tmp_path / "pid"
    daemon = start("port: 0\n", "-p", path)
    wait_for(path.exists, "the pidfile")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(daemon.has("reloaded, configuration: "), "the reload")
    assert daemon.stop() == 0


def test_proactive_run_on_request(start):
    daemon = start("port: 0\n")
    daemon.addresses()
    daemon.process.send_signal(signal.SIGUSR1)
    wait_for(daemon.has("proactive fetching: a run over all policies"), "the run")
    assert daemon.stop() == 0


def test_proactive_run_asked_for_before_the_daemon_is_ready(start):
    program = """
import os, signal, sys
from stsresolver import daemon
daemon.become = lambda user, group: os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(daemon.main(sys.argv[1:]))
"""
    daemon = start(program=[sys.executable, "-c", program])
    wait_for(daemon.has("proactive fetching: a run over all policies"), "the run")
    assert daemon.stop() == 0


def test_pidfile_is_removed_after_a_hard_end(start_with_resolver, tmp_path):
    path = tmp_path / "pid"
    daemon = start_with_resolver("port: 0\nshutdown_timeout: 0\n", "-p", path)
    with daemon.client() as client:
        client.send(frame(b"zone hang.example"))
        wait_for((tmp_path / "asked").exists, "the lookup")
        assert daemon.stop() == 1
    assert not path.exists()


def test_logfile(start, tmp_path):
    path = tmp_path / "log"
    daemon = start("port: 0\n", "-l", path)
    daemon.addresses(path)
    assert daemon.stop() == 0
    assert daemon.log.read_text() == ""
    assert daemon.lines(path)[-1] == ("INFO", "stopped")


def test_logfile_that_is_rotated(start, tmp_path):
    path, old = tmp_path / "log", tmp_path / "log.1"
    daemon = start("port: 0\n", "-l", path)
    address = daemon.addresses(path)[0]
    path.rename(old)
    with Client(address) as client:
        client.send(b"no frame")
        assert client.is_closed()
    wait_for(path.exists, "the new log file")
    assert daemon.stop() == 0
    assert "listening on" in old.read_text()
    assert [text for _, text in daemon.lines(path)][-1] == "stopped"
    assert "listening on" not in path.read_text()


# THE LOG


def test_each_event_is_one_line(start_with_resolver):
    daemon = start_with_resolver()
    with daemon.client() as client:
        assert client.ask(b"zone hostile.example") == b"NOTFOUND "
        assert client.ask(b"zone bug.example") == b"TEMP internal error of the daemon"
        assert client.ask(b"zone enforce.example").startswith(b"OK secure match=mail.example ")
    assert daemon.stop() == 0
    lines = daemon.lines()
    assert [text for _, text in lines if text.startswith("hostile.example: ")] == [
        r"hostile.example: no policy: the DNS lookup failed: an answer\nwith \x1b[2J in it"
    ]
    [(level, text)] = [line for line in lines if "RuntimeError" in line[1]]
    assert level == "ERROR"
    assert text.startswith("bug.example: ")
    assert text.endswith(r"RuntimeError: two\nlines")
    [text] = [text for _, text in lines if text.startswith("enforce.example: ")]
    assert "enforce" in text


def test_repeated_answer_is_not_logged(start_with_resolver):
    daemon = start_with_resolver()
    with daemon.client() as client:
        first = client.ask(b"zone enforce.example")
        wait_for(daemon.has("enforce.example: "), "the line of the first answer")
        before = len(daemon.lines())
        for _ in range(20):
            assert client.ask(b"zone enforce.example") == first
            assert client.ask(b"other enforce.example") == first
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert daemon.stop() == 0
    after = [text for _, text in daemon.lines()][before:]
    assert [text.partition(":")[0] for text in after] == ["stopping", "stopped"]


def test_log_that_nobody_reads_stops_nobody(start, tmp_path):
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    reader, writer = os.pipe()
    with open(reader, "rb"):
        try:
            daemon = start(f"path: {path}\n", "-p", pidfile, "-v", "debug", stderr=writer)
        finally:
            os.close(writer)
        wait_for(pidfile.exists, "the daemon to listen")
        for _ in range(1000):
            with Client(str(path)) as client:
                client.send(b"no frame at all, and a line in the log for each")
                assert client.is_closed()
        with Client(str(path)) as client:
            assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert daemon.stop() == 0
    assert not path.exists()


# GIVING UP ROOT


@gives_up_root
def test_user_and_group(start, open_to_all):
    nobody, group = pwd.getpwnam("nobody"), grp.getgrnam("daemon").gr_gid
    directory = open_to_all / "nobody"
    directory.mkdir()
    os.chown(directory, nobody.pw_uid, -1)
    path, pidfile, log = (directory / name for name in ("socket", "pid", "log"))
    daemon = start(f"path: {path}\n", "-u", "nobody", "-g", "daemon", "-p", pidfile, "-l", log)
    [address] = daemon.addresses(log)
    with Client(address) as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            assert fields["Uid"].split() == [str(nobody.pw_uid)] * 4
            assert fields["Gid"].split() == [str(group)] * 4
            groups = set(map(int, fields["Groups"].split()))
            assert groups == set(os.getgrouplist("nobody", group))
            assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        assert daemon.stop() == 0
    assert not pidfile.exists()
    assert not path.exists()
    assert daemon.lines(log)[-1] == ("INFO", "stopped")


@gives_up_root
def test_user_takes_its_own_group(start):
    nobody = pwd.getpwnam("nobody")
    daemon = start("port: 0\n", "-u", "nobody")
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert re.search(r"^Uid:((\t\d+){4})$", status, re.M)[1].split() == [str(nobody.pw_uid)] * 4
    assert re.search(r"^Gid:((\t\d+){4})$", status, re.M)[1].split() == [str(nobody.pw_gid)] * 4
    assert daemon.stop() == 0


@gives_up_root
def test_files_that_the_user_may_not_remove(start, open_to_all):
    """The directory is root's: the daemon says that they stay, and ends well all the same."""
    path, pidfile = open_to_all / "socket", open_to_all / "pid"
    daemon = start(f"path: {path}\n", "-u", "nobody", "-p", pidfile)
    daemon.addresses()
    assert daemon.stop() == 0
    texts = [text for _, text in daemon.lines()]
    assert f"{pidfile} stays, and is empty: Permission denied" in texts
    assert f"{path} stays: Permission denied" in texts
    assert pidfile.read_text() == ""


# THE CONTROL SOCKET


def listed(config: Path) -> subprocess.CompletedProcess:
    """Return what `mta-sts-query cache list` does."""
    return subprocess.run(
        [sys.executable, "-m", "stsresolver.query", "cache", "-c", config, "--json", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_control_socket(start_with_resolver, tmp_path):
    path = tmp_path / "control"
    daemon = start_with_resolver(f"port: 0\ncontrol: {{path: {path}}}\n")
    with daemon.client() as client:
        assert client.ask(b"zone good.example") == SECURE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = listed(tmp_path / "config-0.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"domain": "good.example", "found": true' in done.stdout
    assert daemon.stop() == 0
    assert not path.exists()
    assert listed(tmp_path / "config-0.yml").returncode == 69


def test_newest_daemon_has_the_control_socket(start, tmp_path):
    path = tmp_path / "control"
    text = f"port: 0\ncontrol: {{path: {path}}}\n"
    first = start(text)
    first.addresses()
    second = start(text)
    second.addresses()
    assert first.stop() == 0
    assert path.exists(), "it is the second's"
    assert listed(tmp_path / "config-1.yml").returncode == 0
    assert second.stop() == 0
    assert not path.exists()


def test_daemon_serves_without_its_control_socket(start, tmp_path):
    path = tmp_path / "none" / "control"
    daemon = start(f"port: 0\ncontrol: {{path: {path}}}\n")
    with daemon.client() as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    why = f"no control socket: cannot listen on {path}: No such file or directory"
    assert ("WARNING", why) in daemon.lines()
    assert daemon.stop() == 0


def test_control_needs_a_socket_of_its_own(refused, tmp_path):
    path = tmp_path / "socket"
    text = f"path: {path}\ncontrol: {{path: {path}}}\n"
    status, lines = refused("-c", configuration(tmp_path, text))
    assert status == 78
    why = f":2: control.path: {path} has another use already"
    assert lines == [f"mta-sts-daemon: {tmp_path}/config.yml{why}"]
