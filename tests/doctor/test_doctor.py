"""--doctor: what each check says of a made-up Postfix, and of a host of our own making."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import resource
import socket
import sqlite3
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dns.flags
import dns.message
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stsresolver import daemon
from stsresolver.config.keys import Config, InternalCache, Proxy, SqliteCache, Zone
from stsresolver.config.settings import TcpAddress, UnixAddress
from stsresolver.doctor import examination, file_access, host, policy_maps, postfix_tls
from stsresolver.doctor.finding import Level, fine, problem, warning
from stsresolver.doctor.postconf import Client, PostconfError, Postfix, parse, read, version
from stsresolver.doctor.postfix_tls import FEW
from stsresolver.net.dns_servers import DnsServer
from stsresolver.net.nameservers import NameServers
from stsresolver.stores.opening import open_store
from tests.support.authority import Authority
from tests.support.giving_up_root import gives_up_root
from tests.support.hostile_dns import NameServer, code, silence
from tests.support.hostile_https import has_ipv6_loopback
from tests.support.missing import unavailable
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer, eventually
from tests.support.server_caches import postgres_cache, redis_cache

OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM
OURS = "socketmap:inet:127.0.0.1:8461:postfix"
QUEUE = "/var/spool/postfix"


def client(*, chroot=False, name="smtp", queue_directory=QUEUE, **settings):
    return Client(name, {"queue_directory": queue_directory, **settings}, chroot)


def asking(*tables, **more):
    return client(smtp_tls_policy_maps=", ".join(tables), **more)


def levels(found):
    return [finding.level for _, finding in found]


def the_one(found):
    ((_, finding),) = found
    assert bool(finding.remedy) == (finding.level is not OK), "a remedy, unless all is well"
    return finding


# What postconf prints.

MAIN = """\
mail_version = 3.7.11
compatibility_level = 3.6
queue_directory = /var/spool/postfix
smtp_tls_policy_maps = hash:/etc/postfix/tls_policy, socketmap:inet:127.0.0.1:8461:postfix
smtp_tls_CAfile =
"""
SERVICES = """\
smtp       inet  n       -       y       -       -       smtpd
smtp       unix  -       -       y       -       -       smtp
relay      unix  -       -       -       -       -       smtp -o syslog_name=postfix/$service_name
lmtp       unix  -       -       y       -       -       lmtp
maildrop   unix  -       n       n       -       -       pipe flags=R argv=/bin/true smtp
"""
OVERRIDES = """\
relay/unix/syslog_name = postfix/relay
relay/unix/smtp_tls_policy_maps =
smtp/inet/smtp_tls_CAfile = /wrong
"""


def test_postconf():
    postfix = parse(MAIN, SERVICES, OVERRIDES)
    assert postfix.version == (3, 7, 11)
    smtp, relay = postfix.clients
    assert (smtp.name, smtp.chroot, smtp["smtp_tls_CAfile"]) == ("smtp", True, "")
    assert smtp["smtp_tls_policy_maps"].endswith(":postfix")
    assert (relay.name, relay.chroot, relay["smtp_tls_policy_maps"]) == ("relay", False, "")
    assert smtp["smtp_tlsrpt_enable"] == "", "a setting that this Postfix does not know"


VERSIONS = [
    ("3.10.5", (3, 10, 5), "a release"),
    ("3.11-20250101", (3, 11, 0), "a snapshot"),
    ("3.10.0-RC1", (3, 10, 0), "a candidate"),
    ("", None, "nothing"),
    ("experimental", None, "no number"),
]


@pytest.mark.parametrize(("text", "want", "why"), VERSIONS, ids=[case[2] for case in VERSIONS])
def test_version(text, want, why):
    assert version(text) == want, why


CHROOTS = [
    ("y", "3.7.11", "3.6", True, "written"),
    ("n", "2.11.0", "", False, "written"),
    ("-", "3.7.11", "3.6", False, "the default of today"),
    ("-", "3.7.11", "0", True, "the old default, kept by the compatibility level"),
    ("-", "2.11.0", "", True, "the old default"),
]


@pytest.mark.parametrize(
    ("column", "release", "level", "want", "why"), CHROOTS, ids=range(len(CHROOTS))
)
def test_chroot_column(column, release, level, want, why):
    main = f"mail_version = {release}\ncompatibility_level = {level}\n"
    (found,) = parse(main, f"smtp unix - - {column} - - smtp", "").clients
    assert found.chroot is want, why


# smtp_tls_policy_maps


TABLES = [
    ("", [], "nothing"),
    ("a:b", ["a:b"], "one"),
    ("a:b, c:d\te:f,,g:h", ["a:b", "c:d", "e:f", "g:h"], "commas and white space"),
    ("inline:{ {a = b}, c=d }, e:f", ["inline:{ {a = b}, c=d }", "e:f"], "braces"),
]


@pytest.mark.parametrize(("text", "want", "why"), TABLES, ids=[case[2] for case in TABLES])
def test_tables(text, want, why):
    assert policy_maps.tables(text) == want, why


UNIX = Config(path=f"{QUEUE}/mta-sts/socket", mode=0o666)
SEVERAL = Config(
    listen=(
        UnixAddress("/run/s"),
        TcpAddress("127.0.0.1", 8461),
        UnixAddress(f"{QUEUE}/mta-sts/socket", 0o666),
    )
)
ASKED = [
    (OURS, Config(), True, "as in the README"),
    ("socketmap:inet:localhost:8461:x", Config(), True, "by name"),
    ("socketmap:inet:[::1]:8461:x", Config(host="::1"), True, "IPv6"),
    ("socketmap:inet:192.0.2.1:8461:x", Config(host="0.0.0.0"), True, "we listen everywhere"),
    ("proxy:" + OURS, Config(), True, "through proxymap(8)"),
    ("socketmap:inet:127.0.0.1:smtp:x", Config(port=25), True, "a port by name"),
    ("socketmap:inet:127.0.0.1:8462:x", Config(), False, "another port"),
    ("socketmap:inet:192.0.2.1:8461:x", Config(), False, "another host"),
    ("socketmap:inet:127.0.0.1:nonsense:x", Config(), False, "no port at all"),
    ("socketmap:inet:127.0.0.1", Config(), False, "no zone"),
    ("tcp:127.0.0.1:8461", Config(), False, "another type of table"),
    ("socketmap:unix:/a:x", Config(), False, "a UNIX socket, and we listen on TCP"),
    (OURS, UNIX, False, "TCP, and we listen on a UNIX socket"),
    (f"socketmap:unix:{QUEUE}/mta-sts/socket:x", UNIX, True, "a UNIX socket"),
    ("socketmap:unix:mta-sts/socket:x", UNIX, True, "below the queue directory"),
    ("socketmap:unix:/run/other:x", UNIX, False, "another one"),
    (OURS, SEVERAL, True, "the second of several"),
    ("socketmap:unix:mta-sts/socket:x", SEVERAL, True, "the third"),
    ("socketmap:inet:127.0.0.1:8463:x", SEVERAL, False, "none of them"),
]


@pytest.mark.parametrize(("table", "config", "want", "why"), ASKED, ids=[c[3] for c in ASKED])
def test_is_it_us_who_is_asked(table, config, want, why):
    found = the_one(policy_maps.policy_maps((asking(table),), config))
    assert (found.level is OK) is want, why
    if not want:
        assert found.level is PROBLEM
        assert "socketmap:" in found.remedy


def test_a_transport_that_does_not_ask_is_a_warning_if_another_does():
    clients = (asking(OURS), client(name="relay"))
    assert levels(policy_maps.policy_maps(clients, Config())) == [OK, WARNING]


def test_static_tables_come_first():
    static = "hash:/etc/postfix/tls_policy"
    assert levels(policy_maps.policy_maps((asking(static, OURS),), Config())) == [OK]
    assert levels(policy_maps.policy_maps((asking(OURS, static),), Config())) == [OK, WARNING]


SUGGESTIONS = [
    (Config(), OURS, "the built-in address"),
    (Config(host="::", port=1), "socketmap:inet:[::1]:1:postfix", "everywhere"),
    (UNIX, "socketmap:unix:mta-sts/socket:postfix", "works with and without chroot"),
    (Config(path="/run/s"), "socketmap:unix:/run/s:postfix", "outside the queue directory"),
    (SEVERAL, "socketmap:unix:/run/s:postfix", "the first of several"),
    (Config(zones={"z": Zone()}), OURS, "no zone that is meant for another client"),
]


@pytest.mark.parametrize(("config", "want", "why"), SUGGESTIONS, ids=[c[2] for c in SUGGESTIONS])
def test_suggestion_is_what_we_take_for_ours(config, want, why):
    assert policy_maps.suggestion(config, (client(),)) == want, why
    assert policy_maps.asked(asking(want), config)


ZONES = [
    ("postfix", {}, OK, "default_zone", "no zones"),
    ("postfix", {"strict": Zone()}, OK, "default_zone", "another one"),
    ("strict", {"strict": Zone()}, OK, "strict answers", "that one"),
    ("strikt", {"strict": Zone()}, WARNING, "did you mean strict", "misspelt"),
]


@pytest.mark.parametrize(
    ("name", "zones", "level", "word", "why"), ZONES, ids=[z[4] for z in ZONES]
)
def test_zone(name, zones, level, word, why):
    table = f"socketmap:inet:127.0.0.1:8461:{name}"
    found = the_one(policy_maps.zones((asking(table),), Config(zones=zones)))
    assert (found.level, word in found.text) == (level, True), why


INSIDE = "socketmap:unix:mta-sts/socket:postfix"
SOCKETS = [
    (INSIDE, UNIX.path, True, OK, "relative, chrooted"),
    (INSIDE, UNIX.path, False, OK, "relative, not chrooted"),
    (f"socketmap:unix:{UNIX.path}:z", UNIX.path, False, OK, "absolute, not chrooted"),
    (f"socketmap:unix:{UNIX.path}:z", UNIX.path, True, PROBLEM, "absolute, and chrooted"),
    ("socketmap:unix:/mta-sts/socket:z", UNIX.path, True, OK, "absolute from the chroot"),
    ("socketmap:unix:/run/s:z", "/run/s", True, PROBLEM, "out of the chroot's reach"),
    ("proxy:socketmap:unix:/run/s:z", "/run/s", True, OK, "proxymap(8) is not chrooted"),
]


@pytest.mark.parametrize(
    ("table", "path", "chroot", "level", "why"), SOCKETS, ids=[case[4] for case in SOCKETS]
)
def test_chroot(table, path, chroot, level, why):
    one = asking(table, chroot=chroot)
    found = the_one(policy_maps.chroot((one,), Config(path=path)))
    assert found.level is level, why
    if level is PROBLEM:
        (remedy,) = re.findall(r"socketmap:\S+", found.remedy)
        moved = re.search(r"path: (\S+)", found.remedy)
        config = Config(path=moved[1] if moved else path)
        assert the_one(policy_maps.chroot((asking(remedy, chroot=True),), config)).level is OK


def test_chroot_with_several_sockets():
    fitting = asking("socketmap:unix:mta-sts/socket:z", chroot=True)
    assert the_one(policy_maps.chroot((fitting,), SEVERAL)).level is OK
    other = the_one(policy_maps.chroot((asking("socketmap:unix:/run/s:z", chroot=True),), SEVERAL))
    assert other.level is PROBLEM
    assert f"the daemon listens at /run/s, {QUEUE}/mta-sts/socket" in other.text
    assert other.remedy == "set smtp_tls_policy_maps = socketmap:unix:mta-sts/socket:z"


def test_chroot_is_nothing_to_tcp():
    assert not list(policy_maps.chroot((asking(OURS, chroot=True),), Config()))


# TLS


LEVELS = [
    ({"smtp_tls_security_level": "may"}, OK, "", "as in the README"),
    ({"smtp_tls_security_level": "encrypt"}, OK, "", "stricter"),
    ({}, WARNING, "security_level = may", "none"),
    ({"smtp_use_tls": "yes"}, OK, "", "an older name"),
    ({"smtp_use_tls": "yes", "smtp_tls_security_level": "none"}, WARNING, "= may", "it is no more"),
    ({"smtp_tls_security_level": "dane", "smtp_dns_support_level": "dnssec"}, WARNING,
     "dane: true", "an answer overrides it"),
    ({"smtp_tls_security_level": "dane-only", "smtp_dns_support_level": "dnssec"}, WARNING,
     "dane: true", "an answer overrides it, too"),
    ({"smtp_tls_security_level": "dane"}, WARNING, "dnssec", "works as may"),
    ({"smtp_tls_security_level": "dane-only"}, PROBLEM, "dnssec", "all mail waits"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "level", "remedy", "why"), LEVELS, ids=[c[3] for c in LEVELS])
def test_level(settings, level, remedy, why):
    found = the_one(postfix_tls.level((asking(OURS, **settings),), Config()))
    assert found.level is level, why
    assert remedy in found.remedy


WITH_DANE = Config(zones={"dane": Zone(dane=True)})
DNSSEC = {"smtp_dns_support_level": "dnssec"}
FOR_DANE = {**DNSSEC, "smtp_host_lookup": "dns"}
TABLE = "socketmap:inet:127.0.0.1:8461:dane"
DANES = [
    (DNSSEC | {"smtp_host_lookup": "native"}, "smtp_host_lookup = dns", "no DNS"),
    ({"smtp_dns_support_level": "enabled", "smtp_host_lookup": "dns"},
     "smtp_dns_support_level = dnssec", "dane-only is not understood"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "remedy", "why"), DANES, ids=[c[2] for c in DANES])
def test_dane(settings, remedy, why):
    found = the_one(postfix_tls.dane((asking(TABLE, **settings),), WITH_DANE))
    assert found.level is PROBLEM, why
    assert remedy in found.remedy
    # Another zone does without.
    assert not list(postfix_tls.dane((asking(OURS, **settings),), WITH_DANE))


def test_a_level_of_dane_beside_a_zone_with_dane():
    one = asking("socketmap:inet:127.0.0.1:8461:dane", smtp_tls_security_level="dane", **DNSSEC)
    assert the_one(postfix_tls.level((one,), WITH_DANE)).level is OK


RELEASES = [
    ("3.3.0", Zone(), PROBLEM, "require_sni: false", "does not know servername"),
    ("3.3.0", Zone(require_sni=False), OK, "", "is spared it"),
    ("3.4.0", Zone(), OK, "", "knows it"),
    ("3.4.0", Zone(require_sni=False), WARNING, "require_sni: true", "could have it"),
    ("3.9.1", Zone(), OK, "", "no TLSRPT yet"),
    ("3.9.1", Zone(tlsrpt=True), PROBLEM, "tlsrpt: false", "does not know the attributes"),
    ("3.3.0", Zone(tlsrpt=True), PROBLEM, "tlsrpt: false", "knows neither: the worse comes first"),
    ("3.10.0", Zone(tlsrpt=True), OK, "", "knows them"),
    ("3.10.4", Zone(), OK, "", "gains nothing"),
    ("3.10.5", Zone(), WARNING, "tlsrpt: true", "narrows what it matches"),
    ("3.11.0", Zone(), WARNING, "tlsrpt: true", "so do later ones"),
    ("3.10.5", Zone(tlsrpt=True), OK, "", "as it should be"),
    ("odd", Zone(), WARNING, "compare", "no release at all"),
]


@pytest.mark.parametrize(
    ("text", "zone", "level", "remedy", "why"),
    RELEASES,
    ids=[f"{case[0]}: {case[4]}" for case in RELEASES],
)
def test_release(text, zone, level, remedy, why):
    config = Config(zones={"postfix": zone})
    found = the_one(postfix_tls.release((asking(OURS),), config, version(text), text))
    assert found.level is level, why
    assert remedy in found.remedy


def test_reports_without_our_attributes():
    one = asking(OURS, smtp_tlsrpt_enable="yes")
    found = the_one(postfix_tls.release((one,), Config(), (3, 10, 1), "3.10.1"))
    assert (found.level, "reports" in found.text) == (WARNING, True)


def test_the_zone_that_answers_is_the_one_that_counts():
    config = Config(default_zone=Zone(tlsrpt=True), zones={"postfix": Zone()})
    assert levels(postfix_tls.release((asking(OURS),), config, (3, 7, 0), "3.7.0")) == [OK]
    other = asking("socketmap:inet:127.0.0.1:8461:other")
    assert levels(postfix_tls.release((other,), config, (3, 7, 0), "3.7.0")) == [PROBLEM]


@pytest.fixture
def bundle(tmp_path):
    return str(Authority(tmp_path).bundle)


def hashed(directory, count=1):
    directory.mkdir(parents=True)
    for number in range(count):
        (directory / f"0a1b2c3d.{number}").write_text("")
    return str(directory)


def several(directory, count):
    """Return a file with so many CA certificates."""
    file = directory / f"{count}.pem"
    file.write_bytes(b"".join(Authority(directory).bundle.read_bytes() for _ in range(count)))
    return str(file)


def of_a_server(directory):
    """Return a file with the certificate of a server, which cannot sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "server.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return str(file)


def test_certificates_of_postfix(tmp_path):
    enough, few = several(tmp_path, FEW), several(tmp_path, FEW - 1)
    server = of_a_server(tmp_path)
    full = hashed(tmp_path / "certs", FEW)
    some = hashed(tmp_path / "some", FEW - 1)
    hashed(tmp_path / "queue" / "inside", FEW)
    (tmp_path / "empty").mkdir()
    table = [
        ({"smtp_tls_CAfile": enough}, False, OK, f"{FEW} in it", "enough"),
        ({"smtp_tls_CAfile": enough, "smtp_tls_CApath": "/none"}, False, OK, "", "one will do"),
        ({"smtp_tls_CAfile": enough}, True, OK, "", "it is read before the chroot"),
        ({"smtp_tls_CAfile": few}, False, WARNING, f"only {FEW - 1} in it", "a handful"),
        ({"smtp_tls_CAfile": server}, False, PROBLEM, "no CA", "it cannot sign"),
        (
            {"smtp_tls_CAfile": server, "smtpd_tls_cert_file": server},
            *(False, PROBLEM, "the server's own (smtpd_tls_cert_file)", "the server's own"),
        ),
        (
            {"smtp_tls_CAfile": few, "smtpd_tls_CAfile": few},
            *(False, WARNING, "the server's own (smtpd_tls_CAfile)", "$smtpd_tls_CAfile"),
        ),
        (
            {"smtp_tls_CAfile": few, "smtpd_tls_chain_files": f"/key, {few}"},
            *(False, WARNING, "the server's own (smtpd_tls_chain_files)", "one of several"),
        ),
        ({"smtp_tls_CAfile": enough, "smtpd_tls_CAfile": enough}, False, OK, "", "a whole list"),
        ({"smtp_tls_CAfile": few, "smtp_tls_CApath": full}, False, OK, "", "both together"),
        ({"smtp_tls_CAfile": server, "tls_append_default_CA": "yes"}, False, OK, "system", "both"),
        ({"smtp_tls_CAfile": "/none"}, False, PROBLEM, "cannot be read", "there is none"),
        ({"smtp_tls_CAfile": __file__}, False, PROBLEM, "", "no certificate in it"),
        ({"smtp_tls_CApath": full}, False, OK, f"{FEW} in it", "a directory"),
        ({"smtp_tls_CApath": some}, False, WARNING, f"only {FEW - 1}", "a directory with few"),
        ({"smtp_tls_CApath": full}, True, PROBLEM, "chrooted", "which is not in the chroot"),
        ({"smtp_tls_CApath": "/inside"}, True, OK, "", "which is in the chroot"),
        ({"smtp_tls_CApath": str(tmp_path / "empty")}, False, PROBLEM, "", "an empty directory"),
        ({"tls_append_default_CA": "yes"}, False, OK, "of the system", "those of the system"),
        ({"tls_append_default_CA": "no"}, False, PROBLEM, "are empty", "nothing"),
    ]
    queue = str(tmp_path / "queue")
    for settings, chroot, level, text, why in table:
        one = client(chroot=chroot, queue_directory=queue, **settings)
        found = the_one(postfix_tls.authorities((one,)))
        assert (found.level, text in found.text) == (level, True), (why, found)


# Who may


def status(mode, uid=0, gid=0):
    return SimpleNamespace(st_mode=mode, st_uid=uid, st_gid=gid)


ALLOWS = [
    (status(0o600, 1), True, "the owner"),
    (status(0o066, 1), False, "the owner, whom the others' bits do not help"),
    (status(0o660, 0, 7), True, "the group"),
    (status(0o606, 0, 7), False, "the group, whom the others' bits do not help"),
    (status(0o666), True, "everybody"),
    (status(0o664), False, "everybody may read"),
]


@pytest.mark.parametrize(("of", "want", "why"), ALLOWS, ids=[case[2] for case in ALLOWS])
def test_allows(of, want, why):
    somebody = file_access.Person("somebody", 1, frozenset({7}))
    assert file_access.allows(of, somebody, file_access.WRITE) is want, why
    assert file_access.allows(of, file_access.Person("root", 0, frozenset()), file_access.WRITE)


SOMEBODY = file_access.Person("somebody", 12345, frozenset({12345}))


@pytest.fixture
def way():
    """A socket in a directory that everybody may enter; those of pytest are for one user."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as parent,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        directory = Path(parent, "run")
        directory.mkdir()
        listener.bind(str(directory / "s"))
        for path, mode in ((Path(parent), 0o755), (directory, 0o755), (directory / "s", 0o666)):
            path.chmod(mode)
        yield directory


def test_socket_access(way):
    queue = str(way.parent)
    path = str(way / "s")

    def found(table="socketmap:unix:run/s:z"):
        one = asking(table, chroot=True, queue_directory=queue)
        return the_one(policy_maps.socket_access((one,), Config(path=path), SOMEBODY))

    assert found().level is OK
    (way / "s").chmod(0o660)
    assert found().level is PROBLEM
    assert f"{path}, mode 0660 of " in found().text
    (way / "s").chmod(0o666)
    way.chmod(0o750)
    assert f"{way}, mode 0750 of " in found().text
    way.chmod(0o755)
    (way / "s").unlink()
    assert found().level is WARNING


def test_smtp_begins_its_way_in_the_queue_directory(way):
    way.parent.chmod(0o700)
    config = Config(path=str(way / "s"))
    for table, level, why in (
        ("socketmap:unix:s:z", OK, "a relative path"),
        (f"socketmap:unix:{way}/s:z", PROBLEM, "an absolute one leads through all above"),
    ):
        one = asking(table, queue_directory=str(way))
        assert the_one(policy_maps.socket_access((one,), config, SOMEBODY)).level is level, why


# The host


def root_soa(flags=0):
    def behave(query):
        response = query.response()
        response.answer = [
            dns.rrset.from_text(".", 60, "IN", "SOA", "a.example. b.example. 1 2 3 4 5")
        ]
        response.flags |= flags if query.message.flags & dns.flags.AD else 0
        return [response]

    return behave


@pytest.fixture
def resolv_conf(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    return str(file)


SERVERS = [
    (root_soa(), OK, "not validate", "answers"),
    (root_soa(dns.flags.AD), OK, "validates", "validates"),
    (code("NXDOMAIN"), WARNING, "not validate", "does not know the root"),
    (code("SERVFAIL"), PROBLEM, "not found out", "fails"),
    (silence, PROBLEM, "not found out", "says nothing"),
]


@pytest.mark.parametrize(("behaviour", "level", "ad", "why"), SERVERS, ids=[s[3] for s in SERVERS])
def test_name_servers(behaviour, level, ad, why, resolv_conf):
    with NameServer(otherwise=behaviour) as server:
        servers = NameServers(resolv_conf, server.port)
        (found,) = host.name_servers(servers, resolv_conf, 0.6)
        (validates,) = host.validation(servers, 0.2)
    assert found.level is level, why
    assert ad in validates.text


@pytest.mark.parametrize(
    ("flags", "trust_ad", "level", "text"),
    [
        (dns.flags.AD, None, OK, "validates, as dane: true needs it"),
        (0, None, PROBLEM, "does not validate"),
        (dns.flags.AD, False, PROBLEM, "no name server is believed"),
    ],
    ids=["validates", "does not validate", "is not believed"],
)
def test_validation_where_a_zone_needs_it(flags, trust_ad, level, text, resolv_conf):
    with NameServer(otherwise=root_soa(flags)) as server:
        servers = NameServers(resolv_conf, server.port, trust_ad=trust_ad)
        (found,) = host.validation(servers, 5.0, is_needed=True)
    assert (found.level, text in found.text) == (level, True)
    assert ("trust_ad" in found.remedy) is (level is PROBLEM)


def test_only_who_is_believed_is_asked_whether_it_validates(tmp_path):
    file = tmp_path / "resolv.conf"
    with NameServer(otherwise=root_soa(dns.flags.AD)) as server:
        # Nobody could answer there.
        file.write_text("nameserver 192.0.2.1\nnameserver 127.0.0.1\n")
        servers = NameServers(str(file), server.port)
        (found,) = host.validation(servers, 5.0, is_needed=True)
    assert found.level is OK, found


# (resolv.conf in the queue directory; what the name servers say; level, text, why)
OF_POSTFIX = [
    ("nameserver 127.0.0.1", root_soa(dns.flags.AD), OK, "validate", "validates"),
    ("nameserver 127.0.0.1", root_soa(), PROBLEM, "does not validate", "does not"),
    ("nameserver 127.0.0.1", code("SERVFAIL"), PROBLEM, "no answer", "fails"),
    ("# none", root_soa(dns.flags.AD), OK, "validate", "the one on this host"),
    (None, root_soa(dns.flags.AD), PROBLEM, "cannot be read", "not copied"),
]


@pytest.mark.parametrize(
    ("text", "says", "level", "expected", "why"), OF_POSTFIX, ids=[c[4] for c in OF_POSTFIX]
)
def test_name_servers_of_postfix(text, says, level, expected, why, tmp_path):
    """A chrooted smtp(8) has a resolv.conf of its own."""
    if text is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/resolv.conf").write_text(f"{text}\n")
    one = asking(TABLE, chroot=True, queue_directory=str(tmp_path), **FOR_DANE)
    with NameServer(otherwise=says) as server:
        found = the_one(postfix_tls.dane((one,), WITH_DANE, server.port))
    assert (found.level, expected in found.text) == (level, True), (found, why)
    assert f"{tmp_path}/etc/resolv.conf" in found.text


def test_a_name_server_elsewhere_that_postfix_believes(monkeypatch):
    with NameServer(otherwise=root_soa(dns.flags.AD)) as server:
        elsewhere = DnsServer("127.0.0.1", server.port, "192.0.2.1", is_believed=False)
        monkeypatch.setattr(
            "stsresolver.net.resolv_conf.read_servers", lambda *_, **__: [elsewhere]
        )
        one = asking(TABLE, **FOR_DANE)
        found = the_one(postfix_tls.dane((one,), WITH_DANE, server.port))
    assert found.level is WARNING
    assert "192.0.2.1 in /etc/resolv.conf is not on this host" in found.text


def test_ca_certificates(monkeypatch, tmp_path, bundle):
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert list(host.ca_certificates()) == [fine(f"1 in {bundle}")]
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    (found,) = host.ca_certificates()
    assert (found.level, "none in /none and" in found.text) == (PROBLEM, True)
    monkeypatch.setenv("SSL_CERT_DIR", hashed(tmp_path / "certs"))
    assert list(host.ca_certificates()) == [fine(f"1 in {tmp_path}/certs")]


def of_cache(cache, who=None):
    (found,) = host.cache(Config(cache=cache), who or file_access.myself())
    return found


def test_cache_in_memory():
    assert of_cache(InternalCache()).level is OK


def test_cache_in_a_file(way):
    file = way / "db"
    cache = SqliteCache(str(file))
    assert of_cache(cache).level is OK
    assert not file.exists(), "nothing is made"
    assert of_cache(cache, SOMEBODY).level is PROBLEM, "the directory"
    way.chmod(0o777)
    assert of_cache(cache, SOMEBODY).level is OK
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE a (b)")
    database.close()
    file.chmod(0o644)
    assert of_cache(cache).level is OK
    found = of_cache(cache, SOMEBODY)
    assert (found.level, f"{file}, mode 0644" in found.text) == (PROBLEM, True)
    file.write_text("no database")
    assert "is no sqlite database" in of_cache(cache).text
    assert of_cache(SqliteCache("/none/db")) == problem(
        "there is no directory /none", f"make it, for {file_access.myself().name} to write to"
    )


def test_cache_in_postgresql(tmp_path):
    server = PostgresServer(tmp_path / "postgres")
    cache = postgres_cache(server.options)
    try:
        where = f"PostgreSQL at 127.0.0.1:{server.port}/sts"
        assert of_cache(cache) == fine(f"{where} answers")
        assert server.admin("SELECT 1 FROM pg_tables WHERE tablename LIKE 'stsresolver%'") == []
        open_store(cache).get("example.com")
        assert of_cache(cache) == fine(f"{where} answers")
        server.admin("CREATE SCHEMA other", "CREATE ROLE other LOGIN PASSWORD 'other'")
        reading = {"server_settings": {"default_transaction_read_only": "on"}}
        found = of_cache(postgres_cache(server.options | reading))
        assert "the server can only be read" in found.text
        others = {"user": "other", "password": "other", "server_settings": {"search_path": "other"}}
        found = of_cache(postgres_cache(server.options | others))
        assert "names no schema that its user may use" in found.text
        server.admin("GRANT USAGE ON SCHEMA other TO other")
        found = of_cache(postgres_cache(server.options | others))
        assert "its user lacks a right; let it create tables" in found.text
    finally:
        server.close()
    found = of_cache(cache)
    assert found.level is PROBLEM
    assert found.text.startswith(f"{where}: ")
    assert "Connection refused" in found.text


@gives_up_root
def test_cache_in_postgresql_that_asks_for_the_user_of_the_process(tmp_path):
    """The daemon becomes somebody whom the server knows; root is nobody there."""
    with contextlib.closing(PostgresServer(tmp_path / "postgres")) as server:
        server.admin("CREATE ROLE nobody LOGIN", "GRANT CREATE ON SCHEMA public TO nobody")
        rules = server.data / "pg_hba.conf"
        rules.write_text("local all nobody peer\n" + rules.read_text())
        server.admin("SELECT pg_reload_conf()")
        options = {"host": str(server.directory), "port": server.port, "database": "sts"}
        config = Config(cache=postgres_cache(options))
        eventually(lambda: next(host.cache(config, SOMEBODY, "nobody")).level is OK, "the rule")
        (found,) = host.cache(config, SOMEBODY)
        assert found.level is PROBLEM, "root"


def test_cache_in_redis(tmp_path):
    server = RedisServer(tmp_path / "redis")
    cache = redis_cache({"port": server.port})
    try:
        assert of_cache(cache) == fine(f"Redis at localhost:{server.port}/0 answers")
    finally:
        server.close()
    assert of_cache(cache).level is PROBLEM


def test_proxy():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy("127.0.0.1", listener.getsockname()[1])
        assert list(host.way_out(proxy)) == [fine(f"{proxy} can be connected to")]
    (found,) = host.way_out(proxy)
    assert found.level is PROBLEM


def of_socket(**config):
    (found,) = host.own_socket(Config(**config))
    return found


class Answering:
    """Listens on `address`, and sends `reply` to the first who asks; notes what was asked."""

    def __init__(self, listener, reply):
        self.listener, self.reply, self.asked = listener, reply, b""

    def __enter__(self):
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()

    def _serve(self):
        connection, _ = self.listener.accept()
        with connection:
            self.asked = connection.recv(1000)
            connection.sendall(self.reply)


REPLIES = [
    (b"9:NOTFOUND ,", OK, "ours"),
    (b"13:OK none of it,", PROBLEM, "another program's"),
    (b"SSH-2.0-x\r\n", PROBLEM, "no netstring at all"),
    (b"", PROBLEM, "closed"),
]


@pytest.mark.parametrize(("reply", "level", "why"), REPLIES, ids=[case[2] for case in REPLIES])
def test_own_socket(reply, level, why, tmp_path):
    with Answering(socket.create_server(("127.0.0.1", 0)), reply) as server:
        port = server.listener.getsockname()[1]
        assert of_socket(port=port, zones={"z": Zone()}).level is level, why
    assert server.asked == b"13:z [192.0.2.1],"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with Answering(listener, reply):
        assert of_socket(path=str(tmp_path / "s")).level is level, why


def test_own_sockets_are_asked_each(tmp_path):
    with Answering(socket.create_server(("127.0.0.1", 0)), b"9:NOTFOUND ,") as server:
        port = server.listener.getsockname()[1]
        config = Config(listen=(UnixAddress("/none"), TcpAddress("127.0.0.1", port)))
        found = list(host.own_socket(config))
    assert [one.level for one in found] == [PROBLEM, OK]
    assert found[0].text.startswith("no answer on /none: No such file")
    assert found[1].text == f"answers on 127.0.0.1 port {port}"


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
@pytest.mark.parametrize("others", [0, 1, 2])
def test_daemons_on_one_port_are_counted(address, family, others, monkeypatch):
    if family == socket.AF_INET6 and not has_ipv6_loopback():
        unavailable("no IPv6 loopback (::1) here")
    monkeypatch.setattr(host, "_asked", lambda *_: b"NOTFOUND ")
    listen = partial(socket.create_server, family=family, reuse_port=True)
    with contextlib.ExitStack() as opened:
        port = opened.enter_context(listen((address, 0))).getsockname()[1]
        for _ in range(others):
            opened.enter_context(listen((address, port)))
        # One that listens at another address is none of them.
        opened.enter_context(socket.create_server(("127.0.0.3", port)))
        found = list(host.own_socket(Config(host=address, port=port)))
    assert [one.level for one in found] == [OK, WARNING][: 1 + bool(others)]
    if others:
        assert found[1].text.startswith(f"{1 + others} processes listen on {address} port {port}")


@pytest.mark.parametrize(
    ("limit", "threads", "level", "words", "why"),
    [
        (65536, 4, OK, "a limit of 65536 open files leaves 65448 for", "as in the unit"),
        (1024, 4, OK, "leaves 936 for connections of Postfix", "as in a shell"),
        (1024, 400, WARNING, "the daemon needs 880 itself, leaves 144 for", "a large pool"),
        (64, 4, WARNING, "leaves 0 for connections of Postfix", "hardly any"),
        (resource.RLIM_INFINITY, 4, OK, "no limit of open files", "none"),
    ],
)
def test_descriptors(limit, threads, level, words, why, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(limit, 64), limit))
    (found,) = host.descriptors(Config(cache=SqliteCache("file", threads=threads)))
    assert (found.level, words in found.text) == (level, True), why


def test_own_socket_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "Connection refused" in of_socket(port=port).text
    assert "No such file" in of_socket(path=str(tmp_path / "s")).text
    assert of_socket(port=0).level is WARNING


def test_own_socket_that_never_answers(monkeypatch):
    monkeypatch.setattr(host, "_ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = of_socket(port=listener.getsockname()[1])
    assert (found.level, "timed out" in found.text) == (PROBLEM, True)


# The doctor


def test_a_finding_is_said_once():
    both, one = fine("both"), warning("one", "do")
    a, b = client(name="a"), client(name="b")
    found = [(a, both), (b, both), (b, one)]
    assert list(examination.together(lambda: found, (a, b))) == [both, one.of("b")]


def test_who_does_not_ask_is_left_alone():
    postfix = Postfix({"mail_version": "3.7.0"}, (asking(OURS), client(name="other")))
    names = {name: list(check()) for name, check in examination.of_postfix(postfix, Config())}
    assert [finding.level for finding in names["Postfix, policy maps"]] == [OK, WARNING]
    (certificates,) = names["Postfix, CA certificates"]
    assert certificates.text.startswith("smtp: smtp_tls_CAfile")


def test_a_check_that_fails_or_hangs_stops_no_other():
    over = threading.Event()
    ended = []

    def fails():
        raise OSError("in words")

    def hangs():
        ended.append(over.wait(20))
        return []

    checks = [("a", fails), ("b", hangs), ("c", lambda: [fine("well")])]
    found = list(examination.findings(checks, 0.1))
    assert ended == [], "it still hangs"
    over.set()
    assert [(name, finding.level) for name, finding in found] == [
        ("a", PROBLEM),
        ("b", PROBLEM),
        ("c", OK),
    ]
    assert "in words" in found[0][1].text


def program(directory, text):
    """Make a program that takes postconf's place."""
    directory.mkdir()
    file = directory / "postconf"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(directory)


@pytest.fixture
def only(monkeypatch):
    """Return what makes a directory the only place where programs are."""

    def set_path(path):
        monkeypatch.setattr("stsresolver.doctor.postconf._MORE_PATH", ())
        monkeypatch.setenv("PATH", path)

    return set_path


def test_postconf_that_fails(only, tmp_path):
    only(program(tmp_path / "bin", "echo some; echo 'postconf: fatal: it is so' >&2; exit 1"))
    with pytest.raises(PostconfError, match=r"^postconf: fatal: it is so$"):
        read()


def test_postconf_that_hangs(only, tmp_path, monkeypatch):
    only(program(tmp_path / "bin", "exec /bin/sleep 30"))
    monkeypatch.setattr("stsresolver.doctor.postconf._TIMEOUT", 0.2)
    with pytest.raises(PostconfError, match="does not end"):
        read()


@pytest.fixture
def alone(only, tmp_path, monkeypatch, bundle):
    """A host of our own making: no Postfix, no proxy, one CA certificate."""
    only(str(tmp_path / "nowhere"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    monkeypatch.setenv("SSL_CERT_DIR", "/none")


def test_all_is_well(alone, capsys, resolv_conf, bundle, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with NameServer(otherwise=root_soa()) as server, Answering(listener, b"9:NOTFOUND ,"):
        status = examination.examine(
            Config(port=port), "made up", resolv_conf=resolv_conf, dns_port=server.port
        )
    assert capsys.readouterr().out == (
        "OK       configuration: made up\n"
        f"OK       DNS: the name servers of {resolv_conf} answer\n"
        "OK       DNSSEC: the resolver does not validate, which MTA-STS does not need, but DANE"
        " does\n"
        f"OK       CA certificates: 1 in {bundle}\n"
        "OK       cache: in memory; empty after each start (choose another type to keep it)\n"
        "OK       open files: a limit of 1024 open files leaves 944 for connections of Postfix\n"
        f"OK       socket: answers on 127.0.0.1 port {port}\n"
        "warning  Postfix: there is no postconf; remedy: look at it on the host that Postfix runs"
        " on\n"
    )
    assert status == 0, "a warning is no problem"


def test_a_problem_is_the_exit_status(alone, capsys, resolv_conf):
    with NameServer(otherwise=root_soa()) as server:
        status = examination.examine(
            Config(path="/none", warnings=("tür: \x1b[2J",)),
            "made up",
            user="nobody-of-this-name",
            resolv_conf=resolv_conf,
            dns_port=server.port,
        )
    output = capsys.readouterr().out
    assert status == 1
    assert output.isascii()
    assert "\x1b" not in output
    assert "warning  configuration: t\\xfcr: " in output
    assert "problem  cache: there is no user nobody-of-this-name; remedy: " in output
    assert len(output.splitlines()) == 9, "one line a finding"


def test_a_wrong_configuration_is_that_of_the_daemon(capsys, tmp_path):
    file = tmp_path / "daemon.yml"
    file.write_text("prot: 1")
    assert daemon.main(["-c", str(file), "--doctor"]) == os.EX_CONFIG
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"mta-sts-daemon: {file}:1: prot: found an unknown key")


# EXCEPTIONS


def test_exceptions(tmp_path):
    assert not list(host.exceptions(Config()))
    file = tmp_path / "exempt"
    file.write_text("a.example\nb.example\n")
    config = Config(
        default_zone=Zone(observe=True),
        zones={
            "list": Zone(exempt=tuple(f"{n}.example" for n in range(7))),
            "file": Zone(exempt_file=str(file)),
        },
    )
    observes, listed, in_file = host.exceptions(config)
    assert (observes.level, "default_zone observes" in observes.text) == (WARNING, True)
    assert "0.example, 1.example, 2.example, 3.example, 4.example and 2 more" in listed.text
    assert (in_file.level, "changed 0 days ago" in in_file.text) == (OK, True)
    long_ago = time.time() - 31 * 86_400
    os.utime(file, (long_ago, long_ago))
    *_, in_file = host.exceptions(config)
    assert (in_file.level, "a.example, b.example" in in_file.text) == (WARNING, True)
    assert "changed 31 days ago" in in_file.text
    file.write_text("")
    assert len(list(host.exceptions(config))) == 2
