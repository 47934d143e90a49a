"""The resolver: does a domain have an MTA-STS policy, and what does it say?

It finds the TXT record, then fetches the policy (RFC 8461 §3.1, §3.3). It remembers nothing:
`policies` decides what stays in force, and for how long. Plain data goes in and comes out, so that
another process can do the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..net.domain_names import a_labels
from ..net.proxy import Proxy
from ..net.steps import Steps, run
from .discovery import Discovery
from .fetch import Fetcher
from .observer import UNOBSERVED, Observer
from .policy import Policy
from .results import Failure, Found, Lookup, NoPolicy, NotChanged


class Resolver:
    """Looks up MTA-STS policies.

    `timeout`: seconds, for DNS and for HTTPS each, as a total of all their steps.
    `resolv_conf`: the file with the name servers, read again whenever it changes.
    `dns_port`, `https_port`: where to connect to; names and URLs stay those of the standard.
    `nameservers`: those to ask in place of the file's: "192.0.2.1", "[2001:db8::1]:53".
    `proxy`: the HTTP proxy that policies are fetched through (`proxy.from_environment`), if any.

    One resolver may be used by any number of threads at once. A domain may be given as U-labels
    or A-labels; text that is no domain name of two labels or more raises `ValueError`. Nothing
    else is raised: what goes wrong is a result.

    `resolve`, `policy_id` and `fetch` return when the result is there. The methods whose names
    begin with `steps` return the same work in steps (`net.steps`), for callers with other work to
    do.
    """

    def __init__(
        self,
        timeout: float = 4.0,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        dns_port: int = 53,
        https_port: int = 443,
        nameservers: Sequence[str] = (),
        proxy: Proxy | None = None,
    ) -> None:
        self._discovery = Discovery(timeout, resolv_conf, dns_port, nameservers)
        self._fetcher = Fetcher(timeout, self._discovery, https_port, proxy)

    def resolve(self, domain: str, *known_ids: str) -> Lookup:
        """Look up the policy of `domain`.

        `known_ids`: ids whose policy the caller has or does not want. The policy is fetched only
        if the record carries another one.
        """
        return run(self.steps_of_resolve(domain, *known_ids))

    def policy_id(self, domain: str) -> str | NoPolicy | Failure:
        """Return the id that the TXT record of `domain` carries; only DNS is asked."""
        return run(self.steps_of_policy_id(domain))

    def fetch(self, domain: str) -> Policy | Failure:
        """Fetch the policy of `domain` from its policy host, whatever the TXT record says."""
        return run(self.steps_of_fetch(domain))

    def steps_of_resolve(
        self, domain: str, *known_ids: str, observer: Observer = UNOBSERVED
    ) -> Steps[Lookup]:
        """Return `resolve` in steps, which `observer` is told of."""
        domain = a_labels(domain)
        found = yield from self._discovery.policy_id(domain, observer)
        if not isinstance(found, str):
            return found
        if found in known_ids:
            return NotChanged(found)
        policy = yield from self._fetcher.fetch(domain, observer)
        if isinstance(policy, Failure):
            return replace(policy, id=found)
        return Found(policy, found)

    def steps_of_policy_id(self, domain: str) -> Steps[str | NoPolicy | Failure]:
        """Return `policy_id` in steps."""
        return self._discovery.policy_id(a_labels(domain))

    def steps_of_fetch(self, domain: str) -> Steps[Policy | Failure]:
        """Return `fetch` in steps."""
        return self._fetcher.fetch(a_labels(domain))
