"""`mta-sts-daemon --doctor`: what an administrator would look at, one line a finding.

    OK       CA certificates: 142 in /etc/ssl/certs/ca-certificates.crt
    warning  Postfix, TLS level: smtp_tls_security_level = dane: an answer of the daemon … \
remedy: list domains …

A check has a name and a function that yields findings (`checkup`). Each gets `LIMIT` seconds and no
more; one that fails or takes longer is a problem of its own, and the next one follows. Nothing on
the host is changed. The output is ASCII.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from ..config.settings import Config, wants_dane
from ..config.yaml_schema import ConfigError, shown
from ..net.nameservers import NameServers
from ..net.proxy import ProxyError, from_environment
from ..process.output import say
from . import file_access, host, policy_maps, postfix_tls
from .finding import Finding, Level, fine, problem, warning
from .postconf import Client, NoPostfix, PostconfError, Postfix, read

Check = tuple[str, Callable[[], Iterable[Finding]]]
PerClient = Callable[[], Iterable[tuple[Client, Finding]]]

# Seconds for one check.
LIMIT = 20.0
# Seconds for a DNS question.
_DNS = 5.0


def examine(
    config: Config,
    source: str,
    *,
    user: str | None = None,
    postfix_directory: str | None = None,
    resolv_conf: str = "/etc/resolv.conf",
    dns_port: int = 53,
) -> int:
    """Look at the host, and print what is found. Return 0 without a problem, else 1.

    `source`: where the configuration comes from. `user`: whom the daemon becomes.
    `postfix_directory`: where main.cf is, None for where Postfix has it.
    """
    dns = config.dns
    servers = NameServers(resolv_conf, dns_port, dns.nameservers, dns.trust_ad)
    where = "the configuration" if dns.nameservers else resolv_conf
    checks: list[Check] = [
        ("configuration", lambda: _configuration(config, source)),
        ("DNS", lambda: host.name_servers(servers, where, _DNS)),
        ("DNSSEC", lambda: host.validation(servers, _DNS, is_needed=wants_dane(config))),
        ("CA certificates", host.ca_certificates),
        ("proxy", lambda: _proxy(config)),
        ("cache", lambda: _cache(config, user)),
        ("exceptions", lambda: host.exceptions(config)),
        ("open files", lambda: host.descriptors(config)),
        ("socket", lambda: host.own_socket(config)),
    ]
    status = 0
    for name, finding in chain(findings(checks), _postfix(config, postfix_directory)):
        _print(name, finding)
        if finding.level is Level.PROBLEM:
            status = 1
    return status


def findings(checks: Sequence[Check], limit: float = LIMIT) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds, with its name. `limit`: seconds for one of them."""
    for name, check in checks:
        for finding in _within(limit, check):
            yield name, finding


def of_postfix(postfix: Postfix, config: Config, dns_port: int = 53) -> list[Check]:
    """Return the checks of Postfix's configuration. `dns_port`: of the name servers it asks."""
    clients = postfix.clients
    # Whoever does not ask the daemon is none of its business, as long as somebody does.
    ours = tuple(client for client in clients if policy_maps.asked(client, config)) or clients
    mail_version = postfix.main.get("mail_version", "")
    checks: list[tuple[str, PerClient]] = [
        ("policy maps", lambda: policy_maps.policy_maps(clients, config)),
        ("zone", lambda: policy_maps.zones(ours, config)),
        ("CA certificates", lambda: postfix_tls.authorities(ours)),
        ("TLS level", lambda: postfix_tls.level(ours, config)),
        ("DANE", lambda: postfix_tls.dane(ours, config, dns_port)),
        ("version", lambda: postfix_tls.release(ours, config, postfix.version, mail_version)),
        ("chroot", lambda: policy_maps.chroot(ours, config)),
        ("access", lambda: _access(postfix, ours, config)),
    ]
    return [(f"Postfix, {name}", partial(together, check, clients)) for name, check in checks]


def together(check: PerClient, clients: Sequence[Client]) -> Iterator[Finding]:
    """Yield each finding once, with the names of its clients unless it holds for all."""
    of: dict[Finding, list[str]] = {}
    for client, finding in check():
        of.setdefault(finding, []).append(client.name)
    for finding, names in of.items():
        whom = list(dict.fromkeys(names))
        everybody = len(whom) == len({client.name for client in clients})
        yield finding if everybody else finding.of(", ".join(whom))


def _postfix(config: Config, directory: str | None) -> Iterator[tuple[str, Finding]]:
    """Yield what is found of Postfix; if there is none, that."""
    kept: list[Postfix] = []

    def found() -> Iterator[Finding]:
        try:
            postfix = read(directory)
        except NoPostfix as error:
            yield warning(str(error), "look at it on the host that Postfix runs on")
            return
        except PostconfError as error:
            yield problem(str(error), "name the directory of main.cf with --postfix-config")
            return
        kept.append(postfix)
        yield from _found(postfix)

    yield from findings([("Postfix", found)])
    for postfix in kept:
        yield from findings(of_postfix(postfix, config))


def _found(postfix: Postfix) -> Iterator[Finding]:
    main = postfix.main
    where = main.get("config_directory", "")
    if not postfix.clients:
        yield problem(
            f"no smtp(8) in {where}/master.cf", "put a service with the command smtp there"
        )
        return
    others = main.get("multi_instance_directories", "")
    more = f"; further instances, each for --postfix-config: {others}" if others else ""
    yield fine(f"release {main.get('mail_version', '?')}, configuration in {where}{more}")


def _configuration(config: Config, source: str) -> Iterator[Finding]:
    yield fine(source)
    for text in config.warnings:
        yield warning(text, "see mta-sts-daemon.yml(5)")


def _proxy(config: Config) -> Iterable[Finding]:
    try:
        proxy = from_environment(os.environ, config.https_proxy, config.no_proxy)
    except ProxyError as error:
        return [problem(f"https_proxy in the environment: {error}", "correct or unset it")]
    return [] if proxy is None else host.way_out(proxy)


def _cache(config: Config, user: str | None) -> Iterable[Finding]:
    try:
        who = file_access.myself() if user is None else file_access.person(user)
    except (KeyError, OverflowError):
        return [problem(f"there is no user {user}", "name another one with -u, or make it")]
    return host.cache(config, who, user)


def _access(
    postfix: Postfix, clients: tuple[Client, ...], config: Config
) -> Iterator[tuple[Client, Finding]]:
    name = postfix.main.get("mail_owner", "postfix")
    try:
        smtp = file_access.postfix(name)
    except KeyError:
        for client in clients:
            text = f"there is no user {name}, Postfix's own (mail_owner)"
            yield client, warning(text, "make it, or correct main.cf")
        return
    yield from policy_maps.socket_access(clients, config, smtp)


def _within(limit: float, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds, from a thread that is left alone when the time is over."""
    done: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()

    def run() -> None:
        found: list[Finding] = []
        try:
            for finding in check():
                found.append(finding)
        except (OSError, ValueError, ConfigError) as error:
            found.append(
                problem(f"could not be looked at: {error}", "see that the doctor runs as root")
            )
        done.put(found)

    threading.Thread(target=run, daemon=True).start()
    try:
        yield from done.get(timeout=limit)
    except queue.Empty:
        yield problem(f"took longer than {limit:g} s", "see that what it asks is up and answers")


def _print(name: str, finding: Finding) -> None:
    """Print a finding on one line."""
    line = f"{finding.level.value:<8} {name}: {finding.text}"
    if finding.remedy:
        line += f"; remedy: {finding.remedy}"
    line = shown(line, len(line)).encode("ascii", "backslashreplace").decode()
    say("mta-sts-daemon", line)
