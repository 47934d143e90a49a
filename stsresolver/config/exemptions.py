"""Which domains a zone exempts from their policies: their names, and `.example.com` for all below.

An entry is a name, or a name after a dot, as in Postfix's own tables. Everything but `read_file` is
pure.
"""

from __future__ import annotations

from collections.abc import Container

from ..net.domain_names import a_labels
from .yaml_schema import ConfigError, shown

ALLOWED = "a domain, such as example.com, or .example.com for all domains below it"
# Bytes of a file: room for tens of thousands of domains.
_MAX_BYTES = 1 << 20


def entry(text: str) -> str:
    """Return an entry in A-labels. Raise `ValueError` for anything else."""
    name = text.removeprefix(".")
    return text[: len(text) - len(name)] + a_labels(name)


def exempted_by(domain: str, entries: Container[str]) -> str | None:
    """Return the entry that exempts a domain (A-labels), None where none does."""
    if domain in entries:
        return domain
    while domain:
        _, _, domain = domain.partition(".")
        if f".{domain}" in entries:
            return f".{domain}"
    return None


def read_file(path: str) -> frozenset[str]:
    """Return the entries of a file: one a line, and comments from `#` on.

    Raise `ConfigError` where it cannot be read, and for each line that is wrong.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown(path, len(path))}: cannot be read: {reason}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{shown(path, len(path))}: is larger than {_MAX_BYTES} bytes")
    found, problems = set(), []
    for number, line in enumerate(content.decode("utf-8", "surrogateescape").split("\n"), 1):
        text = line.partition("#")[0].strip()
        try:
            found.update([entry(text)] if text else [])
        except ValueError:
            where = f"{shown(path, len(path))}:{number}"
            problems.append(f'{where}: found "{shown(text)}"; allowed: {ALLOWED}')
    if problems:
        raise ConfigError(*problems)
    return frozenset(found)
