"""The scripts that set up .venv: what they do again, and what they say where they cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DECLARED = ("setup.cfg", "setup.py", "pyproject.toml")


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class Checkout:
    """A checkout whose pip writes down what it is to install, and fails while there is no network.

    `installs`: what it was asked for, in turn.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (".ci/make-venv", *DECLARED):
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(CHECKOUT / name, root / name)
        self.asked = root / "asked"
        self.asked.touch()
        self.offline = root / "offline"
        program(
            root / ".venv/bin/pip", f'[ ! -e {self.offline} ] || exit 1; echo "$4" >>{self.asked}'
        )
        self.python(f'exec {sys.executable} "$@"')
        # What pip installs, in place of the package.
        (root / "stsresolver.py").touch()

    def python(self, script: str) -> None:
        program(self.root / ".venv/bin/python", script)

    @property
    def installs(self) -> list[str]:
        return self.asked.read_text().splitlines()

    def make(self, *extras: str) -> int:
        command = ["/bin/sh", self.root / ".ci/make-venv", *extras]
        environment = os.environ | {"PYTHON": sys.executable}
        return subprocess.run(command, env=environment, check=False).returncode


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def test_what_is_installed_needs_no_network(checkout):
    assert checkout.make() == 0
    checkout.offline.touch()
    assert checkout.make() == 0
    assert checkout.installs == ["."]


def test_what_is_missing_does(checkout):
    checkout.offline.touch()
    assert checkout.make() == 1
    checkout.offline.unlink()
    assert checkout.make() == 0
    assert checkout.installs == ["."], "one that failed is no installed one"


def test_an_extra_is_installed_once(checkout):
    for extras in [], ["test", "package"], ["test"], [], ["package", "test"], ["test", "lint"]:
        assert checkout.make(*extras) == 0
    assert checkout.installs == [".", ".[test,package]", ".[test,lint]"]


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_declared_anew_is_installed_anew(checkout, name):
    checkout.make()
    with (checkout.root / name).open("a") as file:
        file.write("# another version\n")
    checkout.make()
    assert checkout.installs == [".", "."]


def test_an_environment_that_is_broken_is_mended(checkout):
    checkout.make()
    checkout.python("exit 127")
    checkout.make()
    assert checkout.installs == [".", "."]


def test_packages_need_root(tmp_path):
    program(tmp_path / "id", "echo 1000")
    program(tmp_path / "dpkg-query", "exit 1")
    done = subprocess.run(
        ["/bin/sh", CHECKOUT / ".ci/apt-install", "nosuch"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "apt-install: become root to install them: there is no sudo\n"
    assert done.stdout == "apt-install: installing Debian packages: nosuch\n"
