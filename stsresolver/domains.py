"""From the next hop that Postfix asks about to the policy domain, always in A-labels.

Pure functions. The one form of a name that the rest of the package sees, uses as a cache key and
sends to DNS and HTTPS is made here: lower case, A-labels, no trailing dot.
"""

from __future__ import annotations

import re

import idna

# RFC 1123 §2.1: letters, digits and inner hyphens; RFC 1035 §2.3.4: 63 octets a label.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# Two labels at least. The last is not all digits (RFC 3696 §2), or the name could be an address.
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}")
# RFC 1035 §2.3.4 allows 255 octets on the wire: 253 characters as text.
MAX_NAME = 253
# A-labels are never shorter than what they stand for, and old versions of idna take quadratic time:
# longer text is not tried. One more for a trailing dot.
_MAX_TEXT = MAX_NAME + 1

# Postfix: `host`, `[host]`, `host:port`, `[host]:port`, the port as number or service name.
_NEXT_HOP = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9A-Za-z-]+))?")
# RFC 6335 §5.1: 1 to 15 letters, digits and hyphens, at least one of them a letter.
_SERVICE = re.compile(r"(?=[0-9-]*[A-Za-z])[0-9A-Za-z-]{1,15}")
_PORT = re.compile(r"[0-9]{1,5}")


def is_host_name(name: str) -> bool:
    """Say whether `name` is a host name of at least two labels in lower case A-label form."""
    return len(name) <= MAX_NAME and _HOST_NAME.fullmatch(name) is not None


def a_labels(name: str) -> str:
    """Return a domain name in its one form: A-labels, lower case, without trailing dot.

    U-labels are converted by nontransitional UTS 46, as Postfix does. Raise `ValueError` for
    anything that is no domain name of two labels or more.
    """
    if len(name) > _MAX_TEXT:
        raise ValueError(f"no domain name: {len(name)} characters")
    text = name
    if not name.isascii():
        try:
            text = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(f"no domain name: {name!a} ({error})") from error
    text = text.removesuffix(".").lower()
    if not is_host_name(text):
        raise ValueError(f"no domain name: {name!a}")
    return text


def policy_domain(next_hop: bytes) -> str | None:
    """Return the policy domain of a next hop (RFC 8461 §3.4), None where there cannot be one.

    A smart host's name is the policy domain. None: address literals, single labels, what begins
    with a dot (Postfix asks for parent domains so, and policies are not inherited), and any
    text that is no next hop.
    """
    try:
        parts = _NEXT_HOP.fullmatch(next_hop.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    if parts is None or not _is_port(parts[3]):
        return None
    try:
        return a_labels(parts[1] or parts[2])
    except ValueError:
        return None


def _is_port(port: str | None) -> bool:
    if port is None:
        return True
    if _PORT.fullmatch(port):
        return 0 < int(port) <= 65535
    return _SERVICE.fullmatch(port) is not None
