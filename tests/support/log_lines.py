"""What the source can tell a person: the lines of the log at warning or above, and why it ends.

Read from the syntax trees of stsresolver/, without running anything.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stsresolver.mta_sts.results import Cause
from stsresolver.stores import postgres_pool, sqlite_file

CODE = Path(__file__).resolve().parents[2] / "stsresolver"

HOLE = "\0"

# Log calls by name, and where their text stands; `log` has a level before it.
LOGGED = {"warning": 0, "error": 0, "critical": 0, "exception": 0, "log": 1}
# Our own ways to the log, by module: where the text stands, and what is put before it.
TOLD = {
    ("event_log", "_log"): (3, f"{HOLE}: "),
    ("server", "_complain"): (0, ""),
    ("connections", "_complain"): (0, "no new connections for now: "),
    ("daemon_log", "_lost"): (1, f"{HOLE} lost: "),
    ("log_targets", "_complain"): (0, "mta-sts-daemon: "),
    ("keys", "warn"): (0, f"{HOLE}: "),
    ("values", "warn"): (0, f"{HOLE}: "),
    ("daemon", "lacks"): (1, f"{HOLE}: "),
    ("yaml_schema", "wrong"): (0, f"{HOLE}: "),
    ("redis_options", "OptionWarning"): (1, f"{HOLE}: "),
    ("postgres_options", "OptionWarning"): (1, f"{HOLE}: "),
    ("store_options", "OptionWarning"): (1, f"{HOLE}: "),
}
# What keeps the daemon from starting, or a store from being used.
RAISED = {
    *("ConfigError", "StoreError", "ListenError"),
    *("PrivilegeError", "PidfileError", "CannotWrite"),
}


@dataclass(frozen=True)
class Line:
    """A text that a person may read: its parts, with what is put in between left out."""

    where: str
    text: str

    def matches(self, words: str) -> bool:
        parts = self.text.split(HOLE)
        return re.fullmatch(".*".join(map(re.escape, parts)), words, re.DOTALL) is not None


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def texts(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """Yield what a string expression may be, each hole as HOLE."""
    match node:
        case ast.Constant(value=str(value)):
            yield re.sub(r"%[-.0-9]*[a-z]", HOLE, value)
        case ast.JoinedStr(values=values):
            fixed = [tuple(texts(one, function)) for one in values]
            if any(re.search("[a-z]{2}", one.value) for one in values if is_text(one)):
                # A sentence of its own: what is put into it is not looked at.
                fixed = [(one.value,) if is_text(one) else () for one in values]
            yield from map("".join, itertools.product(*(part or (HOLE,) for part in fixed)))
        case ast.FormattedValue(value=ast.Name() as value):
            yield from texts(value, function)
        case ast.BoolOp(values=[*_, value]):
            yield from texts(value, function)
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body, function)
            yield from texts(orelse, function)
        case ast.Name(id=name):
            for assigned in ast.walk(function):
                if isinstance(assigned, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == name
                    for target in assigned.targets
                ):
                    yield from texts(assigned.value, function)
            module = next(iter(MODULE_CONSTANTS.get(name, ())), None)
            if module is not None:
                yield re.sub(r"%[-.0-9]*[a-z]", HOLE, module)


MODULE_CONSTANTS = {
    target.id: (assigned.value.value,)
    for path in CODE.rglob("*.py")
    for assigned in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(assigned, ast.Assign)
    and isinstance(assigned.value, ast.Constant)
    and isinstance(assigned.value.value, str)
    for target in assigned.targets
    if isinstance(target, ast.Name)
}


def told(call: ast.Call, module: str) -> tuple[int, str] | None:
    """Return where the text of a call stands that tells a person something, and its beginning."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=name) if name in LOGGED:
            return LOGGED[name], ""
        case ast.Attribute(attr=name) | ast.Name(id=name) if (module, name) in TOLD:
            return TOLD[module, name]
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in RAISED:
            return 0, "cannot listen on " if name == "ListenError" else ""
    return None


def is_no_warning(call: ast.Call) -> bool:
    """Say whether the level is written down, and below a warning; a computed one may be one."""
    level = call.args[0] if call.args else None
    return isinstance(level, ast.Attribute) and level.attr in ("DEBUG", "INFO")


def lines() -> Iterator[Line]:
    """Yield what the source can say; a text that is passed on is said where it is made."""
    for path in sorted(CODE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                found = told(call, path.stem) if isinstance(call, ast.Call) else None
                if found is None or is_no_warning(call):
                    continue
                position, before = found
                for argument in call.args[position : position + 1]:
                    for text in texts(argument, function):
                        yield Line(path.stem, before + text)
    for cause in Cause:
        yield Line("results", cause.value)
    for sentence in sqlite_file._SENTENCES.values():
        yield Line("sqlite_file", f"{HOLE}: {sentence} ({HOLE})")
    for sentence in postgres_pool._SENTENCES.values():
        yield Line("postgres_pool", f"{HOLE}: {sentence} ({HOLE})")


ALL_LINES = tuple(dict.fromkeys(lines()))
LINES = tuple(one for one in ALL_LINES if re.search("[a-z]{2}", one.text))
# Modules that pass on a text which is made, and explained, elsewhere, or the system's own words.
PASSING_ON = {
    *("daemon", "sqlite_file", "layered", "event_log"),
    *("redis", "postgres_pool", "supervisor", "server"),
}
