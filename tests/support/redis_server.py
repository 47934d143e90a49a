"""Real `redis-server` and `redis-sentinel` processes on loopback ports, each with its own files."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.missing import not_installed

DEADLINE = 20.0


def eventually(condition, what):
    """Return the first true value of `condition`, which has `DEADLINE` seconds."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    pytest.fail(f"not within {DEADLINE} s: {what}")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class RedisServer:
    """A Redis that can be stopped, killed and started again on its port, empty each time.

    `options`: lines of the configuration file, to which `redis-sentinel` adds its own.
    """

    def __init__(self, directory, *options, program="redis-server"):
        self.program = shutil.which(program) or not_installed(program)
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self.socket = directory / "socket"
        self.file = directory / "redis.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", *options]
        if program == "redis-server":
            lines += ['save ""', f"unixsocket {self.socket}"]
        self.file.write_text("".join(line + "\n" for line in lines))
        self.process = None
        self.start()

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen([self.program, self.file], stdout=log, stderr=log)
        eventually(self.answers, f"{self.program} answers")

    def answers(self):
        """Say whether the server works, or at least wants a password."""
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with contextlib.closing(self.client()) as client:
            try:
                return client.ping()
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                return False

    def client(self, **options):
        """Return a client of redis-py's own."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=5, protocol=2, retry=once, **options)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            # A process that was stopped must go on before it can end.
            self.signal(signal.SIGCONT)
            self.kill()
