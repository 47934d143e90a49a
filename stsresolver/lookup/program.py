"""Starts the program of a resolver process: a fresh interpreter that runs `lookup.child`.

A fresh interpreter, unlike a fork, inherits no memory of the daemon. Its standard input is its end
of the socket to the daemon.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

# The service manager means these variables for the daemon alone.
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS")


def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process with a socket as its standard input. Raise `OSError` if it cannot start."""
    package = str(Path(os.path.abspath(__file__)).parents[2])
    environment = {name: os.environ[name] for name in os.environ if name not in _NOT_INHERITED}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{package}{os.pathsep}{path}" if path else package
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "stsresolver.lookup.child"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            # The terminal's Ctrl-C is for the daemon.
            process_group=0,
        )
    except OSError as error:
        # The Python of a virtual environment is a link. Its target may be what cannot be run.
        real = os.path.realpath(sys.executable)
        if error.filename == sys.executable != real:
            error.filename2 = real
        raise
