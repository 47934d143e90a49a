"""Starts the program of a resolver process: a fresh interpreter that runs `lookup.child`.

A fresh interpreter, unlike a fork, inherits no memory of the daemon. Its standard input is its end
of the socket to the daemon. Of the environment it gets the variables that `_INHERITED` names, so no
password that another program left there, and nothing that the service manager means for the daemon.
"""

from __future__ import annotations

import fnmatch
import os
import socket
import subprocess
import sys
from pathlib import Path

# Patterns of the variables that Python, the C library and OpenSSL need.
_INHERITED = (
    *("PATH", "LD_LIBRARY_PATH", "PYTHON*"),
    *("LANG", "LC_*", "TZ", "RES_OPTIONS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"),
)
# Where OpenSSL's configuration lies: on Debian and most others, on Fedora and its kin.
_OPENSSL_CONFS = ("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf")


def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a process with a socket as its standard input. Raise `OSError` if it cannot start."""
    package = str(Path(os.path.abspath(__file__)).parents[2])
    environment = {name: value for name, value in os.environ.items() if _is_inherited(name)}
    path = environment.get("PYTHONPATH")
    # Our configuration of OpenSSL includes the administrator's.
    environment["STSRESOLVER_OPENSSL_CONF"] = environment.get("OPENSSL_CONF") or _openssl_conf()
    environment["OPENSSL_CONF"] = f"{package}/stsresolver/lookup/openssl.cnf"
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


def _is_inherited(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _INHERITED)


def _openssl_conf() -> str:
    """Return the configuration of this host. OpenSSL passes over a file that does not exist."""
    return next(filter(os.path.exists, _OPENSSL_CONFS), os.devnull)
