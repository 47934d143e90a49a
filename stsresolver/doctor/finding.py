"""A finding of a check: what was seen, how bad it is, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class Level(enum.Enum):
    """How bad it is. With a problem, policies are not found, or mail is not sent as they ask."""

    OK = "OK"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen, and what to do about it; there is nothing to be done if it is OK."""

    level: Level
    text: str
    remedy: str = ""

    def of(self, whom: str) -> Finding:
        """Return the finding with the word for whom alone it holds."""
        return replace(self, text=f"{whom}: {self.text}")


def fine(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, text)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding that works, but perhaps not as meant."""
    return Finding(Level.WARNING, text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """Return a finding that has to be put right."""
    return Finding(Level.PROBLEM, text, remedy)
