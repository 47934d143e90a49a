"""Does Postfix ask us? Compares smtp_tls_policy_maps with where the daemon listens.

The forms of a table are those of socketmap_table(5): `socketmap:inet:HOST:PORT:ZONE` and
`socketmap:unix:PATH:ZONE`. smtp(8) runs in the queue directory, so a relative path begins there; if
it runs chrooted, every path does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.settings import Address, Config, TcpAddress, UnixAddress
from ..config.yaml_schema import guess
from .file_access import WRITE, Person, obstacle
from .finding import Finding, fine, problem, warning
from .postconf import Client

_ANY = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Socketmap:
    """A table that is asked over a socket: `host` and `port`, or else `path`."""

    text: str
    zone: str
    path: str = ""
    host: str = ""
    port: str = ""
    proxied: bool = False

    def on_the_host(self, client: Client) -> str:
        """Return the path as everybody else sees it."""
        # proxymap(8) asks in the place of smtp(8), and never runs chrooted.
        chroot = client.chroot and not self.proxied
        inside = self.path.lstrip("/") if chroot else self.path
        return os.path.normpath(os.path.join(client["queue_directory"], inside))


def tables(text: str) -> list[str]:
    """Return the tables that a setting of Postfix lists; braces hold together what is in them."""
    found, depth = [""], 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth == 0 and (char == "," or char.isspace()):
            found.append("")
        else:
            found[-1] += char
    return [table for table in found if table]


def socketmap(table: str) -> Socketmap | None:
    """Return the socketmap that a table is, None for another type and for one that is no name."""
    kind, _, rest = table.removeprefix("proxy:").partition(":")
    transport, _, name = rest.partition(":")
    address, _, zone = name.rpartition(":")
    proxied = table.startswith("proxy:")
    if kind != "socketmap" or not address or not zone:
        return None
    if transport == "unix":
        return Socketmap(table, zone, path=address, proxied=proxied)
    host, _, port = address.rpartition(":")
    if transport != "inet" or not host:
        return None
    return Socketmap(table, zone, host=host.strip("[]").lower(), port=port, proxied=proxied)


def asked(client: Client, config: Config) -> list[Socketmap]:
    """Return those of the client's tables that name our socket, chrooted out of reach or not."""
    found = filter(None, map(socketmap, tables(client["smtp_tls_policy_maps"])))
    return [one for one in found if _is_ours(one, client, config)]


def policy_maps(clients: tuple[Client, ...], config: Config) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client whether it asks us, and whether a static table comes first."""
    somebody_asks = any(asked(client, config) for client in clients)
    remedy = f"set smtp_tls_policy_maps = {suggestion(config, clients)}"
    for client in clients:
        ours = asked(client, config)
        value = client["smtp_tls_policy_maps"]
        if not ours:
            shown = f"smtp_tls_policy_maps = {value}" if value else "smtp_tls_policy_maps is empty"
            text = f"{shown}: the daemon is not asked"
            yield client, warning(text, remedy) if somebody_asks else problem(text, remedy)
            continue
        yield client, fine(f"smtp_tls_policy_maps asks the daemon, {ours[0].text}")
        found = tables(value)
        later = found[found.index(ours[0].text) + 1 :]
        if later:
            yield (
                client,
                warning(
                    f"{later[0]} comes after the daemon, whose answers override it",
                    "list static tables first",
                ),
            )


def zones(clients: tuple[Client, ...], config: Config) -> Iterator[tuple[Client, Finding]]:
    """Yield which zone answers each client."""
    for client in clients:
        for table in asked(client, config):
            if table.zone in config.zones:
                yield client, fine(f"{table.zone} answers {table.text}")
            elif close := guess(table.zone, config.zones):
                yield (
                    client,
                    warning(
                        f"default_zone answers {table.text}: there is no zone {table.zone}{close}",
                        "write the zone's name alike in the table and in the configuration",
                    ),
                )
            else:
                yield client, fine(f"default_zone answers {table.text}")


def chroot(clients: tuple[Client, ...], config: Config) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client with a UNIX socket whether it looks where the daemon listens."""
    for client in clients:
        for table in asked(client, config):
            if not table.path:
                continue
            if path := _path(table, client, config):
                how = "chrooted" if client.chroot else "not chrooted"
                yield client, fine(f"{how}, {table.text} is {path}")
            else:
                paths = ", ".join(one.path for one in config.unix_addresses)
                yield (
                    client,
                    problem(
                        f"{table.text} is looked for at {table.on_the_host(client)},"
                        f" and the daemon listens at {paths}",
                        _inside(client, config, table.zone),
                    ),
                )


def socket_access(
    clients: tuple[Client, ...], config: Config, smtp: Person
) -> Iterator[tuple[Client, Finding]]:
    """Yield for each client with a UNIX socket whether Postfix's user, `smtp`, may connect."""
    for client in clients:
        for table in asked(client, config):
            found = _path(table, client, config)
            if found is None:
                continue
            path = os.path.abspath(found)
            inside = client.chroot or not table.path.startswith("/")
            try:
                shut = obstacle(path, smtp, WRITE, client["queue_directory"] if inside else "/")
            except OSError as error:
                yield (
                    client,
                    warning(
                        f"{path} cannot be looked at: {error.strerror}",
                        "start the daemon, and run the doctor as root",
                    ),
                )
                continue
            if shut is None:
                yield client, fine(f"user {smtp.name} may connect to {path}")
            else:
                yield (
                    client,
                    problem(
                        f"user {smtp.name} may not connect to {path}: {shut}",
                        f"set mode: 0666, or group: {smtp.group} with mode: 0660 (no other group of"
                        " that user counts), and let it enter the directories",
                    ),
                )


def suggestion(config: Config, clients: tuple[Client, ...] = ()) -> str:
    """Return the table that asks the daemon.

    Its zone is `postfix`, as in the manual: that of this name, if there is one, or `default_zone`.
    """
    first = config.addresses[0]
    if isinstance(first, TcpAddress):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.host, first.host)
        return f"socketmap:inet:{TcpAddress(host, first.port)}:postfix"
    path = os.path.abspath(first.path)
    for client in clients:
        queue = client["queue_directory"].rstrip("/") + "/"
        if path.startswith(queue):
            return f"socketmap:unix:{path.removeprefix(queue)}:postfix"
    return f"socketmap:unix:{path}:postfix"


def _inside(client: Client, config: Config, zone: str) -> str:
    """Return what makes both sides mean the same socket, chrooted or not."""
    queue = client["queue_directory"].rstrip("/")
    for one in config.unix_addresses:
        path = os.path.abspath(one.path)
        if path.startswith(queue + "/"):
            name = path.removeprefix(queue + "/")
            return f"set smtp_tls_policy_maps = socketmap:unix:{name}:{zone}"
    return (
        f"set path: {queue}/mta-sts/socket for the daemon, and"
        f" smtp_tls_policy_maps = socketmap:unix:mta-sts/socket:{zone}"
    )


def _is_ours(table: Socketmap, client: Client, config: Config) -> bool:
    return any(_is_at(table, client, one) for one in config.addresses)


def _is_at(table: Socketmap, client: Client, ours: Address) -> bool:
    if isinstance(ours, UnixAddress):
        # Written as the daemon writes it, it is meant to be ours, though a chroot may hide it.
        paths = (table.on_the_host(client), table.path)
        return any(_same(path, ours.path) for path in paths if path)
    return bool(table.host) and _port(table.port) == ours.port and _reaches(table, ours.host)


def _path(table: Socketmap, client: Client, config: Config) -> str | None:
    """Return the path of ours that a table leads to, if it does."""
    for one in config.unix_addresses:
        if table.path and _same(table.on_the_host(client), one.path):
            return one.path
    return None


def _reaches(table: Socketmap, host: str) -> bool:
    ours = host.lower()
    # Postfix tries every address of a name.
    return (
        ours in _ANY
        or table.host == ours
        or not _addresses(ours).isdisjoint(_addresses(table.host))
    )


def _addresses(host: str) -> set[object]:
    try:
        return {found[4][0] for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _port(text: str) -> int | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return socket.getservbyname(text, "tcp")
    except (OSError, ValueError):
        return None


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
