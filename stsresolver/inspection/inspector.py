"""Looks at a domain, by the `Resolver` that the daemon and the library have, and beyond it.

Nothing is raised for what the world does. Each lookup has its own time limit: DNS of the record,
HTTPS, a look at a certificate that is not valid, and the MX records.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any, TypeAlias

from ..cache.entry import Entry
from ..cache.store import StoreError
from ..config.exemptions import exempted_by
from ..config.settings import DnsSettings, Zone
from ..control.messages import Missed
from ..dane.resolver import DaneResolver
from ..dane.states import Dane
from ..mta_sts.connector import Connector
from ..mta_sts.discovery import Discovery
from ..mta_sts.next_hop import NextHop
from ..mta_sts.policy import Policy
from ..mta_sts.resolver import Resolver
from ..mta_sts.results import Cause, Failure, Found, Lookup, NotChanged
from ..net.deadline import Deadline
from ..net.nameservers import NameServerError, NameServers
from ..net.proxy import Proxy
from ..net.steps import SideBySide, Steps, run
from ..policies.faults import waits_for
from ..socketmap.answer import WITH_DANE, answer
from .certificate_shown import certificate_shown
from .findings import Inspection, MailHost, Part, Problem, Severity
from .judgement import judged
from .mail_hosts import mail_hosts
from .recorder import Recorder
from .smtp import Prober, Probing
from .stored import Cached
from .target import parse_target

# The MX hosts, None where they are not known, and then why.
MailHosts: TypeAlias = tuple[list[MailHost] | None, str]


class Inspector:
    """Inspects domains, as many threads at once as want to.

    `timeout`, `resolv_conf`, `dns_port`, `https_port`, `proxy`: as for `Resolver`.
    `dns`: the name servers to ask in place of those of `resolv_conf`, and whether to believe them.
    `dane`: whether to look at DANE though the zone does not heed it.
    `zone`: how Postfix is answered.
    `exempt`: entries of exempt domains besides those of the zone, such as those of its file.
    `cached`: gives what a daemon has cached of a domain, see `stored`; None leaves that out.
    `probing`: how the MX hosts are probed (`smtp.as_postfix_does`); None leaves them alone.
    """

    def __init__(
        self,
        timeout: float = 4.0,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        dns_port: int = 53,
        https_port: int = 443,
        dns: DnsSettings | None = None,
        proxy: Proxy | None = None,
        zone: Zone | None = None,
        dane: bool = True,
        exempt: frozenset[str] = frozenset(),
        cached: Cached | None = None,
        probing: Probing | None = None,
    ) -> None:
        self._timeout = timeout
        self._zone = zone or Zone()
        self._exempt = frozenset(self._zone.exempt) | exempt
        dns = dns or DnsSettings()
        self._cached = cached
        self._resolver = Resolver(
            timeout,
            resolv_conf=resolv_conf,
            dns_port=dns_port,
            https_port=https_port,
            nameservers=dns.nameservers,
            proxy=proxy,
        )
        self._name_servers = NameServers(resolv_conf, dns_port, dns.nameservers)
        discovery = Discovery(timeout, resolv_conf, dns_port, dns.nameservers)
        self._dane = None
        if dane or self._zone.dane:
            self._dane = DaneResolver(
                timeout,
                resolv_conf=resolv_conf,
                dns_port=dns_port,
                nameservers=dns.nameservers,
                trust_ad=dns.trust_ad,
            )
        self._connector = Connector(discovery, https_port, proxy)
        self._prober = None if probing is None else Prober(discovery, probing, self._zone)

    def inspect(self, target: str | NextHop, *known_ids: str) -> Inspection:
        """Look at the domain of `target`: a domain, an address, or a next hop (`parse_target`).

        `known_ids`: as for `Resolver.resolve`; where one is published, nothing more is looked at.
        Raise `ValueError` for text that names no domain.
        """
        asked = parse_target(target) if isinstance(target, str) else target
        domain = asked.domain
        now, began = time.time(), time.monotonic()
        recorder = Recorder(domain)
        result = run(self._resolver.steps_of_resolve(domain, *known_ids, observer=recorder))
        shown = None
        if isinstance(result, Found | Failure):
            recorder.stop()
        if isinstance(result, Failure) and result.cause is Cause.CERTIFICATE:
            host = f"mta-sts.{domain}"
            shown = run(certificate_shown(self._connector, host, Deadline(self._timeout)))
        record, policy_host = recorder.ended(result, shown)
        hosts, mx_failure, dane = None, "", None
        times = recorder.times
        if not isinstance(result, NotChanged):
            (hosts, mx_failure), dane = run(self._of_mail(asked, times))
        entry, problems = self._known(domain, result)
        in_force = _in_force(result, entry, now)
        if in_force is not None and hosts is not None:
            hosts = [replace(one, pattern=in_force.pattern_of(one.host)) for one in hosts]
        would_be = _told(result, in_force, domain, self._zone, dane)
        exempt = exempted_by(domain, self._exempt)
        port = asked.port or "25"
        if self._prober is not None and hosts:
            number = self._prober.probing.port_of(port)
            port = str(number)
            hosts = self._prober.probe(hosts, in_force, number)
        return judged(
            Inspection(
                domain,
                result,
                record,
                policy_host,
                None if hosts is None else tuple(hosts),
                mx_failure,
                port,
                in_force,
                "NOTFOUND " if exempt or self._zone.observe else would_be,
                entry,
                times,
                time.monotonic() - began,
                now,
                dane,
                self._zone.dane,
                exempt,
                would_be,
            ),
            problems,
        )

    def _known(self, domain: str, result: Lookup) -> tuple[Entry | None, tuple[Problem, ...]]:
        """Return what the cache holds, and what is wrong with that."""
        if self._cached is None:
            return None, ()
        try:
            items = self._cached(domain)
        except StoreError as error:
            text = f"the cache could not be read: {error}"
            return None, (Problem(Severity.WARNING, "cache", text),)
        entry = next((one for one in items if isinstance(one, Entry)), None)
        if entry is not None or not isinstance(result, Found):
            return entry, ()
        problems = (
            Problem(
                Severity.WARNING,
                "remembered-miss",
                f"the daemon does not see this policy for {one.left:.0f} seconds more ({one.text});"
                f" mta-sts-query cache refresh {domain} ends that",
            )
            for one in items
            if isinstance(one, Missed)
        )
        return None, tuple(problems)

    def _of_mail(
        self, asked: NextHop, times: MutableMapping[Part, float]
    ) -> Steps[tuple[MailHosts, Dane | None]]:
        """Look at the MX hosts, and at DANE beside them; note in `times` what each took."""
        began = time.monotonic()
        found: dict[Part, Any] = {Part.DANE: None}
        with SideBySide() as under_way:
            under_way.start(Part.MX, self._mail_hosts(asked))
            if self._dane is not None:
                under_way.start(Part.DANE, self._dane.steps_of_look_up(asked, whole=True))
            for _ in range(1 if self._dane is None else 2):
                done = yield from under_way.first()
                assert done is not None
                part, found[part] = done
                times[part] = time.monotonic() - began
        return found[Part.MX], found[Part.DANE]

    def _mail_hosts(self, asked: NextHop) -> Steps[MailHosts]:
        if asked.is_host:
            return [MailHost(asked.domain, 0)], ""
        try:
            deadline = Deadline(self._timeout)
            hosts = yield from mail_hosts(self._name_servers, asked.domain, deadline)
        except (NameServerError, TimeoutError) as error:
            return None, str(error)
        return hosts, ""


def inspect(
    target: str,
    *,
    timeout: float = 4.0,
    proxy: Proxy | None = None,
    zone: Zone | None = None,
) -> Inspection:
    """Look at the domain of `target` once. For many domains, keep an `Inspector`.

    `target`: a domain, an address, or a next hop; text that names none raises `ValueError`.
    `timeout`: seconds, for DNS and for HTTPS each. `proxy`, `zone`: as for `Inspector`.
    """
    return Inspector(timeout, proxy=proxy, zone=zone).inspect(target)


def _told(
    result: Lookup,
    in_force: Policy | None,
    domain: str,
    zone: Zone,
    dane: Dane | None = None,
) -> str:
    """Return the reply to Postfix: mail waits if it is our fault that no policy is known."""
    if in_force is None and isinstance(result, Failure):
        fault = waits_for(result, {}, 0.0)
        if fault is not None:
            return f"TEMP {fault.value}"
    told = answer(in_force, domain, zone)
    if zone.dane and dane is not None and told.startswith(b"OK "):
        told, _ = WITH_DANE.get(dane.verdict, (told, None))
    return told.decode()


def _in_force(result: Lookup, entry: Entry | None, now: float) -> Policy | None:
    """Return the policy that Postfix is answered by: that of the store while none was fetched."""
    if isinstance(result, Found):
        return result.policy
    return entry.policy if entry is not None and now < entry.end else None
