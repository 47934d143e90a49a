"""What the resolver process has given up: tried in a process of its own, by one thing each.

The process runs as whoever runs the tests, in a directory of its own, so what is refused there is
refused by the sandbox and by nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stsresolver.lookup import sandbox

ROOT = Path(__file__).parent.parent.parent
MEMORY = 256 << 20

# argv: a directory, the port of a listener, what to run before, bytes of memory.
# Says, as JSON, what each attempt ended in.
PROGRAM = """
import ctypes, errno, json, os, resource, socket, sys, threading
from stsresolver.lookup import sandbox
os.chdir(sys.argv[1])
port = int(sys.argv[2])
held = open("held", "r")
attempts = {}
def attempt(call):
    attempts[call.__name__] = call
    return call

@attempt
def write(): open("there", "a").close()
@attempt
def truncate(): os.truncate("there", 0)
@attempt
def create(): open("new", "w").close()
@attempt
def fill():
    with open("there", "r+") as file: file.write("x" * 10_000)
@attempt
def directory(): os.mkdir("new")
@attempt
def link(): os.link("there", "new")
@attempt
def symlink(): os.symlink("there", "new")
@attempt
def fifo(): os.mkfifo("new")
@attempt
def rename(): os.rename("there", "new")
@attempt
def remove(): os.unlink("there")
@attempt
def remove_directory(): os.rmdir("empty")
@attempt
def listen_unix():
    with socket.socket(socket.AF_UNIX) as one: one.bind("new")
@attempt
def reopen_for_writing(): os.close(os.open(f"/proc/self/fd/{held.fileno()}", os.O_WRONLY))
@attempt
def execute(): os.execv(sys.executable, [sys.executable, "-c", ""])
@attempt
def bind_tcp():
    with socket.create_server(("127.0.0.1", 0)): pass
@attempt
def bind_tcp6():
    with socket.socket(socket.AF_INET6) as one: one.bind(("::1", 0))
@attempt
def listen_anywhere():
    with socket.socket() as one: one.listen()
@attempt
def mode(): os.chmod("there", 0o600)
@attempt
def signal_parent(): os.kill(os.getppid(), 0)
@attempt
def parents_memory(): open(f"/proc/{os.getppid()}/mem", "rb").close()
@attempt
def parents_environment():
    with open(f"/proc/{os.getppid()}/environ", "rb") as file: file.read()
@attempt
def trace_parent():  # PTRACE_SEIZE, which does not stop it
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0x4206, os.getppid(), None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
@attempt
def abstract_socket():
    with socket.socket(socket.AF_UNIX) as one: one.connect("\\0stsresolver-" + sys.argv[2])
@attempt
def memory(): bytearray(1 << 30)
@attempt
def core(): assert resource.getrlimit(resource.RLIMIT_CORE)[1] > 0
@attempt
def privileges():
    with open("/proc/self/status") as file: assert "NoNewPrivs:\\t0" in file.read()
@attempt
def read():
    with open("there") as file: assert file.read() == "text"
@attempt
def list_files(): assert "there" in os.listdir(".")
@attempt
def connect(): socket.create_connection(("127.0.0.1", port)).close()
@attempt
def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", port))
        one.send(b"x")
@attempt
def threads():
    found = []
    thread = threading.Thread(target=lambda: found.append(socket.gethostname()))
    thread.start()
    thread.join()
    assert found
@attempt
def in_a_thread():
    found = []
    def run():
        try: open("there", "a").close()
        except OSError as error: found.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if found: raise found[0]

def outcome(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
    except BaseException as error: return type(error).__name__
    return "done"

exec(sys.argv[3])
word = sandbox.confine(int(sys.argv[4]))
with held:
    print(json.dumps([word, {name: outcome(call) for name, call in attempts.items()}]))
"""


def run(program: str, *arguments: object) -> str:
    """Run what confines itself; return what it prints.

    It must write nothing to standard error, which is a pipe: a file, as pytest's is, may not grow.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def confined(directory: Path, before: str = "") -> tuple[str, dict[str, str]]:
    """Run the attempts; return what `confine` said, and what each ended in."""
    (directory / "there").write_text("text")
    (directory / "held").write_text("text")
    (directory / "empty").mkdir(exist_ok=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        port = listener.getsockname()[1]
        abstract.bind(f"\0stsresolver-{port}")
        abstract.listen()
        word, outcomes = json.loads(run(PROGRAM, directory, port, before, MEMORY))
    return word, outcomes


def landlock() -> int:
    """Return the version of Landlock that this kernel has, 0 if it has none."""
    number = sandbox._LANDLOCK_CREATE_RULESET
    version = sandbox._LANDLOCK_CREATE_RULESET_VERSION
    return max(0, ctypes.CDLL(None).syscall(number, None, 0, version))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    word, found = confined(tmp_path_factory.mktemp("confined"))
    assert word == f"Landlock {landlock()}" or not landlock()
    return found


@pytest.mark.parametrize(
    ("what", "outcome", "since"),
    [
        ("write", "EACCES", 1),
        ("truncate", "EACCES", 3),
        ("create", "EACCES", 1),
        ("directory", "EACCES", 1),
        ("link", "EACCES", 1),
        ("symlink", "EACCES", 1),
        ("fifo", "EACCES", 1),
        ("rename", "EACCES", 1),
        ("remove", "EACCES", 1),
        ("remove_directory", "EACCES", 1),
        ("listen_unix", "EACCES", 1),
        ("reopen_for_writing", "EACCES", 1),
        ("execute", "EACCES", 1),
        ("in_a_thread", "EACCES", 1),
        ("bind_tcp", "EACCES", 4),
        ("bind_tcp6", "EACCES", 4),
        ("parents_memory", "EACCES", 1),
        ("parents_environment", "EACCES", 1),
        ("trace_parent", "EPERM", 1),
        ("signal_parent", "EPERM", 6),
        ("abstract_socket", "EPERM", 6),
    ],
)
def test_landlock_refuses(outcomes, what, outcome, since):
    if landlock() < since:
        pytest.skip(f"needs Landlock {since}, this kernel has {landlock()}")
    if what == "parents_environment" and os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root's CAP_PERFMON opens it")
    assert outcomes[what] == outcome


def test_what_holds_without_landlock(tmp_path):
    no_such_call = "sandbox._LANDLOCK_CREATE_RULESET = 9999; del attempts['execute']"
    word, outcomes = confined(tmp_path, no_such_call)
    assert word == "without Landlock: Function not implemented"
    assert outcomes["write"] == outcomes["signal_parent"] == "done"
    assert outcomes["create"] == "done", "but nothing can be written to it:"
    assert outcomes["fill"] == "EFBIG"
    assert outcomes["memory"] == "MemoryError"
    assert outcomes["core"] == "AssertionError", "no core can be dumped"
    assert outcomes["privileges"] == "AssertionError", "no program gives any"


@pytest.mark.parametrize("what", ["read", "list_files", "connect", "datagram", "threads"])
def test_what_looking_up_needs(outcomes, what):
    assert outcomes[what] == "done"


@pytest.mark.parametrize("what", ["listen_anywhere", "mode"])
def test_what_landlock_does_not_know(outcomes, what):
    """As the module says: a port that the kernel picks, and the modes of one's own files."""
    assert outcomes[what] == "done"


def test_limits_are_for_good():
    program = f"""
import os, resource
from stsresolver.lookup.sandbox import confine
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
confine({MEMORY})
for limit in resource.RLIMIT_DATA, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE:
    soft, hard = resource.getrlimit(limit)
    assert soft == hard
    try:
        resource.setrlimit(limit, (hard + 1, hard + 1))
    except ValueError:
        continue
    raise SystemExit("a limit was raised again")
"""
    run(program)


def test_a_lower_limit_stays():
    program = f"""
import resource
from stsresolver.lookup.sandbox import confine
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY} // 2, {MEMORY} // 2))
confine({MEMORY})
assert resource.getrlimit(resource.RLIMIT_DATA) == ({MEMORY} // 2, {MEMORY} // 2)
"""
    run(program)


class Kernel:
    """A libc over a kernel with one version of Landlock; `asked` are its system calls."""

    def __init__(self, version: int) -> None:
        self._version = version
        self.ruleset: tuple[int, int, int, int] | None = None
        self.restricted = 0

    def syscall(self, number: int, first: object, second: int, *_: int) -> int:
        if number == 446:
            self.restricted += 1
            return 0
        assert number == 444
        if first is None:
            return self._version
        rules = first._obj
        fields = rules.handled_access_fs, rules.handled_access_net, rules.scoped
        self.ruleset = (second, *fields)
        return os.open(os.devnull, os.O_RDONLY)


@pytest.mark.parametrize(
    ("version", "size", "files", "why"),
    [
        (1, 8, 0x1FF3, "making, removing, writing, executing"),
        (2, 8, 0x3FF3, "and moving to another directory"),
        (3, 8, 0x7FF3, "and truncating"),
        (4, 16, 0x7FF3, "and listening on TCP"),
        (5, 16, 0xFFF3, "and ioctl of devices"),
        (6, 24, 0xFFF3, "and signals and abstract sockets"),
        (99, 24, 0xFFF3, "what comes later is not asked for"),
    ],
)
def test_each_kernel_is_asked_for_what_it_has(version, size, files, why):
    """A kernel refuses what it does not know (landlock(7)); reading is never given up."""
    kernel = Kernel(version)
    assert sandbox._landlock(kernel) == version
    assert kernel.ruleset == (size, files, 1, 3), why
    assert kernel.restricted == 1
