"""What Postfix does with our answers: checks of its CA certificates, its TLS level, its version.

From TLS_README, postconf(5) and the release notes of Postfix: it knows `servername=` from 3.4 on
and the attributes of TLSRPT from 3.10 on, which from 3.10.5 on narrow what a certificate may match.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import dns.name
import dns.rdatatype

from ..config.settings import Config, Zone
from ..net import resolv_conf
from ..net.ca_store import hashed_certificates
from ..net.deadline import Deadline
from ..net.nameservers import NameServerError, NameServers
from ..net.steps import run
from .finding import Finding, fine, problem, warning
from .policy_maps import asked
from .postconf import Client, Version

SERVERNAME: Version = (3, 4, 0)
TLSRPT: Version = (3, 10, 0)
NARROW: Version = (3, 10, 5)

# Fewer CA certificates than these serve another purpose: a list of the public CAs has over 100.
FEW = 10
# Where Postfix's own server has its certificates, and those that it verifies clients against.
_SERVER = ("smtpd_tls_cert_file", "smtpd_tls_chain_files", "smtpd_tls_CAfile")

# Seconds for a DNS question.
_DNS = 5.0

_BUNDLE = "set smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt"
_UNVERIFIED = "no certificate is valid, and all mail to domains with a policy waits"


def authorities(clients: tuple[Client, ...]) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client which CA certificates it verifies against."""
    for client in clients:
        yield client, _authorities(client)


def _authorities(client: Client) -> Finding:
    file, directory = client["smtp_tls_CAfile"], client["smtp_tls_CApath"]
    appended = client["tls_append_default_CA"] == "yes"
    places: list[str] = []
    count = 0
    if file:
        # Read before smtp(8) is chrooted.
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(file)
        except OSError as error:
            return problem(f"smtp_tls_CAfile = {file} cannot be read: {error}", _BUNDLE)
        count += context.cert_store_stats()["x509_ca"]
        places.append(f"smtp_tls_CAfile = {file}{_of_the_server(client, file)}")
    if directory:
        seen = directory
        inside = ""
        if client.chroot:
            seen = os.path.normpath(client["queue_directory"] + "/" + directory)
            inside = f", which is {seen} for the chrooted smtp"
        count += hashed_certificates(seen)
        places.append(f"smtp_tls_CApath = {directory}{inside}")
    if appended:
        places.append("tls_append_default_CA = yes, those of the system")
    if not places:
        return problem(f"smtp_tls_CAfile and smtp_tls_CApath are empty: {_UNVERIFIED}", _BUNDLE)
    text = " and ".join(places)
    if appended:
        return fine(text)
    if not count:
        return problem(f"{text}: no CA certificate in it; {_UNVERIFIED}", _BUNDLE)
    if count < FEW:
        return warning(
            f"{text}: only {count} in it; mail to a domain with a policy waits if another CA signed"
            " the certificate of its MX host",
            _BUNDLE,
        )
    return fine(f"{text}, {count} in it")


def _of_the_server(client: Client, file: str) -> str:
    """Say which setting of Postfix's server names the same file, if one does."""
    for name in _SERVER:
        if file in client[name].replace(",", " ").split():
            return f", which is the server's own ({name})"
    return ""


def level(clients: tuple[Client, ...], config: Config) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client what holds for mail that no policy is known for, and whether DANE."""
    for client in clients:
        zones = [config.zones.get(one.zone, config.default_zone) for one in asked(client, config)]
        yield client, _level(client, by_dane=bool(zones) and all(zone.dane for zone in zones))


def dane(
    clients: tuple[Client, ...], config: Config, dns_port: int = 53
) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client that asks a zone with `dane: true` whether it can use the answer.

    `dns_port`: of the name servers that Postfix asks.
    """
    resolvers: dict[str, Finding] = {}
    for client in clients:
        tables = asked(client, config)
        if not any(config.zones.get(one.zone, config.default_zone).dane for one in tables):
            continue
        support, lookup = client["smtp_dns_support_level"], client["smtp_host_lookup"]
        if support != "dnssec":
            yield (
                client,
                problem(
                    f"smtp_dns_support_level = {support}: mail that DANE is to verify waits",
                    "set smtp_dns_support_level = dnssec, or dane: false in the zone",
                ),
            )
        elif "dns" not in lookup.replace(",", " ").split():
            yield (
                client,
                problem(
                    f"smtp_host_lookup = {lookup}: Postfix does not ask DNS, which DANE needs",
                    "set smtp_host_lookup = dns",
                ),
            )
        else:
            path = resolv_conf.PATH
            if client.chroot:
                path = os.path.normpath(f"{client['queue_directory']}/{path}")
            if path not in resolvers:
                trust_ad = config.dns.trust_ad or None
                resolvers[path] = _name_servers(path, dns_port, trust_ad)
            yield client, resolvers[path]


def _name_servers(path: str, port: int, trust_ad: bool | None) -> Finding:
    """Say whether the name servers in this resolv.conf(5) validate: Postfix believes each."""
    remedy = f"name in {path} alone a validating resolver on this host, and restart Postfix"
    waits = "mail that DANE is to verify waits"
    try:
        servers = resolv_conf.read_servers(path, port, trust_ad=trust_ad)
    except OSError as error:
        return problem(f"{path} cannot be read: {error.strerror}; {waits}", remedy)
    for server in servers:
        asked_alone = NameServers(path, port, [server.address])
        question = dns.name.root, dns.rdatatype.SOA, Deadline(_DNS)
        try:
            answer = run(asked_alone.ask(*question))
        except (NameServerError, TimeoutError) as error:
            return problem(f"no answer from a name server of {path}: {error}", remedy)
        if not answer.authenticated:
            return problem(f"{server} in {path} does not validate: {waits}", remedy)
        if not server.is_believed:
            return warning(
                f"{server} in {path} is not on this host: whoever can change its answers on the way"
                " chooses what DANE verifies",
                remedy,
            )
    return fine(f"Postfix asks for DNSSEC, and the name servers of {path} validate")


def _level(client: Client, *, by_dane: bool) -> Finding:
    found = client["smtp_tls_security_level"]
    if not found:
        old = (("smtp_enforce_tls", "encrypt"), ("smtp_use_tls", "may"))
        found = next((level for name, level in old if client[name] == "yes"), "none")
    text = f"smtp_tls_security_level = {found}"
    if found == "none":
        return warning(
            f"{text}: mail to domains without a policy is never encrypted",
            "set smtp_tls_security_level = may",
        )
    if not found.startswith("dane"):
        return fine(text)
    if client["smtp_dns_support_level"] != "dnssec":
        remedy = "set smtp_dns_support_level = dnssec"
        if found == "dane-only":
            return problem(f"{text} without DNSSEC: all mail without a policy waits", remedy)
        return warning(f"{text} without DNSSEC works as may", remedy)
    if by_dane:
        return fine(f"{text}, and DANE comes first for domains that have a policy too")
    return warning(
        f"{text}: an answer of the daemon overrides DANE for domains that have both",
        "set dane: true in the zone (docs/dane.rst)",
    )


def release(
    clients: tuple[Client, ...], config: Config, version: Version | None, text: str
) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client whether its Postfix, `version` or as it says `text`, fits the zone."""
    for client in clients:
        if version is None:
            yield (
                client,
                warning(
                    f"not found out which release mail_version = {text} is",
                    "compare it with require_sni and tlsrpt in the configuration",
                ),
            )
            continue
        for name in dict.fromkeys(table.zone for table in asked(client, config)):
            where = name if name in config.zones else "default_zone"
            zone = config.zones.get(name, config.default_zone)
            reports = client["smtp_tlsrpt_enable"] == "yes"
            yield client, _release(zone, where, version, text, reports)


def _release(zone: Zone, where: str, version: Version, text: str, reports: bool) -> Finding:
    postfix = f"Postfix {text} with {where}"
    if zone.tlsrpt and version < TLSRPT:
        return problem(
            f"{postfix}: refuses the answers of tlsrpt, all mail to domains with a policy waits",
            f"set tlsrpt: false in {where}; it is for 3.10 and later",
        )
    if zone.require_sni and version < SERVERNAME:
        return problem(
            f"{postfix}: refuses servername=, all mail to domains with a policy waits",
            f"set require_sni: false in {where}; Postfix knows it from 3.4 on",
        )
    if not zone.require_sni and version >= SERVERNAME:
        return warning(
            f"{postfix}: sends no SNI, and servers with several names may show the wrong"
            " certificate",
            f"set require_sni: true in {where}",
        )
    if not zone.tlsrpt and version >= NARROW:
        return warning(
            f"{postfix}: matches certificates more widely than the policy says",
            f"set tlsrpt: true in {where}, even if you send no reports",
        )
    if not zone.tlsrpt and version >= TLSRPT and reports:
        return warning(
            f"{postfix}: its TLS reports leave MTA-STS out", f"set tlsrpt: true in {where}"
        )
    return fine(postfix)
