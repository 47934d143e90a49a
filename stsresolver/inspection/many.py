"""Many domains side by side, and what came of all of them."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..mta_sts.results import Failure, NoPolicy
from .findings import Inspection, Severity

log = logging.getLogger(__name__)


def side_by_side(
    lines: Iterable[str], look: Callable[[str], Inspection], jobs: int
) -> Iterator[Inspection | str]:
    """Look at what each line names, on `jobs` threads; yield what was seen, or why nothing was.

    It is yielded in the order of completion. The next line is taken when a thread is free. The
    threads end with the process, so that an interrupt need not wait for them.
    """
    source = iter(lines)
    lock = threading.Lock()
    done: queue.SimpleQueue[Inspection | str | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while True:
                with lock:
                    line = next(source, None)
                if line is None:
                    return
                try:
                    done.put(look(line))
                except ValueError as error:
                    done.put(str(error))
                except Exception:
                    log.exception("internal error while looking at %a", line)
                    done.put(f"{line.strip()!a}: internal error")
        except OSError as error:
            done.put(f"the list cannot be read on: {error.strerror}")
        finally:
            done.put(None)

    for _ in range(jobs):
        threading.Thread(target=work, daemon=True).start()
    ended = 0
    while ended < jobs:
        seen = done.get()
        if seen is None:
            ended += 1
        else:
            yield seen


@dataclass(slots=True)
class Summary:
    """Counts what was seen.

    `states`: by the mode of the policy, "no policy" and "failed".
    `codes`: of the problems.
    `unread`: lines that name no domain, and domains that could not be looked at.
    """

    domains: int = 0
    states: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    unread: int = 0

    def add(self, seen: Inspection) -> None:
        """Count a domain."""
        self.domains += 1
        self.states[state(seen)] += 1
        self.codes.update({(one.severity, one.code) for one in seen.problems})

    def lines(self, seconds: float, *, whole: bool) -> Iterator[str]:
        """Yield the lines for a person. `whole`: whether every line was taken."""
        rate = f" ({self.domains / seconds:.0f} a second)" if seconds > 1 else ""
        states = ", ".join(f"{count} {name}" for name, count in self.states.most_common())
        domains = "1 domain" if self.domains == 1 else f"{self.domains} domains"
        yield f"{domains} in {seconds:.1f} s{rate}: {states or 'none'}"
        for (severity, code), count in self.codes.most_common():
            yield f"{count:>7} {severity}: {code}"
        if self.unread:
            yield f"{self.unread:>7} not looked up, see above"
        if not whole:
            yield "interrupted: the lines behind were not looked up"


def state(seen: Inspection) -> str:
    """Return the mode of the policy, or why there is none, in a word or two."""
    if isinstance(seen.result, NoPolicy):
        return "no policy"
    if isinstance(seen.result, Failure):
        return "failed"
    return f"mode {seen.policy.mode}" if seen.policy is not None else "unchanged"


def table_line(seen: Inspection) -> str:
    """Return a line of the table: domain, state, and the codes of the problems."""
    errors = [one.code for one in seen.problems if one.severity is Severity.ERROR]
    warnings = [f"({one.code})" for one in seen.problems if one.severity is Severity.WARNING]
    codes = " ".join(dict.fromkeys((*errors, *warnings)))
    return f"{seen.domain:<39} {state(seen):<12} {codes}".rstrip()
