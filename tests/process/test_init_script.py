"""The init script: a copy of it and of the daemon in a directory of its own, and what it is told.

Every path is one of /etc/default/mta-sts-daemon, of which each test has its own; the rest is real.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.giving_up_root import gives_up_root
from tests.support.missing import not_installed
from tests.support.socketmap_client import DEADLINE, Client, frame, wait_for

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "etc" / "init.d" / "mta-sts-daemon"
DEFAULTS = ROOT / "etc" / "default" / "mta-sts-daemon"
LOGROTATE = ROOT / "etc" / "logrotate.d" / "mta-sts-daemon"
NO_LOOKUP = b"zone [192.0.2.1]"

# What pip installs as mta-sts-daemon. A request with "hold" in it waits until a file is there.
PROGRAM = """#!{python}
import os, sys, threading, time
sys.path.insert(0, {library!r})
from stsresolver.socketmap import answer
from stsresolver import daemon

look_up = answer.Answers.look_up

def held(self, request, deliver):
    def wait():
        while not os.path.exists({release!r}):
            time.sleep(0.005)
        look_up(self, request, deliver)
    if b"hold" in request:
        threading.Thread(target=wait, daemon=True).start()
    else:
        look_up(self, request, deliver)

answer.Answers.look_up = held
sys.exit(daemon.main())
"""


class Host:
    """A scratch root with the daemon, the script and its settings in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = str(root / "run" / "mta-sts-daemon" / "socket")
        self.pidfile = root / "run" / "mta-sts-daemon.pid"
        self.log = root / "var" / "log" / "mta-sts-daemon.log"
        self.config = root / "etc" / "mta-sts-daemon.yml"
        self.program = root / "usr" / "bin" / "mta-sts-daemon"
        self.release = root / "release"
        self.script = root / "etc" / "init.d" / "mta-sts-daemon"
        self.defaults = root / "etc" / "default" / "mta-sts-daemon"
        for path in (self.program, self.script, self.defaults, self.log, root / "var/lib/x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        (root / "run").mkdir()
        library = root / "usr" / "lib"
        shutil.copytree(ROOT / "stsresolver", library / "stsresolver")
        self.write_program(
            PROGRAM.format(python=sys.executable, library=str(library), release=str(self.release))
        )
        shutil.copy(SCRIPT, self.script)
        shutil.copy(DEFAULTS, self.defaults)
        self.set(
            DAEMON=self.program,
            CONFIG=self.config,
            DAEMON_USER="nobody",
            LOGFILE=self.log,
            RUNDIR=root / "run" / "mta-sts-daemon",
            STATEDIR=root / "var" / "lib" / "mta-sts-daemon",
            PIDFILE=self.pidfile,
        )
        self.configure()

    def set(self, **settings: object) -> None:
        """Add settings to the script's file of them."""
        with self.defaults.open("a") as file:
            for name, value in settings.items():
                file.write(f"{name}={shlex.quote(str(value))}\n")

    def configure(self, more: str = "") -> None:
        self.config.write_text(f"path: {self.socket}\nmode: 0666\n{more}")

    def write_program(self, text: str) -> None:
        self.program.write_text(text)
        self.program.chmod(0o755)

    def begin(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start the script, and return its process."""
        environment = {"DEFAULTS": str(self.defaults), "PATH": "/nowhere", "LANG": "C"}
        return subprocess.Popen(
            ["/bin/sh", str(self.script), *arguments],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def __call__(self, *arguments: str, **options: object) -> tuple[int, str]:
        """Return the exit status of the script and what it says.

        Fails if the daemon goes on holding the script's standard streams.
        """
        process = self.begin(*arguments, **options)
        output, errors = process.communicate(timeout=3 * DEADLINE)
        return process.returncode, output + errors

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def answers(self) -> bool:
        """Ask without waiting for the daemon to come up: the script has done that."""
        with Client(self.socket) as client:
            return client.ask(NO_LOOKUP) == b"NOTFOUND "

    def kill(self) -> None:
        """Kill the daemon, and wait until there is no such process."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "the end of the process")


def alive(pid: int) -> bool:
    """Say whether there is such a process, be it one that init has not laid to rest yet."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a scratch root that every user may enter, unlike `tmp_path`."""
    if shutil.which("start-stop-daemon", path="/usr/sbin:/sbin") is None:
        not_installed("start-stop-daemon")
    root = Path(tempfile.mkdtemp(prefix="stsresolver-test-"))
    root.chmod(0o755)
    one = Host(root)
    try:
        yield one
    finally:
        if one.pidfile.exists() and (text := one.pidfile.read_text().strip()):
            command = Path(f"/proc/{text}/cmdline")
            if command.exists() and str(root) in command.read_text():
                os.kill(int(text), signal.SIGKILL)
        shutil.rmtree(root)


RUNS = (0, "is running, process {pid}")
DEAD = (1, "is dead, and has left {pidfile}")
DOWN = (3, "is not running")


def check_status(host: Host, expected: tuple[int, str]) -> None:
    """Compare what status says, and its exit status."""
    text = expected[1]
    if "{pid}" in text:
        text = text.format(pid=host.pid)
    text = text.format(pidfile=host.pidfile)
    assert host("status") == (expected[0], f"mta-sts-daemon: {text}\n")


# FROM START TO STOP


@gives_up_root
def test_a_life(host):
    check_status(host, DOWN)
    assert host("start") == (0, "mta-sts-daemon: started\n")
    assert host.answers()
    check_status(host, RUNS)
    first = host.pid

    assert host("start") == (0, "mta-sts-daemon: is running already\n")
    assert host.pid == first

    with Client(host.socket) as client:
        host.configure("cache_grace: 61\n")
        assert host("reload") == (0, "mta-sts-daemon: reads its configuration again\n")
        wait_for(lambda: "INFO reloaded" in host.log.read_text(), "the reload")
        assert host("force-reload")[0] == 0
        assert client.ask(NO_LOOKUP) == b"NOTFOUND "
    assert host.pid == first

    assert host("restart") == (0, "mta-sts-daemon: stopped\nmta-sts-daemon: started\n")
    assert host.answers()
    assert host.pid != first
    assert not alive(first)
    second = host.pid
    assert host("try-restart")[0] == 0
    assert host.answers()
    assert host.pid != second

    third = host.pid
    assert host("stop") == (0, "mta-sts-daemon: stopped\n")
    assert not alive(third)
    assert not os.path.exists(host.socket)
    assert not host.pidfile.exists()
    check_status(host, DOWN)
    assert host("stop") == (0, "mta-sts-daemon: is not running\n")
    assert host.log.read_text().count("INFO stopped") == 3


@gives_up_root
def test_daemon_gives_up_root(host):
    host.set(DAEMON_GROUP="daemon")
    assert host("start")[0] == 0
    status = Path(f"/proc/{host.pid}/status").read_text()
    nobody = pwd.getpwnam("nobody").pw_uid
    assert re.search(r"^Uid:(.*)$", status, re.M)[1].split() == [str(nobody)] * 4
    for name in ("run/mta-sts-daemon", "var/lib/mta-sts-daemon", "var/log/mta-sts-daemon.log"):
        assert (host.root / name).stat().st_uid == nobody
    assert (host.root / "var/lib/mta-sts-daemon").stat().st_mode & 0o777 == 0o750
    assert host.log.stat().st_mode & 0o777 == 0o640
    assert host("stop")[0] == 0


@gives_up_root
def test_cache_and_arguments(host):
    """The directory of the state is the daemon's, and OPTIONS are its arguments."""
    file = host.root / "var/lib/mta-sts-daemon/policies.db"
    host.configure(f"cache: {{type: sqlite, options: {{filename: {file}}}}}\n")
    host.set(OPTIONS="-v debug --disable-uvloop")
    assert host("start")[0] == 0
    assert file.exists()
    assert "-v debug --disable-uvloop" in command_line(host.pid)
    assert host("stop")[0] == 0


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@gives_up_root
def test_without_a_log_file(host):
    host.set(LOGFILE="")
    assert host("start") == (0, "mta-sts-daemon: started\n")
    assert " -l " not in command_line(host.pid)
    assert host.answers()
    assert host("stop")[0] == 0
    assert not host.log.exists()


@gives_up_root
def test_stop_waits_for_the_requests_under_way(host):
    assert host("start")[0] == 0
    pid = host.pid
    with Client(host.socket) as client, Client(host.socket) as idle:
        client.send(frame(b"zone hold.invalid"))
        assert idle.ask(NO_LOOKUP) == b"NOTFOUND "
        stopping = host.begin("stop")
        assert idle.is_closed()
        assert stopping.poll() is None
        assert alive(pid)
        host.release.touch()
        assert client.reply() == b"NOTFOUND "
        output, errors = stopping.communicate(timeout=DEADLINE)
    assert (stopping.returncode, output, errors) == (0, "mta-sts-daemon: stopped\n", "")
    assert not alive(pid)


@gives_up_root
def test_stop_that_cuts_requests_off(host):
    host.configure("shutdown_timeout: 0.1\n")
    assert host("start")[0] == 0
    with Client(host.socket) as client:
        client.send(frame(b"zone hold.invalid"))
        assert host("stop") == (0, "mta-sts-daemon: stopped\n")
        assert client.is_closed()
    check_status(host, DOWN)


# WHAT ELSE MAY HAVE HAPPENED TO IT


@gives_up_root
@pytest.mark.parametrize("then", ["start", "restart", "stop"])
def test_killed(host, then):
    assert host("start")[0] == 0
    host.kill()
    check_status(host, DEAD)
    assert host("try-restart") == (0, "mta-sts-daemon: is not running\n")
    assert host("reload") == (7, "mta-sts-daemon: is not running\n")
    assert host(then)[0] == 0
    if then == "stop":
        check_status(host, DOWN)
        return
    check_status(host, RUNS)
    assert host.answers()
    assert host("stop")[0] == 0


@gives_up_root
def test_stopped_by_another_hand(host):
    assert host("start")[0] == 0
    pid = host.pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), "the end")
    check_status(host, DOWN)
    assert host("start")[0] == 0
    assert host.answers()
    assert host("stop")[0] == 0


@gives_up_root
def test_program_that_was_removed(host):
    """What still runs can be stopped; and it is not stopped where it could not be started again."""
    assert host("start")[0] == 0
    host.program.unlink()
    assert host("status")[0] == 0
    assert host("restart")[0] == 5
    assert host("reload")[0] == 5
    assert host.answers()
    assert host("stop") == (0, "mta-sts-daemon: stopped\n")
    check_status(host, DOWN)


@gives_up_root
def test_process_id_of_another_program(host):
    """It was the daemon's before a reboot, say: that program is left alone."""
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        try:
            host.pidfile.write_text(f"{other.pid}\n")
            check_status(host, DEAD)
            assert host("reload")[0] == 7
            assert host("stop") == (0, "mta-sts-daemon: is not running\n")
            host.pidfile.write_text(f"{other.pid}\n")
            assert host("start") == (0, "mta-sts-daemon: started\n")
            assert host.pid != other.pid
            assert host("stop")[0] == 0
            assert other.poll() is None
        finally:
            other.kill()


@gives_up_root
def test_started_by_two_at_once(host):
    both = [host.begin("start") for _ in range(2)]
    said = []
    for one in both:
        output, errors = one.communicate(timeout=3 * DEADLINE)
        assert (one.returncode, errors) == (0, "")
        said.append(output)
    assert sorted(said) == ["mta-sts-daemon: is running already\n", "mta-sts-daemon: started\n"]
    assert host.log.read_text().count("listening on") == 1
    assert host("stop")[0] == 0


# WHAT KEEPS IT FROM RUNNING


@gives_up_root
def test_wrong_configuration(host):
    """It is said at once and in words; a daemon that runs goes on as it is."""
    good = host.config.read_text()
    for running in (False, True):
        host.config.write_text(f"{good}prot: 1\n")
        for action in ("reload", "restart") if running else ("start", "restart"):
            status, text = host(action)
            assert status == 6
            assert f"{host.config}:3: prot: " in text
            assert "cannot run with this configuration" in text
        if running:
            assert host.answers()
            assert host("stop")[0] == 0
        else:
            check_status(host, DOWN)
            host.config.write_text(good)
            assert host("start")[0] == 0


@gives_up_root
def test_address_that_is_taken(host):
    host.config.write_text("host: 192.0.2.1\n")
    status, text = host("start")
    assert status == 1
    [why, end] = text.splitlines()
    assert why.startswith("mta-sts-daemon: cannot listen on 192.0.2.1 port 8461: ")
    assert end == f"mta-sts-daemon: was not started; its log is {host.log}"
    check_status(host, DOWN)


@gives_up_root
def test_program_that_does_not_come_up(host):
    """It is ended, rather than left to come up later, unlooked-for."""
    mark = host.root / "pid"
    host.write_program(
        '#!/bin/sh\n[ "$1" != --check-config ] || exit 0\n'
        f"echo $$ >{mark}\nwhile :; do sleep 1; done\n"
    )
    host.set(START_TIMEOUT=1)
    status, text = host("start")
    assert status == 1
    assert "timed out waiting for a notification" in text
    assert text.endswith(f"mta-sts-daemon: was not started; its log is {host.log}\n")
    assert not alive(int(mark.read_text()))
    check_status(host, DOWN)


@gives_up_root
def test_program_that_breaks(host):
    host.write_program('#!/bin/sh\n[ "$1" = --check-config ] || { echo broken >&2; exit 1; }\n')
    host.set(START_TIMEOUT=1)
    status, text = host("start")
    assert status == 1
    assert "broken\n" in text
    check_status(host, DOWN)


@gives_up_root
@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        ({"DAEMON": "/no/such/program"}, 5, "there is no program /no/such/program: see DAEMON"),
        ({"DAEMON_USER": "no-such-user"}, 6, "there is no user 'no-such-user': see DAEMON_USER"),
        ({"DAEMON_USER": ""}, 6, "there is no user '': see DAEMON_USER"),
        ({"CONFIG": "/no/such/file"}, 6, "/no/such/file: cannot be read: No such file"),
        ({"OPTIONS": "--surplus"}, 6, "unrecognized arguments: --surplus"),
    ],
)
def test_wrong_setting(host, settings, status, says):
    host.set(**settings)
    found, text = host("start")
    assert (found, says in text) == (status, True), text
    check_status(host, DOWN)


@gives_up_root
@pytest.mark.parametrize("setting", ["PIDFILE", "RUNDIR", "STATEDIR"])
@pytest.mark.parametrize("below", ["", "below/"])
def test_directory_that_others_may_write_to(host, setting, below):
    """Root would follow a link there."""
    directory = host.root / "shared"
    (directory / below).mkdir(parents=True)
    os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
    path = directory / f"{below}name"
    path.symlink_to(host.root / "elsewhere")
    host.set(**{setting: str(path)})
    assert host("start") == (
        6,
        f"mta-sts-daemon: not only root may write to the directory of {path}: see {setting} in"
        f" {host.defaults}\n",
    )
    assert os.listdir(directory / below) == ["name"]
    assert not (host.root / "elsewhere").exists()


@gives_up_root
@pytest.mark.parametrize("there", [True, False])
def test_link_in_the_place_of_the_log(host, there):
    """Others may write to the directory of the log, as on Ubuntu; no link there is followed."""
    secret = host.root / "secret"
    if there:
        secret.write_text("secret")
        secret.chmod(0o600)
    os.chown(host.log.parent, pwd.getpwnam("nobody").pw_uid, -1)
    host.log.symlink_to(secret)
    status, text = host("start")
    assert status == 1
    assert f"mta-sts-daemon: {host.log}: cannot be written: {host.log} is a link, and " in text
    check_status(host, DOWN)
    assert secret.exists() == there
    if there:
        assert (secret.read_text(), secret.stat().st_uid) == ("secret", 0)
        assert secret.stat().st_mode & 0o777 == 0o600
    host.log.unlink()
    assert host("start")[0] == 0
    assert host.log.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert host.log.stat().st_mode & 0o777 == 0o640
    assert host("stop")[0] == 0


@pytest.mark.parametrize("arguments", [[], ["started"], ["start", "now"], [""], ["process"]])
def test_wrong_arguments(host, arguments):
    status, text = host(*arguments)
    assert status == 2
    assert text.startswith("mta-sts-daemon: usage: ")
    assert "{start|stop|restart|try-restart|reload|force-reload|status}" in text


@gives_up_root
def test_who_is_not_root(host):
    """May see whether it runs, and no more."""
    nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    assert host("status", **nobody)[0] == 3
    assert host("start")[0] == 0
    for action in ("start", "stop", "restart", "reload", "force-reload", "try-restart"):
        status, text = host(action, **nobody)
        assert (action, status) == (action, 4)
        assert "only root can do this" in text or action == "start"
    assert host("status", **nobody)[0] == 0
    assert host.answers()
    assert host("stop")[0] == 0


# THE FILES THEMSELVES


def test_header():
    """What insserv(8) reads: Postfix comes after us, and goes before us."""
    text = SCRIPT.read_text()
    header = text.partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO")[0]
    fields = {}
    for line in header.splitlines():
        name, _, value = line.removeprefix("# ").partition(":")
        fields[name] = value.strip()
    assert fields["Provides"] == "mta-sts-daemon"
    assert fields["X-Start-Before"] == fields["X-Stop-After"] == "postfix"
    assert fields["Default-Start"] == "2 3 4 5"
    assert fields["Default-Stop"] == "0 1 6"
    for name in ("Required-Start", "Required-Stop", "Short-Description", "Description"):
        assert fields[name], name


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_syntax(shell):
    """Of a shell that knows no more than POSIX, and of the other."""
    if shutil.which(shell) is None:
        not_installed(shell)
    subprocess.run([shell, "-n", SCRIPT], check=True)
    subprocess.run([shell, "-n", DEFAULTS], check=True)


def test_settings_are_those_of_the_script():
    """Each with the value that holds without it, commented out."""
    named = dict(re.findall(r"^#([A-Z_]+)=(.*)$", DEFAULTS.read_text(), re.M))
    script = SCRIPT.read_text().partition("DEFAULTS=${")[0]
    builtin = dict(re.findall(r"^([A-Z_]+)=(.*)$", script, re.M))
    del builtin["PATH"]
    assert named == builtin
    assert not re.findall(r"^[^#\n]", DEFAULTS.read_text(), re.M)


@gives_up_root
def test_logrotate(host):
    """The daemon goes on in the new file, though it may not make one in that directory."""
    logrotate = shutil.which("logrotate", path="/usr/sbin:/sbin:/usr/bin")
    if logrotate is None:
        not_installed("logrotate")
    text = LOGROTATE.read_text()
    assert text.count("/var/log/mta-sts-daemon.log") == 1
    rules = host.root / "logrotate"
    rules.write_text(text.replace("/var/log/mta-sts-daemon.log", str(host.log)))
    assert host("start")[0] == 0
    wait_for(lambda: "listening on" in host.log.read_text(), "the log")
    before = host.log.stat()
    command = [logrotate, "--force", "--state", str(host.root / "state"), str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    after = host.log.stat()
    assert before.st_ino != after.st_ino
    assert (before.st_uid, before.st_gid, before.st_mode) == (
        after.st_uid,
        after.st_gid,
        after.st_mode,
    )
    assert host("stop")[0] == 0
    assert "listening on" in Path(f"{host.log}.1").read_text()
    assert "INFO stopped" in host.log.read_text()
    assert "goes on in the moved file" not in host.log.read_text()
