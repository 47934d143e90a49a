"""The lab: the world, Postfix and the daemon under test, together in one network namespace."""

import contextlib
import shutil
import socket
import sys
from pathlib import Path

from .mta import Mta
from .namespace import ENVIRONMENT, Log, Namespace, Process, wait_until
from .servers import Certificates, Dns, PolicyHosts, Receivers

CHECKOUT = Path(__file__).resolve().parents[2]

# A policy is looked at again after a fifth of a second, so that a test need not wait for that.
SETTINGS = """\
{listen}
cache_grace: 0.2
shutdown_timeout: 5
default_zone:
  timeout: 2
zones:
  strict:
    strict_testing: true
    timeout: 2
  tlsrpt:
    tlsrpt: true
    timeout: 2
"""
TCP = "host: 127.0.0.1\nport: 8461"
UNIX = "path: {}\nmode: 0666"


def missing_programs():
    """Return the names of the programs that the lab needs and this machine has not."""
    needed = ("ip", "dnsmasq", "nginx", "postfix")
    return [name for name in needed if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]


class Daemon(Process):
    """mta-sts-daemon, listening at `listen` (lines of its configuration)."""

    def __init__(self, namespace, name, listen, authority):
        settings = namespace.directory / f"{name}.yml"
        settings.write_text(SETTINGS.format(listen=listen))
        super().__init__(
            *(namespace, name, sys.executable),
            *("-m", "stsresolver.daemon", "-c", settings, "-v", "debug"),
            env={"SSL_CERT_FILE": str(authority)},
            cwd=CHECKOUT,
        )
        self.ready("listening on ")


class Lab:
    """What a test does: publish a domain, send it a mail, look at what became of it."""

    def __init__(self, stack):
        """Build it; what `stack`, an ExitStack, then holds takes everything down."""
        self._namespace = stack.enter_context(Namespace())
        self._certificates = Certificates(self._namespace.directory)
        self._policy_hosts = stack.enter_context(PolicyHosts(self._namespace))
        self._receivers = stack.enter_context(Receivers(self._namespace))
        self.dns = stack.enter_context(Dns(self._namespace))
        self.mta = stack.enter_context(Mta(self._namespace, self._certificates.authority))
        self.daemon = None
        stack.callback(self.stop)

    def ensure_daemon(self):
        """Start the daemon at 127.0.0.1:8461 unless it is running."""
        if self.daemon is None or not self.daemon.running:
            self.daemon = Daemon(self._namespace, "daemon", TCP, self._certificates.authority)

    def unix_daemon(self):
        """Start a daemon on the UNIX socket that transport `unix` of mta.py asks."""
        listen = UNIX.format(self._namespace.directory / "daemon.sock")
        return Daemon(self._namespace, "unix-daemon", listen, self._certificates.authority)

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
                self._policy_hosts.serve(domain, policy(mode, mx or [host], extra))
        self.dns.change(records)

    def replace_policy(self, domain, mode):
        """Publish another policy, under another id."""
        self._policy_hosts.serve(domain, policy(mode, [f"mx.{domain}"]))
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
        names = ("daemon", "unix-daemon", "nginx", "dnsmasq", "receiver")
        files = {name: Log(self._namespace.directory / f"{name}.log") for name in names}
        return files | {"maillog": self.mta.log}

    def _mail_server(self, domain, host, certificate):
        address = self._receivers.listen(certificate(self._certificates, host))
        return {(domain, "MX"): host, (host, "A"): address}


def policy(mode, mx, extra=()):
    lines = ["version: STSv1", f"mode: {mode}", "max_age: 86400", *(f"mx: {name}" for name in mx)]
    lines += extra
    return "\r\n".join(lines) + "\r\n"
