"""Exempt domains and zones that observe: a real Postfix delivers what a policy would hold up."""

import os

from .servers import Certificates


def delivered(lab, domain):
    """Send a mail past a certificate that no policy allows; return whether it arrived."""
    mail = lab.mta.send(domain)
    return mail.status == "sent" and len(lab.arrived(mail)) == 1


def test_a_domain_that_is_exempt_while_the_daemon_runs(lab, tmp_path):
    file = lab.directory / "exempt"
    file.write_text("")
    lab.publish("partner.unix.example", certificate=Certificates.other_name)
    daemon = lab.quick_daemon("", zone=f"  exempt_file: {file}\n")
    try:
        assert daemon.ask("partner.unix.example")[0].startswith("OK secure ")
        assert not delivered(lab, "partner.unix.example")
        # As editors do it: another file takes its place.
        other = tmp_path / "exempt"
        other.write_text("# ticket 7\npartner.unix.example\n")
        os.chmod(other, 0o644)
        file.write_text(other.read_text())
        daemon.ready("read again")
        assert daemon.ask("partner.unix.example") == ["NOTFOUND "]
        assert delivered(lab, "partner.unix.example")
        daemon.ready("partner.unix.example: exempt by partner.unix.example, so its mail is not")
    finally:
        daemon.stop()


def test_a_zone_that_observes(lab):
    lab.publish("seen.unix.example", certificate=Certificates.other_name)
    daemon = lab.quick_daemon("", zone="  observe: true\n")
    try:
        assert delivered(lab, "seen.unix.example")
        daemon.ready("seen.unix.example: zone default_zone observes, would be: OK secure match=")
    finally:
        daemon.stop()
