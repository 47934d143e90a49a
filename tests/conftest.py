"""What holds for all tests."""

import os

import pytest

# For the programs that tests start; what pytest itself makes of warnings is in setup.cfg.
os.environ.setdefault("PYTHONWARNINGS", "error")

# Begun first, so that where files run side by side none of them is left to run alone at the end.
LONG = (
    *("test_soak", "test_init_script", "test_stores", "test_daemon", "test_packaging"),
    *("test_faults", "test_resolver_process", "test_fetch", "test_hostile_memory", "test_systemd"),
)


def pytest_collection_modifyitems(items):
    """Put the files that take longest first."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let a report show what no encoding takes: pytest-xdist sends it in UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
