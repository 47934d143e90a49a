"""What root opens in directories that somebody less privileged may write to."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from stsresolver.cache.store import StoreError
from stsresolver.config.settings import LogSettings
from stsresolver.net.symlinks import LinkError, check_way, open_file, place
from stsresolver.process.log_targets import open_target
from stsresolver.process.pidfile import PidfileError, pidfile
from stsresolver.socketmap import listeners
from stsresolver.socketmap.listeners import ListenError, listen_unix
from stsresolver.stores.sqlite import SqliteStore
from tests.support.giving_up_root import gives_up_root
from tests.support.socketmap_client import DEADLINE

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: has others write to directories"
)
WRITE = os.O_WRONLY | os.O_CREAT


class Tree:
    """Directories below one that root alone may write to.

    `firm`: root's. `shared`: nobody's. `secret`: a file of root's elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self.nobody = pwd.getpwnam("nobody")
        self.firm, self.shared, self.secret = (directory / n for n in ("firm", "shared", "secret"))
        self.firm.mkdir()
        self.shared.mkdir()
        self.give(self.shared)
        self.secret.write_text("secret")
        self.secret.chmod(0o600)

    def give(self, path: Path) -> None:
        os.chown(path, self.nobody.pw_uid, self.nobody.pw_gid)

    def is_intact(self) -> bool:
        status = self.secret.stat()
        kept = (status.st_mode & 0o777, status.st_uid, status.st_nlink) == (0o600, 0, 1)
        return kept and self.secret.read_text() == "secret"


@pytest.fixture
def tree() -> Iterator[Tree]:
    # pytest's own directories are closed to nobody.
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield Tree(directory)
    shutil.rmtree(directory)


# THE RULE


def _file(tree: Tree) -> Path:
    return tree.shared / "new"


def _link(tree: Tree) -> Path:
    (tree.shared / "link").symlink_to(tree.secret)
    return tree.shared / "link"


def _dangling(tree: Tree) -> Path:
    (tree.shared / "link").symlink_to(tree.firm / "none")
    return tree.shared / "link"


def _link_to_directory(tree: Tree) -> Path:
    (tree.shared / "link").symlink_to(tree.firm)
    return tree.shared / "link" / "new"


def _link_of_root(tree: Tree) -> Path:
    (tree.firm / "link").symlink_to(tree.secret)
    return tree.firm / "link"


def _link_of_root_to_a_link(tree: Tree) -> Path:
    (tree.firm / "link").symlink_to(_link(tree))
    return tree.firm / "link"


def _link_to_shared(tree: Tree) -> Path:
    (tree.firm / "link").symlink_to("../shared")
    return tree.firm / "link" / "new"


def _second_name(tree: Tree) -> Path:
    (tree.shared / "name").hardlink_to(tree.secret)
    return tree.shared / "name"


def _by_group(tree: Tree) -> Path:
    os.chown(tree.firm, 0, tree.nobody.pw_gid)
    tree.firm.chmod(0o775)
    return _link_of_root(tree)


def _by_everybody(tree: Tree) -> Path:
    tree.firm.chmod(0o1777)
    return _link_of_root(tree)


def _by_root_s_group(tree: Tree) -> Path:
    tree.firm.chmod(0o775)
    return _link_of_root(tree)


def _circle(tree: Tree) -> Path:
    (tree.firm / "link").symlink_to("link")
    return tree.firm / "link"


RULE = [
    # what is made, whether root opens it, why
    (_file, True, "no link at all"),
    (_link, False, "a link of nobody's"),
    (_dangling, False, "that would make a file"),
    (_link_to_directory, False, "a link on the way"),
    (_link_of_root, True, "a link of root's where root alone may write"),
    (_link_of_root_to_a_link, False, "and on to one of nobody's"),
    (_link_to_shared, True, "nobody could not have made it"),
    (_second_name, False, "a hard link, where the kernel allows it"),
    (_by_group, False, "a group may write there"),
    (_by_root_s_group, True, "but root's may"),
    (_by_everybody, False, "everybody may"),
]


@as_root
@pytest.mark.parametrize(("make", "opens", "why"), RULE, ids=[why for *_, why in RULE])
def test_rule(tree, make: Callable[[Tree], Path], opens, why):
    path = make(tree)
    try:
        os.close(open_file(str(path), WRITE))
    except LinkError as error:
        assert not opens, error
        assert "and others than root may write to its directory" in error.strerror
        assert not (tree.firm / "none").exists()
        return
    assert opens, why


@as_root
def test_links_in_a_circle(tree):
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_file(str(_circle(tree)), WRITE)


@as_root
def test_the_file_that_the_kernel_keeps_open(tree):
    """Such as /dev/stderr, which leads to no name."""
    read, write = os.pipe()
    os.close(open_file(f"/proc/self/fd/{write}", os.O_WRONLY))
    os.close(read)
    os.close(write)


@as_root
@pytest.mark.parametrize(
    ("way", "settled"), [("firm", True), ("shared", False), ("sticky", True), ("theirs", False)]
)
def test_way(tree, way, settled):
    directory = {"firm": tree.firm, "shared": tree.shared}.get(way, tree.firm.parent / way)
    directory.mkdir(exist_ok=True)
    if way in ("sticky", "theirs"):
        directory.chmod(0o1777)
    (directory / "below").mkdir()
    if way == "theirs":
        tree.give(directory / "below")
    with place(str(directory / "below" / "file")) as at:
        assert at.path == str(directory / "below" / "file")
        if settled:
            check_way(at)
            return
        with pytest.raises(LinkError, match=f"^.Errno 40. {directory}/below could become a link"):
            check_way(at)


@as_root
def test_descriptors_are_given_back(tree):
    before = len(os.listdir("/proc/self/fd"))
    for make in (_link, _link_to_shared, _second_name):
        path = str(make(tree))
        try:
            os.close(open_file(path, WRITE))
        except LinkError:
            (tree.shared / "link").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        open_file(str(tree.firm / "none" / "file"), WRITE)
    assert len(os.listdir("/proc/self/fd")) == before


@gives_up_root
def test_everybody_else_opens_names_as_they_are(tree):
    target = tree.shared / "target"
    target.write_text("")
    tree.give(target)
    (tree.shared / "link").symlink_to(target)
    program = f"""
from stsresolver.net.symlinks import open_file
open_file({str(tree.shared / "link")!r}, {WRITE})
"""
    subprocess.run([sys.executable, "-c", program], user="nobody", group="nogroup", check=True)


# AN ATTACK

# Has a link come and go, or puts it in the place of what root has made, as fast as it can.
SWAP = """
import os, stat, sys
path, target, comes_and_goes = sys.argv[1:]
link = path + ".link"
os.symlink(target, link)
print("begun", flush=True)
while True:
    try:
        is_link = stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        if not comes_and_goes:
            continue
        is_link = False
    try:
        if is_link:
            os.unlink(path)
        else:
            os.rename(link, path)
            os.write(1, b"x")
            os.symlink(target, link)
    except FileNotFoundError:
        pass
"""


@contextmanager
def swapping(path: Path, target: Path, way: str) -> Iterator[BinaryIO]:
    """Have a process of nobody's swap the file at `path`; it writes a byte for each time."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SWAP, path, target, way],
        stdout=subprocess.PIPE,
        user="nobody",
        group="nogroup",
        extra_groups=[],
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            os.set_blocking(process.stdout.fileno(), False)
            yield process.stdout
        finally:
            process.kill()


def _listen(path: Path, tree: Tree) -> None:
    listen_unix(str(path), 0o666, tree.nobody.pw_uid, tree.nobody.pw_gid).close()


def _write_log(path: Path, tree: Tree) -> None:
    target = open_target(LogSettings(target="file", file=str(path)))
    try:
        target.write("a line of the log", logging.INFO)
    finally:
        target.close()


def _open_database(path: Path, tree: Tree) -> None:
    SqliteStore(path, threads=1).close()


# With names in the place of descriptors, each is seen to fail within fewer tries.
TRIES = 2000


@gives_up_root
@pytest.mark.parametrize("way", ["", "comes and goes"])
@pytest.mark.parametrize("make", [_listen, _write_log, _open_database])
def test_root_changes_nothing_through_a_link_that_comes_and_goes(tree, make, way):
    target = tree.secret
    if make is _open_database:
        # Root would make an empty file a database, and leave any other.
        target = tree.firm / "empty"
        target.touch(0o600)
    before = target.stat()
    end = time.monotonic() + 4 * DEADLINE
    tries = swaps = 0
    with swapping(tree.shared / "file", target, way) as swapped:
        while tries < TRIES or swaps < TRIES // 10:
            assert time.monotonic() < end, "there was no attack"
            with suppress(ListenError, StoreError, OSError):
                make(tree.shared / "file", tree)
            tries += 1
            swaps += len(swapped.read() or b"")
            after = target.stat()
            assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid), tries
            assert after.st_size == before.st_size, tries


@as_root
def test_a_socket_that_is_swapped_for_a_hard_link_to_another(tree, monkeypatch):
    path, other = tree.shared / "socket", tree.firm / "socket"
    give = listeners._give

    def give_late(*arguments):
        path.unlink()
        path.hardlink_to(other)
        give(*arguments)

    monkeypatch.setattr(listeners, "_give", give_late)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
        with pytest.raises(ListenError, match="another process has put another file"):
            _listen(path, tree)
    assert other.stat().st_uid == 0


@as_root
def test_a_pidfile_on_a_way_that_others_may_change(tree):
    (tree.shared / "below").mkdir()
    (tree.shared / "link").symlink_to(tree.firm)
    for path in (tree.shared / "below" / "pid", tree.shared / "link" / "pid"):
        with pytest.raises(PidfileError, match="others than root may write"), pidfile(str(path)):
            pass
        assert not path.exists()


@as_root
def test_a_database_without_links_in_their_directory(tree):
    for name in ("", "-wal", "-journal", "-shm"):
        file = tree.shared / "policies.db"
        (tree.shared / f"policies.db{name}").symlink_to(tree.firm / "none")
        with pytest.raises(StoreError, match=f"^{file}: "):
            SqliteStore(file, threads=1)
        assert os.listdir(tree.firm) == [], name
        for made in tree.shared.iterdir():
            made.unlink()
    SqliteStore(tree.shared / "policies.db", threads=1).close()
