"""Zone option `tlsrpt`: what Postfix 3.10 and later make of the long answer.

What Postfix has read in it shows in its log, in what becomes of the mail, and in what it would put
into a TLS report.
"""

import json
import re

import pytest

from .lab import policy
from .servers import Certificates
from .test_delivery import NOT_VERIFIED, assert_deferred, assert_delivered, verified

SOCKETMAP = "socketmap:inet:127.0.0.1:8461:tlsrpt"

# What Postfix says when it has passed over all MX hosts.
SKIPPED = "4.3.0 (server unavailable or unable to receive mail)"


@pytest.fixture(scope="module", autouse=True)
def _long_answer(running_lab):
    """Skip the tests where Postfix is too old; else nothing in Postfix may crash meanwhile."""
    version = running_lab.mta.setting("mail_version")
    if running_lab.mta.version < (3, 10):
        pytest.skip(f"needs Postfix 3.10 or later for zone option tlsrpt: this is {version}")
    mark = running_lab.mta.log.mark()
    yield
    crash = r".*(?:fatal:|panic:|killed by signal).*"
    assert re.findall(crash, running_lab.mta.log.since(mark)) == []


@pytest.fixture
def enforces_patterns(running_lab):
    if running_lab.mta.setting("smtp_tls_enforce_sts_mx_patterns") != "yes":
        pytest.skip("needs Postfix 3.10.5 or later, which checks MX hosts against mx_host_pattern")


def complaints(mail):
    """Return what Postfix complains of, but for tlsproxy(8) being no server here."""
    lines = re.findall(r".*\b(?:warning|error|fatal|panic|bad)\b.*", mail.log)
    return [line for line in lines if "TLS server role is disabled" not in line]


def send(lab, domain, written=None):
    """Send a mail that is to be delivered over verified TLS; return the report's policy."""
    record = {(f"_smtp._tls.{domain}", "TXT"): "v=TLSRPTv1; rua=mailto:reports@sender.example"}
    lab.dns.change(record)
    with lab.tls_reports() as reports:
        mail = lab.mta.send(written or domain)
        assert_delivered(lab, mail)
        assert verified(mail, f"mx.{domain}")
        assert complaints(mail) == []
        [reported] = json.loads(reports.recv(1 << 20))["policies"]
    return reported


@pytest.mark.requirement("APPLY-10", "ANSWER-5", "ANSWER-7")
@pytest.mark.parametrize(
    ("written", "domain"),
    [
        ("right.tlsrpt.example", "right.tlsrpt.example"),
        ("Mixed-CASE.tlsrpt.Example", "mixed-case.tlsrpt.example"),
        ("münchen.tlsrpt.example", "xn--mnchen-3ya.tlsrpt.example"),
    ],
)
def test_right_certificate_is_delivered_and_reported_with_the_policy(lab, written, domain):
    patterns = [f"mx.{domain}", "*.elsewhere.example"]
    lab.publish(domain, mx=patterns)
    reported = send(lab, domain, written)
    assert reported["policy-domain"] == domain
    assert reported["policy-string"] == policy("enforce", patterns).splitlines()
    assert reported["mx-host"] == patterns


def test_wrong_certificate_is_deferred(lab):
    lab.publish("wrong.tlsrpt.example", certificate=Certificates.other_name)
    mail = lab.mta.send("wrong.tlsrpt.example")
    assert_deferred(lab, mail)
    assert complaints(mail) == []


@pytest.mark.requirement("APPLY-5", "ANSWER-10")
def test_mail_server_that_the_policy_does_not_name_is_deferred(lab):
    lab.publish("mismatch.tlsrpt.example", mx=["mx.elsewhere.example"])
    mail = lab.mta.send("mismatch.tlsrpt.example")
    assert_deferred(lab, mail, why=(NOT_VERIFIED, SKIPPED))


@pytest.mark.requirement("POL-14", "ANSWER-10")
def test_wildcard_stands_for_one_label(lab, enforces_patterns):
    """RFC 8461 §4.1. Without `tlsrpt` it matches any depth: a leading dot in `match=` does."""
    lab.publish("one.tlsrpt.example", mx=["*.one.tlsrpt.example"])
    mail = lab.mta.send("one.tlsrpt.example")
    assert_delivered(lab, mail)
    assert verified(mail, "mx.one.tlsrpt.example")
    lab.publish("two.tlsrpt.example", mx=["*.tlsrpt.example"])
    mail = lab.mta.send("two.tlsrpt.example")
    assert_deferred(lab, mail, SKIPPED)
    assert "'mx.two.tlsrpt.example' does not match STS MX pattern" in mail.log


@pytest.mark.requirement("APPLY-6", "ANSWER-10")
def test_certificate_of_another_mail_server_that_the_policy_names_is_deferred(
    lab, enforces_patterns
):
    """RFC 8461 §4.2: the certificate is for the MX host itself."""
    other = "mx.other.tlsrpt.example"
    lab.publish(
        "sibling.tlsrpt.example",
        mx=["mx.sibling.tlsrpt.example", other],
        certificate=lambda certificates, _host: certificates.right(other),
    )
    assert_deferred(lab, lab.mta.send("sibling.tlsrpt.example"))


KEPT, LEFT_OUT = True, False
HOSTILE = [
    ("x: } { policy_failure = x", LEFT_OUT, "an attribute that defers"),
    ("x: } { policy_failure = sts-policy-invalid } {", LEFT_OUT, "an attribute that defers"),
    ("x: } match=evil.example {", LEFT_OUT, "a name to match"),
    ("x: {", LEFT_OUT, "an open brace"),
    ("x: }", LEFT_OUT, "a closing brace"),
    ("x: { a = b }", LEFT_OUT, "braces in balance"),
    ("mode: } policy_type=no-policy-found {", LEFT_OUT, "a duplicate with an attribute"),
    ("x: a\u0085b", LEFT_OUT, "a control character of ISO 8859-1"),
    ("x: a\u009bb", LEFT_OUT, "a control character of ISO 8859-1"),
    ("x: a\u2028b", LEFT_OUT, "a line separator"),
    ("x: \u202eb", LEFT_OUT, "a direction override"),
    ("x: a, match=evil.example, b", KEPT, "commas and an attribute's text"),
    ("x: = = protocols=SSLv3 =", KEPT, "equals signs"),
    ("policy_failure: = sts-policy-invalid", KEPT, "an attribute's name"),
    ("x: ,", KEPT, "a comma alone"),
    ("x: =", KEPT, "an equals sign alone"),
    ('x: "a" \\"b\\" \\', KEPT, "quotes and backslashes"),
    ("x: $x $(x) %s %n", KEPT, "what Postfix and printf expand elsewhere"),
    ("x: münchen 東京 \U0001f4e8", KEPT, "text in UTF-8"),
    ("mode: none", KEPT, "a duplicate, ignored"),
]


@pytest.mark.requirement("ANSWER-8")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_extension_line_changes_nothing(lab, number):
    line, kept, why = HOSTILE[number]
    domain = f"hostile-{number}.tlsrpt.example"
    lab.publish(domain, extra=[line])
    reported = send(lab, domain)
    own = policy("enforce", [f"mx.{domain}"]).splitlines()
    assert reported["policy-string"] == own + [line] * kept, why
    assert reported["mx-host"] == [f"mx.{domain}"], why


@pytest.mark.requirement("ANSWER-8")
def test_all_hostile_lines_together_change_nothing(lab):
    domain = "hostile.tlsrpt.example"
    lab.publish(domain, extra=[line for line, _, _ in HOSTILE])
    reported = send(lab, domain)
    assert reported["policy-string"][4:] == [line for line, kept, _ in HOSTILE if kept]
    lab.impersonate(domain)
    assert_deferred(lab, lab.mta.send(domain))


# RFC 8461 §3.2: a field's value holds none of these.
@pytest.mark.requirement("ANSWER-8")
@pytest.mark.parametrize("character", ["\0", "\t", "\r", "\x1b", "\x7f"])
def test_policy_with_a_control_character_is_none(lab, character):
    domain = f"control-{ord(character)}.tlsrpt.example"
    lab.publish(domain, extra=[f"x: a{character}b"])
    assert lab.mta.query(domain, SOCKETMAP) == (1, "", "")


HUGE = {
    "long-lines": ({"extra": [f"x{n}: {'a' * 1000}" for n in range(64)]}, 68),
    "many-lines": ({"extra": [f"x{n}: {'a' * 12}" for n in range(3000)]}, 4),  # without extensions
    "some-mx": ({"mx": [f"{n:04x}.{'a' * 13}.bc" for n in range(1600)]}, 3),  # without mx fields
    "many-mx": ({"mx": [f"{n:x}.bc" for n in range(5300)]}, 0),  # the short answer
}


@pytest.mark.requirement("ANSWER-9")
@pytest.mark.parametrize("name", HUGE)
def test_huge_policy_is_enforced(lab, name):
    says, strings = HUGE[name]
    domain = f"huge-{name}.tlsrpt.example"
    mx, extra = [*says.get("mx", []), f"mx.{domain}"], says.get("extra", [])
    text = policy("enforce", mx, extra)
    lab.publish(domain, mx=mx, extra=extra)
    reported = send(lab, domain)
    _, answer, _ = lab.mta.query(domain, SOCKETMAP)
    assert len(text) > 60_000 or len(answer) > 95_000, "near one of the limits, 65536 and 100000"
    assert answer.count("{ policy_string = ") == strings
    assert reported.get("policy-string", []) == text.splitlines()[:strings]
    assert reported.get("mx-host", []) == (mx if strings else [])
    lab.impersonate(domain)
    assert_deferred(lab, lab.mta.send(domain))


@pytest.mark.requirement("ANSWER-9")
@pytest.mark.parametrize("more", ["mx", "extra"])
def test_longest_list_passes_tlsproxy(lab, more):
    """With connection reuse smtp(8) hands all lists on: 1,024 strings of the policy at most."""
    domain = f"{more}.reuse.example"
    says = {"mx": [f"mx.{domain}"], "extra": []}
    says[more] += [f"{n}.bc" if more == "mx" else f"{n}: y" for n in range(1020)]
    lab.publish(domain, **says)
    reported = send(lab, domain)
    assert reported["policy-string"] == policy("enforce", **says).splitlines()
    assert len(reported["policy-string"]) == 1024
    assert reported["mx-host"] == says["mx"]


@pytest.mark.requirement("ANSWER-11")
@pytest.mark.parametrize("mode", ["none", "testing", None])
def test_without_an_enforced_policy_nothing_is_found(lab, mode):
    domain = f"mode-{mode}.tlsrpt.example".lower()
    lab.publish(domain, mode=mode, certificate=Certificates.other_name)
    assert lab.mta.query(domain, SOCKETMAP) == (1, "", "")
    mail = lab.mta.send(domain)
    assert_delivered(lab, mail)
    assert not verified(mail, f"mx.{domain}")
    assert complaints(mail) == []
