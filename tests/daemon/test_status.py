"""Where a real daemon serves the status page, and where not."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket

import pytest

from tests.support.socketmap_client import Client, wait_for
from tests.support.whole_daemon import KNOWN, Daemon, in_force


def get(where, path="/status.json", host="localhost"):
    """Return status and body of a page at a port or a UNIX socket."""
    connection = http.client.HTTPConnection("127.0.0.1", where if isinstance(where, int) else 0)
    if not isinstance(where, int):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(where))
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def port_of(daemon, what):
    """Return the port that the log says."""
    wait_for(daemon.says("listening on "), "the daemon to listen")
    found = re.search(rf" {what} at 127\.0\.0\.1:(\d+)", daemon.text)
    return int(found[1]) if found else None


@pytest.fixture
def start(tmp_path, world):
    running = []

    def begin(text):
        directory = tmp_path / str(len(running))
        directory.mkdir()
        running.append(Daemon(directory, world, f"port: 0\ndefault_zone: {{timeout: 5}}\n{text}"))
        return running[-1]

    yield begin
    for daemon in running:
        daemon.kill()
        assert "internal error" not in daemon.text


def test_there_is_none_unless_it_is_wanted(start):
    pytest.importorskip("prometheus_client")
    daemon = start("metrics: {port: 0}")
    assert port_of(daemon, "status") is None
    assert get(port_of(daemon, "metrics and health"))[0] == 404


def test_what_it_says_of_a_domain_that_mail_asked_for(start):
    daemon = start("status: {port: 0}")
    port = port_of(daemon, "status")
    with Client(daemon.address()) as client:
        assert client.ask(b"postfix " + KNOWN[0].encode()) == in_force(KNOWN[0])
    status, body = get(port)
    assert status == 200
    found = json.loads(body)
    assert found["requests"]["total"] == 1
    assert found["resolver"]["processes"] == 1
    assert found["configuration"]["source"].endswith("config.yml")
    told = json.loads(get(port, f"/status/domain.json?name={KNOWN[0]}")[1])["told"]
    assert told[0]["answer"].encode() == in_force(KNOWN[0])
    assert get(port, "/metrics")[0] == 404, "these are asked for elsewhere, or not at all"


def test_one_place_for_both(start, tmp_path):
    pytest.importorskip("prometheus_client")
    path = tmp_path / "pages"
    daemon = start(f"status: {{path: {path}, hosts: [sts.example]}}\nmetrics: {{path: {path}}}")
    daemon.address()
    for page in ("/status", "/metrics", "/healthz"):
        assert get(path, page)[0] == 200
    assert get(path, "/status", "sts.example")[0] == 200
    assert get(path, "/status", "other.example")[0] == 421


def test_a_place_of_its_own(start, tmp_path):
    pytest.importorskip("prometheus_client")
    daemon = start(f"status: {{path: {tmp_path}/status, mode: 0600}}\nmetrics: {{port: 0}}")
    assert get(port_of(daemon, "metrics and health"), "/status")[0] == 404
    assert get(tmp_path / "status", "/status")[0] == 200
    assert (tmp_path / "status").stat().st_mode & 0o777 == 0o600
