"""The figures that the generator gives for a server, and how figures are shown."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from servers import Running, Server


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


def load(server: Server, directory: Path, options: Sequence[str]) -> dict:
    """Run the generator; a wrong reply or a lost connection ends the benchmark."""
    command = [
        str(directory / "load"), "-m", server.map_name, "-x", server.expected, *options,
        server.address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"{server.name}: {done.stderr.strip() or done.stdout[:400]}")
    figures = json.loads(done.stdout)
    del figures["histogram_us"]
    return figures


def measure(process: Running, directory: Path, options: Sequence[str]) -> dict:
    """One run of the generator, and what the server used meanwhile for each answer."""
    before = process.cpu_seconds()
    figures = load(process.server, directory, options)
    after = process.cpu_seconds()
    if before is not None:
        figures["cpu_us_per_answer"] = (after - before) * 1e6 / figures["answers"]
    return figures


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
