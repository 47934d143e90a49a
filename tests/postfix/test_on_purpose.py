"""docs/moving.rst shows a delivery that fails on purpose: so it does, and others do not."""

from __future__ import annotations

import subprocess

from .test_delivery import NOT_VERIFIED, assert_deferred, assert_delivered, verified


def test_a_delivery_that_fails_on_purpose(lab):
    # The command of the page.
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=nobody", "-keyout", "/dev/null", "-out", lab.directory / "nobody.pem"),
        ],
        check=True,
        capture_output=True,
    )
    lab.publish("on-purpose.example")
    mail = lab.mta.send("on-purpose.example", "nobody")
    assert_deferred(lab, mail, NOT_VERIFIED)
    assert "Untrusted TLS connection established to mx.on-purpose.example[" in mail.log
    other = lab.mta.send("on-purpose.example", "somebody")
    assert_delivered(lab, other)
    assert verified(other, "mx.on-purpose.example")


def test_without_a_policy_nothing_fails(lab):
    lab.publish("on-purpose.example", mode=None)
    lab.remove_record("on-purpose.example")
    lab.daemon.stop()
    lab.ensure_daemon()
    assert_delivered(lab, lab.mta.send("on-purpose.example", "nobody"))
