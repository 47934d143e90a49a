"""The status page in a real Chromium: read at two widths, links and search, and by its roles."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from stsresolver.mta_sts.policy import Mode
from tests.support.browser import browsing
from tests.support.socketmap_client import wait_for
from tests.support.watched import watching

from .test_pages import now_entry

WIDE, NARROW = 1200, 400


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def watched(monkeypatch):
    with watching(monkeypatch) as start:
        watched = start("zones: {watch: {observe: yes}}")
        watched.ask("postfix enforce.example", "watch enforce.example", "postfix no-record.example")
        for number in range(60):
            now_entry(watched, f"mail{number:02}.example")
        failure = "certificate of mta-sts.failing.example: expired 3 days ago " + "x" * 200
        now_entry(watched, "failing.example", failed=time.time() - 7200, failure=failure)
        note = watched.service.policies.setbacks.note
        note("weaker.example", time.time() - 60, Mode.ENFORCE, Mode.TESTING)
        yield watched


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(
    "path", ["/status", "/status/domains?q=mail", "/status/domain?name=failing.example"]
)
def test_it_fits(browser, watched, width, path):
    browser.resize(width, 900)
    browser.go(f"http://127.0.0.1:{watched.port}{path}")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return getComputedStyle(document.body).maxWidth") == "1120px", "its style"
    assert browser.complaints() == []


def comes_to(browser, path):
    """A browser may say that it has clicked before it has gone anywhere."""
    wait_for(lambda: browser.url.endswith(path), path)


def test_links_and_search(browser, watched):
    browser.resize(WIDE, 900)
    browser.go(f"http://localhost:{watched.port}/status")
    assert "policy in force could not be renewed: enforce" in browser.text
    assert "policy got weaker: enforce -> testing" in browser.text
    browser.click("failing.example")
    comes_to(browser, "/status/domain?name=failing.example")
    assert "mx: mail.example.com" in browser.text
    browser.click("Overview")
    browser.write("#q", "mail")
    browser.click("Search")
    comes_to(browser, "/status/domains?q=mail")
    assert "60 found." in browser.text
    assert "mail00.example" in browser.text
    assert "mail55.example" not in browser.text
    browser.click("The next ones")
    assert "mail55.example" in browser.text
    assert "mail00.example" not in browser.text
    browser.click("From the first")
    browser.click("mail00.example")
    assert "What Postfix is told" in browser.text


def test_what_a_screen_reader_says(browser, watched):
    browser.go(f"http://localhost:{watched.port}/status")
    nodes = browser.tool("Accessibility.getFullAXTree", {})["nodes"]
    said = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    }
    assert ("searchbox", "Domain contains") in said
    assert ("button", "Search") in said
    assert ("heading", "Domains that need somebody") in said
    assert ("region", "Policies in memory") in said
    assert ("columnheader", "Policy ends") in said
    assert ("rowheader", "failing.example") in said
    assert ("link", "failing.example") in said
    assert {role for role, _ in said} >= {"main", "table", "search"}


def test_a_script_in_a_policy_does_not_run(browser, watched):
    entry = now_entry(watched, "hostile.example")
    text = entry.policy.body + "\nx: <script>document.title = 'run'</script>"
    policy = replace(entry.policy, body=text)
    watched.service.cache.put(replace(entry, policy=policy, fetched=entry.fetched + 1), time.time())
    browser.go(f"http://localhost:{watched.port}/status/domain?name=hostile.example")
    assert "<script>document.title = 'run'</script>" in browser.text
    assert browser.run("return document.title") == "hostile.example"
