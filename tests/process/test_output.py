"""How both programs end where what they print cannot be written, buffered and unbuffered."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# mta-sts-query with an inspector that says that there is no policy: status 1.
NO_POLICY = """
import sys
from stsresolver import query
from stsresolver import Cause, NoPolicy
from tests.support.inspections import inspection

class Inspector:
    def __init__(self, timeout, **options):
        pass

    def inspect(self, target):
        return inspection(NoPolicy(Cause.NO_RECORD), texts=())

query.Inspector = Inspector
sys.exit(query.main(sys.argv[1:]))
"""
DAEMON = ("-m", "stsresolver.daemon")
QUERY = ("-c", NO_POLICY)


@contextlib.contextmanager
def left_pipe() -> Iterator[int]:
    """Give the end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    with open("/dev/full", "wb") as file:
        yield file.fileno()


def run(*arguments: str, unbuffered: str = "", **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
        timeout=30,
        check=False,
        **options,
    )


PRINTED = [
    (*DAEMON, "--check-config"),
    (*DAEMON, "--doctor"),
    (*DAEMON, "--help"),
    (*DAEMON, "--version"),
    (*QUERY, "-v", "example.com"),
    (*QUERY, "--help"),
    (*QUERY, "--version"),
]


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", PRINTED, ids=lambda words: " ".join(words[2:]))
class TestStandardOutput:
    def test_whose_reader_has_gone(self, arguments, unbuffered):
        with left_pipe() as stdout:
            done = run(*arguments, unbuffered=unbuffered, stdout=stdout, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (141, ""), "as a shell says of SIGPIPE"

    def test_on_a_full_disk(self, arguments, unbuffered):
        with full_disk() as stdout:
            done = run(*arguments, unbuffered=unbuffered, stdout=stdout, stderr=subprocess.PIPE)
        prog = "mta-sts-daemon" if arguments[:2] == DAEMON else "mta-sts-query"
        assert done.stderr == (
            f"{prog}: standard output cannot be written: No space left on device\n"
        )
        assert done.returncode == os.EX_IOERR


@pytest.mark.parametrize("arguments", [PRINTED[0], PRINTED[4]], ids=["daemon", "query"])
def test_standard_output_that_is_closed(arguments):
    command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )
    assert done.stderr.endswith(": standard output cannot be written: Bad file descriptor\n")
    assert done.stderr.count("\n") == 1
    assert done.returncode == os.EX_IOERR


COMPLAINTS = [
    ((*DAEMON, "--unknown"), 64, "wrong arguments"),
    ((*DAEMON, "-c", "/no/such/file"), 78, "no configuration"),
    ((*QUERY, "--unknown"), 64, "wrong arguments"),
    ((*QUERY, "com"), 64, "no domain"),
]


@pytest.mark.parametrize("lost", [left_pipe, full_disk])
@pytest.mark.parametrize(("arguments", "status", "why"), COMPLAINTS)
def test_standard_error_that_cannot_be_written_leaves_the_status(arguments, status, why, lost):
    with lost() as stderr:
        done = run(*arguments, stdout=subprocess.PIPE, stderr=stderr)
    assert (done.returncode, done.stdout) == (status, ""), why


CLOSED_ERROR = [
    ("--unknown", ">/dev/full 2>&-", 64, "wrong arguments, and nobody to tell"),
    ("--unknown", "2>&-", 64, "the usage is nothing for standard output"),
    ("--version", ">&- 2>&-", 74, "what was asked for, nowhere"),
]


@pytest.mark.parametrize(("argument", "where", "status", "why"), CLOSED_ERROR)
def test_standard_error_that_is_closed_leaves_the_status(argument, where, status, why):
    command = ["/bin/sh", "-c", f'exec "$@" {where}', "sh", sys.executable, *DAEMON, argument]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (status, ""), why


def test_both_in_one_pipe_whose_reader_has_gone(tmp_path):
    """As in `mta-sts-daemon --check-config 2>&1 | head -1`: a warning is written first."""
    file = tmp_path / "daemon.yml"
    file.write_text("default_zone: {timeout: 99}\n")
    with left_pipe() as both:
        done = run(*DAEMON, "--check-config", "-c", str(file), stdout=both, stderr=both)
    assert done.returncode == 141
