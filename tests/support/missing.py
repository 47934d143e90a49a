"""What a test needs and this host lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """End the test: skip it, except in CI, where what is missing is a fault of CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def not_installed(*programs: str) -> NoReturn:
    """End the test for want of programs."""
    unavailable(f"not installed: {', '.join(programs)}")
