"""What is reported of a soak, and what of it is a problem."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from figures import machine_line, shown, table
from soak_clients import Tally
from soak_oracle import Oracle
from soak_watch import Sample, Watch, at_rest, slope

# Growth of resident memory after the warm-up that is no leak (bytes): bounded tables that still
# fill, of ready replies (thousands of different requests, in two tables), of failed fetches (one
# for each new id) and of what the log was told; and malloc gives back whole arenas only.
GROWTH = 12 << 20
PRINTED = 20

# What the daemon may log of its own accord while this goes on.
EXPECTED = re.compile(r"the resolver process ended, signal 9: starting another|not reloaded: ")
SUSPICIOUS = re.compile(r"Traceback|internal error|\bERROR\b|\bCRITICAL\b|Warning:")


def _process(samples: Sequence[Sample], rests: tuple[float, float], rest: float) -> dict:
    warm, end = rests
    return {
        "warm": asdict(at_rest(samples, warm, rest)),
        "end": asdict(at_rest(samples, end)),
        "most": {
            key: max(getattr(sample, key) for sample in samples)
            for key in ("rss", "threads", "descriptors")
        },
        "rss_per_second": slope(samples, warm + rest),
    }


def seen(
    tally: Tally, oracle: Oracle, watch: Watch, rests: tuple[float, float], rest: float, log: Path
) -> dict:
    """What clients, oracle and watch saw, and what is in the daemon's log that should not.

    `rests`: when nobody asked, after the warm-up and in the end, for `rest` seconds.
    """
    latencies = sorted(tally.latencies) or [0.0]
    lines = log.read_text(errors="replace").splitlines()
    return {
        "requests": tally.requests,
        "answers": dict(tally.answers),
        "judged": oracle.judged,
        "exact": oracle.exact,
        "wrong": len(oracle.wrong),
        "errors": tally.errors,
        "opened": tally.connections,
        "abandoned": tally.abandoned,
        "broken": tally.broken,
        "latency": {
            "p50": latencies[len(latencies) // 2],
            "p99": latencies[len(latencies) * 99 // 100],
            "max": latencies[-1],
        },
        "stalls": oracle.stalls,
        "daemon": _process(watch.daemon, rests, rest),
        "resolver process": _process(watch.child, rests, rest),
        "log": [line for line in lines if SUSPICIOUS.search(line) and not EXPECTED.search(line)],
    }


def problems(result: dict) -> list[str]:
    """What must not be, in words."""
    found = []
    if result["wrong"]:
        found.append(f"{result['wrong']} wrong answers")
    if result["errors"]:
        found.append(f"{len(result['errors'])} errors: {'; '.join(result['errors'][:PRINTED])}")
    if result["log"]:
        found.append("\n    ".join(["in the daemon's log:", *result["log"][:PRINTED]]))
    if result["status"] != 0:
        found.append(f"the daemon ended with {result['status']}")
    for name in ("daemon", "resolver process"):
        warm, end = result[name]["warm"], result[name]["end"]
        for what in ("threads", "descriptors"):
            if end[what] > warm[what]:
                found.append(f"{name}: {what} grew from {warm[what]} to {end[what]}")
        if end["rss"] > warm["rss"] + GROWTH:
            found.append(f"{name}: memory grew by {end['rss'] - warm['rss']:,} bytes")
    return found


def report(result: dict) -> str:
    """What was seen, for a person."""
    rows = {}
    for name in ("daemon", "resolver process"):
        one = result[name]
        for what, by in (("rss", 1 << 20), ("threads", 1), ("descriptors", 1)):
            form = ",.1f" if what == "rss" else ",d"
            cells = (one["warm"][what], one["end"][what], one["most"][what])
            cells = [shown(cell / by if by > 1 else cell, form) for cell in cells]
            rate = shown(one["rss_per_second"] / 1024 * 60, "+,.0f") if what == "rss" else ""
            title = "memory, MiB" if what == "rss" else what
            rows[f"{name}: {title}"] = [*cells, rate]
    latency, restarts, signals = result["latency"], result["restarts"], result["signals"]
    options = result["options"]
    answers = ", ".join(f"{number:,} {word}" for word, number in result["answers"].items())
    return "\n".join(
        (
            f"seed {options['seed']}, {options['store']}, {options['minutes']:g} minutes, "
            f"{options['connections']} connections",
            f"requests       {result['requests']:,}: {answers}",
            f"wrong answers  {result['wrong']:,} of {result['judged']:,} judged, "
            f"{result['exact']:,} of which only one answer was right for",
            f"errors         {len(result['errors']):,}",
            f"connections    {result['opened']:,} opened, {result['abandoned']:,} left midway, "
            f"{result['broken']:,} closed on broken requests",
            f"latency        median {latency['p50'] * 1e3:.1f} ms, 99th percentile "
            f"{latency['p99'] * 1e3:.0f} ms, longest {latency['max']:.1f} s",
            f"the world      {result['dns_questions']:,} DNS questions, "
            f"{result['policies_served']:,} policies served, "
            f"{result['fetches_refused']:,} fetches refused",
            f"disturbances   resolver process killed {restarts['kill']} times and replaced "
            f"{restarts['replace']} times, {signals['SIGHUP']} reloads, {signals['SIGUSR1']} runs "
            f"begun; the machine stood still {result['stalls']} times",
            "",
            table("", rows, ("warm", "end", "most", "KiB/min")),
            "",
            machine_line(result["machine"]),
        )
    )
