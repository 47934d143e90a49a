"""When an idle connection ends, and when it gives way."""

from __future__ import annotations

import math

import pytest

from stsresolver.socketmap.idle_limits import ends_at, gives_way_at

OPENED = 1000.0


@pytest.mark.requirement("WIRE-11")
@pytest.mark.parametrize(
    ("last", "waiting", "gives_way", "ends", "why"),
    [
        (OPENED, False, OPENED + 2, OPENED + 300, "it never asked"),
        (OPENED + 1, False, OPENED + 121, OPENED + 301, "Postfix may hold it for 120 s"),
        (OPENED + 500, False, OPENED + 620, OPENED + 800, "the last request counts"),
        (OPENED + 1, True, math.inf, OPENED + 301, "a request of it is under way"),
    ],
)
def test_limits(last, waiting, gives_way, ends, why):
    assert gives_way_at(OPENED, last, waiting=waiting) == gives_way, why
    assert ends_at(last, waiting=waiting) == ends, why
