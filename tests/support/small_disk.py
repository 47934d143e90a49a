"""A disk that is soon full: a tmpfs of one megabyte."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Have the disk at `path`, an empty directory; skip where it cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small disk")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "stsresolver-test", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small disk: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
