"""A network namespace of our own, the processes in it, and what they write.

A namespace has a loopback interface, nothing else, and a resolv.conf that names 127.0.0.1
(ip-netns(8)): whatever runs in it reaches nobody outside, and may take ports 25, 53 and 443.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
PREFIX = "sts-postfix-"
NETNS = Path("/run/netns")
ETC_NETNS = Path("/etc/netns")
# Not TMPDIR: Postfix's own user has to get in, and a UNIX socket's path is short (unix(7)).
TMP = Path("/tmp")


class NotPermitted(Exception):
    """The kernel lets us make no network namespace."""


def wait_until(condition, what, seconds=30):
    """Return the first true value of `condition()`; raise TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.005)
    return value


class Log:
    """A file that somebody else appends to, read from a mark on."""

    def __init__(self, path):
        self.path = path

    def mark(self):
        return self.path.stat().st_size if self.path.exists() else 0

    def since(self, mark=0):
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(mark)
            return file.read().decode(errors="replace")


class Namespace:
    """The namespace, and `directory`, where everything that runs in it keeps its files.

    Both carry our process's id in their names, and `kind`. Leaving ends whatever still runs inside,
    so that nothing is left even of a daemon that went its own way; entering removes what a run that
    was killed has left behind.
    """

    def __init__(self, kind=""):
        self.name = f"{PREFIX}{os.getpid()}{kind and '-'}{kind}"
        self.directory = TMP / self.name

    def __enter__(self):
        for path in (*NETNS.glob(f"{PREFIX}[0-9]*"), *TMP.glob(f"{PREFIX}[0-9]*")):
            pid, _, _ = path.name.removeprefix(PREFIX).partition("-")
            if path.name == self.name or not Path("/proc", pid).exists():
                remove(path.name)
        self._unmount = f" {NETNS} " not in Path("/proc/self/mountinfo").read_text()
        made = ip("netns", "add", self.name, check=False)
        if made.returncode:
            raise NotPermitted(made.stderr.strip())
        try:
            etc = ETC_NETNS / self.name
            etc.mkdir(parents=True)
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            ip("-n", self.name, "link", "set", "lo", "up")
            self.directory.mkdir()
            self.directory.chmod(0o755)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        remove(self.name)
        if self._unmount:
            # "ip netns add" made it a mount. It is busy while anybody else has a namespace.
            subprocess.run(["umount", NETNS], env=ENVIRONMENT, capture_output=True, check=False)

    def command(self, *argv):
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, *argv, stdin=b"", check=True):
        """Run a program to its end and return what subprocess.run returns."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin,
            env=ENVIRONMENT,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{argv[0]} exited with {done.returncode}: {done.stderr.decode()}")
        return done


class Process:
    """A program that runs in the namespace until it is stopped, and its output."""

    def __init__(self, namespace, name, *argv, env=None, cwd=None):
        self.name = name
        self.log = Log(namespace.directory / f"{name}.log")
        self._mark = self.log.mark()
        with self.log.path.open("ab") as output:
            # A session of its own: Ctrl-C is for the tests, which then stop things in order.
            self._popen = subprocess.Popen(
                namespace.command(*argv),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=ENVIRONMENT | (env or {}),
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def running(self):
        return self._popen.poll() is None

    @property
    def output(self):
        """What the program has written so far."""
        return self.log.since(self._mark)

    def tell(self, line):
        """Write a line to the program's standard input."""
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def ready(self, pattern):
        """Wait until the program has written `pattern`; raise RuntimeError if it does not."""
        written = re.compile(pattern)
        try:
            wait_until(
                lambda: written.search(self.output) or not self.running,
                f"{pattern!r} from {self.name}",
            )
        except TimeoutError:
            self.stop()
            raise RuntimeError(self._failure("is not ready")) from None
        if not written.search(self.output):
            raise RuntimeError(self._failure(f"ended with {self.stop()}"))

    def signal(self, number):
        """Send the program a signal (signal(7))."""
        self._popen.send_signal(number)

    def kill(self):
        """End the program by SIGKILL, so that it cannot put anything in order."""
        self._popen.stdin.close()
        self._popen.kill()
        self._popen.wait()

    def stop(self):
        """End the program, by force where SIGTERM does not do, and return its exit status."""
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.terminate()
        try:
            return self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def _failure(self, what):
        return f"{self.name} {what}:\n{self.output}"


def ip(*arguments, check=True):
    return subprocess.run(
        ["ip", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=check
    )


def pids(name):
    return [int(pid) for pid in ip("netns", "pids", name, check=False).stdout.split()]


def remove(name):
    """Remove the namespace `name`, its processes and its files, as far as they are there."""
    if (NETNS / name).exists():
        for pid in pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not pids(name), f"the end of all processes in {name}")
        ip("netns", "del", name)
    shutil.rmtree(ETC_NETNS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        ETC_NETNS.rmdir()
    shutil.rmtree(TMP / name, ignore_errors=True)
