"""The daemon's log: its lines, its file, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from socketmap_client import DEADLINE, wait_for

from stsresolver import logs
from stsresolver.logs import LEVELS, Log, OneLineFormatter

log = logging.getLogger("stsresolver.anything")

LINE = re.compile(r"[0-9-]{10} [0-9:,]{12} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\S.*)")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Take back what a `Log` does to the package's logger."""
    logger = logging.getLogger("stsresolver")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def opened() -> Iterator[type[Log]]:
    """Return what opens a log that is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(level: str, path: object) -> Log:
            made = Log(LEVELS[level], path and str(path))
            stack.callback(made.close)
            return made

        yield make


def lines(path) -> list[tuple[str, str]]:
    """Return level and text of each line."""
    found = [LINE.fullmatch(line) for line in path.read_text("utf-8").splitlines()]
    assert all(found), path.read_text("utf-8")
    return [(match[1], match[2]) for match in found]


def has_line(path, text: str):
    """Return the condition that the log has a line with `text` in it."""
    return lambda: path.exists() and text in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("info", ["INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("warn", ["WARNING", "ERROR", "CRITICAL"]),
        ("error", ["ERROR", "CRITICAL"]),
        ("fatal", ["CRITICAL"]),
    ],
)
def test_levels(opened, tmp_path, level, expected):
    path = tmp_path / "log"
    output = opened(level, path)
    for method in (log.debug, log.info, log.warning, log.error, log.critical):
        method("%s: an event", "example.com")
    output.close()
    assert lines(path) == [(name, "example.com: an event") for name in expected]


def test_other_loggers_are_not_ours(opened, tmp_path):
    path = tmp_path / "log"
    output = opened("debug", path)
    logging.getLogger("urllib3").warning("from a library")
    output.close()
    assert path.read_text() == ""


HOSTILE = [
    ("two\nlines", r"two\nlines"),
    ("\r\x1b[2Jerased", r"\r\x1b[2Jerased"),
    ("a tab\tand NUL\x00", r"a tab\tand NUL\x00"),
    ("right\u202eleft", r"right\u202eleft"),
    ("a line\u2028separator and \x85", r"a line\u2028separator and \x85"),
    ("half a pair \udc80", r"half a pair \udc80"),
    ("a private \U000f0000", r"a private \U000f0000"),
    ("%s %d {}", "%s %d {}"),
    ("münchen.example ☃", "münchen.example ☃"),
]


@pytest.mark.parametrize(("text", "written"), HOSTILE)
def test_hostile_text_is_one_printable_line(opened, tmp_path, text, written):
    path = tmp_path / "log"
    output = opened("info", path)
    log.info("a policy host said: %s", text)
    output.close()
    assert lines(path) == [("INFO", f"a policy host said: {written}")]


def test_traceback_is_one_line(opened, tmp_path):
    path = tmp_path / "log"
    output = opened("info", path)
    try:
        raise ValueError("wrong\nvalue")
    except ValueError:
        log.exception("a bug")
    output.close()
    [(level, text)] = lines(path)
    assert level == "ERROR"
    assert text.startswith(r"a bug\nTraceback (most recent call last):\n")
    assert text.endswith(r"ValueError: wrong\nvalue")


def test_formatter_alone():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\nb", (), None)
    assert OneLineFormatter("%(levelname)s %(message)s").format(record) == r"INFO a\nb"


def test_file_is_appended_to(opened, tmp_path):
    path = tmp_path / "log"
    path.write_text("2000-01-01 00:00:00,000 INFO before\n")
    output = opened("info", path)
    log.info("after")
    output.close()
    assert lines(path) == [("INFO", "before"), ("INFO", "after")]


@pytest.mark.parametrize(
    ("path", "error"),
    [("/no/such/directory/log", FileNotFoundError), ("/", IsADirectoryError)],
)
def test_file_that_cannot_be_opened(path, error):
    with pytest.raises(error):
        Log(logging.INFO, path)


def test_moved_file_is_opened_anew(opened, tmp_path):
    """As logrotate does it, without telling the daemon."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    output = opened("info", path)
    log.info("first")
    wait_for(has_line(path, "first"), "the first line")
    path.rename(old)
    log.info("second")
    output.close()
    assert lines(old) == [("INFO", "first")]
    assert lines(path) == [("INFO", "second")]


def test_moved_file_that_cannot_be_opened_anew(opened, tmp_path):
    """As when the daemon has become a user who may not write in the directory."""
    directory, away = tmp_path / "directory", tmp_path / "away"
    path, old = directory / "log", away / "log"
    directory.mkdir()
    output = opened("info", path)
    log.info("first")
    wait_for(has_line(path, "first"), "the first line")
    directory.rename(away)
    log.info("second")
    log.info("third")
    wait_for(has_line(old, "log goes on"), "the lines in the moved file")
    directory.mkdir()
    log.info("fourth")
    wait_for(has_line(path, "fourth"), "the file to be opened again")
    output.close()
    complaint = f"{path}: No such file or directory: the log goes on in the moved file"
    assert sorted(lines(old)) == [
        ("INFO", "first"),
        ("INFO", "second"),
        ("INFO", "third"),
        ("WARNING", complaint),
    ]
    assert lines(path) == [("INFO", "fourth")]


def test_log_goes_on_after_a_write_failed(opened, tmp_path):
    """A disk that is full, or here a reader that is gone, costs lines and nothing else."""
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = opened("info", path)
    os.close(reader)
    log.info("to nobody")
    wait_for(output._waiting.empty, "the line to be taken")
    path.rename(tmp_path / "old")
    log.info("to the new file")
    output.close()
    assert lines(path)[-1] == ("INFO", "to the new file")


def test_lines_of_several_threads_stay_whole(opened, tmp_path):
    path = tmp_path / "log"
    output = opened("info", path)

    def write(number: int) -> None:
        for index in range(200):
            log.info("%d %d %s", number, index, "x" * 100)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    output.close()
    written = [text.split() for _, text in lines(path)]
    for number in range(5):
        assert [text[1] for text in written if text[0] == str(number)] == list(map(str, range(200)))


def test_what_a_slow_log_does_not_take_is_counted(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MAX_WAITING", 10)
    path = tmp_path / "log"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
        output = opened("info", path)
        for index in range(3000):
            log.info("%d %s", index, "x" * 200)
        os.set_blocking(reader.fileno(), True)
        read: list[str] = []
        said = 3000
        while not read or not read[-1].endswith("the end\n"):
            log.info("the end")
            said += 1
            read.append(reader.readline())
        output.close()
    lost = re.findall(
        "WARNING ([0-9]+) lines were lost: the log is written too slowly", "".join(read)
    )
    assert 1000 < sum(map(int, lost)) <= said - (len(read) - len(lost))


UNREAD = """
import logging, signal, sys, threading
from stsresolver import logs
from stsresolver.logs import LEVELS, Log

logs._LAST_LINES = 0.3
output = Log(LEVELS["info"], sys.argv[1] or None)
log = logging.getLogger("stsresolver.anything")
for index in range(20_000):
    log.info("%d %s", index, "x" * 100)
print("logged", flush=True)
output.close()
print("closed", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("where", ["standard error", "file"])
def test_log_that_nobody_reads_stops_nobody(tmp_path, where):
    """Neither those who log, nor the end of the process and its exit status."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    unread = os.open(path, os.O_RDWR)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", UNREAD, str(path) if where == "file" else ""],
            stdout=subprocess.PIPE,
            stderr=unread if where == "standard error" else subprocess.PIPE,
            text=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=DEADLINE)
            finally:
                process.send_signal(signal.SIGKILL)
    finally:
        os.close(unread)
    assert output == "logged\nclosed\n"
    assert not errors
    assert process.returncode == 3
