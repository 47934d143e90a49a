"""How a benchmark is run: in a network and a directory of its own, to a table or to JSON."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from world import compiled, in_own_network, require


def benchmark(
    options: argparse.Namespace,
    compare: Callable[[argparse.Namespace, Path], dict],
    report: Callable[[dict], str],
    *programs: str,
) -> int:
    """Compare, and print what was seen; the exit status.

    `compare` is given a directory that is removed at the end, with `load` and `echo` in it.
    `programs` are needed besides what every run needs.
    """
    require("ip", "nginx", "cc", *programs)
    in_own_network()
    with tempfile.TemporaryDirectory(prefix="stsbench-") as name:
        directory = Path(name)
        try:
            for program in ("load", "echo"):
                compiled(program, directory)
            result = compare(options, directory)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"{sys.argv[0]}: {error}", file=sys.stderr)
            return 1
    print(json.dumps(result, indent=1) if options.json else report(result))
    return 0
