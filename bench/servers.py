"""The servers that are measured: how each is made, started, watched and stopped."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from world import (
    BENCH,
    cpu_seconds,
    family,
    listening,
    network_name,
    progress,
    serving,
    started,
    wait_until,
)

ASYNCIO_PACKAGES = (
    "postfix-mta-sts-resolver==1.5.0",
    "uvloop==0.21.0",
    "aiodns==3.2.0",
    "pycares<5",
    "aiohttp<3.12",
    "aiosqlite==0.20.0",
)

# Grace and cache are large enough that a measured answer is a repeated one.
CONFIGURATION = """\
{listen}
cache_grace: 3600
shutdown_timeout: 1
cache: {cache}
proactive_policy_fetching: {proactive}
default_zone:
  timeout: 4
{zone}"""
INTERNAL = {"type": "internal", "options": {"cache_size": 10000}}


@dataclass(frozen=True)
class Server:
    """A socketmap server at `address` (`HOST:PORT` or `/PATH`), asked under `map_name`.

    `expected` is what its replies begin with, `%` standing for the domain. Without a command
    somebody else starts it; `checkout` is where it is started.
    """

    name: str
    address: str
    command: tuple[str, ...] = ()
    map_name: str = "postfix"
    expected: str = "OK secure match=mail.%"
    checkout: Path = BENCH.parent


def configuration(
    name: str,
    address: str,
    directory: Path,
    cache: Mapping[str, object] = INTERNAL,
    proactive: bool = False,
    zone: str = "",
) -> Path:
    """Write the configuration file that ours and the asyncio daemon both read.

    `zone`: more lines of the zone.
    """
    if address.startswith("/"):
        listen = f"path: {address}"
    else:
        host, _, port = address.rpartition(":")
        listen = f"host: {host}\nport: {port}"
    file = directory / f"{name}.yml"
    file.write_text(
        # JSON is YAML.
        CONFIGURATION.format(
            listen=listen,
            cache=json.dumps(cache),
            proactive=json.dumps({"enabled": proactive}),
            zone=zone,
        )
    )
    return file


def ours(
    address: str,
    directory: Path,
    name: str = "stsresolver",
    cache: Mapping[str, object] = INTERNAL,
    proactive: bool = False,
    checkout: Path = BENCH.parent,
) -> Server:
    """The daemon of this checkout, or another, run by the Python that runs the benchmark."""
    file = configuration(name, address, directory, cache, proactive)
    command = (sys.executable, "-m", "stsresolver.daemon", "-c", str(file), "-v", "warn")
    return Server(name, address, command, checkout=checkout)


def asyncio_daemon(
    address: str, directory: Path, venv: Path, cache: Mapping[str, object] = INTERNAL
) -> Server:
    """The asyncio daemon out of the environment that `make_asyncio_venv` made."""
    file = configuration("asyncio", address, directory, cache)
    return Server("asyncio", address, (f"{venv}/bin/mta-sts-daemon", "-c", str(file), "-v", "warn"))


def echo(address: str, directory: Path, name: str = "echo") -> Server:
    """The floor: a constant reply, as long as the others'."""
    reply = "OK secure match=mail.d10.good.test servername=hostname"
    program = str(directory / "echo")
    return Server(name, address, (program, address, reply), expected="OK secure match=mail.")


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Redis at its usual port, which is returned; nothing is written to disk."""
    port = 6379
    command = ("redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(directory))
    with serving(directory, f"127.0.0.1:{port}", *command):
        yield port


@contextmanager
def postgres_server(directory: Path) -> Iterator[dict[str, object]]:
    """PostgreSQL with Debian's settings, on the disk of `directory`; the options of a cache in it.

    As Debian's user, since it does not run as root.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise RuntimeError("not installed: postgresql")
    place = directory / "postgres"
    place.mkdir()
    directory.chmod(0o755)
    shutil.chown(place, "postgres", "postgres")
    as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    made = [*as_user, programs[-1] / "initdb", "--auth=trust", "--encoding=UTF8", place / "data"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=place)
    program = (*as_user, str(programs[-1] / "postgres"), "-D", str(place / "data"))
    with serving(directory, "127.0.0.1:5432", *program, "-k", str(place)):
        yield {"host": "127.0.0.1", "user": "postgres", "database": "postgres"}


def make_asyncio_venv(venv: Path) -> None:
    """Install the asyncio daemon into `venv`, once; the network is needed for that."""
    complete = venv / "complete"
    if complete.exists() and complete.read_text().split() == list(ASYNCIO_PACKAGES):
        return
    progress(f"installing {ASYNCIO_PACKAGES[0]} into {venv}")
    pip = [sys.executable, "-m", "pip", "--python", f"{venv}/bin/python"]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", venv], check=True)
        subprocess.run([*pip, "install", "-qq", *ASYNCIO_PACKAGES], check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{sys.argv[0]}: {error}; `--without asyncio` measures the others")
    complete.write_text("\n".join(ASYNCIO_PACKAGES))


@dataclass(frozen=True)
class Usage:
    """What a server has used: CPU seconds of the process and of its children."""

    own: float
    children: float

    def since(self, before: "Usage", answers: int) -> dict[str, float]:
        """Microseconds for each answer, all together and the children's part."""
        children = (self.children - before.children) * 1e6 / answers
        own = (self.own - before.own) * 1e6 / answers
        return {"cpu_us_per_answer": own + children, "children_us_per_answer": children}


@dataclass(frozen=True)
class Running:
    """A started server; pid 0 if somebody else started it, and its usage is then unknown."""

    server: Server
    pid: int
    start_seconds: float | None

    def cpu_seconds(self) -> float | None:
        """CPU used so far, user and system, by the process and its children."""
        return cpu_seconds(family(self.pid)) if self.pid else None

    def usage(self) -> Usage | None:
        """CPU used so far, by the process and by its children."""
        if not self.pid:
            return None
        return Usage(cpu_seconds([self.pid]), cpu_seconds(family(self.pid)[1:]))

    def cpu_ns(self) -> int:
        """CPU nanoseconds of the threads that run now, for what is too little for `cpu_seconds`."""
        return sum(int(file.read_text().split()[0]) for file in self._threads("schedstat"))

    def wakeups(self) -> int:
        """How often the threads that run now have waited for something and gone on."""
        return sum(_field(file, "voluntary_ctxt_switches") for file in self._threads("status"))

    def _threads(self, name: str) -> list[Path]:
        return [
            file for pid in family(self.pid) for file in Path(f"/proc/{pid}/task").glob(f"*/{name}")
        ]

    def status(self, field: str) -> int | None:
        """A number of /proc/PID/status, of the process and its children: VmRSS in kB, Threads."""
        return sum(status(pid, field) for pid in family(self.pid)) if self.pid else None

    def status_of_children(self, field: str) -> int | None:
        """The children's part of it."""
        return sum(status(pid, field) for pid in family(self.pid)[1:]) if self.pid else None

    def wait_idle(self, within: float = 10) -> None:
        """Until it has used no CPU for half a second; TimeoutError after `within` seconds."""
        seen, since = self.cpu_seconds(), time.monotonic()

        def quiet() -> bool:
            nonlocal seen, since
            now = self.cpu_seconds()
            if now != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 0.5

        wait_until(quiet, within, f"{self.server.name} idle", every=0.02)


def status(pid: int, field: str) -> int:
    """A number of /proc/PID/status."""
    return _field(Path(f"/proc/{pid}/status"), field)


def _field(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


@contextmanager
def running(server: Server, env: Mapping[str, str], directory: Path) -> Iterator[Running]:
    """Start `server`, wait until it listens, stop it at the end."""
    if not server.command:
        settings = " ".join(f"{key}={value}" for key, value in env.items())
        progress(
            f"{server.name}: waiting a minute for it to listen on {server.address}; start it with\n"
            f"    ip netns exec {network_name()} env {settings} COMMAND"
        )
        wait_until(lambda: listening(server.address), 60, server.name, every=0.1)
        yield Running(server, 0, None)
        return
    if listening(server.address):
        raise RuntimeError(f"{server.name}: somebody listens on {server.address} already")
    log = directory / f"{server.name}.log"
    begin = time.monotonic()
    with started(server.command, env=env, cwd=server.checkout, log=log) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{server.name} ended: {log.read_text()[-2000:]}")
            return listening(server.address)

        wait_until(ready, 20, f"{server.name} on {server.address}")
        yield Running(server, process.pid, time.monotonic() - begin)


def start_seconds(server: Server, env: Mapping[str, str], directory: Path, times: int) -> float:
    """From the start of the process until it takes connections: the median of `times` starts."""
    seen = []
    for _ in range(times):
        with running(server, env, directory) as process:
            seen.append(process.start_seconds)
    return statistics.median(seen)
