"""STARTTLS with MX hosts, checked as Postfix does at level `secure`. No mail is sent.

The conversation is EHLO, STARTTLS, EHLO, QUIT (RFC 5321, RFC 3207). The certificate must be valid
and have a name of `match=` (smtp_tls_policy_maps, postconf(5)). A Postfix that is told the policy
itself (zone option `tlsrpt`, from 3.10.5 on) passes over MX hosts that match no mx pattern, and
wants a certificate for the MX host's own name.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from ..config.settings import Zone
from ..doctor.postconf import PostconfError, Version, read
from ..mta_sts.discovery import Discovery
from ..mta_sts.policy import Policy
from ..net.deadline import BoundedSocket, Deadline, connected
from ..net.domain_names import is_host_name
from ..net.nameservers import NameServerError
from ..net.steps import Steps, run
from ..net.tls import BoundedTls
from .certificate import common_names, from_der, from_fields, is_named
from .certificate_shown import MAX_HANDSHAKE
from .findings import Certificate, MailHost, Probe

# Seconds for each MX host, and for each connection. Some servers let clients wait for a greeting.
HOST_LIMIT = 20.0
_CONNECT_LIMIT = 5.0
# Addresses tried of each family, and MX hosts at once.
_MAX_ADDRESSES = 2
_AT_ONCE = 64
# From here on Postfix checks MX hosts against the mx patterns of the policy.
_OWN_NAME: Version = (3, 10, 5)
# Bytes of a reply (RFC 5321 §4.5.3.1.5 has 512 for a line).
_MAX_REPLY = 16_384
_REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\r\n]*))?\r?\n")


class SmtpError(Exception):
    """The server did what keeps mail from it; the text says what."""


class _Stream(Protocol):
    def sendall(self, data: bytes) -> Steps[None]: ...

    def recv(self, size: int) -> Steps[bytes]: ...


@dataclass(frozen=True, slots=True)
class Probing:
    """How MX hosts are probed.

    `context`: has the CA certificates, and checks no names.
    `checks_own_name`: whether the Postfix wants a certificate for the MX host's own name, if it is
    told the policy.
    `port`: None for that of the next hop.
    `limit`: seconds for each MX host.
    """

    context: ssl.SSLContext
    checks_own_name: bool = False
    port: int | None = None
    limit: float = HOST_LIMIT

    def port_of(self, next_hop: str) -> int:
        """Return the port to probe. `next_hop`: that of the next hop, a number or a service."""
        if self.port is not None:
            return self.port
        if next_hop.isdecimal():
            return int(next_hop)
        try:
            return socket.getservbyname(next_hop, "tcp")
        except OSError:
            return 25


def as_postfix_does(directory: str | None = None) -> Probing:
    """Return how the Postfix of this host verifies; without one, with what the system trusts.

    `directory`: of its configuration, None for where it is. Raise `OSError` for CA certificates
    that cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The same on every Python: 3.13 made X.509 checks stricter than CAs in use are.
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    try:
        postfix = read(directory)
    except PostconfError:
        context.set_default_verify_paths()
        return Probing(context)
    settings = next((one.settings for one in postfix.clients if one.name == "smtp"), postfix.main)
    file, path = (settings.get(name) or None for name in ("smtp_tls_CAfile", "smtp_tls_CApath"))
    own = postfix.version is not None and postfix.version >= _OWN_NAME
    if file or path:
        try:
            context.load_verify_locations(file, path)
        except OSError as error:
            raise OSError(error.errno, f"{file or path}: {error.strerror or error}") from error
    if not (file or path) or settings.get("tls_append_default_CA") == "yes":
        context.set_default_verify_paths()
    return Probing(context, own)


class Prober:
    """Probes MX hosts. `discovery`: finds their addresses. `zone`: how Postfix is answered."""

    def __init__(self, discovery: Discovery, probing: Probing, zone: Zone) -> None:
        self._discovery = discovery
        self.probing = probing
        self._zone = zone

    def probe(self, hosts: Sequence[MailHost], policy: Policy | None, port: int) -> list[MailHost]:
        """Return the hosts with what came of each. `policy`: the one in force."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            probes = pool.map(lambda host: run(self._host(host, policy, port)), hosts)
            return [replace(host, probe=one) for host, one in zip(hosts, probes, strict=True)]

    def _host(self, host: MailHost, policy: Policy | None, port: int) -> Steps[Probe]:
        deadline = Deadline(self.probing.limit)
        made = _Progress()
        try:
            yield from self._converse(host, policy, port, deadline, made)
        except TimeoutError:
            made.reason = f"{made.reason}: no answer within {self.probing.limit:g} s"
        except ssl.SSLCertVerificationError as error:
            made.reason = f"its certificate is not valid: {error.verify_message.rstrip('.')}"
            made.certificate = yield from self._certificate(host.host, made.address, port)
        except ssl.SSLError as error:
            made.reason = f"the TLS handshake failed: {error}"
        except OSError as error:
            made.reason = f"{made.reason}: {error.strerror or error}"
        except SmtpError as error:
            made.reason = str(error)
        except ValueError:
            # The ssl module cannot send it.
            made.reason = "its name is no host name"
        else:
            return made.probe(ok=True)
        return made.probe(ok=False)

    def _converse(
        self, host: MailHost, policy: Policy | None, port: int, deadline: Deadline, made: _Progress
    ) -> Steps[None]:
        """Go through the conversation. Raise `SmtpError`, `OSError` where it ends early."""
        if "\\" in host.host:
            # What DNS takes for a name need not be one.
            raise SmtpError("its name is no host name")
        connection = yield from self._connect(host.host, port, deadline, made)
        with connection:
            yield from _until_tls(connection, made)
            name = host.host if self._zone.require_sni or policy is None else None
            tls = BoundedTls(connection, self.probing.context, name, MAX_HANDSHAKE)
            made.reason = "TLS"
            yield from tls.handshake()
            fields = tls.certificate_fields()
            made.tls = tls.version
            made.certificate = from_fields(fields)
            self._check_names(host, policy, common_names(fields))
            yield from _behind_tls(tls, made)

    def _check_names(self, host: MailHost, policy: Policy | None, names: list[str]) -> None:
        wanted: Iterable[str] = (host.host,)
        if policy is not None and policy.mx:
            if self._zone.tlsrpt and self.probing.checks_own_name:
                if host.pattern is None:
                    raise SmtpError("its name matches no mx pattern of the policy")
            else:
                wanted = tuple(pattern.removeprefix("*") for pattern in policy.mx)
        if not is_named(names, wanted):
            shown = ", ".join(names[:5]) or "no name"
            raise SmtpError(f"its certificate is for {shown}, and not for {' or '.join(wanted)}")

    def _connect(
        self, host: str, port: int, deadline: Deadline, made: _Progress
    ) -> Steps[BoundedSocket]:
        """Connect to the first address that answers."""
        made.reason = "DNS"
        refused: list[str] = []
        both: dict[str, Sequence[str] | NameServerError] = {}
        try:
            yield from self._discovery.addresses(host, deadline, both.__setitem__)
        except TimeoutError as error:
            refused.append(f"its address could not be looked up: {error}")
        for _, found in sorted(both.items()):
            if isinstance(found, NameServerError):
                refused.append(f"its address could not be looked up: {found}")
                continue
            for address in found[:_MAX_ADDRESSES]:
                made.address = address
                try:
                    connection = yield from connected(
                        (address, port), deadline.within(_CONNECT_LIMIT)
                    )
                except OSError as error:
                    refused.append(f"no connection to {address}: {error.strerror or error}")
                    continue
                connection.deadline = deadline
                made.connected = True
                return connection
        raise SmtpError("; ".join(refused) or "it has no address")

    def _certificate(self, host: str, address: str | None, port: int) -> Steps[Certificate | None]:
        """Return the certificate of a host whose certificate is not valid."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        deadline = Deadline(self.probing.limit)
        try:
            with (yield from connected((address or "", port), deadline)) as connection:
                yield from _until_tls(connection, _Progress())
                name = host if self._zone.require_sni else None
                tls = BoundedTls(connection, context, name, MAX_HANDSHAKE)
                yield from tls.handshake()
                return from_der(tls.certificate())
        except (OSError, SmtpError):
            return None


class _Progress:
    """How far a probe is. `reason`: the step that is under way, and in the end what came of it."""

    def __init__(self) -> None:
        self.reason = ""
        self.tls: str | None = None
        self.address: str | None = None
        self.certificate: Certificate | None = None
        self.connected = False

    def probe(self, *, ok: bool) -> Probe:
        return Probe(ok, self.reason, self.tls, self.address, self.certificate, self.connected)


def _until_tls(connection: BoundedSocket, made: _Progress) -> Steps[None]:
    """Greet, and have the server begin TLS."""
    made.reason = "its greeting"
    reply = yield from _reply(connection)
    if reply[0] != 220:
        raise SmtpError(f"it greets with {_said(reply)}")
    made.reason = "EHLO"
    yield from connection.sendall(f"EHLO {_our_name()}\r\n".encode())
    reply = yield from _reply(connection)
    if reply[0] != 250:
        raise SmtpError(f"it answers EHLO with {_said(reply)}")
    if not any(line.upper().split()[:1] == ["STARTTLS"] for line in reply[1]):
        raise SmtpError("it offers no STARTTLS")
    made.reason = "STARTTLS"
    yield from connection.sendall(b"STARTTLS\r\n")
    reply = yield from _reply(connection)
    if reply[0] != 220:
        raise SmtpError(f"it answers STARTTLS with {_said(reply)}")


def _behind_tls(tls: BoundedTls, made: _Progress) -> Steps[None]:
    """Greet again, and say goodbye."""
    made.reason = "EHLO behind TLS"
    yield from tls.sendall(f"EHLO {_our_name()}\r\n".encode())
    reply = yield from _reply(tls)
    if reply[0] != 250:
        raise SmtpError(f"behind TLS it answers EHLO with {_said(reply)}")
    made.reason = "its certificate is valid, and has the right name"
    try:
        yield from tls.sendall(b"QUIT\r\n")
        yield from _reply(tls)
    except (OSError, SmtpError):
        # Mail would have gone before.
        return


_Reply = tuple[int, list[str]]


def _reply(stream: _Stream) -> Steps[_Reply]:
    """Return the code and the lines of a reply (RFC 5321 §4.2). Raise `SmtpError`."""
    received = b""
    while True:
        part = yield from stream.recv(_MAX_REPLY)
        if not part:
            raise SmtpError("it closed the connection")
        received += part
        at, lines = 0, []
        while line := _REPLY_LINE.match(received, at):
            at = line.end()
            lines.append((line[3] or b"").decode("utf-8", "backslashreplace"))
            if line[2] != b"-":
                if received[at:]:
                    raise SmtpError("it sends something behind its reply")
                return int(line[1]), lines
        if b"\n" in received[at:] or len(received) > _MAX_REPLY:
            begin = received[at : at + 60].decode("utf-8", "backslashreplace")
            raise SmtpError(f"it does not speak SMTP: {begin!a}")


def _said(reply: _Reply) -> str:
    return f"{reply[0]} {' '.join(reply[1])}"[:200]


def _our_name() -> str:
    name = os.uname().nodename.lower()
    return name if is_host_name(name) else "[127.0.0.1]"
