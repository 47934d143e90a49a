"""What the options of the servers that hold policies have in common: how one is checked. No I/O.

A text of the file becomes a value by its kind, a function that raises `ValueError` with what is
allowed. An empty option (None) is taken for one that is left out.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# Seconds to connect, and to wait for an answer.
TIMEOUT = 5.0


class OptionsError(ValueError):
    """An option is wrong. The text never has the password.

    `option`: its name in the file, dotted below a section of the options.
    `sentence`: what is wrong, and what is allowed.
    """

    def __init__(self, option: str, sentence: str) -> None:
        self.option = option
        self.sentence = sentence
        super().__init__(f"{option}: {sentence}")


class OptionWarning(NamedTuple):
    """An option that is accepted and has no effect, and why."""

    option: str
    sentence: str


Options = Mapping[str, object]
Kind = Callable[[object], Any]


def text(value: object) -> str:
    """Return a text that can be printed."""
    if isinstance(value, int) and not isinstance(value, bool):
        # YAML reads a password of digits as a number.
        value = str(value)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a text")
    return value


def truth(value: object) -> bool:
    """Return true or false, also where a URL says it."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str):
        value = words.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def whole(low: int, high: int) -> Kind:
    """Return the kind of a whole number."""
    allowed = f"a whole number from {low} to {high}"

    def kind(value: object) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(allowed)
        return value

    return kind


def seconds(value: object) -> float:
    """Return a time over 0."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}(\.[0-9]*)?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = 0
    if not 0 < value < math.inf:
        raise ValueError("a number of seconds over 0")
    return float(value)


def host(value: object) -> str:
    """Return a host's name or address."""
    try:
        name = text(value)
        # What cannot be converted is no OSError, but a UnicodeError of getaddrinfo.
        name.encode("idna")
    except ValueError:
        raise ValueError("a host name or an address") from None
    return name


def one_of(*words: str) -> Kind:
    """Return the kind of a word out of some."""
    allowed = f"{', '.join(words[:-1])} or {words[-1]}"

    def kind(value: object) -> str:
        if value not in words:
            raise ValueError(allowed)
        return str(value)

    return kind


def joined(name: str, port: int) -> str:
    """Return host and port as one text."""
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def read(
    given: Options,
    known: Mapping[str, Kind],
    warnings: list[OptionWarning],
    sources: dict[str, str],
    *,
    old_names: Mapping[str, str],
    ignored: Mapping[str, str],
    place: str = "",
    beside: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the options that are given under today's names, each checked by its kind.

    Raise `OptionsError` for the first that is wrong.
    `sources`: is told the option that each value comes from.
    `old_names`: names of older files for those of today.
    `ignored`: names of older files without a meaning, and why.
    `place`: the section of the options, with a dot.
    `beside`: further options of the section, which are read elsewhere.
    """
    names = (*beside, *known)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ignored:
            warnings.append(OptionWarning(f"{place}{name}", f"ignored, {ignored[name]}"))
            continue
        today = old_names.get(name, name)
        if today not in known:
            close = _guess(name, (*names, *(old for old in old_names if old_names[old] in names)))
            sentence = f"there is no such option{close}; allowed: {', '.join(names)}"
            raise OptionsError(f"{place}{name}", sentence)
        if today != name and given.get(today) is not None:
            raise OptionsError(f"{place}{name}", f"is the old name of {today}, which is there")
        try:
            values[today] = known[today](value)
        except ValueError as error:
            raise OptionsError(f"{place}{name}", f"only {error} is allowed") from None
        sources[today] = name
    return values


def _guess(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name)[:60], list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""
