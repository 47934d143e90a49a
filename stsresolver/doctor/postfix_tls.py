"""What Postfix does with our answers: checks of its CA certificates, its TLS level, its version.

From TLS_README, postconf(5) and the release notes of Postfix: it knows `servername=` from 3.4 on
and the attributes of TLSRPT from 3.10 on, which from 3.10.5 on narrow what a certificate may match.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

from ..config.settings import Config, Zone
from .finding import Finding, fine, problem, warning
from .host import hashed_certificates
from .policy_maps import asked
from .postconf import Client, Version

SERVERNAME: Version = (3, 4, 0)
TLSRPT: Version = (3, 10, 0)
NARROW: Version = (3, 10, 5)

_BUNDLE = "set smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt"
_UNVERIFIED = "no certificate is valid, and all mail to domains with a policy waits"


def authorities(clients: tuple[Client, ...]) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client which CA certificates it verifies against."""
    for client in clients:
        yield client, _authorities(client)


def _authorities(client: Client) -> Finding:
    file, directory = client["smtp_tls_CAfile"], client["smtp_tls_CApath"]
    if file:
        # Read before smtp(8) is chrooted.
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(file)
        except OSError as error:
            return problem(f"smtp_tls_CAfile = {file} cannot be read: {error}", _BUNDLE)
        return fine(f"smtp_tls_CAfile = {file}, {context.cert_store_stats()['x509_ca']} in it")
    if directory:
        seen = directory
        if client.chroot:
            seen = os.path.normpath(client["queue_directory"] + "/" + directory)
        if count := hashed_certificates(seen):
            return fine(f"smtp_tls_CApath = {directory}, {count} in it")
        inside = f", which is {seen} for the chrooted smtp" if client.chroot else ""
        return problem(
            f"smtp_tls_CApath = {directory}{inside}: no certificate in it; {_UNVERIFIED}", _BUNDLE
        )
    if client["tls_append_default_CA"] == "yes":
        return fine("tls_append_default_CA = yes, those of the system")
    return problem(f"smtp_tls_CAfile and smtp_tls_CApath are empty: {_UNVERIFIED}", _BUNDLE)


def level(clients: tuple[Client, ...]) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client what holds for mail that no policy is known for, and whether DANE."""
    for client in clients:
        yield client, _level(client)


def _level(client: Client) -> Finding:
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
    return warning(
        f"{text}: an answer of the daemon overrides DANE for domains that have both",
        "list domains that must be verified by DANE in a static table before the daemon's, such as"
        " example.com dane-only",
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
