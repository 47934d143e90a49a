"""An inspection as lines for a terminal of 80 columns. Pure.

All of it is printable ASCII, so that it is the same in every locale and nothing that a stranger
wrote moves the cursor. `Paint` gives it colours.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator

from ..dane.states import Dane, MxState, Verdict
from ..mta_sts.policy import Policy
from ..mta_sts.results import Cause, Failure, NoPolicy, NotChanged
from .findings import Certificate, Inspection, MailHost, Part, PolicyHost, Severity
from .judgement import advice

WIDTH = 80
# Columns before the text of a line.
_LABEL = 13
# Lines of a step, of a text and of problems that are shown unless all is asked for.
_MOST = 12
# Characters of a text.
_LONGEST = 800


class Paint:
    """Colours, or none (`on`): those that every terminal has."""

    def __init__(self, *, on: bool) -> None:
        self._on = on

    def label(self, text: str) -> str:
        """Return the name of a step."""
        return self._in("1", text)

    def good(self, text: str) -> str:
        """Return what is as it should be."""
        return self._in("32", text)

    def bad(self, text: str) -> str:
        """Return what has to be mended."""
        return self._in("31", text)

    def doubtful(self, text: str) -> str:
        """Return what one should look at."""
        return self._in("33", text)

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._on and text else text


def shown(text: str) -> str:
    """Return a text in printable ASCII: everything else is escaped as Python does it."""
    return "".join(
        char
        if char.isascii() and char.isprintable()
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def quoted(text: str) -> str:
    """Return a text in quotes, in printable ASCII."""
    return '"' + shown(text).replace('"', '\\"') + '"'


def verdict_line(seen: Inspection, paint: Paint) -> str:
    """Return the verdict alone."""
    return _painted(seen, shown(seen.verdict), paint)


def screen(seen: Inspection, paint: Paint, *, verbose: bool = False) -> Iterator[str]:
    """Yield the lines.

    `verbose`: with the text of the policy as it was served, and however long something is.
    """
    if isinstance(seen.result, NotChanged):
        yield shown(seen.verdict)
        return
    yield paint.label(shown(seen.domain))
    for label, texts, seconds in _sections(seen, verbose):
        yield from _section(label, texts if verbose else _some(texts), paint, seconds)
    if seen.cause is not None and seen.cause is not Cause.NO_RECORD:
        found = advice(seen.cause)
        failed = [f"in step {found.step}: {seen.result}"]
        yield from _section("Failed", failed, paint, colour=paint.bad)
        yield from _section("Whose fault", [found.fault], paint)
        yield from _section("What to do", [found.remedy], paint)
    problems = [one for one in seen.problems if seen.cause is None or one.text != str(seen.result)]
    for problem in problems if verbose else problems[:_MOST]:
        colour = paint.bad if problem.severity is Severity.ERROR else paint.doubtful
        yield from _section(problem.severity.capitalize(), [problem.text], paint, colour=colour)
    yield from _section(
        "Verdict", [f"{seen.verdict}."], paint, colour=lambda line: _painted(seen, line, paint)
    )


def reply_screen(
    asked: str, reply: str, means: list[str], verdict: str, seconds: float, paint: Paint
) -> Iterator[str]:
    """Yield the lines that show what a daemon replied; `asked`: who was asked what."""
    yield from _section("Asked", [asked], paint, seconds)
    yield from _section("Reply", [quoted(reply)], paint)
    yield from _section("Means", means, paint)
    yield from _section("Verdict", [f"{verdict}."], paint)


def _painted(seen: Inspection, text: str, paint: Paint) -> str:
    if seen.refused or (isinstance(seen.result, Failure) and not seen.is_enforced):
        return paint.bad(text)
    return paint.good(text) if seen.is_enforced else text


def _section(
    label: str,
    texts: Iterable[str],
    paint: Paint,
    seconds: float | None = None,
    colour: Callable[[str], str] = str,
) -> Iterator[str]:
    """Yield the lines of a step, its name before the first and its time behind it."""
    spent = "" if seconds is None else f" {1000 * seconds:.0f} ms"
    for text in texts:
        for line in _wrapped(text, len(spent)):
            time_column = f"{spent:>{WIDTH - _LABEL - len(line)}}" if spent else ""
            yield paint.label(f"{label:<{_LABEL}}") + colour(line) + time_column
            label = spent = ""


def _wrapped(text: str, less: int = 0) -> list[str]:
    """Return a text in lines of at most the width, the first shorter by `less`."""
    lines = textwrap.wrap(
        shown(text),
        WIDTH - _LABEL,
        initial_indent="\0" * less,
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    return [line.lstrip("\0") for line in lines] or [""]


def _some(texts: list[str]) -> list[str]:
    """Return at most so many texts, each cut, and how many there are besides."""
    cut = [
        text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... (whole with -v)"
        for text in texts[:_MOST]
    ]
    return [*cut, f"... and {len(texts) - _MOST} more (with -v)"] if len(texts) > _MOST else cut


_Section = tuple[str, list[str], float | None]


def _sections(seen: Inspection, verbose: bool) -> Iterator[_Section]:
    times = seen.times
    yield "Record", _record(seen), times.get(Part.RECORD)
    host = seen.policy_host
    if host is not None:
        yield "Policy host", _addresses(host), times.get(Part.ADDRESSES)
        if host.reached is not None:
            yield "Connection", [f"to {host.reached}"], times.get(Part.CONNECTION)
        if host.certificate is not None:
            # What a look at one that is not valid took is not the lookup's time.
            lines = _certificate(host.certificate, seen.now)
            yield "Certificate", lines, times.get(Part.TLS)
        if host.status is not None:
            yield "Answer", [_answer(host)], times.get(Part.HTTP)
    if seen.policy is not None:
        yield "Policy", _policy(seen.policy, seen), None
    if host is not None and host.text is not None and (verbose or seen.cause is Cause.SYNTAX):
        yield "Its text", _text(host.text), None
    if seen.mx is not None:
        yield "MX hosts", _mail_hosts(seen), times.get(Part.MX)
    if seen.dane is not None and (verbose or _says_something(seen.dane, seen)):
        yield "DANE", _dane(seen.dane, seen), times.get(Part.DANE)
    if seen.entry is not None:
        yield "In the cache", _entry(seen), None
    yield "Postfix", _told(seen), None


def _record(seen: Inspection) -> list[str]:
    record = seen.record
    if record.texts is None:
        return [record.name]
    lines = [record.name, *(_counted(text, seen) for text in record.texts)]
    return lines if record.texts else [f"{record.name}: no TXT records"]


def _counted(text: str, seen: Inspection) -> str:
    ours = text.startswith("v=STSv1")
    if seen.record.id is not None and ours:
        return f"{quoted(text)} counts, id {seen.record.id}"
    return quoted(text) if ours else f"{quoted(text)} is no MTA-STS record"


def _addresses(host: PolicyHost) -> list[str]:
    if host.addresses:
        return [host.name, ", ".join(host.addresses)]
    return [host.name]


def _certificate(certificate: Certificate, now: float) -> list[str]:
    days = certificate.days_left(now)
    when = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
    ends = f"ended on {when}" if days < 0 else f"ends on {when}, {days} days left"
    return [
        f"for {', '.join(certificate.names) or 'no name'}",
        f"issued by {certificate.issuer or 'nobody'}",
        ends,
    ]


def _answer(host: PolicyHost) -> str:
    size = "" if host.size is None else f", {host.size} bytes"
    return f"status {host.status}, {host.media_type or 'no media type'}{size}"


def _policy(policy: Policy, seen: Inspection) -> list[str]:
    lines = [f"mode {policy.mode}, max_age {policy.max_age} ({span(policy.max_age)})"]
    used = {host.pattern for host in seen.mx or ()}
    for pattern in policy.mx:
        unused = seen.mx is not None and seen.in_force is policy and pattern not in used
        lines.append(f"mx {pattern}" + (" (matches no MX host)" if unused else ""))
    return lines


def _text(text: str) -> list[str]:
    return [quoted(line) for line in text.removesuffix("\n").split("\n")]


def _mail_hosts(seen: Inspection) -> list[str]:
    if not seen.mx:
        return ["none: the domain takes no mail"]
    return [line for host in seen.mx for line in _mail_host(host, seen)]


def _mail_host(host: MailHost, seen: Inspection) -> Iterator[str]:
    match = ""
    if seen.in_force is not None and seen.in_force.mx:
        match = f" matches {host.pattern}" if host.pattern else " MATCHES NO PATTERN"
    yield f"{host.preference} {host.host}{match}"
    if host.probe is not None:
        tls = f" ({host.probe.tls})" if host.probe.tls else ""
        yield f"  {'ok' if host.probe.ok else 'FAILED'}: {host.probe.reason}{tls}"


def _says_something(dane: Dane, seen: Inspection) -> bool:
    """Say whether a person should see what DNS says of DANE, though he did not ask for all."""
    return seen.heeds_dane or bool(dane.hosts) or dane.mx is MxState.FAILED


def _dane(dane: Dane, seen: Inspection) -> list[str]:
    lines = [f"{dane.mx.value}: {dane.detail}" if dane.detail else dane.mx.value]
    if dane.mx is MxState.NOT_BELIEVED:
        lines.append("(run one that validates on this host: docs/dane.rst)")
    for host in dane.hosts:
        lines.append(str(host))
        lines += [
            f"  {one}" + (f" (cannot be used: {one.unusable})" if one.unusable else "")
            for one in host.tlsa
        ]
    if dane.verdict is Verdict.DANE and seen.is_enforced and not seen.heeds_dane:
        lines.append("(the policy overrides it in a zone without dane: true)")
    return lines


def _entry(seen: Inspection) -> list[str]:
    entry, now = seen.entry, seen.now
    assert entry is not None
    lines = [
        f"id {entry.id}, mode {entry.policy.mode}, fetched {span(now - entry.fetched)} ago,"
        f" ends {ahead(entry.end - now)}, is looked at next {ahead(entry.due - now)}"
    ]
    if entry.failed:
        lines.append(f"failed {span(now - entry.failed)} ago: {entry.failure}")
    return lines


def _told(seen: Inspection) -> list[str]:
    lines = [quoted(seen.answer)]
    if seen.exempt is not None:
        lines.append(f"(exempt by {seen.exempt})")
    elif seen.would_be not in ("", seen.answer):
        lines.append(f"(the zone observes, would be: {quoted(seen.would_be)})")
    if seen.answer.startswith("TEMP "):
        lines.append("(mail waits, and Postfix asks again)")
    elif not seen.is_enforced:
        lines.append("(Postfix's own settings apply)")
    if isinstance(seen.result, NoPolicy | Failure) and seen.is_enforced:
        lines.append("(by the policy in the cache)")
    return lines


def span(seconds: float) -> str:
    """Return a time for a person."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{max(seconds, 0):.0f} seconds"


def ahead(seconds: float) -> str:
    """Return a time to come for a person."""
    return "now" if seconds <= 0 else f"in {span(seconds)}"
