"""Policies as `parse_policy` makes them."""

from __future__ import annotations

from collections.abc import Sequence

from stsresolver.mta_sts.policy import Mode, Policy

DAY = 86_400
WEEK = 7 * DAY


def policy(
    mode: Mode = Mode.ENFORCE, max_age: int = WEEK, mx: Sequence[str] = ("mail.example.com",)
) -> Policy:
    text = ("version: STSv1", f"mode: {mode}", *(f"mx: {one}" for one in mx), f"max_age: {max_age}")
    return Policy(mode, tuple(mx), max_age, "\n".join(text))
