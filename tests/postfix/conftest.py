"""The lab as a fixture: one for the run, the daemon under test alive at the start of each test."""

import contextlib
import os

import pytest

from tests.support.missing import unavailable

from .lab import Lab, missing_programs
from .namespace import NotPermitted


@pytest.fixture(scope="session")
def running_lab():
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace and starts Postfix in it")
    if missing := missing_programs():
        unavailable(f"not installed: {', '.join(missing)}")
    try:
        with contextlib.ExitStack() as stack:
            yield Lab(stack)
    except NotPermitted as error:
        unavailable(f"no network namespace: {error}")


@pytest.fixture
def lab(running_lab, request):
    logs = running_lab.logs()
    marks = request.node.log_marks = {name: log.mark() for name, log in logs.items()}
    running_lab.ensure_daemon()
    yield running_lab
    running_lab.mta.empty()
    for name in ("daemon", "unix-daemon"):
        assert "Traceback" not in logs[name].since(marks[name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show beside a failure what the daemon, Postfix and their world have logged meanwhile."""
    report = yield
    if report.failed and hasattr(item, "log_marks"):
        for name, log in item.funcargs["running_lab"].logs().items():
            if text := log.since(item.log_marks[name]):
                report.sections.append((name, text))
    return report
