"""Tries a server that keeps policies, as the user that the daemon becomes.

libpq tells the server who the user of its process is (`peer`), and reads files of passwords and
keys as that user. So root tries it in a process of its own, which gives root up.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from ..cache.store import StoreError
from ..config.settings import SharedCache
from ..process.privileges import PrivilegeError, become
from ..stores.opening import look

_PACKAGE = str(Path(os.path.abspath(__file__)).parents[2])


def refusal(settings: SharedCache, user: str | None) -> str:
    """Return why `user` cannot use the store, "" if nothing stands against it.

    `user`: a name or a number, None for the user of this process, who alone can be asked about
    unless that is root. Raise `OSError` if the process cannot be started.
    """
    if user is None or os.geteuid() != 0:
        return _tried(settings)
    path = os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=pickle.dumps((settings, user)),
        capture_output=True,
        check=False,
        cwd="/",
        env=os.environ | {"PYTHONPATH": f"{_PACKAGE}{os.pathsep}{path}" if path else _PACKAGE},
    )
    said = done.stdout.decode(errors="backslashreplace")
    return said if done.returncode == 0 else f"the trial ended with status {done.returncode}"


def _tried(settings: SharedCache) -> str:
    try:
        look(settings)
    except StoreError as error:
        return str(error)
    return ""


def _main() -> None:
    """Do what `refusal` asks for on standard input."""
    settings, user = pickle.load(sys.stdin.buffer)
    try:
        become(user, None)
        sys.stdout.write(_tried(settings))
    except PrivilegeError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    _main()
