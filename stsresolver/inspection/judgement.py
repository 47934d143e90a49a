"""What follows from an inspection: its problems, and the verdict in one sentence. Pure.

The tables say of each cause which step it is of, whose fault it is as a rule, and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ..dane.states import MxState, Verdict
from ..mta_sts.policy import Mode
from ..mta_sts.results import Cause, Failure, Found, NoPolicy, NotChanged
from .findings import Inspection, MailHost, Problem, Severity

# A certificate that ends sooner is a warning (days), and so is a policy that ends sooner (seconds).
CERTIFICATE_DAYS = 14
SHORT_MAX_AGE = 86_400
# Fields that may stand in a policy once (RFC 8461 §3.2).
_ONCE = ("version", "mode", "max_age")
# Problems that `--strict` makes an exit status of.
STRICT = ("certificate-ends", "dane-hosts", "max-age-short", "mx-mismatch", "probe")


class Advice(NamedTuple):
    """Of a cause: the step that failed, whose fault it is as a rule, and what to do."""

    step: str
    fault: str
    remedy: str


_DOMAIN = "the domain's"
_OURS = "this host's, or its network's"
_EITHER = "the domain's, or this host's network"

ADVICE: dict[Cause, Advice] = {
    Cause.NO_RECORD: Advice("record", "nobody's", "nothing: the domain does not use MTA-STS"),
    Cause.BAD_RECORD: Advice(
        "record", _DOMAIN, 'publish one TXT record of the form "v=STSv1; id=20260101;"'
    ),
    Cause.SEVERAL_RECORDS: Advice("record", _DOMAIN, "remove all MTA-STS records but one"),
    Cause.DNS: Advice(
        "record",
        "that of the domain's name servers, or of this host's",
        "ask another resolver for the same record; if it fails too, tell the domain",
    ),
    Cause.NAME_SERVERS: Advice(
        "record or addresses", _OURS, "name a resolver in /etc/resolv.conf that answers this host"
    ),
    Cause.NO_ROOM: Advice(
        "record or connection", _OURS, "raise the limits of descriptors and memory"
    ),
    Cause.PROCESS: Advice("record", _OURS, "try again, and read the daemon's log"),
    Cause.NO_ADDRESS: Advice("addresses", _DOMAIN, "give the policy host an A or AAAA record"),
    Cause.ADDRESS: Advice(
        "addresses",
        "that of the domain's name servers, or of this host's",
        "ask another resolver for the addresses of the policy host",
    ),
    Cause.CONNECT: Advice(
        "connection", _EITHER, "try port 443 of the policy host from another network"
    ),
    Cause.PROXY: Advice("connection", _OURS, "mend the proxy, or https_proxy that names it"),
    Cause.CA_STORE: Advice(
        "tls", _OURS, "install ca-certificates, or name a bundle in SSL_CERT_FILE"
    ),
    Cause.CERTIFICATE: Advice(
        "tls", _DOMAIN, "give the policy host a valid certificate with its own name"
    ),
    Cause.TLS: Advice("tls", _DOMAIN, "have the policy host speak TLS 1.2 or 1.3 on port 443"),
    Cause.HTTP: Advice("http", _DOMAIN, "have the policy host serve the policy as a plain file"),
    Cause.STATUS: Advice(
        "http", _DOMAIN, "serve the policy with status 200, and without a redirect"
    ),
    Cause.MEDIA_TYPE: Advice("http", _DOMAIN, "serve the policy as text/plain"),
    Cause.SIZE: Advice("http", _DOMAIN, "serve a policy, and not a web page in its place"),
    Cause.DEADLINE: Advice(
        "connection, tls or http", _EITHER, "try a longer --timeout, or another network"
    ),
    Cause.SYNTAX: Advice("policy", _DOMAIN, "mend the line that is named (RFC 8461, section 3.2)"),
}


def advice(cause: Cause) -> Advice:
    """Return what is advised for a cause."""
    return ADVICE.get(cause, Advice("lookup", _OURS, "look the message up in the documentation"))


def code(cause: Cause) -> str:
    """Return the name of a cause for programs."""
    return cause.name.lower().replace("_", "-")


def judged(seen: Inspection, more: tuple[Problem, ...] = ()) -> Inspection:
    """Return the inspection with its problems, `more` included, and its verdict."""
    of_lookup = (*_of_lookup(seen), *_of_policy(seen), *_of_hosts(seen), *_of_dane(seen))
    found = (*of_lookup, *_of_zone(seen), *more)
    return replace(seen, problems=found, verdict=verdict(seen))


def is_weak(seen: Inspection) -> bool:
    """Say whether a warning of the kinds that `--strict` takes for an error was found."""
    return any(one.code in STRICT for one in seen.problems)


# PROBLEMS


def _error(code: str, text: str) -> Problem:
    return Problem(Severity.ERROR, code, text)


def _warning(code: str, text: str) -> Problem:
    return Problem(Severity.WARNING, code, text)


def _of_lookup(seen: Inspection) -> Iterator[Problem]:
    """Yield why there is no policy, unless the domain wants none."""
    if seen.cause is not None and seen.cause is not Cause.NO_RECORD:
        yield _error(code(seen.cause), str(seen.result))
    texts = seen.record.texts or ()
    if seen.cause is Cause.NO_RECORD:
        for text in texts:
            if text.lower().lstrip().startswith("v=sts"):
                yield _warning(
                    "record-ignored",
                    f"the TXT record {text[:60]!a} is no MTA-STS record: it has to begin"
                    ' with "v=STSv1;"',
                )


def _of_policy(seen: Inspection) -> Iterator[Problem]:
    """Yield what is odd about the certificate and the policy."""
    certificate = seen.policy_host.certificate if seen.policy_host is not None else None
    if certificate is not None and seen.cause is not Cause.CERTIFICATE:
        days = certificate.days_left(seen.now)
        if days < CERTIFICATE_DAYS:
            yield _warning(
                "certificate-ends", f"the certificate of the policy host ends in {_days(days)}"
            )
    if seen.policy is None:
        return
    if seen.policy.max_age < SHORT_MAX_AGE:
        yield _warning(
            "max-age-short",
            f"the policy lasts {seen.policy.max_age} seconds, less than a day: an attacker who"
            " blocks the policy host for so long turns it off",
        )
    served = seen.policy_host.text if seen.policy_host is not None else None
    if served is not None and not all(line.strip() for line in served.rstrip("\r\n").split("\n")):
        yield _warning(
            "blank-line", "the policy has blank lines, which others may refuse (RFC 8461, 3.2)"
        )
    names = Counter(field.partition(":")[0] for field in seen.policy.text)
    for name in _ONCE:
        if names[name] > 1:
            yield _warning(
                "field-repeated", f"the policy has {name} {names[name]} times; the first counts"
            )


def _of_hosts(seen: Inspection) -> Iterator[Problem]:
    """Yield what is wrong with the MX hosts."""
    if seen.mx is None:
        if seen.mx_failure:
            yield _warning("mx-lookup", f"the MX hosts were not found out: {seen.mx_failure}")
        return
    tried = [host.probe for host in seen.mx if host.probe is not None and host.probe.address]
    if tried and not any(probe.connected for probe in tried):
        often = ": many networks block port 25 on the way out" if seen.port == "25" else ""
        yield _error(
            "port-blocked",
            f"no MX host could be connected to at port {seen.port}{often}; try again from the host"
            " that sends the mail",
        )
    policy = seen.in_force
    if policy is None or policy.mode is Mode.NONE:
        return
    if not seen.mx:
        yield _warning("null-mx", "the domain takes no mail (null MX), and has a policy")
    for host in seen.mx:
        if host.pattern is None:
            text = f"{host.host} matches no mx pattern of the policy"
            if seen.is_by_dane:
                yield _warning("mx-mismatch", f"{text}: mail waits once it has no DANE")
            elif seen.is_enforced:
                yield _error("mx-mismatch", f"{text}: mail is not delivered there")
            else:
                yield _warning("mx-mismatch", f"{text}: once it is enforced, mail waits")
        if host.probe is not None and not host.probe.ok:
            make = _error if seen.is_enforced else _warning
            yield make("probe", f"{host.host}: {host.probe.reason}")


def _of_dane(seen: Inspection) -> Iterator[Problem]:
    """Yield why mail waits because of DANE, or may wait."""
    dane = seen.dane
    if dane is None:
        return
    if seen.is_by_dane and dane.unusable_hosts:
        hosts = ", ".join(map(str, dane.unusable_hosts))
        yield _warning("dane-hosts", f"verified by DANE, so mail goes to none of these: {hosts}")
    if seen.answer.startswith("TEMP ") and seen.heeds_dane and dane.verdict is Verdict.UNKNOWN:
        yield _error("dane-unknown", f"not known whether DANE applies: {dane}")
    if seen.heeds_dane and dane.mx is MxState.NOT_BELIEVED:
        yield _warning(
            "dane-off",
            "the zone has dane: true, and no name server is believed to validate by DNSSEC: run one"
            " on this host",
        )


def _of_zone(seen: Inspection) -> Iterator[Problem]:
    """Yield why mail is not protected, though the domain has a policy to be enforced."""
    if seen.exempt is not None:
        yield _warning("exempt", f"exempt by {seen.exempt} in the zone: mail is not protected")
    elif not seen.is_enforced and seen.would_be.startswith("OK "):
        yield _warning("observed", "the zone observes: mail is not protected")


# VERDICT


def verdict(seen: Inspection) -> str:
    """Return what becomes of mail to the domain, in one sentence without its final stop."""
    mail = f"mail to {seen.domain}"
    if isinstance(seen.result, NotChanged):
        return f"{seen.domain}: the MTA-STS policy is still {seen.result.id}"
    if seen.is_enforced:
        return _enforced(seen, mail)
    if seen.exempt is not None:
        return f"{mail} goes as without a policy: it is exempt by {seen.exempt}"
    if seen.would_be.startswith("OK "):
        return f"{mail} goes as without a policy: the zone observes"
    if seen.answer.startswith("TEMP ") and not isinstance(seen.result, Failure):
        return f"{mail} waits in the queue: it is not known whether DANE applies"
    if isinstance(seen.result, NoPolicy):
        why = f"{seen.domain} has no MTA-STS policy: {seen.result}"
        if seen.in_force is not None:
            return f"{mail} goes as without a policy: mode {seen.in_force.mode} is in force"
        return why
    if isinstance(seen.result, Failure):
        if seen.answer.startswith("TEMP "):
            return f"{mail} waits in the queue: {seen.result.cause.value}"
        return f"{mail} goes as without a policy: {seen.result.cause.value}"
    return f"{mail} goes as without a policy: its mode is {seen.result.policy.mode}"


def _enforced(seen: Inspection, mail: str) -> str:
    old = "" if isinstance(seen.result, Found) else ", by the policy in the cache"
    if seen.mx is not None and not seen.mx:
        return f"{mail} is not possible: the domain says that it takes none"
    if seen.is_by_dane:
        return f"{mail} goes only over TLS that DANE verifies"
    refused = seen.refused
    if not refused:
        return f"{mail} goes only over verified TLS{old}"
    reasons = " and ".join(_refusal(host) for host in refused[:3])
    if len(refused) > 3:
        reasons += f" and {len(refused) - 3} more"
    return f"{mail} will be refused by {reasons}{old}"


def _refusal(host: MailHost) -> str:
    if host.pattern is None:
        return f"{host.host}: its name is not in the policy"
    assert host.probe is not None
    return f"{host.host}: {host.probe.reason}"


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"
