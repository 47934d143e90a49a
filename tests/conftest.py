"""What holds for all tests: warnings are errors, the longest files go first, requirements.

And the fixtures that tests of several rooms use.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority, trusted
from tests.support.served import Served, serving

TESTS = Path(__file__).resolve().parent

# For the programs that tests start. pyproject.toml makes warnings errors in pytest itself.
os.environ.setdefault("PYTHONWARNINGS", "error")

# Begun first, so that where files run side by side none of them is left to run alone at the end.
# Each takes 15 seconds or more; the longest is first.
LONG = (
    *("daemon/test_soak.py", "process/test_init_script.py", "postfix/test_stores.py"),
    "stores/test_postgres.py",
    *("postfix/test_doctor.py", "daemon/test_faults.py"),
    *("project/test_packaging.py", "daemon/test_daemon.py", "daemon/test_hostile_memory.py"),
    *("process/test_systemd.py", "mta_sts/test_fetch.py", "monitoring/test_alert_rules.py"),
)


def pytest_addoption(parser):
    parser.addoption(
        "--requirement",
        metavar="NUMBER",
        help="run only the tests that hold this requirement of docs/conformance.rst",
    )
    parser.addoption(
        "--list-requirements",
        action="store_true",
        help="print the number of each requirement with each test that holds it",
    )


def requirements(item) -> set[str]:
    """Return the numbers in the markers of a test: of the whole function, or of its case."""
    case = item.callspec.id if hasattr(item, "callspec") else ""
    found = set()
    for marker in item.iter_markers("requirement"):
        for one in marker.args:
            numbers = one.get(case, ()) if isinstance(one, dict) else one
            found |= {numbers} if isinstance(numbers, str) else set(numbers)
    return found


def pytest_collection_modifyitems(config, items):
    """Put the files that take longest first; select and list by requirement."""
    order = {TESTS / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))
    wanted = config.getoption("--requirement")
    if wanted:
        left = [item for item in items if wanted not in requirements(item)]
        items[:] = [item for item in items if wanted in requirements(item)]
        config.hook.pytest_deselected(items=left)
    if config.getoption("--list-requirements"):
        for item in items:
            for number in sorted(requirements(item)):
                print(f"requirement {number} {item.nodeid}")


def pytest_terminal_summary(terminalreporter):
    """Say how to run what was skipped for the sake of where the checkout lies."""
    skipped = terminalreporter.stats.get("skipped", [])
    # The words of giving_up_root.py.
    closed = sum("that everybody may enter" in str(report.longrepr) for report in skipped)
    if closed:
        terminalreporter.write_line(
            f"{closed} tests need a clone, and a Python, that not only root may enter:"
            " clone to /srv instead of /root to run them"
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Iterator[Authority]:
    """An authority that the tests of a file, and the programs that they start, trust alone."""
    with trusted(tmp_path_factory.mktemp("authority")) as authority:
        yield authority


@pytest.fixture
def serve(tmp_path, caplog) -> Iterator[Callable[..., Served]]:
    """Return what starts a socketmap server in a thread; it ends with the test."""
    with serving(tmp_path, caplog) as start:
        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let a report show what no encoding takes: pytest-xdist sends it in UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
