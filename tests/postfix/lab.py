"""The lab: the world, Postfix and the daemon under test, together in one network namespace."""

import contextlib
import shutil
import socket
import sys
from pathlib import Path

from tests.support.socketmap_client import Client

from .mta import Mta
from .namespace import ENVIRONMENT, Log, Namespace, Process, wait_until
from .servers import Certificates, Dns, PolicyHosts, Receivers

CHECKOUT = Path(__file__).resolve().parents[2]

# A policy is looked at again after a fifth of a second, so that a test need not wait for that.
SETTINGS = """\
{listen}
cache_grace: {grace}
shutdown_timeout: 5
default_zone:
  timeout: 2
{zone}zones:
  strict:
    strict_testing: true
    timeout: 2
  tlsrpt:
    tlsrpt: true
    timeout: 2
  dane:
    dane: true
    timeout: 5
"""
# The daemon with its own pauses shortened: a store that failed is tried again after some tenths of
# a second, and what is due, or past its end, is looked for five times a second.
STORE_PAUSE = 0.4
QUICK = f"""\
import sys
from stsresolver import daemon
from stsresolver.policies import proactive, renewal_times
from stsresolver.cache import layered
layered.PAUSE = {STORE_PAUSE}
renewal_times.UNASKED_PAUSE = 0.0
proactive.TICK, proactive._LEASE = 0.2, 0.6
sys.exit(daemon.main(sys.argv[1:]))
"""
TCP = "host: 127.0.0.1\nport: 8461"
UNIX = "path: {}\nmode: 0666"


def missing_programs():
    """Return the names of the programs that the lab needs and this machine has not."""
    needed = ("ip", "dnsmasq", "nginx", "postfix")
    return [name for name in needed if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]


class Daemon(Process):
    """mta-sts-daemon, listening at `listen`, with `more` settings (lines of its configuration).

    `zone`: more lines of its default zone.

    A policy is looked at again after `grace` seconds. `program`: what Python is to run.
    """

    def __init__(
        self,
        namespace,
        name,
        listen,
        authority,
        *,
        more="",
        zone="",
        grace=0.2,
        program=("-m", "stsresolver.daemon"),
    ):
        settings = namespace.directory / f"{name}.yml"
        settings.write_text(SETTINGS.format(listen=listen, grace=grace, zone=zone) + more)
        super().__init__(
            *(namespace, name, sys.executable, *program),
            *("-c", settings, "-v", "debug"),
            env={"SSL_CERT_FILE": str(authority), "PYTHONWARNINGS": "error"},
            cwd=CHECKOUT,
        )
        self.ready("listening on ")


class QuickDaemon(Daemon):
    """A daemon with short pauses at a UNIX socket, which no network namespace keeps apart."""

    def __init__(self, namespace, name, path, authority, **options):
        self.path = str(path)
        listen = UNIX.format(path)
        super().__init__(namespace, name, listen, authority, program=("-c", QUICK), **options)

    def ask(self, *domains):
        """Return the answers as Postfix would get them, in order."""
        with Client(self.path) as client:
            return [client.ask(f"postfix {domain}".encode()).decode() for domain in domains]


class Lab:
    """What a test does: publish a domain, send it a mail, look at what became of it."""

    def __init__(self, stack):
        """Build it; what `stack`, an ExitStack, then holds takes everything down."""
        self._namespace = stack.enter_context(Namespace())
        self.directory = self._namespace.directory
        self._certificates = Certificates(self._namespace.directory)
        self.policy_hosts = stack.enter_context(PolicyHosts(self._namespace))
        self._receivers = stack.enter_context(Receivers(self._namespace))
        self.dns = stack.enter_context(Dns(self._namespace))
        self.mta = stack.enter_context(Mta(self._namespace, self._certificates.authority))
        self.daemon = None
        self._published = set()
        stack.callback(self.stop)

    def ensure_daemon(self):
        """Start the daemon at 127.0.0.1:8461 unless it is running."""
        if self.daemon is None or not self.daemon.running:
            self.daemon = Daemon(self._namespace, "daemon", TCP, self._certificates.authority)

    def unix_daemon(self):
        """Start a daemon on the UNIX socket that transport `unix` of mta.py asks."""
        listen = UNIX.format(self._namespace.directory / "daemon.sock")
        return Daemon(self._namespace, "unix-daemon", listen, self._certificates.authority)

    def quick_daemon(self, more, *, grace=0.2, zone=""):
        """Start a daemon with short pauses on the socket that transport `unix` asks."""
        return self._quick_daemon("unix-daemon", "daemon.sock", more, grace, zone)

    def second_daemon(self, more, *, grace=0.2):
        """Start a daemon with short pauses beside that one."""
        return self._quick_daemon("second-daemon", "second.sock", more, grace)

    def _quick_daemon(self, name, socket, more, grace, zone=""):
        path = self.directory / socket
        authority = self._certificates.authority
        options = {"more": more, "grace": grace, "zone": zone}
        return QuickDaemon(self._namespace, name, path, authority, **options)

    def start(self, name, *argv):
        """Start a program in the namespace."""
        return Process(self._namespace, name, *argv)

    @contextlib.contextmanager
    def tls_reports(self):
        """Take what transport `tlsrpt` of mta.py reports: a socket, a datagram a TLS handshake."""
        path = self._namespace.directory / "tlsrpt.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports:
            reports.settimeout(30)
            reports.bind(str(path))
            try:
                path.chmod(0o666)
                yield reports
            finally:
                path.unlink()

    def stop(self):
        if self.daemon is not None:
            self.daemon.stop()

    def publish(
        self,
        domain,
        *,
        mode="enforce",
        mx=None,
        extra=(),
        host=None,
        certificate=Certificates.right,
        fetch="works",
    ):
        """Give `domain` a mail server and an MTA-STS policy.

        The server's name is `host`, else `mx.<domain>`, and its certificate comes from
        `certificate`, a method of Certificates. `mode`, `mx` and the lines `extra` are what the
        policy says; mode None is a domain without MTA-STS. `fetch` is how the policy host
        behaves: it "works", answers with "404", is "down", or has a "self-signed" certificate.
        """
        host = host or f"mx.{domain}"
        records = self._mail_server(domain, host, certificate)
        if mode is not None:
            policy_host = f"mta-sts.{domain}"
            if fetch == "self-signed":
                self._certificates.self_signed(policy_host)
            else:
                self._certificates.right(policy_host)
            reachable = fetch != "down"
            records[policy_host, "A"] = PolicyHosts.address if reachable else PolicyHosts.down
            records[f"_mta-sts.{domain}", "TXT"] = "v=STSv1; id=1"
            if fetch != "404":
                self.policy_hosts.serve(domain, policy(mode, mx or [host], extra))
        self.dns.change(records)

    def publish_policies(self, policies, policy_id=1):
        """Give domains a policy without a mail server: a dict of domain to text, in one step."""
        records = {}
        for domain, text in policies.items():
            if domain not in self._published:
                self._certificates.right(f"mta-sts.{domain}")
            self._published.add(domain)
            self.policy_hosts.serve(domain, text)
            records[f"mta-sts.{domain}", "A"] = PolicyHosts.address
            records[f"_mta-sts.{domain}", "TXT"] = f"v=STSv1; id={policy_id}"
        self.dns.change(records)

    def replace_policy(self, domain, mode):
        """Publish another policy, under another id."""
        self.policy_hosts.serve(domain, policy(mode, [f"mx.{domain}"]))
        self.dns.change({(f"_mta-sts.{domain}", "TXT"): "v=STSv1; id=2"})

    def impersonate(self, domain):
        """Have another server, without the right certificate, take the mail server's place."""
        host = f"mx.{domain}"
        self.dns.change(self._mail_server(domain, host, Certificates.other_name))

    def remove_record(self, domain):
        """Take the TXT record out of the DNS."""
        self.dns.change({(f"_mta-sts.{domain}", "TXT"): None})

    def take_down_policy_host(self, domain):
        """Have nobody listen at the policy host, while the record promises another policy."""
        self.dns.change(
            {
                (f"mta-sts.{domain}", "A"): PolicyHosts.down,
                (f"_mta-sts.{domain}", "TXT"): "v=STSv1; id=2",
            }
        )

    def await_check(self, domain):
        """Ask until the daemon has looked at the domain's TXT record once more."""
        mark = self.dns.log.mark()

        def checked():
            self.mta.ask(domain)
            return self.dns.asked(f"_mta-sts.{domain}", "TXT", mark)

        wait_until(checked, f"the daemon to look at {domain} again")

    def arrived(self, mail):
        """Return what the receiving side says of `mail`: a list, a dict for each time it came."""
        return self._receivers.mail_for(mail.recipient)

    def logs(self):
        """Return (name, Log) of everything that helps to understand a failure."""
        daemons = ("daemon", "unix-daemon", "second-daemon")
        names = (*daemons, "redis", "sentinel", "nginx", "dnsmasq", "receiver")
        files = {name: Log(self._namespace.directory / f"{name}.log") for name in names}
        return files | {"maillog": self.mta.log}

    def _mail_server(self, domain, host, certificate):
        address = self._receivers.listen(certificate(self._certificates, host))
        return {(domain, "MX"): host, (host, "A"): address}


def policy(mode, mx, extra=(), max_age=86400):
    lines = ["version: STSv1", f"mode: {mode}", f"max_age: {max_age}"]
    lines += [*(f"mx: {name}" for name in mx), *extra]
    return "\r\n".join(lines) + "\r\n"
