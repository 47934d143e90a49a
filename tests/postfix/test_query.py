"""mta-sts-query in the lab: real DNS, real policy hosts, a real Postfix as MX, a running daemon."""

import json
import sys

import pytest

from .lab import CHECKOUT
from .receiving import ReceivingPostfix
from .servers import Certificates


@pytest.fixture
def query(lab):
    """Return what runs the tool in the lab: exit status, standard output, standard error."""

    def run(*arguments):
        namespace = lab._namespace
        done = namespace.run(
            *("env", f"SSL_CERT_FILE={lab._certificates.authority}", f"PYTHONPATH={CHECKOUT}"),
            *(f"MAIL_CONFIG={lab.mta.directory}", "PYTHONWARNINGS=error"),
            *(sys.executable, "-m", "stsresolver.query", *arguments),
            check=False,
        )
        output, errors = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in errors
        return done.returncode, output, errors

    return run


def test_running_daemon_answers_as_the_query_tool_says(lab, query):
    lab.publish("right.query.example")
    lab.publish("testing.query.example", mode="testing")
    place = ("--ask", "127.0.0.1:8461")
    status, output, _ = query("somebody@right.query.example")
    assert status == 0
    assert "Verdict      mail to right.query.example goes only over verified TLS.\n" in output
    told = '"OK secure match=mx.right.query.example servername=hostname"'
    assert told in " ".join(output.split())
    status, output, _ = query(*place, "right.query.example")
    assert status == 0
    assert told in " ".join(output.split())
    assert query(*place, "-q", "testing.query.example")[0] == 1
    assert query(*place, "--zone", "strict", "-q", "testing.query.example")[0] == 0
    assert query(*place, "[192.0.2.1]:25")[0] == 1


def test_list(lab, query):
    lab.publish("one.list.example")
    lab.publish("two.list.example", mx=["mx.elsewhere.example"])
    lab.publish("three.list.example", fetch="404")
    path = lab.directory / "list"
    path.write_text("one.list.example\nx@two.list.example\nthree.list.example\nfour.list.example\n")
    status, output, errors = query("--file", path, "--json", "--jobs", "2")
    found = {seen["domain"]: seen for seen in map(json.loads, output.splitlines())}
    assert status == 0
    assert {name.partition(".")[0]: seen["result"] for name, seen in found.items()} == {
        "one": "policy",
        "two": "policy",
        "three": "failure",
        "four": "none",
    }
    assert found["two.list.example"]["problems"][-1]["code"] == "mx-mismatch"
    assert errors.startswith("4 domains in ")


HOSTS = [
    ("right", Certificates.right, True, "its certificate is valid, and has the right name"),
    ("other", Certificates.other_name, False, "its certificate is for not-mx.other.probe.example"),
    ("expired", Certificates.expired, False, "its certificate is not valid: certificate has exp"),
    ("self-signed", Certificates.self_signed, False, "its certificate is not valid: self"),
    ("plain", Certificates.none, False, "it offers no STARTTLS"),
    ("slow", Certificates.right, True, "its certificate is valid, and has the right name"),
]


def test_probe_of_a_real_postfix_finds_what_a_real_postfix_does(lab, query):
    """Where the probe is content mail is delivered, and where it is not mail waits."""
    addresses = {}
    for number, (name, certificate, _, _) in enumerate(HOSTS, 1):
        host = f"mx.{name}.probe.example"
        lab.publish(f"{name}.probe.example")
        addresses[f"127.3.0.{number}"] = certificate(lab._certificates, host)
        lab.dns.change({(host, "A"): f"127.3.0.{number}"})
    slow = [address for address, case in zip(addresses, HOSTS, strict=True) if case[0] == "slow"]
    with ReceivingPostfix(lab._namespace, addresses, slow):
        for name, _, ok, reason in HOSTS:
            status, output, _ = query("--probe", "--json", f"{name}.probe.example")
            (host,) = json.loads(output)["mx"]
            assert host["probe"]["ok"] is ok, name
            assert host["probe"]["reason"].startswith(reason)
            assert status == (0 if ok else 3)
            mail = lab.mta.send(f"{name}.probe.example")
            assert (mail.status == "sent") is ok, mail
        status, output, _ = query("--probe", "plain.probe.example")
        assert status == 3
        assert "FAILED: it offers no STARTTLS\n" in output


def test_probe_where_nobody_listens(lab, query):
    lab.publish("blocked.probe.example")
    lab.dns.change({("mx.blocked.probe.example", "A"): "127.4.0.1"})
    status, output, _ = query("--probe", "blocked.probe.example")
    assert status == 3
    assert "no MX host could be connected to at port 25: many networks block" in output
