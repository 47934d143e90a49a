"""The inputs that are checked in: a directory for each target, a file for each input.

Those that begin with `seed-` show the fuzzer what an input looks like. Every other one was found by
it, and is named after what was wrong.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")


def inputs() -> list[Path]:
    """Return all inputs, sorted."""
    return sorted(path for path in CORPUS.glob("*/*") if path.is_file())
