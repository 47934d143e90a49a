"""The world that the daemon and Postfix look at: DNS, policy hosts, receiving mail servers."""

import datetime
import itertools
import json
import re
import sys
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .namespace import Process


class Certificates:
    """Certificates for the run: files with key and chain, named after the host they are meant for.

    `authority` is the file of the CA that all are to trust.
    """

    def __init__(self, directory):
        self._directory = directory / "certificates"
        self._directory.mkdir()
        self._ca = trustme.CA()
        self.authority = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.authority)

    def right(self, host):
        return self._write(host, self._ca.issue_cert(host))

    def other_name(self, host):
        return self._write(host, self._ca.issue_cert(f"not-{host}"))

    def expired(self, host):
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        return self._write(host, self._ca.issue_cert(host, not_after=yesterday))

    def self_signed(self, host):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = self._directory / f"{host}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def none(self, _host):
        """No certificate: the server offers no STARTTLS."""
        return None

    def _write(self, host, leaf):
        path = self._directory / f"{host}.pem"
        leaf.private_key_and_cert_chain_pem.write_to_path(path)
        return path


RECORD_LINES = {"A": "host-record={},{}", "MX": "mx-host={},{},10", "TXT": 'txt-record={},"{}"'}


class Dns:
    """dnsmasq at 127.0.0.1:53, authority for everything below `example`.

    It reads TXT and MX records at its start only, so that every change starts it anew.
    """

    SETTINGS = """\
listen-address=127.0.0.1
bind-interfaces
local=/example/
local=/invalid/
no-resolv
no-hosts
cache-size=0
user=root
group=root
pid-file=
log-queries
log-facility=-
"""

    def __init__(self, namespace):
        self._namespace = namespace
        self._file = namespace.directory / "dnsmasq.conf"
        self._records = {}
        self._start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stop()

    @property
    def log(self):
        return self._process.log

    def change(self, records):
        """Serve `records`, a dict of (name, type) to data, too; data None removes one."""
        self._records.update(records)
        self._process.stop()
        self._start()

    def asked(self, name, kind, mark):
        """Return whether somebody asked for `name` since `mark` of the log."""
        return re.search(rf"query\[{kind}\] {re.escape(name)} ", self.log.since(mark)) is not None

    def _start(self):
        lines = [
            RECORD_LINES[kind].format(name, data)
            for (name, kind), data in self._records.items()
            if data is not None
        ]
        self._file.write_text(self.SETTINGS + "\n".join(lines) + "\n")
        self._process = Process(self._namespace, "dnsmasq", "dnsmasq", "-k", "-C", self._file)
        self._process.ready("started, version")


class PolicyHosts(Process):
    """nginx at `address`:443, the policy host of every domain that has a policy file.

    At `down` nobody listens.
    """

    address = "127.0.0.1"
    down = "127.0.0.2"

    SETTINGS = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ }}
http {{
    log_format policy_host '"$request" for $host: $status';
    access_log /dev/stderr policy_host;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ text/plain txt; }}
    server {{
        listen {address}:443 ssl;
        server_name ~^mta-sts\\.(?<policy_domain>.+)$;
        ssl_certificate {directory}/certificates/$ssl_server_name.pem;
        ssl_certificate_key {directory}/certificates/$ssl_server_name.pem;
        location = /.well-known/mta-sts.txt {{ alias {directory}/policies/$policy_domain.txt; }}
    }}
}}
"""

    def __init__(self, namespace):
        self._policies = namespace.directory / "policies"
        self._policies.mkdir()
        settings = namespace.directory / "nginx.conf"
        settings.write_text(
            self.SETTINGS.format(directory=namespace.directory, address=self.address)
        )
        super().__init__(namespace, "nginx", "nginx", "-e", "stderr", "-c", settings)
        self.ready("start worker processes")

    def serve(self, domain, text):
        """Make `text` the policy of `domain`; None answers 404."""
        path = self._policies / f"{domain}.txt"
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)

    def fetches(self, domain, mark=0):
        """Return how many times the policy of `domain` was fetched since `mark` of the log."""
        line = rf'^"GET [^"]*" for mta-sts\.{re.escape(domain)}: 200$'
        return len(re.findall(line, self.log.since(mark), re.MULTILINE))


class Receivers(Process):
    """SMTP servers, each at a loopback address of its own, and the mails that they took."""

    def __init__(self, namespace):
        super().__init__(
            namespace, "receiver", sys.executable, Path(__file__).with_name("receiver.py")
        )
        self._addresses = (f"127.1.0.{n}" for n in itertools.count(1))

    def listen(self, certificate):
        """Start a server with `certificate`, a path or None, and return its address."""
        address = next(self._addresses)
        path = certificate and str(certificate)
        self.tell(json.dumps({"address": address, "certificate": path}))
        self.ready(re.escape(json.dumps({"listening": address})))
        return address

    def mail_for(self, recipient):
        """Return what arrived for `recipient`, a list of dicts as receiver.py writes them."""
        lines = self.log.since().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [mail for mail in said if mail.get("recipient") == recipient]
