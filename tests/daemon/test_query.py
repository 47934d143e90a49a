"""mta-sts-query: what it prints, and its exit status, for each result of a made-up resolver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stsresolver import Cause, Failure, Found, Lookup, Mode, NoPolicy, NotChanged, Policy, query
from stsresolver.net.proxy import Proxy
from stsresolver.version import __version__

ROOT = Path(__file__).parent.parent.parent

TEXT = (
    "version: STSv1",
    "mode: enforce",
    "mx: mail.example.com",
    "mx: *.example.net",
    "max_age: 604800",
    "x-note: snow ☃ \u202e",
)
POLICY = Policy(Mode.ENFORCE, ("mail.example.com", "*.example.net"), 604_800, "\n".join(TEXT))


class Asked:
    """Stands in for `Resolver`: gives `result`, and notes how it was asked."""

    def __init__(self) -> None:
        self.result: Lookup = NoPolicy(Cause.NO_RECORD)
        self.calls: list[tuple[float, str, *tuple[str, ...]]] = []

    def __call__(self, timeout: float, *, proxy: Proxy | None) -> Asked:
        self.timeout = timeout
        self.proxy = proxy
        return self

    def resolve(self, domain: str, *known_ids: str) -> Lookup:
        self.calls.append((self.timeout, domain, *known_ids))
        return self.result


@pytest.fixture
def asked(monkeypatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(query, "Resolver", asked)
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


def test_policy(asked, printed):
    asked.result = Found(POLICY, "20260101")
    assert printed("example.com") == (
        0,
        "example.com: MTA-STS policy 20260101\n"
        "mode:    enforce\n"
        "mx:      mail.example.com\n"
        "mx:      *.example.net\n"
        "max_age: 604800 seconds (7.0 days)\n",
    )


def test_policy_of_mode_none_has_no_mx(asked, printed):
    asked.result = Found(Policy(Mode.NONE, (), 0, ""), "1")
    status, output = printed("example.com")
    assert status == 0
    assert "mode:    none\n" in output
    assert "mx:" not in output


def test_known_id_that_is_still_published(asked, printed):
    asked.result = NotChanged("20260101")
    status, output = printed("example.com", "20260101")
    assert status == 0
    assert output == "example.com: the MTA-STS policy is still 20260101\n"
    assert asked.calls == [(4.0, "example.com", "20260101")]


@pytest.mark.parametrize("cause", [Cause.NO_RECORD, Cause.BAD_RECORD, Cause.SEVERAL_RECORDS])
def test_no_policy(asked, printed, cause):
    asked.result = NoPolicy(cause)
    assert printed("example.com") == (1, f"example.com: no MTA-STS policy: {cause.value}\n")


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.NO_RECORD])
def test_failure(asked, printed, cause):
    asked.result = Failure(cause, "in detail")
    status, output = printed("example.com")
    assert status == 2
    assert output == f"example.com: MTA-STS policy not found out: {cause.value}: in detail\n"


def test_failure_of_a_policy_that_is_announced(asked, printed):
    asked.result = Failure(Cause.CONNECT, id="20260101")
    status, output = printed("example.com")
    assert status == 2
    assert output.endswith("\nThe TXT record announces the policy 20260101.\n")


@pytest.mark.parametrize(
    "result",
    [
        Found(POLICY, "1"),
        NotChanged("1"),
        NoPolicy(Cause.NO_RECORD),
        Failure(Cause.DNS, "no answer"),
    ],
)
def test_verbose_says_where_it_comes_from(asked, printed, result):
    asked.result = result
    brief = printed("example.com")
    status, output = printed("-v", "example.com")
    assert status == brief[0]
    assert output.startswith(brief[1])
    assert "_mta-sts.example.com\n" in output
    assert "https://mta-sts.example.com/.well-known/mta-sts.txt\n" in output


def test_verbose_shows_the_policy_as_it_was_served(asked, printed):
    asked.result = Found(POLICY, "1")
    _, output = printed("example.com", "-v")
    shown = output.partition("its text:\n")[2].splitlines()
    assert [line.strip() for line in shown[:-1]] == list(TEXT[:-1])


@pytest.mark.requirement("HTTPS-20")
@pytest.mark.parametrize("arguments", [["example.com"], ["-v", "example.com"]])
@pytest.mark.parametrize(
    "result",
    [
        Found(POLICY, "1"),
        NoPolicy(Cause.BAD_RECORD, "not a field: \x1b[2J\r\nexample.com: MTA-STS policy 1"),
        Failure(Cause.STATUS, "500 \x1b]0;title\x07\nmode:    enforce\u2028\udc80"),
    ],
)
def test_text_of_strangers_adds_no_line_and_no_control_character(asked, printed, arguments, result):
    asked.result = result
    _, output = printed(*arguments)
    assert all(line.isprintable() for line in output.split("\n"))
    if not isinstance(result, Found) and arguments == ["example.com"]:
        assert output.count("\n") == 1
    output.encode()


@pytest.mark.parametrize(
    ("domain", "asked_for"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("münchen.example", "xn--mnchen-3ya.example"),
    ],
)
def test_domain_in_its_one_form(asked, printed, domain, asked_for):
    _, output = printed(domain)
    assert asked.calls == [(4.0, asked_for)]
    assert output.startswith(f"{asked_for}: ")


def test_timeout(asked, printed):
    printed("-t", "0.5", "example.com")
    assert asked.calls == [(0.5, "example.com")]


@pytest.mark.requirement("LIB-18")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DOMAIN"),
        (["example.com", "1", "2"], "unrecognized arguments: 2"),
        (["--unknown", "example.com"], "unrecognized arguments: --unknown"),
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
    ["", "com", "a..b", ".example.com", "192.0.2.1", "user@example.com", "a b.example", "\udcff.x"],
)
def test_no_domain(refused, domain):
    errors = refused(domain)
    assert errors.startswith("mta-sts-query: no domain name: ")
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


def test_proxy_that_cannot_be_used(asked, capsys, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://user:secret@proxy.example")
    assert query.main(["example.com"]) == 64
    errors = capsys.readouterr().err
    assert errors.startswith("mta-sts-query: https_proxy in the environment: found the scheme ")
    assert "secret" not in errors
    assert asked.calls == []


def test_terminal_that_knows_ascii_alone():
    """What it cannot show is escaped, and does not turn "there is a policy" into a failure."""
    text = "\n".join([*TEXT[:-1], "x-note: snow ☃"]).encode()
    program = f"""
import sys
from stsresolver import Found
from stsresolver import query
from stsresolver.mta_sts.policy import parse_policy

class Resolver:
    def __init__(self, timeout, proxy):
        pass

    def resolve(self, domain):
        return Found(parse_policy({text!r}), "1")

query.Resolver = Resolver
sys.exit(query.main(["-v", "example.com"]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert r"x-note: snow \u2603" in run.stdout
