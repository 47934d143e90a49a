"""--doctor against a real postconf(1), and beside a real Postfix and the daemon that it asks."""

import shutil
import sys

import pytest

from stsresolver.config.keys import Config, Zone
from stsresolver.doctor import examination
from stsresolver.doctor.finding import Level
from stsresolver.doctor.postconf import PostconfError, read
from tests.support.authority import Authority
from tests.support.missing import unavailable

from .mta import SOCKETMAP
from .namespace import ENVIRONMENT, wait_until

# As Debian installs it: smtp(8) and relay run chrooted, and the certificates are copied there.
MASTER = """\
smtp       inet  n - y - - smtpd
smtp       unix  - - y - - smtp
relay      unix  - - y - - smtp
  -o syslog_name=postfix/$service_name
plain      unix  - - n - - smtp
  -o smtp_tls_policy_maps=
  -o { smtp_tls_security_level = none }
lmtp       unix  - - y - - lmtp
"""
MAIN = f"""\
compatibility_level = 3.6
smtp_tls_security_level = may
smtp_tls_CAfile = {{bundle}}
table = {SOCKETMAP}
smtp_tls_policy_maps =
    $table
"""


@pytest.fixture
def configure(tmp_path):
    """Return what makes a configuration directory of Postfix; later lines of main.cf win."""
    if shutil.which("postconf", path=ENVIRONMENT["PATH"]) is None:
        unavailable("not installed: postfix")
    bundle = Authority(tmp_path).bundle

    def configure(main="", master=MASTER):
        (tmp_path / "main.cf").write_text(MAIN.format(bundle=bundle) + main)
        (tmp_path / "master.cf").write_text(master)
        (tmp_path / "own.pem").write_bytes(bundle.read_bytes())
        return str(tmp_path)

    return configure


def found(directory, config):
    """Return (level, text) of what is found, by the name of the check."""
    said = {}
    for name, finding in examination.findings(examination.of_postfix(read(directory), config)):
        said.setdefault(name.removeprefix("Postfix, "), []).append((finding.level, finding.text))
    return said


def test_names_are_expanded_and_overrides_seen(configure):
    second = "second unix - - n - - smtp\n  -o smtp_tls_policy_maps=$table\n"
    postfix = read(configure(master=MASTER + second))
    assert [client.name for client in postfix.clients] == ["smtp", "relay", "plain", "second"]
    assert [client.chroot for client in postfix.clients] == [True, True, False, False]
    smtp, _, plain, second = postfix.clients
    tables = [one["smtp_tls_policy_maps"] for one in (smtp, plain, second)]
    assert tables == [SOCKETMAP, "", SOCKETMAP]
    assert (smtp["smtp_tls_security_level"], plain["smtp_tls_security_level"]) == ("may", "none")
    assert smtp["queue_directory"].startswith("/")
    assert postfix.version >= (3, 0, 0)


def test_who_asks_and_who_does_not(configure):
    (ours, others) = found(configure(), Config())["policy maps"]
    text = f"smtp_tls_policy_maps asks the daemon, {SOCKETMAP}"
    assert ours == (Level.OK, f"smtp, relay: {text}")
    assert others[0] is Level.WARNING
    assert others[1].startswith("plain: smtp_tls_policy_maps is empty")


CASES = [
    ("", Config(), "zone", Level.OK, "default_zone", "no zone of that name"),
    ("", Config(zones={"postfix": Zone()}), "zone", Level.OK, "postfix answers", "one"),
    ("", Config(), "TLS level", Level.OK, "= may", "may"),
    ("smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec", Config(), "TLS level",
     Level.WARNING, "overrides DANE", "DANE"),
    ("smtp_tls_security_level = dane-only", Config(), "TLS level", Level.PROBLEM,
     "without DNSSEC", "DANE that never works"),
    ("smtp_tls_CAfile =\nsmtp_tls_CApath =", Config(), "CA certificates", Level.PROBLEM,
     "are empty", "nothing verifies"),
    ("smtp_tls_CAfile =\nsmtp_tls_CApath =\ntls_append_default_CA = yes", Config(),
     "CA certificates", Level.OK, "of the system", "Postfix's other way"),
    ("smtp_tls_CAfile =\nsmtp_tls_CApath = /etc/ssl/certs\nqueue_directory = /nowhere", Config(),
     "CA certificates", Level.PROBLEM, "/nowhere/etc/ssl/certs", "not in the chroot"),
    ("smtpd_tls_CAfile = $config_directory/own.pem\nsmtp_tls_CAfile = $smtpd_tls_CAfile", Config(),
     "CA certificates", Level.WARNING, "the server's own (smtpd_tls_CAfile)", "a file of its own"),
    ("mail_version = 3.3.0", Config(), "version", Level.PROBLEM, "servername", "no SNI yet"),
    ("mail_version = 3.10.5", Config(), "version", Level.WARNING, "3.10.5", "tlsrpt narrows"),
    ("mail_version = 3.9.0", Config(default_zone=Zone(tlsrpt=True)), "version", Level.PROBLEM,
     "tlsrpt", "refuses the answers"),
    ("smtp_tls_policy_maps = $table, hash:/etc/postfix/tls_policy", Config(), "policy maps",
     Level.WARNING, "comes after the daemon", "a static table that is never asked"),
    ("smtp_tls_policy_maps = hash:/etc/postfix/tls_policy", Config(), "policy maps",
     Level.PROBLEM, "not asked", "only a static table"),
    ("smtp_tls_policy_maps = socketmap:unix:/run/sts/socket:postfix",
     Config(path="/run/sts/socket"), "chroot", Level.PROBLEM, "/var/spool/postfix/run/sts/socket",
     "out of the chroot's reach"),
    ("smtp_tls_policy_maps = socketmap:unix:sts/socket:postfix",
     Config(path="/var/spool/postfix/sts/socket"), "chroot", Level.OK, "chrooted", "inside"),
    ("smtp_tls_policy_maps = socketmap:unix:sts/socket:postfix",
     Config(path="/var/spool/postfix/sts/socket"), "access", Level.WARNING, "No such file",
     "not started yet"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("main", "config", "check", "level", "word", "why"), CASES, ids=[case[-1] for case in CASES]
)
def test_main_cf(configure, main, config, check, level, word, why):
    directory = configure(f"queue_directory = /var/spool/postfix\n{main}\n")
    assert any(
        of is level and word in text for of, text in found(directory, config).get(check, [])
    ), why


def test_no_main_cf(tmp_path, configure):
    with pytest.raises(PostconfError, match=r"main\.cf: No such file"):
        read(str(tmp_path / "none"))
    configure()
    (tmp_path / "master.cf").unlink()
    with pytest.raises(PostconfError, match=r"master\.cf: No such file"):
        read(str(tmp_path))


def test_directory_is_known_as_soon_as_it_is_written(configure):
    """Postfix 3.10 takes its built-in one while main.cf is new."""
    directory = configure("smtp_tls_CAfile = $config_directory/ca.pem\n")
    main = read(directory).main
    assert main["config_directory"] == directory
    assert main["smtp_tls_CAfile"] == f"{directory}/ca.pem"


def test_where_postfix_has_it(configure, monkeypatch, capsys):
    monkeypatch.setenv("MAIL_CONFIG", configure())
    examination.examine(Config(path="/none"), "made up", resolv_conf="/none", dns_port=1)
    lines = capsys.readouterr().out.splitlines()
    assert f", configuration in {configure()}" in next(
        line for line in lines if line.startswith("OK       Postfix: release")
    )


def test_beside_the_daemon_and_its_postfix(lab):
    settings = lab.directory / "daemon.yml"
    arguments = ("-c", settings, "--doctor", "--postfix-config", lab.mta.directory)
    with lab.start("doctor", sys.executable, "-m", "stsresolver.daemon", *arguments) as process:
        wait_until(lambda: not process.running, "the doctor to end")
        lines = process.output.splitlines()
    tlsrpt = "OK" if lab.mta.version >= (3, 10) else "problem"
    for want in (
        f"OK       configuration: {settings}",
        "OK       socket: answers on 127.0.0.1 port 8461",
        f"OK       Postfix, policy maps: smtp, relay, sts-test: smtp_tls_policy_maps asks"
        f" the daemon, {SOCKETMAP}",
        f"OK       Postfix, zone: strict: strict answers {SOCKETMAP[:-7]}strict",
        "warning  Postfix, CA certificates: ",
        f"{tlsrpt:<8} Postfix, version: tlsrpt, reuse: Postfix ",
        "warning  Postfix, policy maps: unix: ",
    ):
        assert [line for line in lines if line.startswith(want)], "\n".join(lines)
