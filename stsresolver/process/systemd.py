"""What a service manager hands to the daemon, and what it wants to be told.

sd_listen_fds(3): sockets that were opened for the daemon before it was started. sd_notify(3): that
it serves, reloads, stops, and is alive. systemd knows both, and Debian's start-stop-daemon(8) waits
for `READY=1` and `ERRNO=`. The environment variables of both are removed once they are read: they
are not for a child.

Nothing here raises, because a service manager that cannot be told something is no reason not to
serve. `listen_fds` alone raises `ValueError`.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)

# The descriptor of the first socket that is handed over.
FIRST_DESCRIPTOR = 3
# Seconds that the last messages have to be sent when the daemon ends.
_LAST_MESSAGES = 2.0


def hands_sockets() -> bool:
    """Say whether sockets are handed to this process, before `listen_fds` takes them."""
    return os.environ.get("LISTEN_PID") == str(os.getpid()) and "LISTEN_FDS" in os.environ


def listen_fds() -> list[int]:
    """Return the descriptors of the sockets that are handed to this process, from 3 upwards.

    None are, where the variables are missing or are another process's. Raise `ValueError` where
    they cannot be read.
    """
    pid, number = (os.environ.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid is None or number is None or pid != str(os.getpid()):
        return []
    if not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise ValueError(f"LISTEN_FDS={number!r}: no number of sockets")
    return list(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(number)))


class ServiceManager:
    """Tells the service manager what the daemon does, from a thread of its own.

    Who calls a method never waits, and may be a signal handler. Without a service manager
    (`NOTIFY_SOCKET` is not set) there is no thread, and each method does nothing.

    As a context manager, it says at the end that the daemon could not be started, if it never was
    ready.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", None)
        # The process that systemd itself started: systemd.exec(5).
        self._by_systemd = os.environ.pop("SYSTEMD_EXEC_PID", None) == str(os.getpid())
        self._interval = _interval()
        self._soon: Callable[[Callable[[], None]], None] | None = None
        self._asked = False
        self._refused = "the daemon was not started"
        self._ready = False
        self._heard = False
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if address:
            self._open(address)

    def __enter__(self) -> ServiceManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if not self._ready:
            self._say(f"ERRNO={errno.ECANCELED}", f"STATUS={self._refused}")
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(_LAST_MESSAGES)

    @property
    def starts_anew(self) -> bool:
        """Whether the service manager starts the daemon anew when it fails.

        systemd does. A start script is done once the daemon runs.
        """
        return self._by_systemd and self._thread is not None

    def serves(self, soon: Callable[[Callable[[], None]], None], status: str) -> None:
        """Say that the daemon serves, once it does, and from then on that it is alive.

        `soon` has a call done on the thread that serves. So each sign of life says that this thread
        goes round, and not only that there is a process.
        """
        self._soon = soon
        soon(lambda: self.ready(status))

    def ready(self, status: str = "") -> None:
        """Say that the daemon serves, for the first time or after a reload. `status`: one line."""
        self._ready = True
        self._say("READY=1", *([f"STATUS={status}"] if status else []))

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` is to follow in any case."""
        # systemd tells by the time whether this belongs to the reload that it asked for.
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """Tell that the daemon stops, which may take this many seconds."""
        self._say(
            "STOPPING=1",
            f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}",
            "STATUS=Stopping: finishing the requests under way",
        )

    def refused(self, why: str) -> None:
        """Keep why the daemon could not be started, to say it at the end."""
        self._refused = why

    def _open(self, address: str) -> None:
        if address[0] not in "/@":
            log.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract socket", address)
            return
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Now, because the user that the daemon becomes may not reach the path.
        self._connect()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._thread.start()

    def _say(self, *lines: str) -> None:
        if self._thread is not None:
            self._waiting.put("\n".join(line.replace("\n", "; ") for line in lines))

    def _alive(self) -> None:
        self._asked = False
        self._say("WATCHDOG=1")

    def _connect(self) -> None:
        try:
            self._socket.connect(self._address)
        except OSError as error:
            self._unheard(error)

    def _unheard(self, error: OSError) -> None:
        """Say that nobody hears us; start-stop-daemon does not, once it knows that we are ready."""
        level = logging.DEBUG if self._heard else logging.WARNING
        log.log(level, "the service manager cannot be told: %s", error)

    # ON ITS OWN THREAD

    def _run(self) -> None:
        due = math.inf
        while True:
            pause = None if due == math.inf else max(0.0, due - time.monotonic())
            try:
                message = self._waiting.get(timeout=pause)
            except queue.Empty:
                due = time.monotonic() + self._interval
                self._ask()
                continue
            if message is None:
                break
            self._send(message.encode())
            if due == math.inf and self._soon is not None:
                due = time.monotonic() + self._interval
        self._socket.close()

    def _ask(self) -> None:
        """Ask the serving thread for a sign of life, if it does not owe one already."""
        if self._soon is not None and not self._asked:
            self._asked = True
            self._soon(self._alive)

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError:
            # It may listen anew at the same place.
            try:
                self._socket.connect(self._address)
                self._socket.send(message)
            except OSError as error:
                self._unheard(error)
                return
        self._heard = True


def _interval() -> float:
    """Return the seconds between two signs of life, half of what is allowed; inf for none."""
    limit, pid = (os.environ.pop(name, None) for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
    if limit is None or (pid is not None and pid != str(os.getpid())):
        return math.inf
    if not (limit.isascii() and limit.isdecimal() and int(limit)):
        log.warning("WATCHDOG_USEC=%s of the service manager is no number of microseconds", limit)
        return math.inf
    return int(limit) / 2e6
