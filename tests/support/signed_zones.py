"""Signed zones on loopback: BIND serves them, and Unbound validates them by keys of the run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests.support.hostile_dns import bound_pair
from tests.support.missing import not_installed
from tests.support.socketmap_client import wait_for

PROGRAMS = ("named", "dnssec-keygen", "dnssec-signzone", "unbound")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_HEAD = """\
$TTL 300
@ SOA ns hostmaster 1 7200 900 1209600 300
@ NS ns
ns A 127.0.0.1
"""


@dataclass(frozen=True)
class Zone:
    """A zone: its `records` as a zone file has them, and how it is signed.

    `signed`: "yes", "no", "nsec3", "expired", or "bogus" (changed after it was signed).
    """

    records: str
    signed: str = "yes"


def missing_programs() -> list[str]:
    """Return which programs are needed and not there."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={"PATH": _PATH},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def _sign(directory: Path, name: str, zone: Zone) -> str | None:
    """Write the file of a zone; return the name of its key's file, None if it is not signed."""
    file = directory / name
    file.write_text(_HEAD + zone.records)
    if zone.signed == "no":
        return None
    key = _run(
        "dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", name, cwd=directory
    ).strip()
    options: list[str] = []
    if zone.signed == "expired":
        options += ["-s", "20200101000000", "-e", "20200201000000"]
    if zone.signed == "nsec3":
        options += ["-3", "-"]
    # -z: one key signs everything; -P: no check that would refuse what has expired.
    _run("dnssec-signzone", "-z", "-P", "-S", *options, "-o", name, "-f", name, name, cwd=directory)
    if zone.signed == "bogus":
        text = file.read_text()
        assert "192.0.2.66" in text
        file.write_text(text.replace("192.0.2.66", "192.0.2.67").replace("10 mx66", "10 mx67"))
    return f"{key}.key"


def _free_port() -> int:
    tcp, udp = bound_pair("127.0.0.1", 0)
    with tcp, udp:
        return udp.getsockname()[1]


def commands(
    directory: Path, zones: Mapping[str, Zone], served: int, port: int
) -> dict[str, list[str]]:
    """Sign the zones; return what serves them at the port `served`, and validates at `port`.

    Both listen at 127.0.0.1.
    """
    # An option that BIND 9.18 needs, and 9.20 does not know.
    lock = "lock-file none;" if "BIND 9.18" in _run("named", "-v", cwd=directory) else ""
    named = [
        f'options {{ directory "{directory}"; listen-on port {served} {{ 127.0.0.1; }};'
        " listen-on-v6 { none; }; recursion no; pid-file none; session-keyfile none;"
        f" dnssec-validation no; notify no; empty-zones-enable no; {lock} }};",
        "controls { };",
    ]
    unbound = [
        "server:",
        *(f"  interface: 127.0.0.1@{port}", '  chroot: ""', '  username: ""', '  pidfile: ""'),
        *(f'  directory: "{directory}"', "  use-syslog: no", "  do-not-query-localhost: no"),
        *("  do-daemonize: no", '  module-config: "validator iterator"', "  num-threads: 1"),
        *("  do-ip6: no", "  hide-trustanchor: yes", "  qname-minimisation: no"),
        '  local-zone: "example." nodefault',
    ]
    stubs = []
    for name, zone in zones.items():
        key = _sign(directory, name, zone)
        named.append(f'zone "{name}" {{ type primary; file "{name}"; }};')
        unbound.append(f'  trust-anchor-file: "{key}"' if key else f'  domain-insecure: "{name}"')
        stubs += ["stub-zone:", f'  name: "{name}"', f"  stub-addr: 127.0.0.1@{served}"]
    (directory / "named.conf").write_text("\n".join(named) + "\n")
    (directory / "unbound.conf").write_text("\n".join([*unbound, *stubs, ""]))
    return {
        "named": ["named", "-f", "-g", "-c", str(directory / "named.conf")],
        "unbound": ["unbound", "-d", "-c", str(directory / "unbound.conf")],
    }


@contextlib.contextmanager
def validating_resolver(directory: Path, zones: Mapping[str, Zone]) -> Iterator[int]:
    """Serve the zones, and give the port of a resolver at 127.0.0.1 that validates them."""
    if missing := missing_programs():
        not_installed(*missing)
    served, port = _free_port(), _free_port()
    with contextlib.ExitStack() as stack:
        for name, command in commands(directory, zones, served, port).items():
            log = stack.enter_context((directory / f"{name}.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    command, env={"PATH": _PATH}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )
            stack.callback(process.terminate)
            at = served if name == "named" else port
            wait_for(lambda at=at: _answers(next(iter(zones)), at), f"{name} to answer")
        yield port


def _answers(name: str, port: int) -> bool:
    try:
        dns.query.udp(dns.message.make_query(name, "SOA"), "127.0.0.1", 0.5, port)
    except (OSError, dns.exception.DNSException):
        return False
    return True
