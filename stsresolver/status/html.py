"""The status as HTML, without a script. Pure.

Everything that a stranger may have chosen is escaped: a text becomes `Html` by `_text` alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from ..inspection.screen import ahead, span
from ..lookup.messages import STEPS
from .domains import Trouble
from .state import Detail, Listing, Overview

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #b3261e; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --bad: #ffb4ab; --good: #7fd89b; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem;
  overflow-wrap: anywhere; padding: 0 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 1.2rem 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; opacity: .8; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 45rem) {
  table, caption, tbody, tr, th, td { display: block; }
  thead { position: absolute; clip-path: inset(50%); }
  tr { border-bottom: 1px solid var(--line); padding: .3rem 0; }
  th, td { border: 0; padding: 0; overflow-wrap: anywhere; }
  td { display: grid; grid-template-columns: 7.5rem 1fr; text-align: left; }
  td::before { content: attr(data-head); content: attr(data-head) / ""; opacity: .8; }
  .number { text-align: left; }
}
.bad { color: var(--bad); font-weight: 600; }
.good { color: var(--good); font-weight: 600; }
pre { border: 1px solid var(--line); padding: .6rem; white-space: pre-wrap; }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .6rem 0; }
input, button { font: inherit; padding: .3rem .5rem; max-width: 100%; }
a { color: inherit; }
nav a, .more a { display: inline-block; padding: .3rem 0; margin-right: 1rem; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing is loaded, nothing runs, and no page of another program may frame this one.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
# Characters of a text that are shown; a line of a policy can be longer.
_LONGEST = 2000
# Domains shown of each kind of trouble; `/status.json` has all.
_MOST = 200


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def overview(found: Overview, listing: Listing) -> bytes:
    """Return the page `/status`."""
    parts = [
        _summary(found),
        _troubles(found),
        _requests(found),
        _lookups(found),
        _processes(found),
        _store(found),
        _observed(found),
        _policies(listing, found.now),
    ]
    return _page("mta-sts-daemon", parts)


def listing(found: Listing, now: float) -> bytes:
    """Return the page `/status/domains`."""
    return _page("Policies in memory", [_back(), _policies(found, now)])


def detail(found: Detail) -> bytes:
    """Return the page `/status/domain`."""
    parts = [_back()]
    if found.trouble is not None:
        parts.append(_tag("p", _text(_sentence(found.trouble, found.now)), "bad"))
    parts += [*_entry(found), _told(found)]
    if found.misses:
        rows = [
            (one.zone, one.text, f"for {span(one.left)}" if one.left else "no more")
            for one in found.misses
        ]
        heads = ("Zone", "The last lookup", "Believed")
        parts.append(_section("Not found", [_table("", heads, rows)]))
    return _page(found.domain, parts)


def problem(title: str, text: str) -> bytes:
    """Return a page that says what is wrong with a request."""
    return _page(title, [_tag("p", _text(text)), _back()])


# THE PARTS OF A PAGE


def _summary(found: Overview) -> Html:
    lines = []
    well = all(found.store.ways.values())
    if well and not (found.problems or found.faults or found.troubles or found.kept):
        lines.append(_tag("p", _text("All is well: nobody has to do anything."), "good"))
    lines += [_tag("p", _text(f"Problem: {one}."), "bad") for one in found.problems]
    lines += [
        _tag("p", _text(f"Problem: {one.value}, for {span(last)}."), "bad")
        for one, last in found.faults.items()
    ]
    running = f"Version {found.version}, process {found.pid}, running since {_when(found.started)}"
    lines.append(_tag("p", _text(f"{running} ({span(found.now - found.started)}).")))
    lines.append(_tag("p", _text(f"Configuration: {found.source}, read at {_when(found.loaded)}.")))
    if found.kept:
        kept = ", ".join(found.kept)
        lines.append(_tag("p", _text(f"Only a restart changes {kept}."), "bad"))
    return _join(lines)


def _troubles(found: Overview) -> Html:
    rows = [
        (
            _link(one.domain),
            one.what,
            one.why,
            "" if one.since is None else _ago(one.since, found.now),
            "" if one.end is None else _ahead(one.end, found.now),
        )
        for one in found.troubles[:_MOST]
    ]
    if not rows:
        return _section("Domains that need somebody", [_tag("p", _text("None."))])
    heads = ("Domain", "What", "Why", "Since", "Policy ends")
    parts = [_table("The policy that ends first comes first.", heads, rows)]
    if len(found.troubles) > _MOST:
        parts.append(_tag("p", _text(f"And {len(found.troubles) - _MOST:,} more.")))
    return _section("Domains that need somebody", parts)


def _requests(found: Overview) -> Html:
    lately = _share(found.lately_ready, found.lately)
    outcomes = sorted({one.value for of in found.zones.values() for one, n in of.items() if n})
    rows = [
        (zone, *(_number({one.value: n for one, n in of.items()}[outcome]) for outcome in outcomes))
        for zone, of in found.zones.items()
    ]
    total = _share(found.ready, found.total)
    parts = [
        _tag("p", _text(f"Within {span(found.lately_for)}: {found.lately:,}{lately}.")),
        _tag("p", _text(f"Since the start: {found.total:,}{total}.")),
        _tag("p", _text(f"Open connections of Postfix: {found.connections:,}.")),
    ]
    if outcomes:
        heads = ("Zone", *(one.replace("_", " ") for one in outcomes))
        parts.append(_table("Answers since the start, by zone.", heads, rows))
    return _section("Requests", parts)


def _share(some: int, of: int) -> str:
    return f", {some / of:.0%} of them repeated without a look" if of else ""


def _lookups(found: Overview) -> Html:
    rows = [
        (
            STEPS[one.what].replace("_", " "),
            one.result,
            one.cause.name.lower().replace("_", " ") if one.cause else "",
            _number(number),
        )
        for one, number in found.lookups
    ]
    if not rows:
        return _section("Lookups", [_tag("p", _text(f"None within {span(found.lookups_for)}."))])
    caption = f"Within {span(found.lookups_for)}."
    return _section("Lookups", [_table(caption, ("Step", "Result", "Cause", "Number"), rows)])


def _processes(found: Overview) -> Html:
    text = f"{found.processes} at work, {found.losses} lost since the start."
    if found.absence:
        text = f"None for {span(found.absence)}, {found.losses} lost since the start."
    proactive = "off"
    if found.proactive:
        done = ", ".join(f"{count:,} {one}" for one, count in found.looked_at.items() if count)
        proactive = f"on; last round {_ago(found.seen, found.now)}; {done or 'nothing'} so far"
    return _join(
        [
            _section(
                "Resolver processes", [_tag("p", _text(text), "bad" if found.absence else "")]
            ),
            _section("Proactive fetching", [_tag("p", _text(f"It is {proactive}."))]),
        ]
    )


def _store(found: Overview) -> Html:
    store = found.store
    modes = ", ".join(f"{count:,} {mode}" for mode, count in found.modes.items())
    parts = [_tag("p", _text(f"Type {store.kind}."))]
    for way, works in store.ways.items():
        if not works:
            parts.append(_tag("p", _text(f"It cannot be used to {way} now."), "bad"))
    if store.unread_for is not None:
        parts.append(_tag("p", _text(f"It cannot be read for {span(store.unread_for)}."), "bad"))
    text = f"Policies in memory: {store.memory:,} ({modes} in force), with room for"
    parts.append(_tag("p", _text(f"{text} {store.memory_size:,}.")))
    return _section("Store", parts)


def _observed(found: Overview) -> Html:
    if not found.observed:
        return Html("")
    rows = [(one.zone, one.next_hop, one.answer) for one in found.observed[:_MOST]]
    parts = [_table("", ("Zone", "Next hop", "Would be"), rows)]
    if len(found.observed) > _MOST:
        parts.append(_tag("p", _text(f"And {len(found.observed) - _MOST:,} more.")))
    return _section("What zones that observe would answer", parts)


def _policies(found: Listing, now: float) -> Html:
    value = _text(found.query)
    form = Html(
        '<form action="/status/domains" method="get" role="search">'
        '<label for="q">Domain contains</label>'
        f'<input id="q" name="q" type="search" value="{value}" maxlength="253">'
        "<button>Search</button></form>"
    )
    rows = [
        (
            _link(one.domain),
            str(one.policy.mode),
            _ahead(one.end, now),
            _ago(one.checked, now),
            one.failure,
        )
        for one in found.entries
    ]
    parts = [form]
    if rows:
        caption = f"{found.found:,} found."
        heads = ("Domain", "Mode", "Ends", "Checked", "Last failure")
        parts.append(_table(caption, heads, rows))
    else:
        parts.append(_tag("p", _text("None.")))
    links = []
    if found.after:
        links.append(_anchor("/status/domains", {"q": found.query}, "From the first"))
    if found.more:
        following = {"q": found.query, "after": found.entries[-1].domain}
        links.append(_anchor("/status/domains", following, "The next ones"))
    if links:
        parts.append(_tag("p", _join(links), "more"))
    return _section("Policies in memory", parts)


def _entry(found: Detail) -> list[Html]:
    entry = found.entry
    if entry is None:
        text = "Neither memory nor the store has a policy of this domain."
        if found.unread:
            text = f"Memory has no policy of this domain. The store cannot be read: {found.unread}."
        return [_tag("p", _text(text), "bad" if found.unread else "")]
    where = "In memory." if found.held else "Not in memory: this is what the store has."
    rows = [
        ("Policy id", entry.id),
        ("Mode", str(entry.policy.mode)),
        ("Fetched", _ago(entry.fetched, found.now)),
        ("Checked", _ago(entry.checked, found.now)),
        ("Mail asked", _when(entry.asked, "%Y-%m-%d") if entry.asked > 0 else "never"),
        ("Ends", _ahead(entry.end, found.now)),
    ]
    if not entry.is_over:
        rows.append(("Due", _ahead(entry.due, found.now)))
    if entry.failed:
        rows.append(("Failed", f"{_ago(entry.failed, found.now)}: {entry.failure}"))
    lines = "\n".join(_text(line) for line in entry.policy.body.split("\n"))
    text = Html(f"<pre>{lines}</pre>")
    return [
        _tag("p", _text(where)),
        _section("What is kept", [_table("", ("What", "Value"), rows)]),
        _section("The policy", [text]),
    ]


def _told(found: Detail) -> Html:
    rows = []
    for one in found.told:
        more = f"would be: {one.would_be}" if one.would_be else ""
        if one.exempt:
            more = f"exempt by {one.exempt}; {more}" if more else f"exempt by {one.exempt}"
        rows.append((one.zone, one.answer or "It is looked up when mail asks.", more))
    return _section("What Postfix is told", [_table("", ("Zone", "Answer", "Besides"), rows)])


# HOW A PAGE IS MADE


def _page(title: str, parts: Iterable[Html]) -> bytes:
    head = _text(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{head}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{head}</h1>\n{_join(parts)}</main></body></html>\n"
    ).encode(errors="backslashreplace")


def _section(title: str, parts: Iterable[Html]) -> Html:
    name = title.lower().replace(" ", "-")
    return Html(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{html.escape(title)}</h2>\n'
        f"{_join(parts)}</section>\n"
    )


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """Return a table; a cell that is no `Html` is escaped. Its first column names the row.

    A narrow page shows it as a list, so that the roles have to be said.
    """
    kinds = [_kind(cell) for cell in rows[0]] if rows else [""] * len(heads)
    top = "".join(
        f'<th scope="col" role="columnheader"{kind}>{html.escape(head)}</th>'
        for head, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{_text(row[0])}</th>'
        f"{''.join(map(_cell, heads[1:], row[1:]))}</tr>\n"
        for row in rows
    )
    name = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="scroll"><table role="table">{name}<thead role="rowgroup"><tr role="row">{top}'
        f'</tr></thead>\n<tbody role="rowgroup">{body}</tbody></table></div>\n'
    )


class _Number(Html):
    """A number: it stands on the right."""

    __slots__ = ()


def _number(value: int) -> _Number:
    return _Number(f"{value:,}")


def _kind(content: str) -> str:
    return ' class="number"' if isinstance(content, _Number) else ""


def _cell(head: str, content: str) -> str:
    name = html.escape(head, quote=True)
    return f'<td role="cell" data-head="{name}"{_kind(content)}>{_text(content)}</td>'


def _text(content: str) -> Html:
    """Return a text as HTML; what cannot be printed is escaped as Python does it."""
    if isinstance(content, Html):
        return content
    if len(content) > _LONGEST:
        content = content[:_LONGEST] + "…"
    if not content.isprintable():
        content = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in content)
    return Html(html.escape(content))


def _tag(name: str, content: Html, kind: str = "") -> Html:
    attribute = f' class="{kind}"' if kind else ""
    return Html(f"<{name}{attribute}>{content}</{name}>\n")


def _join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def _anchor(path: str, query: dict[str, str], text: str) -> Html:
    where = html.escape(f"{path}?{urlencode(query)}", quote=True)
    return Html(f'<a href="{where}">{html.escape(text)}</a>')


def _link(domain: str) -> Html:
    return _anchor("/status/domain", {"name": domain}, domain)


def _back() -> Html:
    return Html('<nav><a href="/status">Overview</a></nav>\n')


def _sentence(one: Trouble, now: float) -> str:
    end = "" if one.end is None else f"; it ends {_ahead(one.end, now)}"
    return f"{one.what[0].upper()}{one.what[1:]} ({one.why}){end}."


def _when(seconds: float, form: str = "%Y-%m-%d %H:%M UTC") -> str:
    """Return a time; one that no calendar has becomes the nearest that it has."""
    return time.strftime(form, time.gmtime(min(max(seconds, 0.0), 1e11)))


def _ago(seconds: float, now: float) -> str:
    if seconds <= 0:
        return "never"
    return f"{span(now - seconds)} ago" if seconds <= now else _ahead(seconds, now)


def _ahead(seconds: float, now: float) -> str:
    return f"{ahead(seconds - now)}" if seconds > now else f"{span(now - seconds)} ago"
