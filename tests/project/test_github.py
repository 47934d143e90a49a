"""The workflow and the issue form agree with the project: GitHub alone would notice a slip."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

from stsresolver import daemon, query

CHECKOUT = Path(__file__).resolve().parents[2]
WORKFLOW = CHECKOUT / ".github" / "workflows" / "ci.yml"
FORM = CHECKOUT / ".github" / "ISSUE_TEMPLATE" / "problem.yml"

JOBS = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
FIELDS = yaml.safe_load(FORM.read_text(encoding="utf-8"))["body"]


def test_the_workflow_tests_the_versions_of_python_that_the_metadata_names():
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    classifiers = parser["metadata"]["classifiers"]
    named = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert JOBS["tests"]["strategy"]["matrix"]["python"] == named


def test_the_workflow_runs_scripts_of_the_checkout():
    commands = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    scripts = [command.split()[1] for command in commands if command.startswith("sh ")]
    assert "tests/run" in scripts
    assert [name for name in scripts if not (CHECKOUT / name).is_file()] == []


def test_the_issue_form_has_what_github_requires():
    """Docs of GitHub: "Syntax for GitHub's form schema"; without them it shows no form."""
    questions = [field for field in FIELDS if field["type"] != "markdown"]
    assert {field["type"] for field in questions} <= {"input", "textarea"}
    assert all(field["attributes"]["label"] for field in questions)
    ids = [field["id"] for field in questions]
    assert len(set(ids)) == len(ids)


def test_the_issue_form_asks_for_output_that_the_programs_have():
    asked = {
        call
        for field in FIELDS
        for call in re.findall(
            r"`(mta-sts-\w+) (-\S+)\b", field["attributes"].get("description", "")
        )
    }
    assert {option for _, option in asked} >= {"--version", "--check-config", "--doctor"}
    for program, option in asked:
        parser = {"mta-sts-daemon": daemon, "mta-sts-query": query}[program]._arguments()
        assert option in parser._option_string_actions
