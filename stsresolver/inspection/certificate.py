"""Certificates for a person to read, and the names that Postfix takes for right.

A verified certificate is read by `ssl`. One that is not valid can only be read with the package
`cryptography` (extra `query`); without it nothing is known of it. Pure, but for that import.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from .findings import Certificate

_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}


def from_fields(fields: Mapping[str, Any]) -> Certificate | None:
    """Return the certificate in the form of `ssl.SSLSocket.getpeercert`, None for an empty one."""
    if not fields:
        return None
    kinds = ("DNS", "IP Address")
    names = tuple(name for kind, name in fields.get("subjectAltName", ()) if kind in kinds)
    parts = [part for group in fields.get("issuer", ()) for part in group]
    not_after = float(ssl.cert_time_to_seconds(fields["notAfter"]))
    return Certificate(names, _name((_SHORT.get(key, key), text) for key, text in parts), not_after)


def common_names(fields: Mapping[str, Any]) -> list[str]:
    """Return the names that Postfix compares: DNS names, or the common name where there is none.

    `fields`: as for `from_fields`.
    """
    names = [name for kind, name in fields.get("subjectAltName", ()) if kind == "DNS"]
    subject = [part for group in fields.get("subject", ()) for part in group]
    return names or [text for key, text in subject if key == "commonName"]


def from_der(data: bytes) -> Certificate | None:
    """Return the certificate in `data`, None if it, or `cryptography`, cannot be used."""
    try:
        from cryptography import x509  # noqa: PLC0415
    except ImportError:
        return None
    try:
        read = x509.load_der_x509_certificate(data)
        try:
            found = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names: tuple[str, ...] = ()
        else:
            addresses = map(str, found.get_values_for_type(x509.IPAddress))
            names = (*found.get_values_for_type(x509.DNSName), *addresses)
        parts = [(one.rfc4514_attribute_name, str(one.value)) for one in read.issuer]
        # Since cryptography 42; the older name warns there.
        utc = getattr(read, "not_valid_after_utc", None)
        not_after = (utc or read.not_valid_after).timestamp()
    except ValueError:
        # A stranger made it.
        return None
    return Certificate(names, _name(parts), not_after)


def _name(parts: Iterable[tuple[str, str]]) -> str:
    """Return a distinguished name, the most particular part first (RFC 4514 §2.1)."""
    return ", ".join(f"{key}={text}" for key, text in reversed(list(parts)))


def is_named(names: Iterable[str], wanted: Iterable[str]) -> bool:
    """Say whether Postfix at level `secure` takes a certificate with these names for right.

    `wanted`: of `match=` (smtp_tls_policy_maps, postconf(5)). `.example.net` is any name below
    example.net, at any depth. A wildcard in the certificate stands for one label.
    """
    return any(_is_match(name.lower(), one) for name in names for one in wanted)


def _is_match(name: str, wanted: str) -> bool:
    if wanted.startswith("."):
        return name.endswith(wanted) and name != wanted
    return name == wanted or (name.startswith("*.") and name[1:] == "." + wanted.partition(".")[2])
