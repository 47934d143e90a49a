"""When the log says that there is no resolver process, and when the daemon ends for that."""

from __future__ import annotations

import threading

import pytest

from stsresolver.lookup import absence
from stsresolver.lookup.absence import LIMIT, AbsenceWatch
from tests.support.socketmap_client import wait_for


@pytest.mark.parametrize(
    ("looks", "said", "why"),
    [
        ([0.0, 0.0], [], "a process runs"),
        ([LIMIT - 1], [], "it may come back"),
        ([LIMIT], [LIMIT], "five minutes"),
        ([LIMIT, LIMIT + 5, LIMIT + 59], [LIMIT], "less than a minute later"),
        ([LIMIT, LIMIT + 60, LIMIT + 120], [LIMIT, LIMIT + 60, LIMIT + 120], "each minute"),
        ([LIMIT, 0.0, LIMIT - 1, LIMIT], [LIMIT, LIMIT], "one ran in between"),
    ],
)
def test_when_the_log_says_so(caplog, monkeypatch, looks, said, why):
    monkeypatch.setattr(absence, "_LOOK", 0.0)
    left = list(looks)
    watch = AbsenceWatch(lambda: left.pop(0) if left else 0.0)
    watch.start()
    wait_for(lambda: not left, "all looks")
    watch.stop()
    watch._thread.join()
    lines = [f"no resolver process has run for {seconds:.0f} s" for seconds in said]
    assert [line.partition(",")[0] for line in caplog.messages] == lines, why


def test_the_daemon_ends_once(caplog, monkeypatch):
    monkeypatch.setattr(absence, "_LOOK", 0.0)
    ends: list[float] = []
    gave_up = threading.Event()

    def give_up() -> None:
        ends.append(LIMIT)
        gave_up.set()

    watch = AbsenceWatch(lambda: LIMIT, give_up)
    watch.start()
    assert gave_up.wait(10.0)
    watch._thread.join(10.0)
    assert not watch._thread.is_alive()
    assert ends == [LIMIT]
    assert caplog.messages[-1] == "stopping, to be started anew: no resolver process runs"
