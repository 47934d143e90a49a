"""STARTTLS with MX hosts that are right and wrong: each is named by what it does."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace

import pytest

from stsresolver.config.settings import Zone
from stsresolver.inspection.as_json import as_json
from stsresolver.inspection.screen import Paint, screen
from stsresolver.inspection.smtp import HOST_LIMIT, Probing, as_postfix_does
from tests.support.authority import Authority
from tests.support.hostile_dns import addresses, code, mx, nodata, txt
from tests.support.hostile_https import BlackHole, Listener, PolicyHost, hang_up, page, silence
from tests.support.smtp_servers import (
    FEATURES,
    GREETING,
    hear,
    honest,
    mute,
    say,
    server,
    tls,
    until_tls,
    wait,
)

MX = "mx.example.com"
# Seconds for an MX host, and for those that must not use it up.
SHORT, LONG = 0.4, 10.0


def trusting(authority: Authority, **more: object) -> Probing:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.bundle)
    return Probing(context, limit=LONG, **more)


@pytest.fixture
def look(world):
    """Return what probes example.com, whose MX host runs `script`, and gives the inspection."""
    world.dns.zone["_mta-sts.example.com TXT"] = txt("v=STSv1; id=1")
    world.dns.zone["example.com MX"] = mx(f"10 {MX}.")
    world.dns.zone[f"{MX} A"] = addresses("127.0.0.1")

    def probed(script, patterns=(MX,), *, zone=None, **more):
        lines = "".join(f"mx: {one}\n" for one in patterns)
        text = f"version: STSv1\nmode: enforce\n{lines}max_age: 604800\n".encode()
        context = world.authority.server("mta-sts.example.com")
        with Listener(script) as listener, PolicyHost(page(text), context) as host:
            probing = replace(trusting(world.authority), port=listener.port, **more)
            inspector = world.inspector(host.port, LONG, probing=probing, zone=zone)
            return inspector.inspect("example.com")

    return probed


def certified(world, *names: str, **options) -> ssl.SSLContext:
    return world.authority.server(*(names or (MX,)), **options)


def the_probe(seen, valid=None):
    (host,) = seen.mx
    assert host.probe.connected
    if valid is not None:
        assert valid(as_json(seen))["mx"][0]["probe"]["ok"] is host.probe.ok
    return host.probe


def test_right(world, look, valid):
    seen = look(honest(certified(world)))
    probe = the_probe(seen, valid)
    assert probe.ok
    assert probe.reason == "its certificate is valid, and has the right name"
    assert probe.tls in ("TLSv1.2", "TLSv1.3")
    assert (probe.address, probe.certificate.names) == ("127.0.0.1", (MX,))
    assert seen.verdict == "mail to example.com goes only over verified TLS"
    assert seen.refused == ()


def test_server_that_closes_without_a_goodbye_takes_mail(world, look):
    steps = (*until_tls(), tls(certified(world)), hear(b"EHLO"), say(b"250 mx\r\n"))
    assert the_probe(look(server(*steps))).ok


def test_greeting_that_comes_late_and_in_parts(world, look):
    steps = until_tls(b"220-mx.example.com\r\n")
    script = server(
        *steps[:1],
        wait(0.2),
        say(b"220 ES"),
        wait(0.1),
        say(b"MTP\r\n"),
        *steps[1:],
        tls(certified(world)),
        hear(b"EHLO"),
        say(b"250 mx\r\n"),
    )
    assert the_probe(look(script)).ok


WITHOUT_TLS = [
    ("a greeting of 554", server(say(b"554 no\r\n")), "it greets with 554 no"),
    ("a greeting of 421", server(say(b"421-a\r\n421 b\r\n")), "it greets with 421 a b"),
    ("another protocol", server(say(b"SSH-2.0-OpenSSH\r\n")), "it does not speak SMTP"),
    ("not SMTP", server(say(b"HTTP/1.1 400\r\n")), "it does not speak SMTP: 'HTTP/1.1"),
    ("control characters", server(say(b"554 \x1b[2J\x07\r\n")), "it greets with 554 \x1b[2J\x07"),
    ("a line without end", server(say(b"220 " + b"x" * 20_000), mute), "it does not speak SMTP"),
    ("lines without end", server(say(b"220-x\r\n" * 9_000), mute), "it does not speak SMTP"),
    ("closed at once", hang_up, "it closed the connection"),
    (
        "EHLO refused",
        server(say(GREETING), hear(b"EHLO"), say(b"502 what\r\n")),
        "it answers EHLO with 502 what",
    ),
    (
        "no STARTTLS",
        server(say(GREETING), hear(b"EHLO"), say(b"250-mx\r\n250 XSTARTTLS\r\n")),
        "it offers no STARTTLS",
    ),
    (
        "STARTTLS refused",
        server(
            say(GREETING), hear(b"EHLO"), say(FEATURES), hear(b"STARTTLS"), say(b"454 not now\r\n")
        ),
        "it answers STARTTLS with 454 not now",
    ),
    (
        "something before TLS (RFC 3207)",
        server(
            say(GREETING),
            hear(b"EHLO"),
            say(FEATURES),
            hear(b"STARTTLS"),
            say(b"220 go\r\n250 injected\r\n"),
        ),
        "it sends something behind its reply",
    ),
    (
        "no TLS behind it",
        server(*until_tls(), wait(0.2), say(b"502 what\r\n")),
        "the TLS handshake failed: ",
    ),
    ("closed in the handshake", server(*until_tls()), "TLS: "),
]


@pytest.mark.parametrize(
    ("script", "reason"), [pytest.param(*case, id=why) for why, *case in WITHOUT_TLS]
)
def test_without_tls(look, valid, script, reason):
    seen = look(script)
    probe = the_probe(seen, valid)
    assert not probe.ok
    assert probe.tls is None
    # A connection that is closed while something is unread is reset.
    reset = "Connection reset by peer" in probe.reason or "EOF" in probe.reason
    assert probe.reason.startswith(reason) or reset
    assert seen.verdict == f"mail to example.com will be refused by {MX}: {probe.reason}"
    assert [one.code for one in seen.problems if one.severity == "error"] == ["probe"]


LATE = {
    "its greeting": silence,
    "EHLO": server(say(GREETING), mute),
    "STARTTLS": server(say(GREETING), hear(b"EHLO"), say(FEATURES), mute),
    "TLS": server(*until_tls(), mute),
}


@pytest.mark.parametrize("step", LATE)
def test_late(look, step):
    began = time.monotonic()
    probe = the_probe(look(LATE[step], limit=SHORT))
    assert time.monotonic() - began < LONG / 2
    assert probe.reason == f"{step}: no answer within 0.4 s"


def test_late_behind_tls(world, look):
    script = server(*until_tls(), tls(certified(world)), mute)
    probe = the_probe(look(script, limit=SHORT))
    assert probe.reason == "EHLO behind TLS: no answer within 0.4 s"
    assert probe.tls is not None


INVALID = [
    ("expired", {"days": (-3, -1.5)}, "its certificate is not valid: certificate has expired"),
    ("not yet valid", {"days": (1, 2)}, "its certificate is not valid: certificate is not yet"),
    ("self-signed", {"self_signed": True}, "its certificate is not valid: self-signed"),
]


@pytest.mark.parametrize(
    ("options", "reason"), [pytest.param(*case, id=why) for why, *case in INVALID]
)
def test_certificate_that_is_not_valid(world, look, options, reason):
    probe = the_probe(look(honest(certified(world, **options))))
    assert not probe.ok
    assert probe.reason.replace("self signed", "self-signed").startswith(reason)
    assert probe.certificate.names == (MX,), "it is shown"


PATTERN = Zone(tlsrpt=True)
NAMES = [
    ("another name", ["mx.example.org"], [MX], None, False, "is for mx.example.org, and not for"),
    ("a wildcard", ["*.example.com"], [MX], None, False, None),
    ("the name of another MX host", ["a.org"], [MX, "a.org"], None, False, None),
    ("which is checked", ["a.org"], [MX, "a.org"], PATTERN, True, f"a.org, and not for {MX}"),
    ("if Postfix is told", ["a.org"], [MX, "a.org"], None, True, None),
    ("and knows how to", ["a.org"], [MX, "a.org"], PATTERN, False, None),
    ("any depth", ["a.b.example.com"], ["*.example.com"], None, False, None),
    ("a name of no pattern", [MX], ["a.org"], PATTERN, True, "matches no mx pattern"),
]


@pytest.mark.parametrize(
    ("names", "patterns", "zone", "own", "reason"),
    [pytest.param(*case, id=why) for why, *case in NAMES],
)
def test_name(world, look, names, patterns, zone, own, reason):
    context = certified(world, *names)
    seen = look(honest(context), patterns, zone=zone, checks_own_name=own)
    probe = the_probe(seen)
    assert probe.ok is (reason is None)
    assert reason is None or reason in probe.reason


def test_common_name_counts_without_others_as_for_postfix(world, look):
    assert the_probe(look(honest(world.authority.server(common_name=MX)))).ok


@pytest.mark.parametrize(("sni", "asked"), [(True, MX), (False, None)])
def test_sni_as_the_zone_says(world, look, sni, asked):
    names = []
    context = certified(world)
    context.sni_callback = lambda _tls, name, _context: names.append(name)
    look(honest(context), zone=Zone(require_sni=sni))
    assert names == [asked]


def test_blocked_port(world, look, valid):
    world.dns.zone[f"{MX} A"] = addresses("127.0.0.2")
    seen = look(silence)
    (host,) = seen.mx
    assert not host.probe.connected
    assert host.probe.reason == "no connection to 127.0.0.2: Connection refused"
    assert "port-blocked" in [one.code for one in seen.problems]
    assert valid(as_json(seen))


def test_host_that_does_not_answer(world):
    with BlackHole("127.0.0.3", 0) as hole:
        world.dns.zone[f"{MX} A"] = addresses("127.0.0.3")
        port = hole._listener.getsockname()[1]
        probing = replace(trusting(world.authority), port=port, limit=SHORT)
        seen = world.inspector(probing=probing).inspect(f"[{MX}]")
    (host,) = seen.mx
    assert host.probe.reason.startswith("no connection to 127.0.0.3: ")
    assert [one.code for one in seen.problems if one.severity == "error"][-1] == "port-blocked"


def test_addresses_that_cannot_be_found(world, look):
    for behaviour, reason in ((nodata(), "it has no address"), (code("SERVFAIL"), "its address")):
        world.dns.zone[f"{MX} A"] = world.dns.zone[f"{MX} AAAA"] = behaviour
        seen = look(silence)
        (host,) = seen.mx
        assert host.probe.reason.startswith(reason)
        assert "port-blocked" not in [one.code for one in seen.problems], "no port was tried"


@pytest.mark.parametrize(
    "name", [r"a\032b.org", r"\.a.org", r"\000.org", r"\255.org", "*@!.org", "*!.org"]
)
def test_name_that_is_none(world, look, name):
    """DNS takes anything for a name."""
    world.dns.zone["example.com MX"] = mx(f"10 {name}.")
    seen = look(honest(certified(world)))
    (host,) = seen.mx
    assert host.probe.ok is ("\\" not in host.host), "certificates are not compared with it"
    assert all(line.isascii() and line.isprintable() for line in screen(seen, Paint(on=False)))


def test_port_of_the_next_hop():
    probing = Probing(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    assert [probing.port_of(text) for text in ("25", "587", "smtp", "no-such")] == [25, 587, 25, 25]
    assert replace(probing, port=2525).port_of("587") == 2525
    assert probing.limit == HOST_LIMIT


POSTCONF = """\
#!/bin/sh
case "$*" in
*-M*) echo "smtp unix - - n - - smtp" ;;
*-Px*) ;;
*) cat <<'END'
{}
END
esac
"""


@pytest.fixture
def postconf(tmp_path, monkeypatch):
    """Return what has postconf(1) print these settings."""

    def put(*settings: str) -> None:
        program = tmp_path / "bin" / "postconf"
        program.parent.mkdir(exist_ok=True)
        program.write_text(POSTCONF.format("\n".join(settings)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return put


def counted(probing: Probing) -> int:
    return probing.context.cert_store_stats()["x509_ca"]


def test_ca_certificates_of_postfix(tmp_path, postconf, world, monkeypatch):
    both = tmp_path / "both.pem"
    first, second = Authority(tmp_path), Authority(tmp_path)
    both.write_bytes(first.bundle.read_bytes() + second.bundle.read_bytes())
    postconf(f"smtp_tls_CAfile = {both}", "mail_version = 3.10.5")
    found = as_postfix_does()
    assert (counted(found), found.checks_own_name) == (2, True)
    postconf("smtp_tls_CAfile =", "smtp_tls_CApath =", "mail_version = 3.10.4")
    found = as_postfix_does()
    assert (counted(found), found.checks_own_name) == (1, False), "those of the system"
    postconf(f"smtp_tls_CAfile = {both}", "tls_append_default_CA = yes")
    assert counted(as_postfix_does()) == 3
    postconf(f"smtp_tls_CAfile = {tmp_path}/none.pem")
    with pytest.raises(OSError, match=r"none\.pem: No such file or directory"):
        as_postfix_does()
