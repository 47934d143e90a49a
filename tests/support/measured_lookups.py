"""A process that looks up what it is told, and reports what that took: time, CPU and memory.

Like the resolver process it has a guard against certificates that cost much.

Memory is the growth of the process's peak (VmHWM in proc_pid_status(5), set back by clear_refs): it
counts what OpenSSL takes, and what is free again at the end. Python allocates by malloc, and what
is free goes back to the system before each lookup: no peak hides behind an earlier one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3

from stsresolver import Failure, NoPolicy, Policy, Resolver
from stsresolver.net import certificate_guard

CLEAR_REFS = Path("/proc/self/clear_refs")

Result = str | NoPolicy | Policy | Failure


class Looker:
    """The process, seen from the test: one lookup at a time."""

    def __init__(self, resolv_conf: Path, authority: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, resolv_conf],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "PYTHONMALLOC": "malloc",
                "PYTHONPATH": str(Path(__file__).parent.parent.parent),
                "SSL_CERT_FILE": str(authority),
                "SSL_CERT_DIR": str(authority.with_name("no-directory")),
            },
        )

    def look_up(
        self, what: str, *, dns_port: int = 0, https_port: int = 0, limit: float = 2.0
    ) -> tuple[Result, float, float, int]:
        """Return the result of `what`, the seconds it took, those of CPU, and the bytes of memory.

        `what` is a method of `Resolver`, asked for example.com, or "plain": what urllib3 makes of
        the policy host as it comes, without a bound.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((what, dns_port, https_port, limit), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self) -> None:
        self._process.communicate(timeout=10)


@contextlib.contextmanager
def looker(resolv_conf: Path, authority: Path) -> Iterator[Looker]:
    one = Looker(resolv_conf, authority)
    try:
        yield one
    finally:
        one.close()


def _peak() -> int:
    """Return the peak of this process's resident memory, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def _plain(https_port: int) -> str:
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        https_port,
        ca_certs=os.environ["SSL_CERT_FILE"],
        assert_hostname="mta-sts.example.com",
        server_hostname="mta-sts.example.com",
    ) as pool:
        return f"{len(pool.request('GET', '/').data)} bytes"


def _serve(resolv_conf: str) -> None:
    libc = ctypes.CDLL(None)
    assert certificate_guard.install()
    while True:
        try:
            what, dns_port, https_port, limit = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        resolver = Resolver(
            limit, resolv_conf=resolv_conf, dns_port=dns_port, https_port=https_port
        )
        gc.collect()
        libc.malloc_trim(0)
        CLEAR_REFS.write_text("5")
        before = _peak()
        started, used = time.monotonic(), time.process_time()
        look_up = getattr(resolver, what, _plain)
        result = look_up("example.com" if look_up is not _plain else https_port)
        seconds, cpu = time.monotonic() - started, time.process_time() - used
        pickle.dump((result, seconds, cpu, _peak() - before), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
