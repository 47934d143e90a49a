"""Checks of the host: name servers, CA certificates, the cache, our own socket.

Nothing is changed: no file is made, and no database opened, because a file that root has made could
not be opened by the daemon afterwards.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence

import dns.name
import dns.rdatatype

from ..cache.store import StoreError
from ..config.descriptors import FEW_CONNECTIONS, own_descriptors
from ..config.exemptions import read_file
from ..config.settings import (
    Address,
    Config,
    InternalCache,
    PostgresCache,
    RedisCache,
    SharedCache,
    SqliteCache,
    TcpAddress,
    UnixAddress,
)
from ..net.ca_store import CaStore, hashed_certificates, looked_at
from ..net.deadline import Deadline
from ..net.nameservers import NameServerError, NameServers
from ..net.proxy import Proxy
from ..net.steps import run
from ..socketmap.netstring import MAX_REPLY, NetstringError, cut, encode
from ..stores.opening import open_store
from .file_access import ENTER, READ, WRITE, Person, obstacle
from .finding import Finding, fine, problem, warning
from .store_trial import refusal

_SQLITE_MAGIC = b"SQLite format 3\0"
# The state of a socket that listens, in proc_net(5).
_LISTEN = "0A"
# Seconds for our own socket, which answers at once what needs no lookup.
_ANSWER = 5.0


def name_servers(servers: NameServers, where: str, timeout: float) -> Iterator[Finding]:
    """Ask for the SOA of the root, as the daemon asks.

    `where`: what names the servers. `timeout`: seconds.
    """
    try:
        answer = run(servers.ask(dns.name.root, dns.rdatatype.SOA, Deadline(timeout)))
    except (NameServerError, TimeoutError) as error:
        yield problem(
            f"no answer from the name servers of {where}: {error}",
            "name a resolver there that answers, best one on this host such as unbound",
        )
        return
    if not answer.records:
        yield warning(
            f"the name servers of {where} answer, but do not know the root zone",
            "see that they resolve the names of the Internet",
        )
        return
    yield fine(f"the name servers of {where} answer")


def validation(
    servers: NameServers, timeout: float, *, is_needed: bool = False
) -> Iterator[Finding]:
    """Ask whether the SOA of the root, which is signed, was validated (RFC 6840 §5.7).

    `is_needed`: a zone has `dane: true`.
    """
    if is_needed and not servers.validating:
        yield problem(
            "a zone has dane: true, and no name server is believed to validate: DANE is off",
            _VALIDATE,
        )
        return
    # With `dane: true` the daemon asks those alone that are believed.
    question = dns.name.root, dns.rdatatype.SOA, Deadline(timeout)
    try:
        answer = run(servers.ask(*question, validated=is_needed))
    except (NameServerError, TimeoutError) as error:
        yield warning(f"not found out whether the resolver validates: {error}", "as DNS")
        return
    if is_needed and not answer.authenticated:
        yield problem(
            "a zone has dane: true, and the resolver does not validate: no DANE is seen", _VALIDATE
        )
    elif is_needed:
        yield fine("the resolver validates, as dane: true needs it")
    elif answer.authenticated:
        yield fine("the resolver validates, which MTA-STS does not need, and DANE does")
    else:
        yield fine("the resolver does not validate, which MTA-STS does not need, but DANE does")


# Seconds after which a domain has been exempt for long.
_LONG = 30 * 86_400


def exceptions(config: Config) -> Iterator[Finding]:
    """Look at the zones that observe, and at the domains that are exempt."""
    zones = {"default_zone": config.default_zone, **config.zones}
    for name, zone in zones.items():
        if zone.observe:
            yield warning(
                f"zone {name} observes: no mail is protected",
                "read in the log what would be, then set observe: false",
            )
        if zone.exempt:
            yield warning(
                f"zone {name} exempts {_some(zone.exempt)}: their mail is not protected",
                "take out of exempt what works again",
            )
        if zone.exempt_file:
            yield from _of_file(name, zone.exempt_file)


def _of_file(zone: str, path: str) -> Iterator[Finding]:
    entries = read_file(path)
    days = (time.time() - os.stat(path).st_mtime) / 86_400
    if not entries:
        return
    text = f"zone {zone} exempts {_some(sorted(entries))}, by {path}, changed {days:.0f} days ago"
    if days * 86_400 < _LONG:
        yield fine(text)
    else:
        yield warning(text, "take out of the file what works again")


def _some(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return ", ".join(entries[:5]) + more


_VALIDATE = (
    "run a validating resolver on this host, such as unbound, and name it in /etc/resolv.conf, or"
    " set dns: {trust_ad: true} if nobody can change answers on the way"
)


def ca_certificates() -> Iterator[Finding]:
    """Count the CA certificates that policy hosts are verified against."""
    paths = ssl.get_default_verify_paths()
    try:
        count = CaStore().context().cert_store_stats()["x509_ca"]
    except (OSError, ValueError) as error:
        yield problem(f"the CA certificates cannot be read: {error}", _INSTALL)
        return
    places = [paths.cafile] if count and paths.cafile else []
    if paths.capath and (hashed := hashed_certificates(paths.capath)):
        places.append(paths.capath)
        count = max(count, hashed)
    if count:
        yield fine(f"{count} in {' and '.join(places)}")
    else:
        yield problem(f"none in {looked_at()}: no policy can be fetched", _INSTALL)


_INSTALL = (
    "install the package ca-certificates, or name a bundle that the daemon's user may read in the"
    " environment variable SSL_CERT_FILE"
)


def way_out(proxy: Proxy) -> Iterator[Finding]:
    """Connect to the proxy that policies are fetched through."""
    try:
        socket.create_connection((proxy.host, proxy.port), _ANSWER).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        yield problem(
            f"no connection to {proxy}: {why}; no policy can be fetched",
            "start it, or correct https_proxy in the configuration or the environment",
        )
        return
    yield fine(f"{proxy} can be connected to")


def cache(config: Config, who: Person, user: str | None = None) -> Iterator[Finding]:
    """Look at where policies are kept, for the daemon that runs as `who`.

    `user`: whom the daemon becomes, None if it stays what it is.
    """
    match config.cache:
        case InternalCache():
            yield fine("in memory; empty after each start (choose another type to keep it)")
        case SqliteCache(filename):
            yield _sqlite(os.path.abspath(filename), who)
        case RedisCache(redis=redis):
            yield _server(config.cache, f"Redis at {redis.name}", user)
        case PostgresCache(postgres=postgres):
            yield _server(config.cache, f"PostgreSQL at {postgres.name}", user)


def _sqlite(path: str, who: Person) -> Finding:
    directory = os.path.dirname(path)
    try:
        # sqlite makes further files beside its own.
        shut = obstacle(directory, who, READ | WRITE | ENTER)
        if shut is None and os.path.exists(path):
            shut = obstacle(path, who, READ | WRITE)
            with open(path, "rb") as file:
                begin = file.read(len(_SQLITE_MAGIC))
            if begin not in (b"", _SQLITE_MAGIC):
                return problem(
                    f"{path} is no sqlite database", "name another file, or move it away"
                )
    except FileNotFoundError:
        return problem(f"there is no directory {directory}", f"make it, for {who.name} to write to")
    except OSError as error:
        return warning(f"{path} cannot be looked at: {error.strerror}", "run the doctor as root")
    if shut is not None:
        return problem(
            f"{who.name} may not write {path}: {shut}",
            "give it to the daemon's user (name that one with -u if it is another)",
        )
    return fine(f"{path} can be written by {who.name}")


def _server(settings: SharedCache, name: str, user: str | None) -> Finding:
    try:
        open_store(settings).close()
    except StoreError as error:
        return problem(
            str(error).removeprefix("cache: "), "put this right, or choose another type of cache"
        )
    why = refusal(settings, user)
    if why:
        return problem(
            f"{why}; meanwhile policies are kept in memory alone",
            "start the server, or correct the options of the cache",
        )
    return fine(f"{name} answers")


def descriptors(config: Config) -> Iterator[Finding]:
    """Look how many connections of Postfix there is room for, by the limit of this process."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        yield fine("no limit of open files")
        return
    own = own_descriptors(config.cache)
    left = max(0, limit - own)
    if left < FEW_CONNECTIONS:
        yield warning(
            f"a limit of {limit} open files, of which the daemon needs {own} itself, leaves"
            f" {left} for connections of Postfix",
            "raise the limit of the service (LimitNOFILE=, ulimit -n), or lower threads or"
            " max_connections of the cache",
        )
        return
    yield fine(f"a limit of {limit} open files leaves {left} for connections of Postfix")


def own_socket(config: Config) -> Iterator[Finding]:
    """Ask the daemon at each address for a next hop that needs no lookup, as Postfix asks."""
    for address in config.addresses:
        yield from _answers(config, address)


def _answers(config: Config, address: Address) -> Iterator[Finding]:
    if isinstance(address, UnixAddress):
        where = address.path
    else:
        where = f"{address.host} port {address.port}"
    if isinstance(address, TcpAddress) and address.port == 0:
        yield warning("port 0: the kernel chooses a port at each start", "set a port, such as 8461")
        return
    zone = next(iter(config.zones), "postfix")
    request = f"{zone} [192.0.2.1]".encode()
    try:
        reply = _asked(address, request)
    except (OSError, UnicodeError, NetstringError) as error:
        why = getattr(error, "strerror", None) or error
        yield problem(
            f"no answer on {where}: {why}; Postfix defers mail meanwhile",
            "start the daemon, and see its log",
        )
        return
    if reply.startswith(b"NOTFOUND "):
        yield fine(f"answers on {where}")
        if isinstance(address, UnixAddress):
            return
        if (count := _listening(address.host, address.port)) > 1:
            yield warning(
                f"{count} processes listen on {where}, and each gets some of Postfix's connections",
                f"end all but one of them (ss -ltnp 'sport = :{address.port}' names them)",
            )
    else:
        yield problem(
            f"on {where} somebody else answers: {reply[:40]!a}",
            "end that program, or choose another address",
        )


def _listening(host: str, port: int) -> int:
    """Return how many sockets listen on the same address and port as Postfix asks (proc_net(5))."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    file = "tcp6" if family == socket.AF_INET6 else "tcp"
    packed = socket.inet_pton(family, str(address[0]))
    # Words of 32 bits in the byte order of this host, those of the address and of any address.
    local = "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))
    wanted = {f"{local}:{port:04X}", f"{'0' * len(local)}:{port:04X}"}
    try:
        with open(f"/proc/net/{file}", encoding="ascii") as lines:
            found = [line.split()[1:4] for line in lines]
    except OSError:
        return 0
    return sum(one in wanted and state == _LISTEN for one, _, state in found)


def _asked(address: Address, request: bytes) -> bytes:
    """Return the daemon's reply. Raise `OSError`, `NetstringError`."""
    deadline = Deadline(_ANSWER)
    if isinstance(address, TcpAddress):
        connection = socket.create_connection((address.host, address.port), _ANSWER)
    else:
        connection = socket.socket(socket.AF_UNIX)
    with connection:
        if isinstance(address, UnixAddress):
            connection.settimeout(_ANSWER)
            connection.connect(address.path)
        connection.sendall(encode(request))
        received = b""
        while (found := cut(received, limit=MAX_REPLY)) is None:
            connection.settimeout(deadline.left())
            part = connection.recv(4096)
            if not part:
                raise NetstringError("the connection was closed")
            received += part
    return found[0]
