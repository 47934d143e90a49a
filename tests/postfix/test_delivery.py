"""What Postfix does with a mail, judged from its log and from what arrived."""

import pytest

from .lab import Lab
from .servers import Certificates

# What Postfix says of a mail that it defers.
NOT_VERIFIED = "4.7.5 (Server certificate not verified)"
NO_STARTTLS = "4.7.4 (TLS is required, but was not offered"
NO_ANSWER = "4.7.5 (client TLS configuration problem)"


def assert_delivered(lab, mail):
    """The mail arrived, once; return what the receiving side says of it."""
    assert mail.status == "sent", mail
    [arrived] = lab.arrived(mail)
    return arrived


def assert_deferred(lab, mail, why=NOT_VERIFIED):
    """The mail waits in the queue, Postfix says why, and nothing arrived."""
    assert mail.status == "deferred", mail
    assert mail.why.startswith(why)
    assert lab.arrived(mail) == []


def verified(mail, host):
    return f"Verified TLS connection established to {host}[" in mail.log


@pytest.mark.requirement("APPLY-6", "APPLY-7")
def test_enforced_with_the_right_certificate_is_delivered_over_verified_tls(lab):
    lab.publish("right.example")
    mail = lab.mta.send("right.example")
    arrived = assert_delivered(lab, mail)
    assert verified(mail, "mx.right.example")
    assert arrived["tls"]
    assert arrived["servername"] == "mx.right.example"  # RFC 8461 §4: SNI


WRONG_CERTIFICATES = {
    "other-name": (Certificates.other_name, NOT_VERIFIED),
    "self-signed": (Certificates.self_signed, NOT_VERIFIED),
    "expired": (Certificates.expired, NOT_VERIFIED),
    "no-starttls": (Certificates.none, NO_STARTTLS),
}


@pytest.mark.requirement("APPLY-6", "APPLY-8")
@pytest.mark.parametrize("name", WRONG_CERTIFICATES)
def test_enforced_without_a_right_certificate_is_deferred(lab, name):
    certificate, why = WRONG_CERTIFICATES[name]
    lab.publish(f"{name}.example", certificate=certificate)
    assert_deferred(lab, lab.mta.send(f"{name}.example"), why)


NOT_ENFORCED = {
    "mode-none": {"mode": "none"},
    "mode-testing": {"mode": "testing"},
    "no-policy": {"mode": None},
    "policy-404": {"fetch": "404"},
    "policy-host-down": {"fetch": "down"},
    "policy-host-self-signed": {"fetch": "self-signed"},
}


@pytest.mark.requirement("KEEP-4", "APPLY-8")
@pytest.mark.parametrize("name", NOT_ENFORCED)
@pytest.mark.parametrize("certificate", ["other-name", "no-starttls"])
def test_without_an_enforced_policy_is_delivered_whatever_the_certificate(lab, name, certificate):
    domain = f"{name}-{certificate}.example"
    lab.publish(domain, certificate=WRONG_CERTIFICATES[certificate][0], **NOT_ENFORCED[name])
    mail = lab.mta.send(domain)
    arrived = assert_delivered(lab, mail)
    assert not verified(mail, f"mx.{domain}")
    assert arrived["tls"] == (certificate != "no-starttls")


GONE = {
    "record-gone": [Lab.remove_record],
    "host-gone": [Lab.take_down_policy_host],
    "all-gone": [Lab.take_down_policy_host, Lab.remove_record],
}


@pytest.mark.requirement("KEEP-3")
@pytest.mark.parametrize("name", GONE)
def test_policy_stays_enforced_when_its_source_disappears(lab, name):
    domain = f"{name}.example"
    lab.publish(domain)
    assert_delivered(lab, lab.mta.send(domain))
    for disappear in GONE[name]:
        disappear(lab, domain)
    lab.await_check(domain)
    mail = lab.mta.send(domain)
    assert_delivered(lab, mail)
    assert verified(mail, f"mx.{domain}")
    lab.impersonate(domain)
    assert_deferred(lab, lab.mta.send(domain))


@pytest.mark.requirement("KEEP-11", "APPLY-9")
def test_policy_replaced_by_mode_none_is_enforced_no_longer(lab):
    lab.publish("leaving.example", certificate=Certificates.other_name)
    mail = lab.mta.send("leaving.example")
    assert_deferred(lab, mail)
    lab.replace_policy("leaving.example", "none")
    lab.await_check("leaving.example")
    [mail] = lab.mta.flush(mail)
    assert_delivered(lab, mail)


@pytest.mark.requirement("WIRE-13")
def test_daemon_stopped_defers_and_daemon_started_again_delivers(lab):
    lab.publish("patient.example")
    lab.publish("patient-none.example", mode=None)
    assert_delivered(lab, lab.mta.send("patient.example"))
    assert lab.daemon.stop() == 0
    waiting = [lab.mta.send("patient.example"), lab.mta.send("patient-none.example")]
    for mail in waiting:
        assert_deferred(lab, mail, NO_ANSWER)
    lab.ensure_daemon()
    for mail in lab.mta.flush(*waiting):
        assert_delivered(lab, mail)


@pytest.mark.requirement("APPLY-5")
def test_mail_server_that_the_policy_does_not_name_is_deferred(lab):
    lab.publish("mismatch.example", mx=["mx.elsewhere.example"])
    assert_deferred(lab, lab.mta.send("mismatch.example"))


@pytest.mark.requirement("APPLY-5")
def test_mail_server_that_a_wildcard_names_is_delivered(lab):
    lab.publish("wildcard.example", mx=["mx.elsewhere.example", "*.wildcard.example"])
    mail = lab.mta.send("wildcard.example")
    assert_delivered(lab, mail)
    assert verified(mail, "mx.wildcard.example")


@pytest.mark.requirement("KEY-8")
def test_strict_testing_zone_enforces_testing(lab):
    lab.publish("right.strict.example", mode="testing")
    lab.publish("wrong.strict.example", mode="testing", certificate=Certificates.other_name)
    mail = lab.mta.send("right.strict.example")
    assert_delivered(lab, mail)
    assert verified(mail, "mx.right.strict.example")
    assert_deferred(lab, lab.mta.send("wrong.strict.example"))


@pytest.mark.requirement("KEY-6")
@pytest.mark.parametrize(
    ("written", "domain"),
    [
        ("Mixed-CASE.Example", "mixed-case.example"),  # Postfix asks with the domain as written,
        ("münchen.example", "xn--mnchen-3ya.example"),  # and in UTF-8
    ],
)
def test_domain_is_the_same_however_it_is_written(lab, written, domain):
    lab.publish(domain)
    mail = lab.mta.send(written)
    assert_delivered(lab, mail)
    assert verified(mail, f"mx.{domain}")


@pytest.mark.requirement("APPLY-2")
def test_sub_domain_does_not_inherit(lab):
    lab.publish("parent.example")
    lab.publish("sub.parent.example", mode=None, certificate=Certificates.other_name)
    assert verified(lab.mta.send("parent.example"), "mx.parent.example")
    assert_delivered(lab, lab.mta.send("sub.parent.example"))


@pytest.mark.requirement("APPLY-3")
def test_smart_host_is_the_policy_domain(lab):
    """RFC 8461 §3.4: the transport map of mta.py sends these mails to [relay.example]:25."""
    lab.publish("behind-relay.example")
    lab.publish("relay.example", host="relay.example")
    mail = lab.mta.send("behind-relay.example")
    assert_delivered(lab, mail)
    assert verified(mail, "relay.example")
    lab.publish("relay.example", host="relay.example", certificate=Certificates.other_name)
    assert_deferred(lab, lab.mta.send("behind-relay.example"))


def test_unix_socket_serves_as_well(lab):
    lab.publish("right.unix.example")
    lab.publish("wrong.unix.example", certificate=Certificates.other_name)
    with lab.unix_daemon():
        mail = lab.mta.send("right.unix.example")
        assert_delivered(lab, mail)
        assert verified(mail, "mx.right.unix.example")
        assert_deferred(lab, lab.mta.send("wrong.unix.example"))
