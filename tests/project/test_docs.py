"""The pages and the code agree: no broken reStructuredText, link, option, log line or room."""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import shlex
import subprocess
import textwrap
from dataclasses import fields
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from stsresolver import daemon, query
from stsresolver.config.keys import Config, Zone, parse
from stsresolver.inspection import cache_command
from tests.support.log_lines import ALL_LINES, CODE, HOLE, LINES, PASSING_ON, TOLD

try:
    import docutils.core
    from docutils import nodes
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip("not installed: docutils (extra package)", allow_module_level=True)

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(CHECKOUT))
    for place in (CHECKOUT.glob("*.rst"), (CHECKOUT / "docs").rglob("*.rst"))
    for path in place
)

# A file or directory of the checkout, as the pages name it.
PLACES = "docs|etc|tests|bench|stsresolver|[.]ci|[.]github"
FILE = re.compile(rf"(?<![\w/.-])(?:{PLACES})/[\w./-]*|\b[A-Z]{{4,}}\.rst")
# A key of the configuration with its value, as the pages and the files of etc/ write it.
SETTING = re.compile(rf"`((?:{'|'.join(one.name for one in fields(Config))}): [^`]+)`")
# What stands for something that the reader names.
STAND_IN = re.compile(r"\b(?!README|CONTRIBUTING|CHANGELOG|SECURITY|MANIFEST|LICENSE)[A-Z]{3,}\b")
# What a program is called with, to the end of the command.
CALL = re.compile(r"(?<![\w.-])(mta-sts-(?:daemon|query))(?![\w.:-])([^\n;|>`]*)")


@cache
def page(name: str) -> nodes.document:
    """The page as docutils reads it. Raises what a page cannot be read for."""
    complaints = io.StringIO()
    settings = {
        "warning_stream": complaints,
        "report_level": 1,
        "syntax_highlight": "none",
        "_disable_config": True,
    }
    path = CHECKOUT / name
    read = docutils.core.publish_doctree(
        path.read_text(encoding="utf-8"), source_path=name, settings_overrides=settings
    )
    assert complaints.getvalue() == ""
    return read


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_sound(name):
    read = page(name)
    # A literal with a backtick too few is no error to docutils.
    assert [one.astext() for one in read.findall(nodes.title_reference)] == []


@pytest.mark.parametrize("name", PAGES)
def test_each_file_that_is_named_is_there(name):
    words = [text.astext() for text in page(name).findall(nodes.Text)]
    named = {found for text in words for found in FILE.findall(text)}
    named |= {
        str(Path(name).parent / link["refuri"])
        for link in page(name).findall(nodes.reference)
        if "refuri" in link and ":" not in link["refuri"]
    }
    files = {one.rstrip(".") for one in named if not STAND_IN.search(one)}
    assert [one for one in sorted(files) if not (CHECKOUT / one).exists()] == []


@pytest.mark.parametrize("name", [name for name in PAGES if Path(name).parts[0] == "docs"])
def test_the_readme_names_the_page(name):
    """A manual page is found by `man`; every other one by the README."""
    if Path(name).parts[1] != "man":
        assert name in page("README.rst").astext()


def options(parser) -> set[str]:
    """Return the options of a parser, and of its commands."""
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options, action.choices.values()))
    return found


OPTIONS = {
    "mta-sts-daemon": options(daemon._arguments()),
    "mta-sts-query": options(query._arguments()) | options(cache_command.arguments()),
}


@pytest.mark.parametrize("name", PAGES)
def test_each_option_that_is_named_is_there(name):
    wrong = []
    literals = (*page(name).findall(nodes.literal), *page(name).findall(nodes.literal_block))
    for one in literals:
        for program, arguments in CALL.findall(one.astext().replace("\\\n", " ")):
            words = re.sub(r"[\[\]{}]", " ", arguments)
            for word in shlex.split(words.replace("'", ""), comments=True):
                if word.startswith("-") and word.partition("=")[0] not in OPTIONS[program]:
                    wrong.append(f"{program} {word}")
    assert wrong == []


def test_each_setting_that_is_shown_is_taken():
    texts = (CHECKOUT / name for name in PAGES)
    files = (path for path in (CHECKOUT / "etc").rglob("*") if path.is_file())
    shown = {
        setting
        for path in (*texts, *files)
        for setting in SETTING.findall(" ".join(path.read_text(encoding="utf-8").split()))
        if not STAND_IN.search(setting)
    }
    assert len(shown) > 5
    for setting in shown:
        parse(setting, setting)


# Every block of these is what a reader types.
TYPED = ["CONTRIBUTING.rst", "docs/moving.rst", "docs/troubleshooting.rst", "docs/upgrading.rst"]


@pytest.mark.parametrize("name", TYPED)
def test_each_command_is_whole(name):
    for block in page(name).findall(nodes.literal_block):
        text = block.astext()
        done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), text


# What the log can say, and why the daemon does not start.


def documented() -> list[str]:
    """Return the lines that the page explains: terms of its definitions, and items that are one."""
    read = page("docs/troubleshooting.rst")
    places = list(read.findall(nodes.term))
    for item in read.findall(nodes.list_item):
        (paragraph,) = item.children
        if len(paragraph.children) == 1:
            places.append(paragraph)
    return [literal.astext() for place in places for literal in place.findall(nodes.literal)]


def test_the_source_is_read():
    assert len(LINES) > 90
    assert {module for module, _ in TOLD} <= {one.where for one in LINES}
    assert {one.where for one in ALL_LINES if one not in LINES} == PASSING_ON


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.text.replace(HOLE, "..."))
def test_each_line_of_the_log_is_explained(line):
    assert any(line.matches(words) for words in documented())


def test_each_line_that_is_explained_is_there():
    assert [one for one in documented() if not any(line.matches(one) for line in LINES)] == []


# The rooms of the architecture.


def module(path: Path) -> str:
    """Return a module's name below the package; the package itself has its own."""
    name = ".".join(path.relative_to(CODE).with_suffix("").parts)
    return name.removesuffix(".__init__").replace("__init__", "stsresolver")


MODULES = {module(path): path for path in sorted(CODE.rglob("*.py"))}
ROOMS = sorted({name.partition(".")[0] for name in MODULES if "." in name})
# They stand beside the rooms, import nothing, and may be imported by every room.
LEAVES = {"version", "counters"}


def table(number: int) -> dict[str, list[str]]:
    """Return the literals of the second column by the text of the first, of a table of the page."""
    tables = list(page("docs/architecture.rst").findall(nodes.table))
    rows = next(tables[number].findall(nodes.tbody)).findall(nodes.row)
    cells = [list(row.children) for row in rows]
    return {
        first.astext(): [one.astext() for one in second.findall(nodes.literal)]
        for first, second, *_ in cells
    }


def room(name: str) -> str:
    """Return the room of a module, "" for one that stands beside the rooms."""
    first = name.partition(".")[0]
    return first if first in ROOMS else ""


def imports(name: str) -> set[str]:
    """Return the modules of ours that a module imports, late imports among them."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = [] if package in ("", "stsresolver") else package.split(".")
        below = above[: len(above) - node.level + 1] + (node.module or "").split(".")
        base = ".".join(filter(None, below))
        for one in node.names:
            whole = f"{base}.{one.name}".lstrip(".")
            found.add(whole if whole in MODULES else base)
    return found - {name}


def others(name: str) -> set[str]:
    """Return the packages that a module imports from elsewhere."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_page_has_each_room_and_each_module():
    rooms = table(0)
    beside = rooms.pop("beside them")
    assert sorted(rooms) == ROOMS
    listed = {f"{one}.{name}" for one, names in rooms.items() for name in names} | set(beside)
    assert listed == set(MODULES) - set(ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    """Up in the table, or to the leaves; what stands beside the rooms may import all."""
    order = list(table(0))
    assert imports(name) <= set(MODULES)
    if name in LEAVES:
        assert imports(name) == set()
    elif room(name):
        allowed = set(order[: order.index(room(name)) + 1])
        assert {one for one in imports(name) if room(one) not in allowed} <= LEAVES


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_and_loads_nothing(name):
    """Or the daemon would load dnspython, and the resolver process PyYAML."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


def test_no_imports_in_a_circle():
    try:
        tuple(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"in a circle: {' <- '.join(error.args[1])}")


IO = {
    "socket",
    "ssl",
    "select",
    "subprocess",
    "http",
    "urllib3",
    "requests",
    "sqlite3",
    "redis",
    "psycopg",
}


def test_pure_modules_do_no_io():
    pure = {f"{one}.{name}" for one, names in table(1).items() for name in names}
    assert len(pure) > 10
    impure = {name: others(name) & (IO | {"threading", "logging"}) for name in pure}
    assert {name: found for name, found in impure.items() if found} == {}


def test_one_room_reads_yaml():
    assert {room(name) for name in MODULES if "yaml" in others(name)} == {"config"}


def test_the_configuration_for_who_comes_from_the_go_daemon_is_one():
    page = (CHECKOUT / "docs" / "moving.rst").read_text(encoding="utf-8")
    (text,) = re.findall(r"::\n\n((?:    .*\n)*    port: 8642\n(?:    .*\n)*)", page)
    config = parse(textwrap.dedent(text), "moving.rst")
    assert config.warnings == ()
    assert config.zones == {
        "QUERY": Zone(dane=True),
        "QUERYwithTLSRPT": Zone(dane=True, tlsrpt=True),
    }
