"""The status pages of a service: what they say, to whom, and that nothing gets out of its place."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stsresolver.cache.entry import Entry
from stsresolver.mta_sts.policy import Mode, Policy
from stsresolver.policies.event_log import Observed
from stsresolver.status import html
from stsresolver.status.overview import PAGE
from stsresolver.status.pages import may_ask
from tests.support.clock import Clock
from tests.support.policies import DAY, policy
from tests.support.socketmap_client import wait_for
from tests.support.watched import store, watching


@pytest.fixture
def watch(monkeypatch):
    with watching(monkeypatch) as start:
        yield start


@pytest.mark.parametrize(
    ("host", "allowed", "why"),
    [
        ("127.0.0.1", True, "an address"),
        ("127.0.0.1:8463", True, "with a port"),
        ("[::1]:8463", True, "of the other kind"),
        ("192.0.2.1", True, "nobody can turn an address"),
        ("localhost", True, "a name of this host"),
        ("LOCALHOST:1", True, "in capitals"),
        ("localhost.", True, "with its last dot"),
        ("sts.localhost", True, "below it (RFC 6761 §6.3)"),
        (None, True, "no browser leaves it out"),
        ("", False, "empty"),
        (":80", False, "a port alone"),
        (".", False, "the root"),
        ("[::1%other.example]", False, "what follows is no address"),
        ("sts.example:80", True, "in the configuration"),
        ("STS.example.", True, "the same"),
        ("other.example", False, "turned by its owner"),
        ("localhost.other.example", False, "only begins so"),
        ("127.0.0.1.other.example", False, "neither is this"),
        ("sts.example.other.example", False, "nor this"),
        ("[other]", False, "no address"),
    ],
)
def test_may_ask(host, allowed, why):
    assert may_ask(host, {"sts.example"}) is allowed, why


def get(watched, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def page(watched, path):
    """Return the text of a page, as one reads it; it must be sound."""
    answer, body = get(watched, path)
    assert answer.status == 200, body
    reader = Sound()
    reader.feed(body)
    assert reader.open == []
    return " ".join(" ".join(reader.texts).split())


class Sound(HTMLParser):
    """Reads a page whose elements are closed in their order."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def obj(watched, path):
    answer, body = get(watched, path)
    assert answer.getheader("Content-Type") == "application/json"
    return json.loads(body)


def entry(domain, **changes):
    now = Clock().now
    made = Entry(domain, "7", policy(Mode.ENFORCE, 7 * DAY), now, now, now // DAY * DAY, now + DAY)
    return replace(made, **changes)


def now_entry(watched, domain, **changes):
    """Put an entry of today into the memory."""
    import time

    now = time.time()
    made = entry(domain, fetched=now, checked=now, asked=now // DAY * DAY, due=now + DAY)
    made = replace(made, **changes)
    watched.service.cache.put(made, now)
    return made


def test_all_is_well(watch):
    watched = watch()
    watched.ask("postfix enforce.example", "postfix enforce.example", "postfix no-record.example")
    text = page(watched, "/status")
    assert "All is well: nobody has to do anything." in text
    assert "Since the start: 3, 33% of them repeated without a look." in text
    assert "enforce.example enforce in 7.0 days" in text
    found = obj(watched, "/status.json")
    assert found["problems"] == []
    assert found["troubles"] == {"number": 0, "first": []}
    assert found["requests"]["zones"]["default_zone"]["policy"] == 2
    assert found["policies_in_memory"] == {"enforce": 1, "testing": 0, "none": 0}
    steps = {(one["step"], one["result"], one["cause"]) for one in found["lookups"]["ended"]}
    assert steps == {("dns", "found", None), ("dns", "none", "no_record"), ("https", "found", None)}


def test_who_needs_somebody(watch):
    import time

    watched = watch()
    now_entry(watched, "failing.example", failed=time.time(), failure="404 Not Found")
    watched.service.policies.setbacks.note(
        "weaker.example", time.time(), Mode.ENFORCE, Mode.TESTING
    )
    text = page(watched, "/status")
    assert "All is well" not in text
    assert "failing.example policy in force could not be renewed: enforce 404 Not Found" in text
    assert "weaker.example policy got weaker: enforce -> testing" in text
    domains = [one["domain"] for one in obj(watched, "/status.json")["troubles"]["first"]]
    assert domains == ["failing.example", "weaker.example"]


def test_a_domain(watch):
    watched = watch("zones: {watch: {observe: yes}, free: {exempt: [.b.example]}}")
    now_entry(watched, "a.b.example")
    text = page(watched, "/status/domain?name=a.b.example")
    for part in (
        "In memory.",
        "mx: mail.example.com",
        "default_zone OK secure match=mail.example.com servername=hostname",
        "watch NOTFOUND would be: OK secure match=mail.example.com",
        "free NOTFOUND exempt by .b.example; would be: OK secure",
    ):
        assert part in text
    found = obj(watched, "/status/domain.json?name=A.b.example.")
    assert found["domain"] == "a.b.example"
    assert found["in_memory"] is True
    assert found["entry"]["id"] == "7"
    assert [one["exempt"] for one in found["told"]] == [None, None, ".b.example"]


@pytest.mark.parametrize("when", [0.0, -1e300, 1e300, -5.0])
def test_times_that_no_calendar_has(watch, when):
    watched = watch()
    now_entry(watched, "a.example", asked=when, checked=when, due=when, failed=when, failure="x")
    for path in ("/status", "/status/domains", "/status/domain?name=a.example"):
        page(watched, path)
    for path in ("/status.json", "/status/domains.json", "/status/domain.json?name=a.example"):
        assert obj(watched, path)


def test_a_domain_that_only_the_store_has(watch, tmp_path):
    watched = watch(store(tmp_path))
    made = now_entry(watched, "a.example")
    watched.service.cache.memory.remove(made)
    text = page(watched, "/status/domain?name=a.example")
    assert "Not in memory: this is what the store has." in text
    assert watched.service.cache.memory.peek("a.example") is None, "it is only looked at"


def test_a_domain_without_a_policy(watch):
    watched = watch()
    text = page(watched, "/status/domain?name=a.example")
    assert "Neither memory nor the store has a policy" in text
    assert "default_zone It is looked up when mail asks." in text
    assert obj(watched, "/status/domain.json?name=a.example")["told"][0]["answer"] is None
    watched.ask("postfix no-record.example", "postfix process.example")
    text = page(watched, "/status/domain?name=no-record.example")
    assert "no MTA-STS record" in text or "no record" in text.lower()
    assert "default_zone NOTFOUND" in text
    text = page(watched, "/status/domain?name=process.example")
    assert "default_zone TEMP the resolver process failed" in text


@pytest.mark.parametrize("name", ["", "a..example", "%00", "x" * 300, "%3Cb%3E"])
def test_no_domain(watch, name):
    watched = watch()
    for path in ("/status/domain", "/status/domain.json"):
        assert get(watched, f"{path}?name={name}")[0].status == 404


def test_a_search_goes_on_page_by_page(watch):
    watched = watch()
    for number in range(120):
        now_entry(watched, f"d{number:03}.example")
        now_entry(watched, f"x{number:03}.other.example")
    seen, path = [], "/status/domains?q=d"
    while path:
        answer, body = get(watched, path)
        assert answer.status == 200
        reader = Sound()
        reader.feed(body)
        domains = [link for link in reader.links if link.startswith("/status/domain?")]
        seen += [link.partition("=")[2] for link in domains]
        assert "120 found." in body
        following = [link for link in reader.links if "after=" in link]
        path = following[0] if following else ""
    assert seen == [f"d{number:03}.example" for number in range(120)]
    found = obj(watched, "/status/domains.json?q=other&after=x099.other.example")
    assert (found["found"], found["more"]) == (120, False)
    assert found["domains"][0]["domain"] == "x100.other.example"
    assert obj(watched, "/status/domains.json")["more"] is True
    assert len(obj(watched, "/status/domains.json")["domains"]) == PAGE


HOSTILE = "<script>alert(1)</script>\"'&<b onload=x>"


def test_what_a_stranger_chose_stays_text(watch):
    import time

    watched = watch("zones: {watch: {observe: yes}}")
    text = f"version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\nx: {HOSTILE}"
    hostile = Policy(Mode.ENFORCE, ("mail.example.com",), 604_800, text)
    now_entry(watched, "a.example", policy=hostile, failed=time.time(), failure=HOSTILE)
    watched.service._events.observed("watch", f"[{HOSTILE}]", HOSTILE)
    for path in ("/status", "/status/domains", "/status/domain?name=a.example"):
        _, body = get(watched, path)
        assert "<script" not in body
        assert "<b " not in body
        assert "alert(1)" in page(watched, path), "it is shown"
    _, body = get(watched, f"/status/domains?q={'%3Cscript%3E%22%27'}")
    assert "<script" not in body
    assert 'value="&lt;script&gt;&quot;&#x27;"' in body


def test_headers(watch):
    watched = watch()
    for path in ("/status", "/status.json", "/status/domains", "/status/domain?name=a.example"):
        answer, body = get(watched, path)
        policy_text = answer.getheader("Content-Security-Policy")
        assert policy_text.startswith("default-src 'none'; style-src 'sha256-")
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert not re.search(r"<(script|link|img|iframe)|style=|https?://", body)


def test_whoever_may_not_ask(watch):
    watched = watch()
    for path in (
        "/status",
        "/status.json",
        "/status/domains.json",
        "/status/domain?name=a.example",
    ):
        answer, body = get(watched, path, Host="evil.example:80")
        assert answer.status == 421
        assert "status.hosts" in body
        assert get(watched, path, Host="sts.example")[0].status == 200
    assert get(watched, "/healthz", Host="evil.example")[0].status == 200, "it says no name"


def test_nothing_can_be_changed(watch):
    watched = watch()
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=20)
    connection.request("POST", "/status", body="x")
    assert connection.getresponse().status == 501
    connection.close()


def test_what_zones_that_observe_would_answer(watch):
    watched = watch("zones: {watch: {observe: yes}}")
    watched.ask("watch enforce.example")
    assert watched.service.observed() == [
        Observed("watch", "enforce.example", "OK secure match=mail.example servername=hostname")
    ]
    assert "watch enforce.example OK secure match=mail.example" in page(watched, "/status")


def test_a_reload_is_seen(watch):
    from stsresolver.config.keys import parse

    watched = watch()
    before = obj(watched, "/status.json")["configuration"]
    assert before["only_a_restart_changes"] == []
    watched.service.reload(parse("port: 1\nzones: {b: {}}", "config"), None)
    after = obj(watched, "/status.json")["configuration"]
    assert after["only_a_restart_changes"] == ["port"]
    assert "Only a restart changes port." in page(watched, "/status")


def test_a_store_that_fails(watch, tmp_path, monkeypatch):
    from stsresolver.cache.store import StoreError

    watched = watch(store(tmp_path))

    def fail(*_):
        raise StoreError("away")

    monkeypatch.setattr(watched.service.cache._store, "get", fail)
    assert "The store cannot be read: away." in page(watched, "/status/domain?name=a.example")
    assert watched.service.cache.unread_since is None, "a look begins no outage"
    watched.ask("postfix no-record.example")
    text = page(watched, "/status")
    assert "All is well" not in text
    assert "It cannot be used to read now." in text
    assert "Problem: the policy cache cannot be read" in text


def test_a_page_says_less_of_many_troubles(watch):
    watched = watch()
    for number in range(250):
        watched.service.policies.setbacks.note(
            f"{number}.example", 1.0 + number, Mode.ENFORCE, Mode.TESTING
        )
    assert "And 50 more." in page(watched, "/status")
    assert obj(watched, "/status.json")["troubles"]["number"] == 250
    assert html._MOST == 200


def test_a_look_uses_nothing(watch, tmp_path):
    """No order of what is dropped next changes, no counter, and no line is logged."""
    watched = watch(f"zones: {{watch: {{observe: yes}}}}\n{store(tmp_path)}")
    for name in ("a.example", "b.example", "c.example"):
        now_entry(watched, name)
    watched.ask("postfix no-record.a.example", "postfix bad-record.b.example")
    cache, policies = watched.service.cache, watched.service.policies

    def state():
        kept, misses = cache.memory._entries, policies._misses._misses
        orders = [list(one._LRUCache__order) for one in (kept, misses)]
        return orders, cache.memory.hits, cache.memory.misses, cache.reads.read()

    before = state()
    for path in ("/status", "/status/domains?q=a", "/status/domain?name=a.example"):
        page(watched, path)
    page(watched, "/status/domain?name=no-record.a.example")
    assert state() == before


def test_a_lookup_that_is_not_believed_any_more(watch):
    watched = watch()
    watched.ask("postfix process.example")
    path = "/status/domain?name=process.example"
    wait_for(lambda: "looked up when mail asks." in page(watched, path), "the end of its pause")
    text = page(watched, path)
    assert "default_zone the lookup was lost with the process that did it no more" in text


def test_what_cannot_be_printed(watch):
    import time

    watched = watch()
    watched.reader._source = "/etc/\udcff.yml"
    now_entry(watched, "a.example", failed=time.time(), failure="a\u202eb\0c" + "x" * 5000)
    for path in ("/status", "/status/domain?name=a.example", "/status/domains?q=%00"):
        _, body = get(watched, path)
        assert "\u202e" not in body
        assert "\0" not in body
        assert len(body) < 20_000
    assert "/etc/\\udcff.yml" in page(watched, "/status")
    assert obj(watched, "/status.json")
