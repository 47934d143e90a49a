"""DANE and MTA-STS together: what a real Postfix does with a mail, in zones that are really signed.

BIND serves the zones. Unbound validates them, for Postfix and the daemon alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import signed_zones
from tests.support.missing import unavailable
from tests.support.signed_zones import Zone

from .lab import TCP, Daemon, missing_programs, policy
from .mta import Mta
from .namespace import Log, Namespace, NotPermitted, Process, wait_until
from .servers import Certificates, PolicyHosts, Receivers

SOCKETMAP = "socketmap:inet:127.0.0.1:8461:dane"
MAIN = f"smtp_dns_support_level = dnssec\nsmtp_tls_policy_maps = {SOCKETMAP}\n"
NO_TRUST = "4.7.5 (Server certificate not"
# Nobody listens there.
DOWN = "127.2.0.1"


def digest(file):
    """Return the data of a TLSA record 3 1 1 for the certificate in a PEM file."""
    (pem,) = re.findall(
        "-----BEGIN CERTIFICATE.*?END CERTIFICATE-----", file.read_text(), re.DOTALL
    )[:1]
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(data).hexdigest()


class SignedLab:
    """A Postfix and a daemon that ask a validating resolver.

    Domains are below `dane.example`, which is signed, `bogus.example`, which was changed after it
    was signed, and `unsigned.example`. Each has a policy that names the host `mx` in it.
    """

    def __init__(self, stack):
        self.namespace = stack.enter_context(Namespace("dane"))
        directory = self.namespace.directory
        self._certificates = Certificates(directory)
        self._policy_hosts = stack.enter_context(PolicyHosts(self.namespace))
        self._receivers = stack.enter_context(Receivers(self.namespace))
        self._zones = directory / "zones"
        self._zones.mkdir()
        self.records = {
            # Self-signed, so that nothing but DANE verifies it.
            "dane": self._host("match", Certificates.self_signed)
            + self._host("mismatch", Certificates.right, tlsa="00" * 32)
            + self._host("changing", Certificates.right, tlsa="00" * 32)
            + self._host("bare", Certificates.self_signed, has_policy=False)
            # A backup that is verified by DANE and down, beside a host that is up.
            + self._host("backup", Certificates.right, tlsa="")
            + f"dead.backup A {DOWN}\nbackup MX 20 dead.backup\n"
            + f"_25._tcp.dead.backup TLSA 3 1 1 {'00' * 32}\n"
            + self._host("evil", Certificates.self_signed),
            # The A record of the MX host was changed, the policy's records were not.
            "bogus": self._policy("bogus.example", "@") + "@ MX 10 mx66\nmx A 192.0.2.66\n",
            # Somebody has forged the MX record.
            "unsigned": self._policy("unsigned.example", "@") + "@ MX 10 mx.evil.dane.example.\n",
        }
        self._servers = []
        stack.callback(self._stop_servers)
        self.serve()
        authority = self._certificates.authority
        self.mta = stack.enter_context(Mta(self.namespace, authority, MAIN))
        self.daemon = Daemon(self.namespace, "daemon", TCP, authority)
        stack.callback(self.daemon.stop)

    def serve(self):
        """Sign the zones as they are now, and serve them."""
        self._stop_servers()
        zones = {
            "dane.example": Zone(self.records["dane"]),
            "bogus.example": Zone(self.records["bogus"], "bogus"),
            "unsigned.example": Zone(self.records["unsigned"], "no"),
        }
        commands = signed_zones.commands(self._zones, zones, 5353, 53)
        for (name, command), said in zip(
            commands.items(), ("running", "start of service"), strict=True
        ):
            server = Process(self.namespace, name, *command)
            self._servers.append(server)
            server.ready(said)

    def arrived(self, mail):
        return self._receivers.mail_for(mail.recipient)

    def logs(self):
        names = ("daemon", "named", "unbound", "receiver")
        files = {name: Log(self.namespace.directory / f"{name}.log") for name in names}
        return files | {"maillog": self.mta.log}

    def _stop_servers(self):
        while self._servers:
            self._servers.pop().stop()

    def _host(self, name, certificate, *, tlsa=None, has_policy=True):
        """Return the records of a domain, its mail server and its policy.

        `tlsa`: the data of its TLSA record, None for what matches, "" for no such record.
        """
        host = f"mx.{name}.dane.example"
        file = certificate(self._certificates, host)
        address = self._receivers.listen(file)
        if tlsa is None:
            tlsa = digest(file)
        lines = f"{name} MX 10 mx.{name}\nmx.{name} A {address}\n"
        if tlsa:
            lines += f"_25._tcp.mx.{name} 5 TLSA 3 1 1 {tlsa}\n"
        return lines + (self._policy(f"{name}.dane.example", name) if has_policy else "")

    def _policy(self, domain, name):
        self._certificates.right(f"mta-sts.{domain}")
        self._policy_hosts.serve(domain, policy("enforce", [f"mx.{domain}"]))
        below = "" if name == "@" else f".{name}"
        return f'_mta-sts{below} TXT "v=STSv1; id=1"\nmta-sts{below} A {PolicyHosts.address}\n'


@pytest.fixture(scope="module")
def running_lab():
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace and starts Postfix in it")
    if missing := [*missing_programs(), *signed_zones.missing_programs()]:
        unavailable(f"not installed: {', '.join(missing)}")
    try:
        with contextlib.ExitStack() as stack:
            yield SignedLab(stack)
    except NotPermitted as error:
        unavailable(f"no network namespace: {error}")


@pytest.fixture
def lab(running_lab, request):
    logs = running_lab.logs()
    marks = request.node.log_marks = {name: log.mark() for name, log in logs.items()}
    yield running_lab
    running_lab.mta.empty()
    assert "Traceback" not in logs["daemon"].since(marks["daemon"])


def told(lab, domain):
    """Return what the daemon tells Postfix."""
    (line,) = lab.mta.ask(domain, socketmap=SOCKETMAP)
    return line.partition("\t")[2]


def assert_deferred(lab, mail, why=NO_TRUST):
    assert mail.status == "deferred", mail
    assert mail.why.startswith(why), mail
    assert lab.arrived(mail) == []


@pytest.mark.requirement("DANE-19")
def test_a_certificate_that_matches_is_delivered(lab):
    assert told(lab, "match.dane.example") == "dane-only"
    mail = lab.mta.send("match.dane.example")
    assert mail.status == "sent", mail
    assert len(lab.arrived(mail)) == 1
    assert "Verified TLS connection established to mx.match.dane.example[" in mail.log


@pytest.mark.requirement("APPLY-1", "DANE-19")
def test_one_that_does_not_match_waits_though_policy_and_certificate_are_fine(lab):
    assert told(lab, "mismatch.dane.example") == "dane-only"
    assert_deferred(lab, lab.mta.send("mismatch.dane.example"))


@pytest.mark.requirement("DANE-20")
def test_where_dns_is_forged_mail_waits(lab):
    _, _, said = lab.mta.query("bogus.example", SOCKETMAP)
    assert "temporary error" in said
    # Postfix does not find the host either.
    assert_deferred(lab, lab.mta.send("bogus.example"), "4.4.3 (Host or domain name not found")


@pytest.mark.requirement("DANE-1")
def test_a_forged_mx_record_wins_nothing(lab):
    """It names a host with TLSA records of its own, which match."""
    assert told(lab, "unsigned.example").startswith("secure match=mx.unsigned.example")
    assert_deferred(lab, lab.mta.send("unsigned.example"))
    assert told(lab, "evil.dane.example") == "dane-only"


def test_where_only_a_dead_host_has_tlsa_records_mail_waits(lab):
    assert told(lab, "backup.dane.example") == "dane-only"
    mail = lab.mta.send("backup.dane.example")
    assert mail.status == "deferred", mail
    assert lab.arrived(mail) == []
    wait_until(
        lambda: "mx.backup.dane.example has no TLSA records" in lab.daemon.output, "the warning"
    )


def test_without_a_policy_dane_is_postfix_own_business(lab):
    assert lab.mta.ask("bare.dane.example", socketmap=SOCKETMAP) == []
    mail = lab.mta.send("bare.dane.example")
    assert mail.status == "sent", mail


@pytest.mark.requirement("DANE-18")
def test_the_policy_holds_once_the_records_are_gone(lab):
    assert told(lab, "changing.dane.example") == "dane-only"
    mail = lab.mta.send("changing.dane.example")
    assert_deferred(lab, mail)
    lab.records["dane"] = re.sub("_25._tcp.mx.changing .*\n", "", lab.records["dane"])
    lab.serve()
    wait_until(
        lambda: told(lab, "changing.dane.example").startswith("secure match="),
        "the policy to hold",
    )
    (again,) = lab.mta.flush(mail)
    assert again.status == "sent", again
    assert "Verified TLS connection established to mx.changing.dane.example[" in again.log
