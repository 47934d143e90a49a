"""The daemon's log: its lines, its file, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from stsresolver.config.settings import LogSettings
from stsresolver.process import daemon_log, log_targets
from stsresolver.process.daemon_log import LEVELS, JsonFormatter, Log, OneLineFormatter
from tests.support.socketmap_client import DEADLINE, wait_for

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

        def make(level: str, path: object, form: str = "text") -> Log:
            made = Log(LEVELS[level], LogSettings(form, "file", str(path)))
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


@pytest.mark.requirement("HTTPS-20")
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
        Log(logging.INFO, LogSettings(target="file", file=path))


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


def test_log_goes_on_after_a_write_failed(opened, tmp_path, monkeypatch):
    """A disk that is full, or here a reader that is gone, costs lines and nothing else."""
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = opened("info", path)
    os.close(reader)
    refused = threading.Event()
    write = os.write

    def noting(fd: int, data: bytes) -> int:
        try:
            return write(fd, data)
        except BrokenPipeError:
            refused.set()
            raise

    monkeypatch.setattr(os, "write", noting)
    log.info("to nobody")
    assert refused.wait(DEADLINE)
    path.rename(tmp_path / "old")
    log.info("to the new file")
    output.close()
    assert lines(path) == [
        ("WARNING", "1 line was lost: the log could not be written: Broken pipe"),
        ("INFO", "to the new file"),
    ]


def test_half_a_line_spoils_no_other(opened, tmp_path, monkeypatch):
    """As a disk leaves it that is full, and then no longer."""
    path = tmp_path / "log"
    output = opened("info", path)
    write = os.write
    full = False

    def on_a_full_disk(fd: int, data: bytes) -> int:
        nonlocal full
        if full:
            full = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full = data.endswith(b"torn in two\n")
        return write(fd, data[:-4] if full else data)

    monkeypatch.setattr(os, "write", on_a_full_disk)
    log.info("torn in two")
    log.info("whole")
    output.close()
    torn, lost, whole = path.read_text().splitlines()
    assert torn.endswith("torn in ")
    assert lost.endswith("1 line was lost: the log could not be written: No space left on device")
    assert whole.endswith("INFO whole")


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
    monkeypatch.setattr(daemon_log, "_MAX_WAITING", 10)
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
from stsresolver.process import daemon_log
from stsresolver.process.daemon_log import LEVELS, Log
from stsresolver.config.settings import LogSettings

daemon_log._LAST_LINES = 0.3
target = "file" if sys.argv[1] else "stderr"
output = Log(LEVELS["info"], LogSettings("text", target, sys.argv[1] or None))
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


# JSON


def objects(path) -> list[dict[str, object]]:
    """Return the object of each line."""
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_json_is_one_object_a_line(opened, tmp_path):
    path = tmp_path / "log"
    output = opened("debug", path, "json")
    before = datetime.now(UTC)
    log.warning("%s: no policy", "a.example", extra={"domain": "a.example", "cause": "DNS"})
    log.debug("nothing to add")
    output.close()
    with_fields, without = objects(path)
    when = datetime.fromisoformat(with_fields.pop("time"))
    assert abs((when - before).total_seconds()) < DEADLINE
    assert with_fields == {
        "level": "warning",
        "logger": "stsresolver.anything",
        "message": "a.example: no policy",
        "domain": "a.example",
        "cause": "DNS",
    }
    assert set(without) == {"time", "level", "logger", "message"}


def test_json_time_is_utc_with_milliseconds():
    record = logging.makeLogRecord({"msg": "x", "created": 1700000000.0421, "msecs": 42.1})
    line = json.loads(JsonFormatter().format(record))
    assert line["time"] == "2023-11-14T22:13:20.042Z"


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE])
def test_hostile_text_is_one_json_line(opened, tmp_path, text):
    path = tmp_path / "log"
    output = opened("info", path, "json")
    log.info("a policy host said: %s", text, extra={"domain": text})
    output.close()
    [line] = objects(path)
    assert line["message"] == f"a policy host said: {text}"
    assert line["domain"] == text


def test_traceback_in_json_is_in_the_message(opened, tmp_path):
    path = tmp_path / "log"
    output = opened("info", path, "json")
    try:
        raise ValueError("wrong\nvalue")
    except ValueError:
        log.exception("a bug")
    output.close()
    [line] = objects(path)
    assert line["message"].startswith("a bug\nTraceback (most recent call last):\n")


# Syslog


class Syslogd:
    """A syslog daemon: what came to its socket is in `lines`."""

    def __init__(self, path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(DEADLINE)
        self._socket.bind(str(path))

    def __enter__(self):
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def line(self) -> str:
        return self._socket.recv(65536).decode()


@pytest.fixture
def syslog(tmp_path, monkeypatch) -> Iterator[object]:
    """Return the path of the socket, and what opens a log that goes there."""
    path = tmp_path / "dev-log"
    syslog = log_targets.Syslog
    monkeypatch.setattr(log_targets, "Syslog", lambda: syslog(str(path)))
    with contextlib.ExitStack() as stack:

        def make(form: str = "text") -> Log:
            made = Log(logging.DEBUG, LogSettings(form, "syslog"))
            stack.callback(made.close)
            return made

        yield path, make


def test_syslog_lines(syslog):
    """RFC 3164 as syslog(3) sends it; facility mail (2) times eight, and the severity."""
    path, make = syslog
    with Syslogd(path) as syslogd:
        make()
        for method, priority, name in (
            (log.debug, 23, "DEBUG"),
            (log.info, 22, "INFO"),
            (log.warning, 20, "WARNING"),
            (log.error, 19, "ERROR"),
            (log.critical, 18, "CRITICAL"),
        ):
            method("an\nevent")
            when = r"[A-Z][a-z]{2} [ 1-3][0-9] [0-9:]{8}"
            line = rf"<{priority}>{when} mta-sts-daemon\[{os.getpid()}\]: {name} an\\nevent"
            assert re.fullmatch(line, syslogd.line())


def test_json_in_syslog(syslog):
    path, make = syslog
    with Syslogd(path) as syslogd:
        make("json")
        log.info("an event")
        assert json.loads(syslogd.line().partition("]: ")[2])["message"] == "an event"


def test_syslog_line_is_bounded(syslog):
    path, make = syslog
    with Syslogd(path) as syslogd:
        make()
        log.info("x" * 100_000)
        assert len(syslogd.line()) == 8000


def test_syslogd_that_starts_anew_loses_nothing(syslog):
    path, make = syslog
    with Syslogd(path) as syslogd:
        make()
        log.info("first")
        assert syslogd.line().endswith("first")
    path.unlink()
    with Syslogd(path) as syslogd:
        log.info("second")
        assert syslogd.line().endswith("second")


def test_syslogd_that_is_not_there_costs_lines_that_are_counted(syslog, capfd):
    path, make = syslog
    make()
    log.info("first")
    log.info("second")
    said = ""

    def complained() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said != ""

    wait_for(complained, "a word on standard error")
    with Syslogd(path) as syslogd:
        log.info("third")
        taken = [syslogd.line()]
        while not taken[-1].endswith("third"):
            taken.append(syslogd.line())
    reason = "No such file or directory"
    lost = re.search(f"WARNING ([12]) lines? w.+ lost: the log could not .+: {reason}", taken[0])
    # The second may have waited for the syslogd.
    assert int(lost[1]) + len(taken) - 2 == 2
    assert said == f"mta-sts-daemon: {path}: {reason}: log lines are lost\n"


def test_syslogd_that_hangs_stops_nobody(syslog, monkeypatch):
    monkeypatch.setattr(daemon_log, "_LAST_LINES", 0.3)
    path, make = syslog
    with Syslogd(path):
        output = make()
        for index in range(20_000):
            log.info("%d", index)
        output.close()
        assert output._writer.is_alive(), "the socket took all lines"
    # Its end ends the wait.
    output._writer.join(DEADLINE)
    assert not output._writer.is_alive()


# The daemon


@contextlib.contextmanager
def daemon(directory, text: str, *arguments: object) -> Iterator[None]:
    """Run a daemon with the configuration `text`; at the end it stops as it is told."""
    config = directory / "config.yml"
    config.write_text(f"port: 0\n{text}")
    command = [sys.executable, "-m", "stsresolver.daemon", "-c", config, *arguments]
    with (
        (directory / "stderr").open("wb") as errors,
        subprocess.Popen(list(map(str, command)), stderr=errors) as process,
    ):
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


def test_daemon_logs_where_the_configuration_says(tmp_path):
    path = tmp_path / "log"
    with daemon(tmp_path, f"log: {{format: json, target: file, file: {path}}}\n"):
        wait_for(has_line(path, "listening on"), "the daemon")
    assert objects(path)[-1]["message"] == "stopped"
    assert (tmp_path / "stderr").read_text() == ""


def test_option_wins_over_target_and_file_and_leaves_the_format(tmp_path):
    path, other = tmp_path / "log", tmp_path / "other"
    text = f"log: {{format: json, target: file, file: {other}}}\n"
    with daemon(tmp_path, text, "-l", path):
        wait_for(has_line(path, "listening on"), "the daemon")
    assert objects(path)[-1]["message"] == "stopped"
    assert not other.exists()


def test_daemon_whose_log_file_cannot_be_opened(tmp_path):
    config = tmp_path / "config.yml"
    config.write_text("port: 0\nlog: {target: file, file: /no/such/directory/log}\n")
    run = subprocess.run(
        [sys.executable, "-m", "stsresolver.daemon", "-c", config],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    reason = "/no/such/directory/log: cannot be written: No such file or directory"
    assert (run.returncode, run.stderr) == (73, f"mta-sts-daemon: {reason}\n")
