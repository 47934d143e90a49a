"""Usage: readme.py

Runs the two commands under "Try it" in the README in a fresh clone, as somebody does who knows
nothing else: the first until the daemon answers Postfix, and the second, all tests, to its end.

Nothing of the caller's environment helps or hinders: pip, apt and the tests find what they need in
the system's own files, such as /etc/pip.conf and /etc/ssl/certs. Exit status 1: one of them failed.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ADDRESS = ("127.0.0.1", 8461)
# Seconds in which the packages must be there and the daemon must answer.
DEADLINE = 300.0
# What a login sets.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": str(Path.home()),
    "LANG": "C.UTF-8",
}
# Has tests fail where a program is missing or something is not permitted, instead of skipping them.
STRICT = {"CI": "true"}


def main() -> int:
    """Run both; return the exit status."""
    readme = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
    section = readme[readme.index("\nTry it\n") : readme.index("\nInstall it\n")]
    daemon, tests = re.findall(r"^    (sh .+)$", section, re.MULTILINE)
    answered = answers(shlex.split(daemon))
    print(f"readme: {tests}", flush=True)
    status = subprocess.run(
        shlex.split(tests), cwd=CHECKOUT, env=ENVIRONMENT | STRICT, check=False
    ).returncode
    return 0 if answered and status == 0 else 1


def answers(command: list[str]) -> bool:
    """Run what runs the daemon until it has answered; say whether it did, and ended well."""
    print(f"readme: {shlex.join(command)}", flush=True)
    if ask() is not None:
        print(f"readme: another daemon answers at {ADDRESS}", file=sys.stderr)
        return False
    # Its own process group: whatever it has started can be ended with it.
    process = subprocess.Popen(command, cwd=CHECKOUT, env=ENVIRONMENT, start_new_session=True)
    try:
        end = time.monotonic() + DEADLINE
        while (answer := ask()) is None and time.monotonic() < end:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            break
        print(f"readme: it answers {answer!r}", flush=True)
        if process.poll() is None:
            process.terminate()
        status = process.wait(10)
        print(f"readme: it ended with exit status {status}", flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    return answer == b"9:NOTFOUND ," and status == 0


def ask() -> bytes | None:
    """Return the reply to a next hop that can have no policy, None while nobody answers.

    An address, which needs no DNS (RFC 8461, 3.1, is about domains).
    """
    try:
        with socket.create_connection(ADDRESS, 5) as client:
            client.sendall(b"19:postfix [192.0.2.1],")
            return client.makefile("rb").read(12)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
