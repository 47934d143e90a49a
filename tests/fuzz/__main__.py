"""Fuzz targets in turn, each in a process of its own: `python -m tests.fuzz SECONDS [TARGET ...]`.

Exit status: 0 nothing was found, 1 something was, 2 wrong arguments or no atheris.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from .corpus import CORPUS, ROOT
from .smaller import smaller
from .targets import TARGETS

# What has been learnt, and what was found, stays here between runs.
LEARNT = ROOT / ".fuzz"
# Seconds and megabytes for one input; either is a finding.
SECONDS_EACH = 10
MEGABYTES = 1024


def fuzz(target: str, seconds: int) -> bool:
    """Fuzz one target; say what came of it, and return whether it was nothing."""
    learnt, found = LEARNT / target, LEARNT / f"found-{target}"
    for directory in (learnt, found):
        directory.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    options = {
        "max_total_time": seconds,
        "timeout": SECONDS_EACH,
        "rss_limit_mb": MEGABYTES,
        "dict": Path(__file__).with_name("words"),
        "artifact_prefix": f"{found}/",
        "print_final_stats": 1,
        "max_len": 4096,
    }
    command = [sys.executable, "-m", "tests.fuzz.one", target]
    command += [f"-{name}={value}" for name, value in options.items()]
    command += [str(learnt), str(CORPUS / target)]
    # The same hashes give the same coverage.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(command, check=False, env=environment, capture_output=True)
    log = (run.stdout + run.stderr).decode(errors="replace")
    counts = re.findall(r"^(?:#|stat::number_of_executed_units: )(\d+)", log, re.M)
    executions = max(map(int, counts), default=0)
    if run.returncode == 0:
        print(f"{target}: {executions} executions, nothing found", flush=True)
        return True
    _, _, traceback = log.partition("Uncaught Python exception: ===\n")
    print(traceback.partition("\n\n")[0] or log[-2000:])
    print(f"{target}: {executions} executions, exit status {run.returncode}; found:")
    for path in sorted(set(found.iterdir()) - before):
        least = path.with_name(f"{path.name}-smaller")
        least.write_bytes(smaller(TARGETS[target], path.read_bytes()))
        print(f"    {path.relative_to(ROOT)}\n    {least.relative_to(ROOT)}", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description="Fuzz what reads strangers' text.")
    parser.add_argument("seconds", type=int, help="for all targets together")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("there is no atheris for this Python or machine: pip install -e '.[fuzz]'")
    LEARNT.mkdir(exist_ok=True)
    (LEARNT / ".gitignore").write_text("*\n")
    share = max(1, arguments.seconds // len(targets))
    clean = [fuzz(target, share) for target in targets]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
