"""How Postfix reads a reply of the socketmap and the TLS policy in it, in Python of our own.

Independent of `stsresolver`, so that the two can be held against each other. `reply` takes a
netstring apart (socketmap_table(5)); `tls_policy` reads what `smtp_tls_policy_maps` gives, for
Postfix 3.10, after tls_policy_lookup_one(), mystrtokq(), extpar() and split_nameval(). `Deferred`
is what makes Postfix keep the mail: an error in the policy or on the wire.

Everything is bytes, as in Postfix: white space and case are ASCII's alone.
"""

from collections import Counter
from dataclasses import dataclass

# ISSPACE(), and the separators CHARS_COMMA_SP.
SPACE = b" \t\n\v\f\r"
SEPARATORS = b", \t\r\n"
# Inside braces each white space becomes a space.
SPACES = bytes.maketrans(SPACE, b" " * len(SPACE))
# A longer reply is an error, and the next one is out of step.
MAX_REPLY = 100_000

CODES = {b"OK", b"NOTFOUND", b"TEMP", b"TIMEOUT", b"PERM"}
LEVELS = {b"none", b"may", b"encrypt", b"dane", b"dane-only", b"fingerprint", b"verify", b"secure"}
ONCE = {
    b"ciphers",
    b"protocols",
    b"servername",
    b"exclude",
    b"policy_ttl",
    b"policy_type",
    b"policy_domain",
    b"policy_failure",
}
OFTEN = {
    b"match",
    b"tafile",
    b"connection_reuse",
    b"enable_rpk",
    b"policy_string",
    b"mx_host_pattern",
}
# They mean something beside a policy_type only.
OF_REPORTS = {b"policy_domain", b"policy_string", b"mx_host_pattern", b"policy_failure"}
HOST_NAMES = {b"servername", b"policy_domain"}
POLICY_TYPES = {b"sts", b"tlsa", b"no-policy-found"}


class Deferred(Exception):
    """Postfix finds an error and keeps the mail; the text says which."""


@dataclass(frozen=True)
class TlsPolicy:
    """A security level and its attributes, in their order, names in lower case."""

    level: bytes
    attributes: list[tuple[bytes, bytes]]

    def values(self, name):
        return [value for other, value in self.attributes if other == name]


def reply(wire):
    """Return the code and the data of a reply, which is one netstring and nothing more."""
    length, colon, rest = wire.partition(b":")
    if not colon or not length.isdigit() or length != b"%d" % int(length):
        raise Deferred(f"no netstring: {wire[:20]!r}")
    if int(length) > MAX_REPLY:
        raise Deferred(f"a reply of {int(length)} bytes")
    if len(rest) != int(length) + 1 or rest[-1:] != b",":
        raise Deferred(f"not one whole netstring: {wire[:20]!r}")
    code, space, data = rest[:-1].partition(b" ")
    if code not in CODES or not space:
        raise Deferred(f"no code: {rest[:20]!r}")
    return code, data


def tls_policy(data):
    """Return the TLS policy that a table's result says."""
    if b"\0" in data:
        raise Deferred("a NUL, which ends a C string")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Deferred(f"no UTF-8: {error}") from None
    level, *words = tokens(data) or [b""]
    if level.lower() not in LEVELS:
        raise Deferred(f"no security level: {level!r}")
    policy = TlsPolicy(level.lower(), [attribute(word) for word in words])
    check(policy)
    return policy


def tokens(data):
    """Split at separators outside of braces (mystrtokq)."""
    found, start, depth = [], 0, 0
    for at, number in enumerate(data):
        if depth == 0 and number in SEPARATORS:
            found.append(data[start:at])
            start = at + 1
        elif number == ord("{"):
            depth += 1
        elif number == ord("}") and depth > 0:
            depth -= 1
    return [token for token in (*found, data[start:]) if token]


def attribute(token):
    """Read `name=value` or `{ name = value }` (extpar, split_nameval)."""
    if token.startswith(b"{"):
        token = inside(token).translate(SPACES)
    name, equals, value = token.strip(SPACE).partition(b"=")
    name = name.rstrip(SPACE)
    if not name or not equals or set(name) & set(SPACE):
        raise Deferred(f"no name=value: {token!r}")
    return name.lower(), value.strip(SPACE)


def inside(token):
    """Return what stands between a token's first brace and the one that belongs to it."""
    depth = 0
    for at, number in enumerate(token):
        depth += (number == ord("{")) - (number == ord("}"))
        if depth == 0:
            if at + 1 < len(token):
                raise Deferred(f"text after a closing brace: {token!r}")
            return token[1:at]
    raise Deferred(f"an open brace: {token!r}")


def check(policy):
    """Raise `Deferred` for attributes that Postfix refuses, alone or together."""
    for name, count in Counter(name for name, _ in policy.attributes).items():
        if name not in ONCE | OFTEN:
            raise Deferred(f"an unknown attribute: {name!r}")
        if name in ONCE and count > 1:
            raise Deferred(f"{name!r} {count} times")
    for name, value in policy.attributes:
        if name == b"match" and (not value or policy.level not in (b"verify", b"secure")):
            raise Deferred(f"match={value!r} at level {policy.level!r}")
        if name in HOST_NAMES and not is_host_name(value):
            raise Deferred(f"{name!r}: no host name: {value!r}")
        if name == b"policy_type" and value not in POLICY_TYPES:
            raise Deferred(f"no policy type: {value!r}")
    names = {name for name, _ in policy.attributes}
    if b"policy_type" not in names and names & OF_REPORTS:
        raise Deferred("attributes for reports without a policy_type")
    if b"sts" in policy.values(b"policy_type") and not {b"policy_string", b"mx_host_pattern"} <= (
        names
    ):
        raise Deferred("3.10.0 to 3.10.5 crash without policy_string and mx_host_pattern")


def is_host_name(name):
    """Say what valid_hostname() says."""
    labels = name.split(b".")
    return (
        len(name) <= 255
        and not name.replace(b".", b"").isdigit()
        and all(
            0 < len(label) <= 63
            and label.replace(b"-", b"").replace(b"_", b"").isalnum()
            and not label.startswith(b"-")
            and not label.endswith(b"-")
            for label in labels
        )
    )
