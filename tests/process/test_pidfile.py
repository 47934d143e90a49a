"""The pidfile: whole or not there, never in the way of the next start, never through a link."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stsresolver.process.pidfile import PidfileError, pidfile

# Takes the pidfile argv[1], and is killed when it is about to give it its name.
KILLED = """
import os, signal, sys
from stsresolver.process.pidfile import pidfile
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with pidfile(sys.argv[1]):
    pass
"""


def test_it_holds_our_id_and_is_removed_at_the_end(tmp_path):
    path = tmp_path / "pid"
    with pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["new", str(os.getpid())], ids=["new", "pid"])
def test_what_a_killed_process_left_does_not_stop_a_start(tmp_path, suffix):
    """In a container every start has the same process id."""
    (tmp_path / f"pid.{suffix}").write_text(f"{os.getpid()}\n")
    with pidfile(str(tmp_path / "pid")):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_kill_on_the_way_leaves_what_the_next_start_clears_away(tmp_path):
    path = tmp_path / "pid"
    killed = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with pidfile(str(path)):
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, link):
    other = tmp_path / "other"
    other.write_text("root's own\n")
    link(other, tmp_path / "pid.new")
    with pidfile(str(tmp_path / "pid")):
        assert other.read_text() == "root's own\n"


def test_a_link_in_the_place_of_the_pidfile_is_refused(tmp_path):
    path, other = tmp_path / "pid", tmp_path / "other"
    path.symlink_to(other)
    with pytest.raises(PidfileError, match="cannot be written"), pidfile(str(path)):
        pass
    assert not other.exists()


def test_a_link_that_took_its_place_meanwhile_stays(tmp_path):
    """It is not ours, even where it leads to what was ours."""
    path, ours = tmp_path / "pid", tmp_path / "moved"
    with pidfile(str(path)):
        path.rename(ours)
        path.symlink_to(ours)
    assert path.is_symlink()
    assert ours.exists()


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)
