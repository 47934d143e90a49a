"""The mark of tests in which a daemon that was started as root becomes another user."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def _why_not() -> str:
    """Say what stands against it: the resolver process is started by the user it becomes."""
    if os.geteuid() != 0:
        return "needs root: gives it up"
    nobody = pwd.getpwnam("nobody")
    try:
        subprocess.run(
            [sys.executable, "-c", "import stsresolver.version"],
            cwd=ROOT,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs a Python, and a checkout, that everybody may enter: {error}"
    return ""


gives_up_root = pytest.mark.skipif(bool(_why_not()), reason=_why_not())
