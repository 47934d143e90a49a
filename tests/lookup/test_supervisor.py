"""The resolver process: real children, real DNS and HTTPS on loopback, and children that lie.

`served` has a name server and a policy host for it, `process` makes what the daemon has. A child
that lies is a program of the test's, in the place of `stsresolver.lookup.child`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import stsresolver
from stsresolver import Resolver
from stsresolver.lookup import backoff, questions, supervisor
from stsresolver.lookup.child import Child
from stsresolver.lookup.messages import MAX_MESSAGE, read, read_result, write
from stsresolver.lookup.supervisor import ResolverProcess, StartError
from stsresolver.mta_sts.policy import MAX_POLICY_SIZE, Policy, parse_policy
from stsresolver.mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from tests.support.authority import Authority, trusted
from tests.support.hostile_dns import (
    Behaviour,
    NameServer,
    Piece,
    Query,
    addresses,
    code,
    nodata,
    txt,
)
from tests.support.hostile_https import PolicyHost, head, page, raw
from tests.support.socketmap_client import wait_for
from tests.support.waited import LONG, Waited

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 2.0
NAMES = 8
LARGE = b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"
MODE_NONE = "version: STSv1\nmode: none\nmax_age: 1"
LARGE += 'x:"\\é\u2028🦀"\n'.encode() * ((MAX_POLICY_SIZE - len(LARGE)) // 16)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Iterator[Authority]:
    with trusted(tmp_path_factory.mktemp("authority")) as authority:
        yield authority


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.server(
        "mta-sts.example.com", *(f"mta-sts.{n}.example" for n in range(4 * NAMES))
    )


def reply(request: bytes):
    """Give example.com a policy; the others, by the domain's own number."""
    name = re.search(rb"Host: mta-sts\.(.*)\r\n", request)[1]
    if name == b"0.example":
        return raw(head(status="404 Not Found"), b"")(request)
    if name == b"1.example":
        return page(LARGE)(request)
    return page()(request)


def once(condition: Callable[[], object], then: Behaviour) -> Behaviour:
    """Answer like `then` as soon as a condition is true, and never if it does not become true."""

    def behave(query: Query) -> Iterator[Piece]:
        while not condition():
            yield 0.002
        yield from then(query)

    return behave


SLOW = txt("v=STSv1; id=slow")


def never() -> bool:
    return False


class Served:
    """A name server and a policy host. `settings`: what a resolver has to know of them."""

    def __init__(self, dns: NameServer, host: PolicyHost, resolv_conf: Path) -> None:
        self.dns = dns
        self.host = host
        self.resolv_conf = resolv_conf
        self.settings = {
            "resolv_conf": str(resolv_conf),
            "dns_port": dns.port,
            "https_port": host.port,
        }


@pytest.fixture
def served(tmp_path, certificate) -> Iterator[Served]:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    zone = {f"_mta-sts.{n}.example TXT": txt(f"v=STSv1; id={n}") for n in range(4 * NAMES)}
    zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=1")
    zone["_mta-sts.none.example TXT"] = nodata(ttl=600, minimum=600)
    zone["_mta-sts.bad.example TXT"] = txt("v=STSv1; no id")
    zone["_mta-sts.two.example TXT"] = txt("v=STSv1; id=1", "v=STSv1; id=2")
    zone["_mta-sts.broken.example TXT"] = code("SERVFAIL")
    zone["mta-sts.none.example A"] = nodata()
    with (
        NameServer(zone, otherwise=addresses("127.0.0.1")) as dns,
        PolicyHost(reply, certificate) as host,
    ):
        yield Served(dns, host, resolv_conf)


def sockets_to_children() -> list[str]:
    """Return the sockets of this process that are of the kind it talks to its child over."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    kinds = {f"socket:[{fields[6]}]": fields[4] for fields in map(str.split, lines)}
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [one for one in found if kinds.get(one) == "0005"]


@pytest.fixture
def process(caplog) -> Iterator[Callable[..., ResolverProcess]]:
    """Return what starts a process; it ends with the test, and leaves nothing behind."""
    caplog.set_level(logging.DEBUG, "stsresolver")
    before = children()
    running: list[ResolverProcess] = []

    def begin(settings: dict[str, object] | None = None) -> ResolverProcess:
        one = ResolverProcess(settings or {})
        running.append(one)
        one.start()
        return one

    yield begin
    for one in running:
        one.close()
        assert one.pid is None
    assert children() == before, "nobody is left, not even unreaped"
    assert sockets_to_children() == []
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.fixture
def child(monkeypatch, tmp_path) -> Callable[[str], None]:
    """Return what has a program of the test's started as the process; `daemon` is its socket."""

    def begin(program: str) -> None:
        # What it may need: the daemon's messages by and by.
        program = f"""
import socket, os, signal, sys, json
sys.path.insert(0, {str(ROOT)!r})
daemon = socket.socket(fileno=0)
settings = daemon.recv({MAX_MESSAGE})
def say(*message):
    daemon.send(json.dumps(message).encode())
def hello():
    say(0, "hello", {stsresolver.__version__!r})
packet = []
def asked():
    if not packet:
        packet.extend((daemon.recv({MAX_MESSAGE}) or b"null").split(b"\\n"))
    return json.loads(packet.pop(0)) or os._exit(0)
def hang():
    while True:
        signal.pause()
{program}
"""

        def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
            file = tmp_path / "child.py"
            file.write_text(program)
            command = [sys.executable, "-P", file]
            return subprocess.Popen(command, stdin=theirs.fileno(), process_group=0)

        monkeypatch.setattr(supervisor, "spawn", spawn)

    return begin


# The real program, by `child.main`: it is given the settings that `child` has read.
IN_PLACE = """
daemon.detach()
from stsresolver.lookup import child
class Again:
    def __init__(self, one):
        self.one, self.first = one, settings
    def recv(self, size):
        message, self.first = self.first, None
        return message or self.one.recv(size)
    def send(self, data):
        return self.one.send(data)
    def fileno(self):
        return self.one.fileno()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.one.close()
class sockets:
    socket = staticmethod(lambda fileno: Again(socket.socket(fileno=fileno)))
child.socket = sockets
"""


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() + [
        pid
        for task in os.listdir("/proc/self/task")
        if task != str(os.getpid())
        for pid in _children_of(task)
    ]


def _children_of(task: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/task/{task}/children").read_text().split()
    return []


def pid_of(process: ResolverProcess) -> int:
    """Wait for the process, and return its id."""
    wait_for(lambda: process.pid is not None, "a resolver process")
    return process.pid


def state(pid: int) -> str:
    """Return the state letter of a process, empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def ready(process: ResolverProcess) -> int:
    """Wait until the process listens, and return its id."""
    wait_for(lambda: process.ready, "its first word")
    return pid_of(process)


def logged(caplog, text: str) -> Callable[[], bool]:
    return lambda: any(text in record.getMessage() for record in list(caplog.records))


def errors(caplog) -> list[str]:
    found = (record for record in caplog.records if record.levelno >= logging.ERROR)
    return [record.getMessage() for record in found]


# WHAT COMES BACK


RECORDS = {
    "example.com": str,
    "none.example": NoPolicy,
    "bad.example": NoPolicy,
    "two.example": NoPolicy,
    "broken.example": Failure,
}
POLICIES = {
    "example.com": Policy,
    "1.example": Policy,
    "0.example": Failure,
    "none.example": Failure,
    "wrong.name.example": Failure,
}
RESOLVED = [
    ("example.com", [], Found),
    ("example.com", ["0", "2"], Found),
    ("example.com", ["1"], NotChanged),
    ("example.com", [*"abcdefgh", "1"], NotChanged),
    ("0.example", [], Failure),
    ("0.example", ["0"], NotChanged),
    ("1.example", [], Found),
    *((domain, ["1"], kind) for domain, kind in RECORDS.items() if kind is not str),
]


def test_what_is_found_is_what_the_library_finds(served, process):
    library = Resolver(TIMEOUT, **served.settings)
    lookups = Waited(process(served.settings), TIMEOUT)
    for domain, kind in RECORDS.items():
        expected = library.policy_id(domain)
        assert isinstance(expected, kind), expected
        assert lookups.policy_id(domain) == expected
    for domain, kind in POLICIES.items():
        expected = library.fetch(domain)
        assert isinstance(expected, kind), expected
        assert lookups.fetch(domain) == expected
    for domain, known_ids, kind in RESOLVED:
        expected = library.resolve(domain, *known_ids)
        assert isinstance(expected, kind), expected
        assert lookups.resolve(domain, *known_ids) == expected


def test_the_largest_policy(served, process):
    policy = Waited(process(served.settings), TIMEOUT).fetch("1.example")
    assert isinstance(policy, Policy), policy
    assert len(policy.body.encode()) >= MAX_POLICY_SIZE - 100


@pytest.mark.parametrize(
    ("result", "policy_id"), [(Found(parse_policy(LARGE), "1"), "1"), (parse_policy(LARGE), "")]
)
def test_a_policy_that_the_socket_cannot_take_is_a_failure_of_the_fetch(result, policy_id):
    daemon, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        one = Child(theirs, lambda timeout: Resolver(), 1)
        one._done(7, result)
        one._send()
        number, *said = read(daemon.recv(MAX_MESSAGE))
    result = read_result(*said)
    assert (number, result.cause, result.id) == (7, Cause.SIZE, policy_id)


def test_many_lookups_at_once_are_not_mixed_up(served, process):
    lookups = Waited(process(served.settings), TIMEOUT)
    with ThreadPoolExecutor(16) as threads:
        domains = [f"{n % (4 * NAMES)}.example" for n in range(200)]
        assert list(threads.map(lookups.policy_id, domains)) == [d.split(".")[0] for d in domains]


def test_lookups_run_side_by_side(served, process):
    """None is answered until all are asked, so one after the other would never be answered."""
    names = [f"_mta-sts.{n}.example" for n in range(NAMES)]
    asked = served.dns.asked
    for name in names:
        answer = served.dns.zone[f"{name} TXT"]
        served.dns.zone[f"{name} TXT"] = once(lambda: all(asked(n, "TXT") for n in names), answer)
    one = process(served.settings)
    ready(one)
    with ThreadPoolExecutor(NAMES) as threads:
        found = threads.map(Waited(one, TIMEOUT).policy_id, [f"{n}.example" for n in range(NAMES)])
        assert list(found) == [str(n) for n in range(NAMES)]


def test_the_name_servers_are_read_again_when_they_change(served, process):
    served.resolv_conf.write_text("nameserver 127.0.0.2\n")
    lookups = Waited(process(served.settings), TIMEOUT)
    assert isinstance(lookups.policy_id("example.com"), Failure)
    served.resolv_conf.write_text("nameserver 127.0.0.1\n")
    wait_for(lambda: lookups.policy_id("example.com") == "1", "the change to be seen")


def test_the_certificates_are_read_again_when_they_change(served, process, monkeypatch, tmp_path):
    store = tmp_path / "store.pem"
    (tmp_path / "other").mkdir()
    store.write_bytes(Authority(tmp_path / "other").bundle.read_bytes())
    trusted = Path(os.environ["SSL_CERT_FILE"]).read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    lookups = Waited(process(served.settings), TIMEOUT)
    assert lookups.fetch("example.com").cause is Cause.CERTIFICATE
    store.write_bytes(trusted)
    wait_for(lambda: isinstance(lookups.fetch("example.com"), Policy), "the change to be seen")


def test_lines_of_its_log_arrive_as_one_record_each(served, process, caplog):
    served.resolv_conf.unlink()
    Waited(process(served.settings), TIMEOUT).policy_id("example.com")
    path = re.escape(str(served.resolv_conf))
    line = re.compile(f"{path} cannot be read, .*: No such file.*")
    assert any(line.fullmatch(record.getMessage()) for record in caplog.records)


def test_its_level_is_the_daemons(served, process, caplog):
    one = process(served.settings)
    wait_for(logged(caplog, "the resolver process is confined"), "a line for debugging")
    one.close()
    caplog.clear()
    caplog.set_level(logging.ERROR, "stsresolver")
    served.resolv_conf.unlink()
    assert Waited(process(served.settings), TIMEOUT).policy_id("example.com") == "1"
    assert caplog.records == [], "a file that is missing is a warning"


# WHAT IT HAS, AND WHAT IT TAKES NO NOTICE OF


def test_it_has_no_descriptor_of_the_daemons(served, process, tmp_path):
    with open(tmp_path / "cache", "w") as file, socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(file.fileno(), True)
        os.set_inheritable(listener.fileno(), True)
        pid = ready(process(served.settings))
        open_files = {}
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                open_files[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    stderr = os.readlink("/proc/self/fd/2")
    assert open_files[1] == os.devnull
    assert open_files.pop(2) == stderr
    del open_files[1]
    theirs = {open_files[0], "anon_inode:[eventpoll]"}
    assert set(open_files.values()) <= theirs, "its socket, what it waits with, and nothing else"
    assert open_files[0].startswith("socket:")


def test_the_service_managers_words_are_not_for_it(served, process, monkeypatch):
    names = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS"]
    for name in names:
        monkeypatch.setenv(name, "1")
    pid = ready(process(served.settings))
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert not [one for one in environment if one.split(b"=")[0].decode() in names]
    assert b"SSL_CERT_FILE" in {one.split(b"=")[0] for one in environment}


def test_it_imports_nothing_from_where_it_is_started(served, process, tmp_path, monkeypatch):
    (tmp_path / "stsresolver").mkdir()
    (tmp_path / "stsresolver" / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert Waited(process(served.settings), TIMEOUT).policy_id("example.com") == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_for_the_daemon(served, process, number):
    one = process(served.settings)
    pid = ready(one)
    assert os.getpgid(pid) == pid, "a terminal's signals do not even reach it"
    os.kill(pid, number)
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert one.pid == pid


def test_a_lookup_that_wants_too_much_memory_fails_alone(served, process, child):
    child(
        IN_PLACE
        + """
class Resolver(child.Resolver):
    def steps_of_fetch(self, domain):
        return bytearray(1 << 32)
        yield
child.Resolver = Resolver
child.main()
"""
    )
    one = process(served.settings)
    lookups = Waited(one, TIMEOUT)
    result = lookups.fetch("example.com")
    pid = one.pid
    assert result == Failure(Cause.PROCESS, "MemoryError: ")
    assert lookups.policy_id("example.com") == "1"
    assert one.pid == pid


# WHEN IT ENDS


def test_killed_while_lookups_are_under_way(served, process, caplog):
    one = process(served.settings)
    pid = ready(one)
    killed = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(killed.is_set, SLOW)
    asked = served.dns.asked
    lookups = Waited(one, LONG)
    with ThreadPoolExecutor(NAMES) as threads:
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(NAMES)]
        wait_for(lambda: asked("_mta-sts.slow.example", "TXT") >= NAMES, "the lookups to begin")
        os.kill(pid, signal.SIGKILL)
        killed.set()
        assert [future.result() for future in found] == ["slow"] * NAMES
    assert one.pid != pid
    assert errors(caplog) == ["the resolver process ended, signal 9: starting another"]


def test_all_that_wait_are_answered_though_one_callback_fails(process, child, caplog):
    child("hello()\nasked()\nos._exit(3)")
    one = process()
    ready(one)
    results = queue.SimpleQueue()

    def broken(result):
        raise RuntimeError("a bug of the caller")

    for done in (broken, *[results.put] * 20):
        one.ask("policy id", "example.com", TIMEOUT, (), done)
    one.flush()
    found = [results.get(timeout=30) for _ in range(20)]
    assert {result.cause for result in found} == {Cause.PROCESS}
    assert logged(caplog, "internal error after a lookup")()
    caplog.clear()


def test_no_second_answer_is_taken(process, child, caplog):
    child("""
hello()
number, *_ = asked()
for answer in "123":
    say(number, "id", answer)
say(0, "log", 40, "", "that was all")
asked()
""")
    one = process()
    answers = []
    one.ask("policy id", "example.com", TIMEOUT, (), answers.append)
    wait_for(logged(caplog, "that was all"), "the end")
    assert answers == ["1"]


def test_killed_again_and_again(served, process, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    monkeypatch.setattr(backoff, "LONGEST", 0.8)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    real, pauses = ResolverProcess._pause, []

    def pause(one: ResolverProcess, seconds: float) -> bool:
        pauses.append(seconds)
        return real(one, seconds)

    monkeypatch.setattr(ResolverProcess, "_pause", pause)
    one = process(served.settings)
    lookups = Waited(one, TIMEOUT)
    for _ in range(5):
        os.kill(pid_of(one), signal.SIGKILL)
        wait_for(lambda: one.pid is None, "its end")
    found = lookups.policy_id("example.com")
    assert found == Failure(Cause.PROCESS, "no such process is running")
    pid_of(one)
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8], "the pause grows"
    assert lookups.policy_id("example.com") == "1", "it recovers by itself"
    assert len(errors(caplog)) == 5, "a line for each"


def test_one_that_lived_for_long_is_replaced_at_once(served, process, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    monkeypatch.setattr(backoff, "WELL", 0.0)
    one = process(served.settings)
    for _ in range(2):
        os.kill(ready(one), signal.SIGKILL)
        assert Waited(one, TIMEOUT).policy_id("example.com") == "1"


def test_stopped(served, process, caplog, monkeypatch):
    """It is killed by the time limit of a lookup: the others are longer than any test."""
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    monkeypatch.setattr(supervisor, "_START", 2 * LONG)
    monkeypatch.setattr(supervisor, "_FULL", 2 * LONG)
    one = process(served.settings)
    pid = ready(one)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(NAMES) as threads:
        found = set(threads.map(Waited(one, 0.3).policy_id, ["example.com"] * NAMES))
    assert Failure(Cause.PROCESS, "it did not answer in time") in found
    assert found <= {Failure(Cause.PROCESS, "it did not answer in time"), "1"}
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert state(pid) == "", "killed and reaped"
    assert errors(caplog) == [
        "killing the resolver process: it hangs",
        "the resolver process ended, signal 9: starting another",
    ], "told once, whoever waited"


def test_one_that_works_is_not_killed_for_one_lookup(process, child, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    child("""
hello()
while True:
    number, what, domain, timeout = asked()
    if domain != "never.example":
        say(number, "id", "1")
""")
    one = process()
    pid = ready(one)
    lookups = Waited(one, 0.4)
    with ThreadPoolExecutor(1) as threads:
        never = threads.submit(lookups.policy_id, "never.example")
        while not never.done():
            assert lookups.policy_id("example.com") == "1"
    assert never.result() == Failure(Cause.PROCESS, "it did not answer in time")
    assert one.pid == pid


def test_one_that_does_not_get_ready(process, child, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    monkeypatch.setattr(supervisor, "_START", 2 * LONG)
    child("hang()")
    one = process()
    pid = pid_of(one)
    lookups = Waited(one, 0.1)
    assert lookups.fetch("example.com") == Failure(Cause.PROCESS, "it did not answer in time")
    assert one.pid == pid, "it may go on loading; the lookup does not wait for that"
    assert errors(caplog) == []
    monkeypatch.setattr(supervisor, "_START", 0.0)
    wait_for(lambda: lookups.fetch("example.com") and one.pid != pid, "another one")
    assert errors(caplog)[0] == "killing the resolver process: it hangs"


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("LOADING", "READY", True),
        ("LOADING", "REPLACED", True),
        ("LOADING", "KILLED", True),
        ("READY", "REPLACED", True),
        ("READY", "KILLED", True),
        ("READY", "READY", False),
        ("REPLACED", "READY", False),
        ("REPLACED", "KILLED", False),
        ("KILLED", "READY", False),
        ("KILLED", "REPLACED", False),
    ],
)
def test_what_a_state_may_become(before, after, allowed):
    one = supervisor._Child(None, None, 0.0, supervisor.State[before])
    assert one.become(supervisor.State[after]) is allowed
    assert one.state.name == (after if allowed else before)


def test_one_that_was_killed_is_a_loss_though_a_reload_follows(process, child, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    child("hello()\nhang()")
    one = process({"number": 1})
    ready(one)

    def reload(message, *_):
        """Reload between the decision to kill it and its end."""
        if "hangs" in message:
            one.change({"number": 2})

    monkeypatch.setattr(supervisor, "_SLACK", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(supervisor.log, "error", reload)
        assert Waited(one, 0.1).fetch("example.com").cause is Cause.PROCESS
        wait_for(lambda: one.losses, "the loss to be counted")


def spawned(served: Served) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return the real program and the daemon's end of its socket, the first word said."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = supervisor.spawn(theirs)
    settings = {"resolver": served.settings, "level": logging.ERROR}
    ours.send(write(0, "hello", settings))
    assert read(ours.recv(MAX_MESSAGE))[1] == "hello"
    return process, ours


def test_it_ends_while_lookups_are_under_way(served):
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    process, ours = spawned(served)
    with ours:
        for number in 1, 2:
            ours.send(supervisor.write(number, "policy id", "slow.example", 10 * LONG))
        asked = served.dns.asked
        wait_for(lambda: asked("_mta-sts.slow.example", "TXT") == 2, "both lookups")
    assert process.wait(LONG) == 0, "the time limit of the lookups is farther off"


def test_a_bug_outside_of_a_lookup_ends_it(served, process, child, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    child(
        IN_PLACE
        + """
def bug(*arguments):
    raise MemoryError
child.write_result = child.log.exception = bug
child.main()
"""
    )
    one = process(served.settings)
    ready(one)
    assert Waited(one, TIMEOUT).policy_id("example.com") == Failure(Cause.PROCESS)
    assert "the resolver process ended, exit status 1: starting another" in errors(caplog)


def test_stopped_with_its_socket_full(process, child, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "_SLACK", 5.0)
    child("hello()\nhang()")
    one = process()
    pid = ready(one)
    with contextlib.suppress(BlockingIOError):
        while True:
            one._child.socket.send(b"[0]" + b" " * 50_000)
    one.ask("policy id", "example.com", 50.0, (), lambda result: None)
    one.flush()
    wait_for(lambda: state(pid) == "", "its end, though the time of the lookup is not over")
    assert errors(caplog)[0] == "killing the resolver process: it hangs"


def test_it_ends_with_the_daemon(served, tmp_path):
    program = f"""
import logging, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from stsresolver.lookup.supervisor import ResolverProcess
from tests.support.waited import Waited
one = ResolverProcess({served.settings!r})
one.start()
print(Waited(one, 4.0).policy_id("example.com"), one.pid, flush=True)
Waited(one, 30.0).policy_id("slow.example")
signal.pause()
"""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    command = [sys.executable, "-c", program]
    stderr = tmp_path / "stderr"
    with (
        stderr.open("wb") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file) as daemon,
    ):
        found, pid = daemon.stdout.readline().split()
        assert found == b"1"
        wait_for(lambda: served.dns.asked("_mta-sts.slow.example", "TXT"), "a lookup")
        daemon.kill()
    wait_for(lambda: state(int(pid)) in ("", "Z"), "the resolver process to end")
    assert stderr.read_text() == ""


def test_it_ends_with_the_daemon_that_has_not_read_everything(served):
    """What is unread turns the end of the connection into a reset."""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    process, ours = spawned(served)
    with ours:
        ours.send(supervisor.write(1, "policy id", "example.com", TIMEOUT))
        ours.send(supervisor.write(2, "policy id", "slow.example", 10 * LONG))
        assert ours.recv(1, socket.MSG_PEEK) == b"["
    assert process.wait(LONG) == 0


# WHEN IT CANNOT BE STARTED


def test_a_first_start_that_fails(served, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(StartError, match=r"cannot be started: .*'/nonexistent/python'"):
        ResolverProcess(served.settings).start()


def test_a_first_start_without_a_thread(served, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StartError, match="cannot be started: can't start new thread"):
            ResolverProcess(served.settings).start()


def test_a_first_start_of_a_link_that_leads_nowhere(served, monkeypatch, tmp_path):
    (tmp_path / "python3").symlink_to(tmp_path / "no-python")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(StartError, match=r"python3' -> '.*/no-python'$"):
        ResolverProcess(served.settings).start()


def test_a_later_start_that_fails(served, process, caplog, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    one = process(served.settings)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python")
        os.kill(ready(one), signal.SIGKILL)
        wait_for(logged(caplog, "cannot be started"), "a word about it")
        assert Waited(one, TIMEOUT).fetch("example.com").cause is Cause.PROCESS
    wait_for(lambda: one.pid is not None, "a start that works")
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert "No such file or directory: '/nonexistent/python'" in errors(caplog)[1]


def test_a_program_that_cannot_run(process, child, caplog):
    child("sys.stderr = open(os.devnull, 'w')\nraise ImportError('no such module')")
    one = process()
    wait_for(logged(caplog, "before it was ready"), "a word about it")
    one.close()
    assert errors(caplog)[0] == (
        "the resolver process ended before it was ready (standard error may say why),"
        " exit status 1: starting another"
    )


def test_out_of_descriptors(served, process, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    one = process(served.settings)
    pid = ready(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        os.kill(pid, signal.SIGKILL)
        wait_for(logged(caplog, "ended"), "its end")
        # Its socket has left room for one end of another.
        taken.append(os.dup(0))
        wait_for(logged(caplog, "Too many open files"), "a word about it")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    pid_of(one)
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"


def test_another_version_is_told(process, child, caplog):
    child('say(0, "hello", "99.9")\nasked()')
    process()
    wait_for(logged(caplog, "is 99.9 now: restart the daemon"), "a word about it")


# A HOSTILE CHILD


def test_an_answer_that_comes_twice(process, child):
    child("""
hello()
while True:
    number, *_ = asked()
    for answer in "1", "2", "3":
        say(number, "id", answer)
""")
    lookups = Waited(process(), TIMEOUT)
    assert [lookups.policy_id("example.com") for _ in range(50)] == ["1"] * 50


def test_an_answer_to_nobody(process, child):
    child("""
hello()
number, *_ = asked()
for wrong in number + 1, 10**21, 10**30:
    say(wrong, "id", "evil")
for wrong in b'[00,"id","evil"]', b"[" + b"9" * 200_000, b"9" * 300_000:
    daemon.send(wrong)
say(number, "id", "good")
asked()
""")
    assert Waited(process(), TIMEOUT).policy_id("example.com") == "good"


@pytest.mark.parametrize(
    "answer",
    [
        '"policy", "mode: enforce"',
        '"id", "a b"',
        '"failure", "EVIL", ""',
        '"policy", "x:y\\n" * 60_000',
        "1, 2, 3",
        '"hello", "1"',
    ],
)
def test_an_answer_that_cannot_be(process, child, caplog, answer):
    child(f"hello()\nwhile True:\n    say(asked()[0], {answer})")
    one = process()
    lookups = Waited(one, TIMEOUT)
    for look_up in lookups.policy_id, lookups.fetch, lookups.resolve:
        result = look_up("example.com")
        assert isinstance(result, Failure), result
        assert result.cause is Cause.PROCESS
    assert len(errors(caplog)) == 3
    assert "invalid message from the resolver process" in errors(caplog)[0]


def test_an_answer_to_another_question(process, child, caplog):
    child("""
hello()
policy = "version: STSv1\\nmode: none\\nmax_age: 1"
while True:
    number, what, *_ = asked()
    say(number, *(("policy", policy) if what == "policy id" else ("id", "1")))
""")
    lookups = Waited(process(), TIMEOUT)
    answer = Failure(Cause.PROCESS, "it answered another question")
    assert lookups.policy_id("example.com") == answer
    assert lookups.fetch("example.com") == answer
    assert lookups.resolve("example.com") == answer
    assert all("answered another question" in line for line in errors(caplog))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (["policy", MODE_NONE], "a policy without its id"),
        (["id", "3"], "an id alone"),
        (["found", "1", MODE_NONE], "a policy of a known id"),
        (["found", "2", MODE_NONE], "of another known id"),
        (["not changed", "3"], "an id that nobody knows"),
        (["failure", "TLS", "", "1"], "a fetch that failed, of a known id"),
        (["failure", "TLS", ""], "a fetch that failed, of no id"),
        (["failure", "DNS", "", "3"], "no record, and its id"),
        (["failure", "PROCESS", "", "3"], "a lookup that was lost, and its id"),
        (["no policy", "TLS", "", 0], "no policy for what is no reason"),
    ],
)
def test_a_resolved_policy_that_makes_no_sense(process, child, caplog, answer, why):
    child(f"hello()\nwhile True:\n    say(asked()[0], *{answer!r})")
    result = Waited(process(), TIMEOUT).resolve("example.com", "1", "2")
    assert result == Failure(Cause.PROCESS, "it answered another question"), why
    (line,) = errors(caplog)
    assert "answered another question" in line


@pytest.mark.parametrize(
    ("what", "seconds", "why"),
    [
        ("policy id", 4.0, "DNS has its time"),
        ("fetch", 4.0, "HTTPS has its time"),
        ("resolve", 8.0, "DNS and HTTPS have the time each"),
    ],
)
def test_the_time_limit_of_a_question(monkeypatch, what, seconds, why):
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    one = ResolverProcess({})
    one.ask(what, "example.com", 4.0, (), print)
    assert one._questions.next_end() == 1000.0 + seconds + supervisor._SLACK, why


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\xff\x00", "no text"),
        (b"", "an empty packet, which is the end"),
        (b"[" * 200_000, "nested too deeply"),
        (b"x" * 300_000, "longer than a message"),
        (b"[-1,2]", "a negative number"),
        ('["٣",2]'.encode(), "digits that are not ASCII"),
        (b'[0,"hello"]', "a first word without a version"),
        (b'[0,"hello",' + b"[" * 900 + b"]" * 900 + b"]", "a version nested deeply"),
        (b'[0,"log",1e400,"",""]', "a level without end"),
        (b'[0,"log",60,"",""]', "a level that is none"),
        (b'[0,"log",' + b"9" * 4000 + b',"",""]', "a level of 4000 digits"),
        (b'[0,"log",40,"",null]', "a line that is none"),
        (b'[0,"shutdown"]', "a message that is none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_garbage(process, child, caplog, monkeypatch, garbage, why):
    monkeypatch.setattr(supervisor, "_END", 0.05)
    monkeypatch.setattr(supervisor, "_WAIT", 0.05)
    child(f"hello()\nasked()\ndaemon.send({garbage!r})\nhang()")
    one = process()
    pid = ready(one)
    result = Waited(one, TIMEOUT).policy_id("example.com")
    assert result == Failure(Cause.PROCESS, "no such process is running"), why
    wait_for(lambda: state(pid) == "", "its end")
    wait_for(logged(caplog, "starting another"), "a word about it")
    said = [line for line in errors(caplog) if "invalid message from the resolver process" in line]
    assert len(said) == (0 if garbage == b"" else 1)


def test_half_a_surrogate_pair_in_a_line_of_the_log(process, child, caplog):
    child(r"""
hello()
daemon.send(b'[0,"log",40,"x","\\udc80 %s \\n"]')
asked()
""")
    process()
    wait_for(logged(caplog, "\udc80 %s \n"), "the line, which is text and no format")


def test_a_flood_costs_no_memory(process, child):
    child(f"""
hello()
number, *_ = asked()
big = json.dumps([10**12, "id", "x" * ({MAX_MESSAGE} - 100)]).encode()
for _ in range(1500):
    daemon.send(big)
for _ in range(20_000):
    daemon.send(b'[%d,"id","1"]' % number)
say(*asked()[:1], "id", "2")
asked()
""")
    lookups = Waited(process(), 20.0)
    before = resident()
    assert lookups.policy_id("example.com") == "1"
    assert lookups.policy_id("example.com") == "2"
    assert resident() - before < 16 << 20


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# CLOSING


def test_close_without_a_start():
    ResolverProcess({}).close()


def test_closed_twice(process):
    one = process()
    ready(one)
    one.close()
    one.close()


@pytest.mark.parametrize(
    "moment",
    [
        lambda one, dns: True,
        lambda one, dns: one.under_way,
        lambda one, dns: one.pid is not None and one.under_way == 4,
        lambda one, dns: one.ready,
        lambda one, dns: dns.asked("_mta-sts.slow.example", "TXT"),
        lambda one, dns: dns.asked("_mta-sts.slow.example", "TXT") >= 4,
    ],
    ids=["at once", "asked", "while it loads", "ready", "at work", "with all of its work"],
)
def test_close_at_any_moment(served, process, moment):
    """The lookups end with the process, and not by their time limit or by an answer."""
    served.dns.zone["_mta-sts.slow.example TXT"] = once(never, SLOW)
    one = process(served.settings)
    lookups = Waited(one, LONG)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(4)]
        wait_for(lambda: moment(one, served.dns), "the moment")
        one.close()
        closed = Failure(Cause.PROCESS, "no such process is running")
        assert [future.result() for future in found] == [closed] * 4
    assert lookups.fetch("example.com") == closed


def test_close_ends_one_that_does_not_listen(process, child, monkeypatch):
    monkeypatch.setattr(supervisor, "_END", 0.1)
    child("hello()\nhang()")
    one = process()
    pid = ready(one)
    one.close()
    assert state(pid) == ""


def test_close_while_it_pauses(process, child, caplog, monkeypatch):
    pause = 30.0
    monkeypatch.setattr(backoff, "FIRST", pause)
    monkeypatch.setattr(supervisor, "_WAIT", pause)
    child("os._exit(3)")
    one = process()
    wait_for(logged(caplog, "exit status 3"), "its end")
    started = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(Waited(one, TIMEOUT).policy_id, "example.com")
        wait_for(lambda: one.under_way, "a lookup that waits for a process")
        one.close()
        assert waiting.result().cause is Cause.PROCESS
    assert time.monotonic() - started < pause, "before the pause is over"


# OTHER SETTINGS


def test_other_settings_take_over_what_is_under_way(served, process, caplog):
    one = process(served.settings)
    pid = ready(one)
    other = served.settings | {"proxy": {"host": "127.0.0.1", "port": 9}}
    changed = threading.Event()
    served.dns.zone["_mta-sts.slow.example TXT"] = once(changed.is_set, SLOW)
    lookups = Waited(one, LONG)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(lookups.policy_id, "slow.example") for _ in range(4)]
        wait_for(lambda: served.dns.asked("_mta-sts.slow.example", "TXT"), "the lookups to begin")
        one.change(other)
        changed.set()
        assert [future.result() for future in found] == ["slow"] * 4
    assert one.pid != pid
    assert errors(caplog) == []
    pid = one.pid
    one.change(other)
    assert Waited(one, TIMEOUT).policy_id("example.com") == "1"
    assert one.pid == pid, "the same settings change nothing"


def test_one_with_other_settings_follows_at_once(served, process, monkeypatch):
    """A reload is no failure: nothing is lost, however many there are."""
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    one = process(served.settings)
    for port in (8, 9, 10):
        ready(one)
        one.change(served.settings | {"proxy": {"host": "127.0.0.1", "port": port}})
        assert Waited(one, TIMEOUT).policy_id("example.com") == "1"


# What has the number 1 answers nothing, and is slow to see that it is told to end.
STUBBORN = """
one = json.loads(settings)[2]["resolver"]["number"] == 1
if one and not early:
    hello()
if one:
    hang()
hello()
while True:
    say(asked()[0], "id", "new")
"""


@pytest.mark.parametrize("early", [False, True], ids=["at work", "still loading"])
def test_one_that_does_not_end_is_not_waited_for(process, child, caplog, early):
    child(f"early = {early}\n{STUBBORN}")
    one = process({"number": 1})
    pid = pid_of(one)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(Waited(one, TIMEOUT).policy_id, "example.com")
        wait_for(lambda: one.under_way, "the lookup")
        one.change({"number": 2})
        assert found.result() == "new"
    assert one.pid != pid
    assert one.losses == 0
    assert errors(caplog) == []


def test_more_questions_while_it_loads_than_the_socket_holds(
    process, child, caplog, monkeypatch, tmp_path
):
    loads = tmp_path / "loads"
    os.mkfifo(loads)
    child(f"""
# Waits for the other end.
open({str(loads)!r}).close()
hello()
while True:
    say(asked()[0], "id", "new")
""")
    monkeypatch.setattr(supervisor, "MAX_MESSAGE", 10_000)
    monkeypatch.setattr(questions, "MAX_MESSAGE", 200)
    # However busy this machine is.
    monkeypatch.setattr(supervisor, "_FULL", 30)
    one = process()
    with ThreadPoolExecutor(200) as threads:
        found = threads.map(Waited(one, TIMEOUT).policy_id, ("example.com",) * 200)
        wait_for(lambda: one.under_way == 200, "all questions")
        loads.open("w").close()
        assert list(found) == ["new"] * 200
    assert errors(caplog) == []


def test_questions_that_wait_for_its_first_word_are_under_way(process, child):
    child("asked()")
    one = process()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(Waited(one, TIMEOUT).policy_id, "example.com")
        wait_for(lambda: one.under_way == 4, "the lookups to be counted")
        one.close()
    assert one.under_way == 0


def test_one_that_answers_what_it_has_not_been_asked(process, child, caplog, monkeypatch):
    """Its socket is full: the answers come before the questions."""
    child("""
hello()
asked()
for number in range(2, 100):
    say(number, "id", "early")
hang()
""")
    monkeypatch.setattr(supervisor, "_SLACK", 0.2)
    monkeypatch.setattr(supervisor, "MAX_MESSAGE", 3_000)
    monkeypatch.setattr(questions, "MAX_MESSAGE", 60)
    one = process()
    ready(one)
    with ThreadPoolExecutor(90) as threads:
        found = list(threads.map(Waited(one, 0.5).policy_id, ("example.com",) * 90))
    assert {type(each) for each in found} <= {str, Failure}


def test_one_that_ended_before_it_was_told_anything_is_one_loss(process, caplog, monkeypatch):
    def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(["/bin/false"], stdin=theirs.fileno(), process_group=0)
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        return started

    monkeypatch.setattr(supervisor, "spawn", spawn)
    monkeypatch.setattr(backoff, "FIRST", 30.0)
    one = process()
    wait_for(lambda: one.losses, "its end")
    one.close()
    assert one.losses == len(errors(caplog)) == 1


def test_one_that_ends_of_itself_is_an_error(process, child, caplog):
    child("hello()\nasked()\nos._exit(0)")
    one = process()
    ready(one)
    Waited(one, TIMEOUT).policy_id("example.com")
    wait_for(logged(caplog, "ended, exit status 0"), "a word about it")
