"""The figures that the generator gives for a server, and how figures are shown."""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from servers import Running, Server

# Seconds for one run of the generator.
LONGEST = 600


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: an integer within bounds."""

    def integer(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return integer


def wholes(least: int, most: int) -> Callable[[str], list[int]]:
    """A type for argparse: integers within bounds, with commas between."""

    def integers(text: str) -> list[int]:
        return [whole(least, most)(part) for part in text.split(",")]

    return integers


@contextlib.contextmanager
def loading(
    server: Server, directory: Path, options: Sequence[str], expected: str | None = None
) -> Iterator[Callable[[], dict]]:
    """The generator beside us; what is given waits for its end and returns its figures.

    A wrong reply or a lost connection is a RuntimeError. `expected`: what replies begin with, if
    not with what the server is known to say.
    """
    command = [
        str(directory / "load"), "-m", server.map_name, "-x", expected or server.expected,
        *options, server.address,
    ]  # fmt: skip

    def figures() -> dict:
        output, errors = process.communicate(timeout=LONGEST)
        if process.returncode:
            raise RuntimeError(f"{server.name}: {errors.strip() or output[:400]}")
        seen = json.loads(output)
        del seen["histogram_us"]
        return seen

    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield figures
        finally:
            process.kill()


def load(
    server: Server, directory: Path, options: Sequence[str], expected: str | None = None
) -> dict:
    """Run the generator to its end."""
    with loading(server, directory, options, expected) as figures:
        return figures()


def measure(
    process: Running, directory: Path, options: Sequence[str], expected: str | None = None
) -> dict:
    """One run of the generator, and what the server used meanwhile for each answer."""
    before = process.usage()
    figures = load(process.server, directory, options, expected)
    after = process.usage()
    if before is not None:
        figures |= after.since(before, figures["answers"])
    return figures


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def ratio(ours: Sequence[Mapping], others: Sequence[Mapping], key: str = "per_second") -> float:
    """Ours to another's: the median of each round's own ratio."""
    return statistics.median(
        mine[key] / other[key] for mine, other in zip(ours, others, strict=True)
    )


def machine(load_average: float) -> dict:
    """What the figures were seen on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_before": load_average,
    }


def machine_line(seen: Mapping[str, object]) -> str:
    """The same in words."""
    return (
        f"{seen['cpus']} CPUs, {seen['system']}, Python {seen['python']}, "
        f"load average before {seen['load_average_before']:.1f}."
    )


def table(title: str, rows: Mapping[str, Sequence[str]], head: Sequence[object]) -> str:
    """Names on the left, columns right-aligned under `head`."""
    left = max(len(title), *map(len, rows))
    widths = [max(10, len(str(cell)) + 2) for cell in head]
    lines = [
        f"{name:<{left}}"
        + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in ((title, head), *rows.items())
    ]
    return "\n".join(lines)


def shown(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)
