"""Domain names in their one form: A-labels, lower case, no trailing dot.

Pure functions. Cache keys, DNS questions and URLs hold names in this form only. It is made here,
once, so that `bücher.example` and `xn--bcher-kva.example` are one domain (UTS 46, RFC 5891).
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
