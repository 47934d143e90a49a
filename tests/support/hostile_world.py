"""The internet as a daemon would hate to see it, and a daemon in it, in a network of their own.

    unshare NAMESPACES python hostile_world.py DIRECTORY

Every case of the tables has a domain: `of_dns` and `of_https` say which. KNOWN is an honest one.
The daemon listens on DIRECTORY/socket and logs to DIRECTORY/log; "ready" is written when it does,
and everything ends with standard input. Ports 53 and 443 are the real ones, on 127.0.0.1 and on an
address for each policy host (127.1.0.0/16); nothing leads out of the namespace, nothing in.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tests.support import hostile_dns_cases, hostile_https_cases
from tests.support.authority import Authority
from tests.support.hostile_dns import NameServer, addresses, txt
from tests.support.hostile_https import page
from tests.support.hostile_place import Place, https
from tests.support.socketmap_client import wait_for

# A process namespace too: when this process ends, in whatever way, the daemon does.
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
KNOWN = "known.example"
# Fewer workers than cases: they are all busy for a while.
CONFIG = """\
path: {}
workers: 64
default_zone:
  timeout: 1
"""


def of_dns(number: int) -> str:
    return f"dns{number}.example"


def of_https(number: int) -> str:
    return f"https{number}.example"


def daemon(directory: Path, authority: Authority) -> subprocess.Popen:
    """Start the daemon."""
    config = directory / "config.yml"
    config.write_text(CONFIG.format(directory / "socket"))
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stsresolver.daemon", "-c", config],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | {"SSL_CERT_FILE": str(authority.bundle)},
        )


def main(directory: Path) -> int:
    """Build the world, and take it down at the end. Return the daemon's exit status."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", resolv_conf, "/etc/resolv.conf"], check=True)
    authority = Authority(directory)
    zone = {
        f"_mta-sts.{of_dns(number)} TXT": case.behaviour
        for number, case in enumerate(hostile_dns_cases.CASES)
    }
    starts = {KNOWN: https(page())} | {
        of_https(number): case.start for number, case in enumerate(hostile_https_cases.CASES)
    }
    with contextlib.ExitStack() as stack:
        for number, (domain, start) in enumerate(starts.items(), 1):
            address = f"127.1.{number // 250}.{number % 250 + 1}"
            zone[f"_mta-sts.{domain} TXT"] = txt("v=STSv1; id=1")
            zone[f"mta-sts.{domain} A"] = addresses(address)
            stack.enter_context(start(Place(authority, domain, address, 443)))
        stack.enter_context(NameServer(zone, port=53))
        process = daemon(directory, authority)
        try:
            # Its socket is there before it listens.
            log = directory / "log"
            wait_for(lambda: "listening on" in log.read_text() or process.poll(), "the daemon")
            print("ready", flush=True)
            sys.stdin.read()
        finally:
            process.terminate()
            try:
                status = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
