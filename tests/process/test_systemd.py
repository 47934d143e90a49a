"""The service manager: sockets that it hands over, what it is told, and the units that are shipped.

The manager is a datagram socket of the test's own. What the units say is checked by
systemd-analyze, where there is one; systemd itself need not run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stsresolver.process.systemd import ServiceManager, listen_fds
from stsresolver.socketmap.listeners import ListenError, listen_tcp, listen_unix, take_over
from tests.support.giving_up_root import gives_up_root
from tests.support.socketmap_client import DEADLINE, Address, Client, frame, wait_for

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "etc" / "systemd"
DAEMON = [sys.executable, "-m", "stsresolver.daemon"]
NO_LOOKUP = b"zone [192.0.2.1]"
# Of ten, where nothing is confined.
MAX_EXPOSURE = 1.5
VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "SYSTEMD_EXEC_PID",
)

# Puts the descriptors that argv[1] names at 3 and up, and becomes the daemon.
HAND_OVER = """
import fcntl, os, sys
numbers = map(int, filter(None, sys.argv[1].split(",")))
given = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in numbers]
for place, descriptor in enumerate(given, 3):
    os.dup2(descriptor, place)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(len(given)))
os.environ["LISTEN_FDNAMES"] = ":".join(["mta-sts"] * len(given))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

# The daemon, whose serving thread is held by one request until a file is there. argv[1]: the file.
HELD = """
import os, sys, time
from stsresolver.socketmap import answer
from stsresolver import daemon

look_up = answer.Answers.look_up

def held(self, request, deliver):
    if b"hold" in request:
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.005)
    look_up(self, request, deliver)

answer.Answers.look_up = held
sys.exit(daemon.main(sys.argv[2:]))
"""

# The daemon, which prints what its environment holds of the service manager's variables.
ENVIRONMENT = f"""
import os, sys
from stsresolver import daemon, service

class Resolver(service.ResolverPool):
    def start(self):
        print([name for name in {VARIABLES!r} if name in os.environ], flush=True)
        super().start()

service.ResolverPool = Resolver
sys.exit(daemon.main(sys.argv[1:]))
"""


class Manager:
    """Hears what a service manager is told. `address`: as NOTIFY_SOCKET has it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.settimeout(DEADLINE)

    def hears(self) -> dict[str, str]:
        """Wait for the next message, and return its variables."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def hears_nothing(self, seconds: float) -> bool:
        """Wait so long, and say whether nothing came."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except (TimeoutError, BlockingIOError):
            return True
        finally:
            self.socket.settimeout(DEADLINE)
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[Manager]:
    abstract = f"@stsresolver-test-{os.getpid()}"
    name = abstract if request.param == "abstract" else tmp_path / "notify"
    one = Manager(str(name))
    with one.socket:
        yield one


@pytest.fixture
def path_manager(tmp_path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify"))
    with one.socket:
        yield one


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return what starts a daemon in an environment, with the configuration `text`."""
    running: list[subprocess.Popen[str]] = []

    def begin(
        text: str,
        *arguments: str,
        program: list[str] | None = None,
        pass_fds: tuple[int, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        config = tmp_path / f"config-{len(running)}.yml"
        config.write_text(text)
        command = [*(program or DAEMON), *arguments, "-c", str(config)]
        clean = {name: os.environ[name] for name in os.environ if name not in VARIABLES}
        running.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**clean, **environment},
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str], number: signal.Signals | None = None) -> tuple[int, str]:
    """Return exit status and standard error of a daemon, after a signal."""
    if number is not None:
        process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE)
    return process.returncode, errors


# WHAT IT IS TOLD


def test_from_ready_to_stopping(start, manager, tmp_path):
    path = tmp_path / "socket"
    daemon = start(f"path: {path}\nshutdown_timeout: 7\n", NOTIFY_SOCKET=manager.address)
    assert manager.hears() == {"READY": "1", "STATUS": f"Listening on {path}"}
    with Client(str(path)) as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "

    before = time.monotonic_ns() // 1000
    daemon.send_signal(signal.SIGHUP)
    message = manager.hears()
    assert message.pop("RELOADING") == "1"
    assert before <= int(message.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert message == {}
    assert manager.hears()["READY"] == "1"

    assert ends(daemon, signal.SIGTERM)[0] == 0
    message = manager.hears()
    assert message["STOPPING"] == "1"
    assert int(message["EXTEND_TIMEOUT_USEC"]) > 7_000_000, "killed before shutdown_timeout"
    assert message["STATUS"].startswith("Stopping")
    assert manager.hears_nothing(0)


@pytest.mark.parametrize(
    ("text", "arguments", "status", "why"),
    [
        ("port: http\n", [], 78, "port: "),
        ("port: 0\nhost: 192.0.2.1\n", [], 69, "cannot listen on 192.0.2.1 port 0: "),
        ("port: 0\n", ["-p", "/no/such/directory/pid"], 73, "/no/such/directory/pid: "),
        ("port: 0\n", ["-u", "no-such-user"], 77, "there is no user 'no-such-user'"),
        ("port: http\nhots: x\n", [], 78, "; "),
        ("port: 0\n", ["--surplus"], 64, "the daemon was not started"),
    ],
)
def test_daemon_that_does_not_start(start, path_manager, text, arguments, status, why):
    """Whoever waits for READY=1, as start-stop-daemon does, need not wait for its time to be up."""
    daemon = start(text, *arguments, NOTIFY_SOCKET=path_manager.address)
    message = path_manager.hears()
    assert int(message["ERRNO"]) > 0
    assert why in message["STATUS"]
    assert ends(daemon)[0] == status
    assert path_manager.hears_nothing(0)


def test_sign_of_life_comes_through_the_serving_thread(start, path_manager, tmp_path):
    path, release = tmp_path / "socket", tmp_path / "release"
    daemon = start(
        f"path: {path}\n",
        program=[sys.executable, "-c", HELD, str(release)],
        NOTIFY_SOCKET=path_manager.address,
        WATCHDOG_USEC="200000",
    )
    assert "READY" in path_manager.hears()
    for _ in range(3):
        assert path_manager.hears() == {"WATCHDOG": "1"}
    with Client(str(path)) as client:
        client.send(frame(b"zone hold"))
        # The one that was on its way, at the most.
        path_manager.hears_nothing(0.3)
        assert path_manager.hears_nothing(0.5), "a sign of life, though nobody is served"
        assert daemon.poll() is None
        release.touch()
        assert client.reply().startswith(b"NOTFOUND")
    for _ in range(3):
        assert path_manager.hears() == {"WATCHDOG": "1"}


def test_signs_of_life_come_at_half_of_the_time_allowed(start, path_manager):
    """Neither less often nor, so that an idle daemon rests, more often."""
    start("port: 0\n", NOTIFY_SOCKET=path_manager.address, WATCHDOG_USEC="2000000")
    assert "READY" in path_manager.hears()
    began = time.monotonic()
    for _ in range(2):
        assert path_manager.hears() == {"WATCHDOG": "1"}
    assert 1.8 < time.monotonic() - began < 3.5


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "no watchdog"),
        ({"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}, "another process's"),
        ({"WATCHDOG_USEC": "0"}, "switched off"),
        ({"WATCHDOG_USEC": "often"}, "no number"),
    ],
)
def test_no_sign_of_life_unless_asked_for(start, path_manager, variables, why):
    daemon = start("port: 0\n", NOTIFY_SOCKET=path_manager.address, **variables)
    assert "READY" in path_manager.hears()
    assert path_manager.hears_nothing(0.2), why
    assert ends(daemon, signal.SIGTERM)[0] == 0


@gives_up_root
def test_user_that_may_not_reach_the_socket(start, path_manager, tmp_path):
    """As below the directory that start-stop-daemon makes for it: connected to while still root."""
    tmp_path.chmod(0o700)
    daemon = start("port: 0\n", "-u", "nobody", NOTIFY_SOCKET=path_manager.address)
    assert "READY" in path_manager.hears()
    assert ends(daemon, signal.SIGTERM)[0] == 0
    assert "STOPPING" in path_manager.hears()


@pytest.mark.parametrize("address", ["/no/such/socket", "@no-such-socket", "vsock:2:1", "x" * 300])
def test_manager_that_does_not_listen(start, tmp_path, address):
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    daemon = start(f"path: {path}\n", "-p", str(pidfile), NOTIFY_SOCKET=address)
    wait_for(pidfile.exists, "the daemon to listen")
    with Client(str(path)) as client:
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert ends(daemon, signal.SIGTERM)[0] == 0


def test_manager_that_goes_and_comes_again(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    first = Manager(str(tmp_path / "notify"))
    with ServiceManager() as told:
        with first.socket:
            told.ready("one")
            assert first.hears()["STATUS"] == "one"
        (tmp_path / "notify").unlink()
        second = Manager(str(tmp_path / "notify"))
        with second.socket:
            told.ready("two")
            assert second.hears()["STATUS"] == "two"


def test_manager_that_does_not_read_holds_nobody(monkeypatch, tmp_path):
    """Not the caller while it runs, and not for long the end of the process."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    deaf = Manager(str(tmp_path / "notify"))
    with deaf.socket:
        began = time.monotonic()
        with ServiceManager() as told:
            for _ in range(1000):
                told.ready("x" * 1000)
            assert time.monotonic() - began < DEADLINE / 2
        assert time.monotonic() - began < DEADLINE
        [sender] = [one for one in threading.enumerate() if one.name == "notify"]
        for _ in range(1000):
            deaf.hears()
        sender.join(DEADLINE)
        assert not sender.is_alive()


def test_text_cannot_become_another_variable(monkeypatch, path_manager):
    monkeypatch.setenv("NOTIFY_SOCKET", path_manager.address)
    with ServiceManager() as told:
        told.refused("first\nMAINPID=1")
    assert path_manager.hears()["STATUS"] == "first; MAINPID=1"


def test_without_a_manager_there_is_no_thread(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    before = threading.active_count()
    with ServiceManager() as told:
        told.serves(lambda call: call(), "x")
        told.reloading()
        told.stopping(1)
        assert threading.active_count() == before


@pytest.mark.parametrize(
    ("pid", "address", "starts", "why"),
    [
        ("ours", True, True, "systemd has started this process"),
        ("ours", False, False, "a unit without Type=notify, such as one for a shell"),
        ("1", True, False, "systemd has started the script that has started this process"),
        (None, True, False, "start-stop-daemon without systemd"),
    ],
)
def test_who_starts_the_daemon_anew(path_manager, monkeypatch, pid, address, starts, why):
    if pid is not None:
        monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()) if pid == "ours" else pid)
    if address:
        monkeypatch.setenv("NOTIFY_SOCKET", path_manager.address)
    with ServiceManager() as told:
        assert told.starts_anew is starts, why


def test_variables_do_not_reach_a_child(start, path_manager):
    [listener] = listen_tcp("127.0.0.1", 0, reuse_port=False)
    with listener:
        daemon = start(
            "port: 0\n",
            program=[sys.executable, "-c", HAND_OVER, str(listener.fileno()), "-c", ENVIRONMENT],
            pass_fds=(listener.fileno(),),
            NOTIFY_SOCKET=path_manager.address,
            WATCHDOG_USEC="30000000",
            SYSTEMD_EXEC_PID="1",
        )
        assert "READY" in path_manager.hears()
        assert daemon.stdout.readline() == "[]\n"
        assert ends(daemon, signal.SIGTERM)[0] == 0


# SOCKETS THAT ARE HANDED OVER


def hand_over(*given: socket.socket) -> dict[str, object]:
    """Return the arguments of `start` that hand these sockets to the daemon."""
    numbers = tuple(one.fileno() for one in given)
    program = [sys.executable, "-c", HAND_OVER, ",".join(map(str, numbers)), *DAEMON[1:]]
    return {"program": program, "pass_fds": numbers}


@pytest.mark.parametrize("listed", [False, True])
def test_sockets_take_the_place_of_the_configuration(start, path_manager, tmp_path, listed):
    """Several, TCP and UNIX; the file of the UNIX socket stays, for it is not ours."""
    path, other = tmp_path / "handed", tmp_path / "configured"
    with contextlib.ExitStack() as stack:
        tcp = [stack.enter_context(listen_tcp("127.0.0.1", 0, reuse_port=False)[0]) for _ in "ab"]
        unix = stack.enter_context(listen_unix(str(path), 0o600))
        text = f"path: {other}\nowner: nosuch\n"
        if listed:
            text = f"listen: [{{address: 'unix:{other}', owner: nosuch}}]\n"
        daemon = start(text, **hand_over(*tcp, unix), NOTIFY_SOCKET=path_manager.address)
        addresses: list[Address] = [*(one.getsockname() for one in tcp), str(path)]
        names = [f"127.0.0.1:{one.getsockname()[1]}" for one in tcp]
        status = f"Listening on {', '.join([*names, str(path)])}"
        assert path_manager.hears() == {"READY": "1", "STATUS": status}
        for address in addresses:
            with Client(address) as client:
                assert client.ask(NO_LOOKUP) == b"NOTFOUND "
        assert not other.exists()
        code, errors = ends(daemon, signal.SIGTERM)
        assert code == 0
        assert (
            "using sockets from the service manager; ignoring host, port, path and listen" in errors
        )
        assert path.is_socket()
        # Who comes now waits for the next daemon, instead of being refused.
        with Client(str(path)) as waiting:
            waiting.send(frame(NO_LOOKUP))
            start(f"path: {other}\n", **hand_over(*tcp, unix))
            assert waiting.reply() == b"NOTFOUND "


def test_sockets_are_not_inherited(tmp_path):
    """As they came: they are to be had in an exec, or the daemon would not have got them."""
    with listen_unix(str(tmp_path / "socket"), None) as listener:
        descriptor = os.dup(listener.fileno())
        os.set_inheritable(descriptor, True)
        [one] = take_over([descriptor])
        with one:
            assert one.getsockname() == listener.getsockname()
            assert not one.get_inheritable()


def test_sockets_of_another_process_are_left_alone(start, path_manager, tmp_path):
    path = tmp_path / "configured"
    with listen_unix(str(tmp_path / "other"), None) as listener:
        start(
            f"path: {path}\n",
            **hand_over(listener),
            LISTEN_PID="1",
            NOTIFY_SOCKET=path_manager.address,
        )
        assert path_manager.hears()["STATUS"] == f"Listening on {path}"


def datagram() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    return one


def unbound() -> socket.socket:
    return socket.socket(socket.AF_INET)


def sequential() -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.bind("")
    one.listen()
    return one


def foreign() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


WRONG_SOCKETS = [
    (datagram, "no stream socket; its unit needs ListenStream=", "ListenDatagram="),
    (sequential, "no stream socket; its unit needs ListenStream=", "ListenSequentialPacket="),
    (unbound, "a connection; its unit needs Accept=no", "as with Accept=yes"),
    (foreign, "neither TCP nor a UNIX socket", "ListenNetlink="),
]


@pytest.mark.parametrize(("make", "says", "why"), WRONG_SOCKETS)
def test_wrong_kind_of_socket(make, says, why):
    with make() as one:
        descriptor = os.dup(one.fileno())
        with pytest.raises(ListenError) as caught:
            take_over([descriptor])
        where = f"descriptor {descriptor} of the service manager"
        assert str(caught.value) == f"cannot listen on {where}: {says}", why
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_descriptor_that_is_no_socket():
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"), pytest.raises(ListenError, match="non-socket"):
        take_over([reader])


def test_descriptor_that_is_not_open():
    with pytest.raises(ListenError, match="of the service manager: Bad file descriptor"):
        take_over([1_000_000])


def test_wrong_socket_ends_the_daemon(start):
    with datagram() as one:
        daemon = start("port: 0\n", **hand_over(one))
        code, errors = ends(daemon)
    assert code == 69
    assert errors.splitlines()[-1] == (
        "mta-sts-daemon: cannot listen on descriptor 3 of the service manager:"
        " no stream socket; its unit needs ListenStream="
    )


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "9" * 30, "٣"])
def test_number_of_sockets_that_cannot_be_read(start, number):
    code, errors = ends(start("port: 0\n", **hand_over(), LISTEN_FDS=number))
    assert code == 69
    assert "LISTEN_FDS=" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "expected", "why"),
    [
        ({}, [], "started by hand"),
        ({"LISTEN_FDS": "2"}, [], "no word on whose they are"),
        ({"LISTEN_PID": "{pid}"}, [], "no number"),
        ({"LISTEN_PID": "{pid}", "LISTEN_FDS": "0"}, [], "none"),
        ({"LISTEN_PID": "{pid}", "LISTEN_FDS": "3"}, [3, 4, 5], "from 3 upwards"),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "3"}, [], "another process's"),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "x"}, [], "nobody's"),
    ],
)
def test_descriptors(monkeypatch, variables, expected, why):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(pid=os.getpid()))
    assert listen_fds() == expected, why
    assert not any(name.startswith("LISTEN_") for name in os.environ), "left for a child"


# THE UNITS


@pytest.fixture
def units(tmp_path) -> Path:
    """Return a directory with the units in it, for a program that is installed."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("not installed: systemd-analyze", pytrace=False)
        pytest.skip("not installed: systemd-analyze")
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/mta-sts-daemon", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(*arguments: str | Path) -> str:
    """Return what systemd-analyze says; an error of it is a failure."""
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_units_are_understood(units):
    """Every word of them, by the systemd that is installed."""
    names = sorted(units.glob("mta-sts-daemon.*"))
    assert [one.suffix for one in names] == [".service", ".socket"]
    # The manual pages are not installed here.
    assert analyze("verify", "--man=no", *names) == ""


def test_reload_signals_the_daemon_by_what_every_debian_has():
    """Essential packages alone: /bin/kill is in procps."""
    service = (UNITS / "mta-sts-daemon.service").read_text()
    *_, command = re.findall("^ExecReload=(.+)$", service, re.M)
    # What ignores a signal hands that on to its children, as nohup(1) does.
    waits = "signal(SIGHUP, SIG_DFL); print('ready', flush=True); pause()"
    program = [sys.executable, "-c", f"from signal import *; {waits}"]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout.readline() == b"ready\n"
        words = [word.replace("${MAINPID}", str(daemon.pid)) for word in shlex.split(command)]
        assert words[0] == "/bin/sh"
        subprocess.run(words, env={"PATH": ""}, timeout=DEADLINE, check=True)
        assert daemon.wait(DEADLINE) == -signal.SIGHUP


def test_little_is_exposed(units):
    text = analyze("security", "--offline=true", "--no-pager", units / "mta-sts-daemon.service")
    found = re.search(r"Overall exposure level for mta-sts-daemon.service: ([0-9.]+)", text)
    assert float(found[1]) <= MAX_EXPOSURE, text


def test_every_word_of_the_units_is_there_for_once():
    """A key that is set twice, and does not add up, is a mistake of ours that systemd accepts."""
    lists = {"After", "Before", "ExecReload", "SystemCallFilter"}
    for unit in UNITS.iterdir():
        keys = re.findall(r"^([A-Za-z]+)=", unit.read_text(), re.M)
        assert len({*keys}) > 5
        assert [key for key in keys if keys.count(key) > 1 and key not in lists] == []


def test_directories_are_those_of_the_examples():
    """What the example configurations and the units say of paths goes together."""
    service = (UNITS / "mta-sts-daemon.service").read_text()
    sqlite = (ROOT / "etc" / "mta-sts-daemon-sqlite.yml").read_text()
    assert "\nStateDirectory=mta-sts-daemon\n" in service
    assert "filename: /var/lib/mta-sts-daemon/" in sqlite
    path = re.search(
        r"^#path: (/var/spool/postfix/.*)$", (ROOT / "etc/mta-sts-daemon.yml").read_text(), re.M
    )
    assert f"#ListenStream={path[1]}\n" in (UNITS / "mta-sts-daemon.socket").read_text()
