"""Postfix's own client: parallel `postmap -q -` processes, each with its keys on standard input.

`postmap` asks as `smtp` does, one key after another on one connection (socketmap_table(5)). It uses
more CPU for a question than the daemon for the answer, so on a machine of two cores it says what a
person sees who tries it, and not what the daemon can give.
"""

import subprocess
import time
from pathlib import Path

from servers import Server

PROCESSES = 4
KEYS = 20_000  # for each process
LONGEST = 120  # seconds


def postmap(server: Server, directory: Path, domains: list[str]) -> float:
    """Answers per second of all processes together. RuntimeError if an answer is missing."""
    configuration = directory / "postfix"
    configuration.mkdir(exist_ok=True)
    (configuration / "main.cf").write_text("compatibility_level = 3.6\n")
    asked = directory / "keys"
    asked.write_text("".join(f"{domains[n % len(domains)]}\n" for n in range(KEYS)))
    kind = "unix" if server.address.startswith("/") else "inet"
    table = f"socketmap:{kind}:{server.address}:{server.map_name}"
    command = ["postmap", "-c", str(configuration), "-q", "-", table]
    answers = [directory / f"answers-{number}" for number in range(PROCESSES)]
    begin = time.monotonic()
    processes = []
    for file in answers:
        with asked.open("rb") as keys, file.open("wb") as output:
            processes.append(subprocess.Popen(command, stdin=keys, stdout=output))
    try:
        for process in processes:
            process.wait(LONGEST)
        took = time.monotonic() - begin
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for file in answers:
        lines = file.read_text().splitlines()
        if len(lines) != KEYS or not all("\tsecure match=" in line for line in lines):
            raise RuntimeError(f"{server.name}: {len(lines)} of {KEYS} answers by {command}")
    return PROCESSES * KEYS / took
