"""Checks a YAML text against tables of keys; each problem has its file and line.

`document` gives the root of a text as an `Item`. A rule is a function that takes an item and
returns its value or raises `Refused`; a table maps the keys of a section to rules:

    root = document(b"port: 80", "example.yml")
    root.section({"port": number(int, 0, 65535)})  # {"port": 80}
    root.problems.check()

A refused value does not end the reading: it is noted, and the next one is read.

YAML is version 1.1 as PyYAML's SafeLoader has it, with anchors and merge keys (`<<`), except that a
key that is written twice is a problem. YAML 1.1 takes a leading zero for octal and colons for base
60, so `010` is 8. A number is shown as it is written.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import yaml

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"

# What stands where nothing does.
NOTHING = yaml.ScalarNode(_TAG + "null", "")

T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has one plain line for each reason."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: tuple[str, ...] = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Refused(Exception):
    """A value is not what its key allows.

    `allowed` says what is; `found` what was found, where the value as written does not say it all.
    """

    def __init__(self, allowed: str, found: str = "") -> None:
        super().__init__(allowed, found)
        self.allowed = allowed
        self.found = found


@dataclass(slots=True)
class Problems:
    """What was noted while a file was read: errors with their line numbers, and warnings.

    `lines`: for each key that holds something, dotted as in `Item.key`, the line it stands on.
    """

    errors: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `ConfigError` with all errors in the order of their lines, if there are any."""
        if self.errors:
            self.errors.sort(key=lambda error: error[0])
            raise ConfigError(*(text for _, text in self.errors))


@dataclass(frozen=True, slots=True)
class Item:
    """One key of the file and what it holds.

    `key` is dotted, such as `default_zone.timeout`, and empty for the whole document; `line` is
    the line of the key.
    """

    file: str
    key: str
    line: int
    node: yaml.Node
    problems: Problems

    @property
    def is_empty(self) -> bool:
        """Whether nothing (or YAML's null) stands after the key."""
        return bool(self.node.tag == _TAG + "null")

    @property
    def is_list(self) -> bool:
        """Whether the entry is a list."""
        return isinstance(self.node, yaml.SequenceNode) and self.node.tag == _TAG + "seq"

    def items(self) -> Iterator[Item]:
        """Yield the items of a list."""
        for node in self.node.value:
            yield replace(self, line=node.start_mark.line + 1, node=node)

    @property
    def value(self) -> object:
        """A scalar's value by the safe types of YAML 1.1; None if it is none or cannot be read."""
        if not isinstance(self.node, yaml.ScalarNode):
            return None
        try:
            value: object = yaml.constructor.SafeConstructor().construct_object(self.node)
        except (ArithmeticError, AttributeError, LookupError, ValueError, yaml.YAMLError):
            # Each is PyYAML's word for something like `!!int abc`, `!!bool maybe`, `2026-02-30`.
            return None
        return value

    @property
    def data(self) -> object:
        """What the entry holds, sections and lists too. Raise `Refused` if it cannot be read."""
        try:
            value: object = yaml.constructor.SafeConstructor().construct_document(self.node)
        except (ArithmeticError, AttributeError, LookupError, ValueError, yaml.YAMLError):
            raise Refused("values that YAML 1.1 can read") from None
        return value

    @property
    def found(self) -> str:
        """What the entry holds, in words, for a message."""
        return _described(self.node)

    def problem(self, found: str, allowed: str) -> None:
        """Note that `found` stands where only `allowed` may."""
        self.wrong(f"found {found}; allowed: {allowed}")

    def wrong(self, sentence: str) -> None:
        """Note a problem in words of its own."""
        self.problems.errors.append((self.line, f"{self._place}: {sentence}"))

    def warn(self, text: str) -> None:
        """Note something that is accepted and yet belongs into the log."""
        self.problems.warnings.append(f"{self._place}: {text}")

    def read(self, rule: Callable[[Item], T]) -> T | None:
        """Return what `rule` makes of the entry; if it refuses, note the problem."""
        try:
            return rule(self)
        except Refused as refused:
            self.problem(refused.found or self.found, refused.allowed)
            return None

    def section(self, rules: Mapping[str, Rule]) -> dict[str, Any]:
        """Return the values of a section's keys. A key that is left empty counts as left out.

        A refused value is None. Raise `Refused` if the entry is no section.
        """
        values = {}
        for name, (key, entry) in self.entries().items():
            if key.tag != _TAG + "str":
                entry.problem(f"a key that is {_described(key)}", ", ".join(rules))
            elif name not in rules:
                entry.problem(f"an unknown key{guess(name, rules)}", ", ".join(rules))
            elif not entry.is_empty:
                values[name] = entry.read(rules[name])
        return values

    def entries(self) -> dict[str, tuple[yaml.Node, Item]]:
        """Return a section's key nodes and entries by the text of the key, merged ones included.

        Raise `Refused` if the entry is no section. An empty one has no entries.
        """
        entries: dict[str, tuple[yaml.Node, Item]] = {}
        if self.is_empty:
            return entries
        if not isinstance(self.node, yaml.MappingNode) or self.node.tag != _TAG + "map":
            raise Refused("a section of KEY: VALUE lines")
        for mapping in self._lineage(self.node, set()):
            lines: dict[str, int] = {}
            for key, value in mapping.value:
                if key.tag == _MERGE:
                    continue
                if not isinstance(key, yaml.ScalarNode):
                    self._below("?", key, value).problem(f"{_described(key)} as a key", "a name")
                    continue
                entry = self._below(key.value, key, value)
                if key.value in lines:
                    entry.problem(f"a second time, after line {lines[key.value]}", "a key once")
                else:
                    lines[key.value] = entry.line
                    entries.setdefault(key.value, (key, entry))
        for _, entry in entries.values():
            if not entry.is_empty:
                self.problems.lines[entry.key] = entry.line
        return entries

    def _lineage(self, node: yaml.MappingNode, seen: set[yaml.Node]) -> Iterator[yaml.MappingNode]:
        """Yield `node` and all that it merges, each once, the stronger before the weaker."""
        seen.add(node)
        yield node
        for key, value in reversed(node.value):
            if key.tag != _MERGE:
                continue
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(merged, yaml.MappingNode):
                    entry = self._below("<<", key, merged)
                    entry.problem(entry.found, "a section or a list of sections")
                elif merged not in seen:
                    yield from self._lineage(merged, seen)

    def _below(self, name: str, key: yaml.Node, value: yaml.Node) -> Item:
        dotted = ".".join(filter(None, (self.key, shown(name) or '""')))
        return Item(self.file, dotted, key.start_mark.line + 1, value, self.problems)

    @property
    def _place(self) -> str:
        return f"{self.file}:{self.line}: {self.key or 'top level'}"


Rule: TypeAlias = Callable[[Item], object]


def document(text: bytes | str, name: str) -> Item:
    """Return the root of the one document in `text`, which the messages call `name`.

    Raise `ConfigError` if it is no YAML. An empty text is an empty entry.
    """
    name = shown(name, len(name))
    node = _composed(text, name)
    return Item(name, "", 1, node or NOTHING, Problems())


def _composed(text: bytes | str, name: str) -> yaml.Node | None:
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            before, byte = error.object[: error.start], error.object[error.start]
            raise ConfigError(
                f"{name}:{before.count(10) + 1}: found the byte 0x{byte:02x}; allowed: UTF-8 text"
            ) from None
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        char = shown(text[error.position])
        raise ConfigError(
            f"{name}:{line}: found the character {char}; allowed: printable text, tabs, line ends"
        ) from None
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else loader.line
        words = ", ".join(filter(None, (error.context, error.problem)))
        if isinstance(error, yaml.composer.ComposerError):
            # The name is not shown: it may be a password that was meant to be a text.
            words = re.sub(r"'.*'", "(a text that begins with * or & needs quotes)", words)
        raise ConfigError(f"{name}:{line + 1}: is no YAML: {shown(words, 200)}") from None
    except RecursionError:
        raise ConfigError(f"{name}:{loader.line + 1}: is nested too deeply") from None
    except (ArithmeticError, ValueError) as error:
        # PyYAML lets these through for "\UFFFFFFFF", which is no character.
        words = shown(str(error), 200)
        raise ConfigError(f"{name}:{loader.line + 1}: is no YAML: {words}") from None
    finally:
        loader.dispose()
    return node


def truth(entry: Item) -> bool:
    """Rule: true or false, with all the words that YAML 1.1 has for them."""
    value = entry.value
    if not isinstance(value, bool):
        raise Refused("true or false")
    return value


def number(
    kind: type[int] | type[float],
    low: int,
    high: float = sys.float_info.max,
    *,
    over: bool = False,
    unit: str = "",
    note: str = "",
) -> Callable[[Item], float]:
    """Return the rule for a number from `low` (or `over` it) to `high`, no infinity, no NaN.

    A whole number passes where `kind` is float and becomes one, but not the other way round.
    """
    allowed = ("a whole number" if kind is int else "a number") + (unit and f" of {unit}")
    if over:
        allowed += f", over {low} and at most {high}"
    elif high == sys.float_info.max:
        allowed += f", at least {low}"
    else:
        allowed += f" from {low} to {high}"

    def rule(entry: Item) -> float:
        value = entry.value
        if isinstance(value, bool) or not isinstance(value, int | kind):
            raise Refused(allowed + note)
        if not low <= value <= high or (over and value == low):
            raise Refused(allowed + note)
        return kind(value)

    return rule


def string(allowed: str, is_right: Callable[[str], bool]) -> Rule:
    """Return the rule for a text without control characters that `is_right` accepts."""

    def rule(entry: Item) -> str:
        value = entry.value
        if not isinstance(value, str) or not value.isprintable() or not is_right(value):
            raise Refused(allowed)
        return value

    return rule


def section(make: Callable[..., T], rules: Mapping[str, Rule]) -> Callable[[Item], T]:
    """Return the rule for a section: `make` is called with the values of the keys it has."""
    return lambda entry: make(**entry.section(rules))


def shown(text: str, length: int = 60) -> str:
    """Return text fit for a message: control characters escaped, no longer than `length`."""
    short = text if len(text) <= length else text[: length - 1] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in short
    )


def guess(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the one of `names` that is close to `name`, else ""."""
    close = difflib.get_close_matches(name[:60], list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _described(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if not isinstance(node, yaml.ScalarNode):
        return "a list"
    quoted = f'"{shown(node.value)}"'
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return "nothing"
    if kind == "str":
        return f"the text {quoted}" if node.style is None else f"the quoted text {quoted}"
    if kind in ("int", "float"):
        return f"the number {shown(node.value)}"
    if kind == "bool":
        return f"the truth value {shown(node.value)}"
    return f"{quoted} of the YAML type {shown(kind)}"
