"""A small internet for one run: a network namespace with DNS, policy hosts and certificates.

`in_own_network()` goes on with the calling program inside a network namespace made for it alone
(ip-netns(8)); there 127.0.0.1 answers on port 53 and 443 and nothing else can be reached.
`world()` fills the namespace: dns.c for the names, nginx for the policies, a CA made for the run,
and, on 127.0.0.2, policy hosts that take a connection and never speak. `hostile()` adds such as
have a lookup compute.

Needs root, iproute2, nginx, a C compiler, and trustme in the environment of the running Python.
Everything started here ends with the program; the namespace and its resolv.conf go last.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    import trustme
except ImportError:
    sys.exit(f"{sys.argv[0]}: {sys.executable} has no trustme: pip install 'stsresolver[test]'")

NAMESPACE_PREFIX = "stsbench-"
POLICY_HOST = "127.0.0.1"
SILENT_HOST = "127.0.0.2"
# The kinds of bench/hostile_hosts.py, each a zone of dns.c.
HOSTILE_HOSTS = {"names": "127.0.0.3", "chunks": "127.0.0.4"}

NGINX = """\
daemon off;
user root;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    server_names_hash_max_size 65536;
    server_names_hash_bucket_size 128;
    map $host $policy_domain {{ "~^mta-sts\\.(?<found>.+)$" $found; }}
    {policy_hosts}
}}
"""

POLICY_HOSTS = """
    server {{
        listen {address}:443 ssl;
        server_name {names};
        ssl_certificate {certificate}.pem;
        ssl_certificate_key {certificate}.key;
        location = /.well-known/mta-sts.txt {{
            return 200 "version: STSv1\\r\\nmode: enforce\\r\\nmx: mail.$policy_domain\\r\\n\
max_age: 604800\\r\\n";
        }}
    }}
"""
# With so many a certificate is as large as those that policy hosts send with their chains.
NAMES_PER_CERTIFICATE = 100
BENCH = Path(__file__).resolve().parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def progress(text: str) -> None:
    """Say on standard error what is happening; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def require(*programs: str) -> None:
    """End the program with a plain word unless it is root's and `programs` are installed."""
    if os.geteuid() != 0:
        sys.exit(f"{sys.argv[0]}: needs root: it makes a network namespace of its own (ip netns)")
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        sys.exit(f"{sys.argv[0]}: not installed: {', '.join(missing)}")


def compiled(name: str, directory: Path) -> Path:
    """Compile bench/NAME.c into `directory`."""
    program = directory / name
    subprocess.run(["cc", "-O2", "-o", program, BENCH / f"{name}.c"], check=True)
    return program


def family(pid: int) -> list[int]:
    """A process and its descendants, itself first; none once it has ended."""
    found = [pid]
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += family(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU used so far by these processes, user and system, and by children of theirs that ended."""
    ticks = 0
    for pid in pids:
        # The name in parentheses may itself hold spaces; utime is field 14 of proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / CLOCK_TICKS


def network_name() -> str:
    """The name of the network namespace that the program is in; empty for the machine's own."""
    identify = ["ip", "netns", "identify", str(os.getpid())]
    return subprocess.run(identify, check=True, capture_output=True, text=True).stdout.strip()


def in_own_network() -> None:
    """Return inside a new network namespace; the program outside waits for this one and ends.

    The program is started once more with the same arguments; what precedes the call runs twice.
    """
    if network_name().startswith(NAMESPACE_PREFIX):
        # A polite end runs every cleanup on its way out.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return
    name = f"{NAMESPACE_PREFIX}{os.getpid()}"
    files = Path("/etc/netns", name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        files.mkdir(parents=True)
        (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        command = ["ip", "netns", "exec", name, sys.executable, *sys.argv]
        with started(command) as child:
            # The terminal sends its interrupt to the child as well.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = child.wait()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(files, ignore_errors=True)
    sys.exit(status)


@contextlib.contextmanager
def started(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    stdin: int | socket.socket = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` beside us; at the end SIGTERM, and SIGKILL after 15 seconds."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=stdin,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def connect(address: str) -> socket.socket:
    """Connect to `HOST:PORT` or `/PATH`; raises OSError."""
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, every: float = 0.001
) -> None:
    """Ask `condition` every so many seconds; TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def listening(address: str) -> bool:
    """Whether a connection to `address` is taken."""
    try:
        connect(address).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class World:
    """What a run finds on its internet; `env` is what makes a server trust the run's CA.

    A domain in `good` has an enforce policy that names `mail.<domain>` as its one MX host; the
    policy host of a domain in `hanging` takes connections and never speaks. Any other name does not
    exist. `ca` signs for policy hosts. `pids`: of the processes `dns` and `nginx`.
    """

    directory: Path
    ca: trustme.CA
    good: tuple[str, ...]
    hanging: tuple[str, ...]
    env: Mapping[str, str]
    pids: Mapping[str, int]

    def cpu_seconds(self) -> dict[str, float]:
        """What each of its servers has used so far."""
        return {name: cpu_seconds(family(pid)) for name, pid in self.pids.items()}


@contextlib.contextmanager
def world(
    directory: Path,
    good: int,
    hanging: int = 0,
    per_certificate: int = NAMES_PER_CERTIFICATE,
    mail_hosts: int = 0,
) -> Iterator[World]:
    """So many domains `dN.good.test` and `dN.hanging.test`, N counting from 0.

    `per_certificate`: how many policy hosts share one, and a key.
    `mail_hosts`: how many MX hosts each good one has, all with TLSA records; 0 for no MX records.
    """
    domains = [f"d{n}.good.test" for n in range(good)]
    ca = trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    names = [f"mta-sts.{domain}" for domain in domains]
    policy_hosts = certify(ca, directory, names, per_certificate)
    policies = directory / "nginx.conf"
    policies.write_text(
        NGINX.format(
            directory=directory,
            workers=len(os.sched_getaffinity(0)),
            policy_hosts="".join(
                POLICY_HOSTS.format(
                    address=POLICY_HOST, names=" ".join(names), certificate=certificate
                )
                for certificate, names in policy_hosts.items()
            ),
        )
    )
    with (
        socket.socket(type=socket.SOCK_DGRAM) as questions,
        socket.socket() as silent,
    ):
        questions.bind(("127.0.0.1", 53))
        # The kernel shakes hands for a socket that nobody accepts from.
        silent.bind((SILENT_HOST, 443))
        silent.listen(4096)
        nginx = ("nginx", "-c", str(policies), "-p", str(directory))
        with (
            started([str(compiled("dns", directory)), str(mail_hosts)], stdin=questions) as dns,
            serving(directory, f"{POLICY_HOST}:443", *nginx) as policy_hosts_pid,
        ):
            yield World(
                directory,
                ca,
                tuple(domains),
                tuple(f"d{n}.hanging.test" for n in range(hanging)),
                {"SSL_CERT_FILE": str(directory / "ca.pem")},
                {"dns": dns.pid, "nginx": policy_hosts_pid},
            )


@contextlib.contextmanager
def hostile(place: World, number: int) -> Iterator[dict[str, tuple[str, ...]]]:
    """Add policy hosts that have a lookup compute; gives so many domains of each kind."""
    domains = {kind: tuple(f"d{n}.{kind}.test" for n in range(number)) for kind in HOSTILE_HOSTS}
    names = [f"mta-sts.{domain}" for domain in domains["chunks"]]
    certificates = certify(place.ca, place.directory, names, NAMES_PER_CERTIFICATE)
    for certificate, of_it in certificates.items():
        Path(f"{certificate}.names").write_text("\n".join(of_it), encoding="ascii")
    program = str(BENCH / "hostile_hosts.py")
    with contextlib.ExitStack() as stack:
        for kind, address in HOSTILE_HOSTS.items():
            files = map(str, certificates) if kind == "chunks" else ()
            command = [sys.executable, program, address, "443", kind, *files]
            stack.enter_context(started(command, log=place.directory / f"{kind}.out"))
            wait_until(lambda at=f"{address}:443": listening(at), 30, kind, every=0.01)
        yield domains


@contextlib.contextmanager
def serving(directory: Path, address: str, *command: str) -> Iterator[int]:
    """Run a server beside us; gives its process id when it takes connections at `address`."""
    log = directory / f"{command[0]}.out"
    with started(command, log=log) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {log.read_text()}")
            return listening(address)

        # Thousands of certificates take nginx seconds.
        wait_until(ready, 60, f"{command[0]} on {address}", every=0.01)
        yield process.pid


def certify(
    ca: trustme.CA, directory: Path, names: Sequence[str], per_certificate: int
) -> dict[Path, Sequence[str]]:
    """Make certificates for all `names`, so many in each.

    Returns what the files of each are called, but for the endings .pem and .key, and its names.
    """
    issued = {}
    for first in range(0, len(names), per_certificate):
        file = directory / f"{names[0]}-{first}"
        issued[file] = names[first : first + per_certificate]
        leaf = ca.issue_cert(*issued[file])
        for certificate in leaf.cert_chain_pems:
            certificate.write_to_path(f"{file}.pem", append=True)
        leaf.private_key_pem.write_to_path(f"{file}.key")
    return issued
