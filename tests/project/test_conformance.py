"""docs/conformance.rst and the tests agree: what it names is there, and nothing is left out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "conformance.rst"

# The sections of RFC 8461 that ask something of who consumes policies.
BINDING = {"2", "3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "5", "5.1", "7.1", "7.2"}
# And those that advise him.
ADVISING = {"8.1", "8.3", "10.2", "10.3"}

# Of the other documents, what these modules cite: they read what strangers send.
READERS = (
    *("record", "policy", "next_hop", "domain_names", "netstring", "results"),
    *("discovery", "nameservers", "fetch", "ca_store"),
)

# Each test of these holds a requirement: they try what strangers send us and what we answer.
ALL_LISTED = (
    *("mta_sts/test_record", "mta_sts/test_policy", "mta_sts/test_next_hop"),
    *("mta_sts/test_discovery", "mta_sts/test_fetch", "net/test_domain_names"),
    *("socketmap/test_netstring", "socketmap/test_answer"),
)

ROW = re.compile(r"^   \* - (?P<row>.*\n(?:     .*\n)*)", re.MULTILINE)
HELD = re.compile(r"^requirement (\S+) (tests/\S+::.*)$", re.MULTILINE)
CITED = re.compile(r"RFC (\d+)((?:,? §[\d.]*\d)+)")


@dataclass(frozen=True)
class Requirement:
    number: str
    source: str
    text: str


def requirements() -> list[Requirement]:
    found = []
    for row in ROW.findall(PAGE.read_text(encoding="utf-8")):
        number, source, text = (" ".join(cell.split()) for cell in re.split(r"\n     - ", row))
        if number != "No.":
            found.append(Requirement(number, source, text))
    return found


REQUIREMENTS = requirements()


def sections(text: str) -> set[tuple[str, str]]:
    """Return what `text` cites, as pairs of an RFC's number and a section's."""
    return {
        (rfc, section)
        for rfc, listed in CITED.findall(" ".join(text.replace("#", " ").split()))
        for section in re.findall(r"[\d.]*\d", listed)
    }


@pytest.fixture(scope="module")
def collected() -> str:
    """What pytest prints of all tests: their ids, and the requirements that they hold."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    pytest_ = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_, "--list-requirements"],
        cwd=CHECKOUT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def held(collected) -> set[tuple[str, str]]:
    """The pairs of a requirement's number and the id of a test that holds it."""
    return set(HELD.findall(collected))


def test_the_page_is_read():
    assert len(REQUIREMENTS) > 100
    assert all(one.text and one.source for one in REQUIREMENTS)


def test_each_number_stands_once():
    numbers = [one.number for one in REQUIREMENTS]
    assert all(re.fullmatch(r"[A-Z]+-[1-9][0-9]*", number) for number in numbers)
    assert len(numbers) == len(set(numbers))


def test_each_requirement_is_held_by_a_test(held):
    assert {one.number for one in REQUIREMENTS} == {number for number, _ in held}


def test_each_case_that_a_marker_names_is_there(held):
    """A case that was renamed would hold nothing any more."""
    ids = {node.partition("[")[2].removesuffix("]") for _, node in held}
    named = set()
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.requirement":
                for mapping in (one for one in call.args if isinstance(one, ast.Dict)):
                    named |= {key.value for key in mapping.keys}
    assert len(named) > 100
    assert named - ids == set()


@pytest.mark.parametrize("name", ALL_LISTED)
def test_each_test_of_a_grammar_or_a_hostile_server_holds_something(name, collected, held):
    lines = collected.splitlines()
    file = f"tests/{name}.py::"
    tests = {line.partition("[")[0] for line in lines if line.startswith(file)}
    assert tests
    assert tests - {node.partition("[")[0] for _, node in held} == set()


def test_each_section_that_binds_a_consumer_of_policies_is_listed():
    listed = set().union(*(sections(one.source) for one in REQUIREMENTS))
    assert {("8461", section) for section in BINDING | ADVISING} - listed == set()


def test_each_section_that_the_code_cites_is_listed():
    listed = set().union(*(sections(one.source) for one in REQUIREMENTS))
    missing = [
        f"{path.relative_to(CHECKOUT)} cites RFC {rfc} §{section}"
        for path in sorted((CHECKOUT / "stsresolver").rglob("*.py"))
        for rfc, section in sorted(sections(path.read_text(encoding="utf-8")) - listed)
        if rfc in ("8460", "8461") or path.stem in READERS
    ]
    assert missing == []
