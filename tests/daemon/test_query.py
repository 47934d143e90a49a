"""mta-sts-query: what it prints, and its exit status, for what a made-up inspector has seen."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from stsresolver import Cause, Failure, Found, NoPolicy, NotChanged, query
from stsresolver.cache.store import StoreError
from stsresolver.config.keys import load
from stsresolver.config.settings import Zone
from stsresolver.dane.states import Dane, DaneHost, HostState, MxState
from stsresolver.inspection.findings import Inspection
from stsresolver.inspection.stored import cached
from stsresolver.inspection.target import parse_target
from stsresolver.mta_sts.next_hop import NextHop
from stsresolver.net.proxy import Proxy
from stsresolver.socketmap.netstring import encode
from stsresolver.stores.sqlite import SqliteStore
from stsresolver.version import __version__
from tests.support.hostile_https import Listener, hang_up
from tests.support.inspections import NOW, entry, inspection, policy

ROOT = Path(__file__).parent.parent.parent

MORE = "x-note: snow \u2603 \u202e"


class Asked:
    """Stands in for `Inspector`: gives `seen`, and notes how it was asked."""

    def __init__(self) -> None:
        self.seen: Inspection = inspection(NoPolicy(Cause.NO_RECORD), texts=())
        self.calls: list[tuple[float, str, *tuple[str, ...]]] = []

    def __call__(self, timeout: float, *, proxy: Proxy | None, **more: object) -> Asked:
        self.timeout = timeout
        self.proxy = proxy
        self.more = more
        return self

    def inspect(self, target: NextHop | str, *known_ids: str) -> Inspection:
        target = parse_target(target) if isinstance(target, str) else target
        self.calls.append((self.timeout, target.domain, *known_ids))
        return self.seen


@pytest.fixture
def asked(monkeypatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(query, "Inspector", asked)
    return asked


@pytest.fixture
def printed(capsys):
    """Return what runs the tool, and returns exit status and standard output."""

    def run(*arguments: str) -> tuple[int, str]:
        status = query.main(arguments)
        output, errors = capsys.readouterr()
        assert errors == ""
        return status, output

    return run


@pytest.fixture
def refused(capsys, asked):
    """Return what runs the tool with wrong arguments, and returns standard error."""

    def run(*arguments: str) -> str:
        try:
            status = query.main(arguments)
        except SystemExit as end:
            status = end.code
        output, errors = capsys.readouterr()
        assert status == 64
        assert output == ""
        assert asked.calls == [], "it was looked up all the same"
        return errors

    return run


FAILURE = Failure(Cause.CONNECT, "refused", "2016")
TESTING = Found(policy(mode="testing"), "1")
UNKNOWN = Dane(MxState.FAILED, detail="SERVFAIL")
SOME = Dane(
    MxState.SECURE,
    (DaneHost("mail.example.com", HostState.USABLE), DaneHost("b.org", HostState.NO_TLSA)),
)
STATUSES = [
    (0, 0, "a policy", inspection()),
    (0, 0, "which is still the known one", inspection(NotChanged("2016"), mx=None)),
    (0, 0, "MX hosts unknown", inspection(mx=None, mx_failure="SERVFAIL")),
    (0, 3, "a certificate that ends", inspection(certificate_days=3)),
    (0, 3, "a short policy", inspection(Found(policy(max_age=60), "1"))),
    (0, 3, "testing, and an MX host that matches nothing", inspection(TESTING, mx=("mx.b.org",))),
    (0, 0, "testing", inspection(TESTING)),
    (3, 3, "an MX host that matches nothing", inspection(mx=("mail.example.com", "mx.b.org"))),
    (1, 1, "no record", inspection(NoPolicy(Cause.NO_RECORD), texts=())),
    (1, 1, "a bad record", inspection(NoPolicy(Cause.BAD_RECORD))),
    (2, 2, "a failure", inspection(FAILURE)),
    (2, 2, "a failure of DNS", inspection(Failure(Cause.DNS, "SERVFAIL"), texts=None)),
    (2, 2, "DANE unknown, so that mail waits", inspection(dane=UNKNOWN, zone=Zone(dane=True))),
    (0, 0, "DANE unknown where nobody heeds it", inspection(dane=UNKNOWN)),
    (0, 3, "DANE for some MX hosts", inspection(dane=SOME, zone=Zone(dane=True))),
]


@pytest.mark.parametrize(
    ("status", "strict", "seen"),
    [pytest.param(status, strict, seen, id=why) for status, strict, why, seen in STATUSES],
)
def test_exit_status(asked, printed, status, strict, seen):
    asked.seen = seen
    assert printed("example.com")[0] == status
    assert printed("--strict", "example.com")[0] == strict
    assert printed("-q", "example.com") == (status, f"{seen.verdict}\n")
    status_again, line = printed("--json", "example.com")
    assert status_again == status
    assert json.loads(line)["verdict"] == seen.verdict


def test_known_id_that_is_still_published(asked, printed):
    asked.seen = inspection(NotChanged("20260101"), mx=None)
    status, output = printed("example.com", "20260101")
    assert status == 0
    assert output == "example.com: the MTA-STS policy is still 20260101\n"
    assert asked.calls == [(4.0, "example.com", "20260101")]


def test_verbose_shows_the_policy_as_it_was_served(asked, printed):
    asked.seen = inspection(Found(policy(more=f"{MORE}\n"), "1"))
    assert "x-note" not in printed("example.com")[1]
    assert r'"x-note: snow \u2603 \u202e"' in printed("example.com", "-v")[1]


@pytest.mark.parametrize(
    ("named", "asked_for"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("user@example.com", "example.com"),
        ("[relay.example.net]:587", "relay.example.net"),
        ("m\u00fcnchen.example", "xn--mnchen-3ya.example"),
    ],
)
def test_what_is_named(asked, printed, named, asked_for):
    printed(named)
    assert asked.calls == [(4.0, asked_for)]


def test_timeout(asked, printed):
    printed("-t", "0.5", "example.com")
    assert asked.calls == [(0.5, "example.com")]


@pytest.mark.requirement("LIB-18")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DOMAIN"),
        (["--file", "list", "example.com"], "the following arguments are required: DOMAIN"),
        (["--file", "list", "--ask", "a:1"], "--ask takes no --file"),
        (["--port", "25", "example.com"], "--port needs --probe"),
        (["--probe", "--port", "0", "example.com"], "argument --port: not a number from 1 to"),
        (["--file", "list", "--jobs", "0"], "argument --jobs: not a number from 1 to 1000: '0'"),
        (["--file", "list", "--jobs", "x"], "argument --jobs: not a number from 1 to 1000: 'x'"),
        (["example.com", "1", "2"], "unrecognized arguments: 2"),
        (["--unknown", "example.com"], "unrecognized arguments: --unknown"),
        (["--zone", "a", "example.com"], "--zone needs --config FILE, or --ask"),
        (["--ask", "a", "example.com"], "argument --ask: neither HOST:PORT nor unix:PATH: 'a'"),
        (["--ask", "a:1", "example.com", "2016"], "--ask takes no KNOWN_ID"),
        (["--ask", "a:1", "--json", "example.com"], "--ask takes no --json"),
        (["--ask", "a:1", "--config", "f", "example.com"], "--ask takes no --config"),
        (["-q", "--json", "example.com"], "argument --json: not allowed with argument -q/--quiet"),
        (["-t", "0", "example.com"], "argument -t/--timeout: "),
        (["-t", "-1", "example.com"], "argument -t/--timeout: "),
        (["-t", "nan", "example.com"], "argument -t/--timeout: "),
        (["-t", "inf", "example.com"], "argument -t/--timeout: "),
        (["-t", "soon", "example.com"], "argument -t/--timeout: "),
    ],
)
def test_wrong_arguments(refused, arguments, message):
    errors = refused(*arguments)
    assert errors.startswith("usage: mta-sts-query ")
    assert f"\nmta-sts-query: {message}" in errors
    assert "_seconds" not in errors


@pytest.mark.parametrize(
    "domain",
    ["", "com", "a..b", ".example.com", "192.0.2.1", "user@localhost", "a b.example", "\udcff.x"],
)
def test_no_domain(refused, domain):
    errors = refused(domain)
    assert errors.startswith("mta-sts-query: no domain name, address or next hop: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (["--version"], 0, f"mta-sts-query {__version__}\n"),
        (["com"], 64, ""),
        ([], 64, ""),
    ],
)
def test_exit_status_of_the_process(arguments, status, output):
    run = subprocess.run(
        [sys.executable, "-m", "stsresolver.query", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout) == (status, output)
    assert "Traceback" not in run.stderr


def test_proxy_of_the_environment(asked, printed, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    printed("example.com")
    assert asked.proxy == Proxy("proxy.example", 3128)


CONFIG = """\
https_proxy: http://proxy.example:3128
cache:
  type: sqlite
  options:
    filename: {}/cache.db
default_zone:
  timeout: 2
zones:
  strict:
    strict_testing: true
    timeout: 3
"""


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "mta-sts-daemon.yml"
    path.write_text(CONFIG.format(tmp_path))
    return path


@pytest.mark.parametrize(
    ("arguments", "timeout", "strict"),
    [([], 2, False), (["--zone", "strict"], 3, True), (["--zone", "none"], 2, False)],
)
def test_as_the_daemon_of_a_configuration_looks(asked, printed, config, arguments, timeout, strict):
    printed("--config", str(config), *arguments, "example.com")
    assert asked.calls == [(timeout, "example.com")]
    assert asked.proxy == Proxy("proxy.example", 3128)
    assert asked.more["zone"].strict_testing is strict
    assert asked.more["cached"] is None, "no database is made"
    assert list(config.parent.iterdir()) == [config]
    printed("-c", str(config), "-t", "9", "example.com")
    assert asked.calls[-1] == (9, "example.com")


def test_store_of_a_configuration(asked, printed, config):
    with contextlib.closing(SqliteStore(config.parent / "cache.db", threads=1)) as store:
        store.put(entry(), NOW)
    printed("--config", str(config), "example.com")
    with pytest.raises(StoreError, match="closed"):
        asked.more["cached"]("example.com")
    with contextlib.ExitStack() as stack:
        known = cached(load(str(config)), stack)
        assert known("example.com") == [entry()]
        assert known("example.org") == []


def test_store_that_cannot_be_read(asked, printed, config):
    (config.parent / "cache.db").write_text("no database")
    printed("--config", str(config), "example.com")
    with pytest.raises(StoreError, match="is no sqlite database"):
        asked.more["cached"]("example.com")


def test_cache_in_memory_cannot_be_read(asked, printed, config):
    config.write_text("")
    printed("--config", str(config), "example.com")
    assert asked.more["cached"] is None


def test_wrong_configuration(asked, capsys, config):
    config.write_text("port: x\nhots: y\n")
    assert query.main(["--config", str(config), "example.com"]) == 78
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in errors] == ["mta-sts-query"] * 2
    assert asked.calls == []


def test_interrupt(asked, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(asked, "inspect", interrupted, raising=False)
    assert query.main(["example.com"]) == 130


LIST = "a.org\n\nuser@b.org\n  \nno domain\n<c@c.org>\n"


def test_many_domains(asked, capsys, tmp_path):
    path = tmp_path / "list"
    path.write_text(LIST)
    asked.seen = inspection(mx=("mail.example.com", "mx.b.org"), certificate_days=3)
    assert query.main(["--file", str(path)]) == 2
    output, errors = capsys.readouterr()
    assert sorted(call[1] for call in asked.calls) == ["a.org", "b.org", "c.org"]
    line = f"{'example.com':<39} mode enforce mx-mismatch (certificate-ends)\n"
    assert output == 3 * line
    bad, first, *rest = errors.splitlines()
    assert bad == "mta-sts-query: no domain name, address or next hop: 'no domain'"
    assert re.fullmatch(r"3 domains in \d+\.\d s: 3 mode enforce", first)
    assert sorted(rest) == [
        "      1 not looked up, see above",
        "      3 error: mx-mismatch",
        "      3 warning: certificate-ends",
    ]


def test_many_domains_as_json(asked, printed, monkeypatch, capsys, tmp_path):
    path = tmp_path / "list"
    path.write_text("a.org\nb.org\n")
    assert query.main(["--file", str(path), "--json", "--jobs", "3"]) == 0
    output = capsys.readouterr().out
    assert [json.loads(line)["result"] for line in output.splitlines()] == ["none", "none"]
    assert query.main(["--file", str(path), "-q"]) == 0
    assert capsys.readouterr().out == f"{asked.seen.verdict}\n" * 2


def test_list_that_is_not_there(asked, capsys, tmp_path):
    assert query.main(["--file", str(tmp_path / "list")]) == 66
    assert capsys.readouterr().err.endswith("list: No such file or directory\n")


MANY = """
import os, signal, sys, threading
from stsresolver import query
from stsresolver.inspection.target import parse_target
from tests.support.inspections import inspection

class Inspector:
    def __init__(self, timeout, **options):
        pass

    def inspect(self, target):
        parse_target(target)
        if "slow" in target:
            threading.Event().wait(60)
        if "bug" in target:
            raise RuntimeError("a bug")
        return inspection()

query.Inspector = Inspector
# A shell has what it runs in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
if os.environ.get("WITHOUT_TQDM"):
    sys.modules["tqdm"] = None
sys.exit(query.main(["--file", "-", *sys.argv[1:]]))
"""


def many(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", MANY, *arguments],
        cwd=ROOT,
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | options,
    )


def test_domains_of_standard_input():
    """Each is looked at when it comes: whoever writes the list need not have ended it."""
    with many() as run:
        for _ in range(3):
            run.stdin.write(b"example.com\n")
            run.stdin.flush()
            assert run.stdout.readline().startswith(b"example.com  ")
        run.stdin.write(b"\xff.org\nbug.org\n")
        run.stdin.close()
        assert run.wait(30) == 2
        errors = run.stderr.read().decode()
    assert "Traceback" in errors
    assert "mta-sts-query: 'bug.org': internal error\n" in errors
    assert "no domain name, address or next hop: '\\udcff.org'" in errors
    assert "      2 not looked up, see above\n" in errors


def test_interrupt_ends_it_with_what_is_done():
    with many() as run:
        run.stdin.write(b"example.com\nslow.example\n")
        run.stdin.flush()
        assert run.stdout.readline().startswith(b"example.com  ")
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 2
        errors = run.stderr.read().decode()
    assert errors.startswith("1 domain in ")
    assert "interrupted: the lines behind were not looked up\n" in errors
    assert "Traceback" not in errors


def test_closed_pipe_ends_it_quietly():
    with many() as run:
        run.stdout.close()
        run.stdin.write(b"example.com\nslow.example\n")
        run.stdin.close()
        assert run.wait(30) == 141
        assert run.stderr.read() == b""


@pytest.mark.parametrize(
    ("environment", "counted"),
    [({"WITHOUT_TQDM": "1"}, "\r\x1b[K3 domains\r\x1b[K"), ({}, "\r0 domains [00:0")],
)
def test_how_far_it_is_on_a_terminal(environment, counted):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    try:
        with many(stderr=theirs, env={**os.environ, **environment}) as run:
            output, _ = run.communicate(b"example.com\n" * 3, 30)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert run.returncode == 0
    assert output.count(b"\n") == 3
    assert counted in shown
    assert re.search(r"3 domains in \d+\.\d s: 3 mode enforce\r\n\Z", shown)


def replying(reply: bytes):
    def script(connection, _):
        connection.recv(65536)
        connection.sendall(reply)

    return script


@pytest.mark.parametrize(
    ("reply", "status", "verdict"),
    [
        (b"OK secure match=a.org", 0, "mail to example.com goes only over verified TLS"),
        (b"NOTFOUND ", 1, "mail to example.com goes as without a policy"),
        (b"TEMP ", 2, "mail to example.com waits in the queue, and Postfix asks again"),
    ],
)
def test_question_to_a_daemon(printed, reply, status, verdict):
    with Listener(replying(encode(reply))) as listener:
        place = f"127.0.0.1:{listener.port}"
        assert printed("--ask", place, "-q", "a@example.com") == (status, f"{verdict}\n")
        again, output = printed("--ask", place, "--zone", "strict", "example.com")
    assert again == status
    assert output.startswith(f"Asked        {place}, zone strict, about example.com ")
    assert f"Verdict      {verdict}.\n" in output


def test_question_that_nobody_answers(capsys):
    with Listener(hang_up) as listener:
        status = query.main(["--ask", f"127.0.0.1:{listener.port}", "example.com"])
    assert status == 2
    assert capsys.readouterr().err.endswith(": mail to example.com waits\n")


def test_proxy_that_cannot_be_used(asked, capsys, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://user:secret@proxy.example")
    assert query.main(["example.com"]) == 64
    errors = capsys.readouterr().err
    assert errors.startswith("mta-sts-query: https_proxy in the environment: found the scheme ")
    assert "secret" not in errors
    assert asked.calls == []


PROGRAM = """
import sys
from stsresolver import query
from tests.support.inspections import Found, inspection, policy

class Inspector:
    def __init__(self, timeout, **options):
        pass

    def inspect(self, target):
        return inspection(Found(policy(more="x-note: snow \u2603"), "1"))

query.Inspector = Inspector
sys.exit(query.main(["-v", "example.com"]))
"""


def run(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_terminal_that_knows_ascii_alone(environment):
    """What it cannot show is escaped, and does not turn "there is a policy" into a failure."""
    done = run(**environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"x-note: snow \u2603" in done.stdout
    assert "\x1b" not in done.stdout, "no colours in a pipe"


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, False),
    ],
)
def test_colours_on_a_terminal(environment, colours):
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=theirs,
            timeout=30,
            check=True,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Verdict" in shown
    assert ("\x1b[" in shown) is colours


@pytest.fixture
def completion(capsys):
    """Return what gives the script of a shell."""
    pytest.importorskip("shtab")

    def script(shell: str) -> str:
        assert query.main(["--print-completion", shell]) == 0
        return capsys.readouterr().out

    return script


COMPLETE = """
source /dev/stdin
shift 0
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_mta_sts_query
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["--js"], {"--json"}),
        (["ca"], {"cache"}),
        (["--print-completion", ""], {"bash", "zsh"}),
        (["cache", "re"], {"refresh"}),
        (["cache", "--"], {"--config", "--help", "--json", "--version"}),
        (["cache", "forget", "--y"], {"--yes"}),
    ],
)
def test_completion_in_bash(completion, words, offered):
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "mta-sts-query", *words],
        input=completion("bash"),
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


def test_completion_in_zsh(completion):
    script = completion("zsh")
    assert script.startswith("#compdef mta-sts-query\n")
    if shutil.which("zsh") is None:
        pytest.skip("not installed: zsh")
    subprocess.run(["zsh", "-n", "/dev/stdin"], input=script, text=True, timeout=30, check=True)


def test_completion_without_shtab(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert query.main(["--print-completion", "bash"]) == 69
    assert "pip install 'stsresolver[query]'" in capsys.readouterr().err
