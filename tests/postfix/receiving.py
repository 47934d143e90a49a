"""A Postfix that receives: an smtpd(8) for each MX host, at an address of its own, port 25."""

import shutil

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/maillog
maillog_file_prefixes = {directory}
myhostname = receiver.example
mydestination =
alias_maps =
alias_database =
inet_protocols = ipv4
inet_interfaces = loopback-only
"""
MASTER = """\
tlsmgr    unix       - - n 1000? 1 tlsmgr
cleanup   unix       n - n -     0 cleanup
rewrite   unix       - - n -     - trivial-rewrite
anvil     unix       - - n -     1 anvil
proxymap  unix       - - n -     - proxymap
postlog   unix-dgram n - n -     1 postlogd
"""
SERVICE = "{address}:25 inet n - n - - smtpd\n"


class ReceivingPostfix:
    """Serves `hosts`: for each address the path of its certificate with key, None for no TLS.

    `slow`: addresses whose greeting takes two seconds.
    """

    def __init__(self, namespace, hosts, slow=()):
        self._namespace = namespace
        self.directory = namespace.directory / "receiving-postfix"
        for path in (self.directory, self.directory / "queue", self.directory / "data"):
            path.mkdir()
        shutil.chown(self.directory / "data", "postfix")
        (self.directory / "main.cf").write_text(MAIN.format(directory=self.directory))
        services = MASTER
        for address, certificate in hosts.items():
            services += SERVICE.format(address=address)
            if certificate is not None:
                services += f"  -o smtpd_tls_chain_files={certificate}\n"
                services += "  -o smtpd_tls_security_level=may\n"
            if address in slow:
                services += "  -o smtpd_delay_reject=no -o { smtpd_client_restrictions=sleep 2 }\n"
        (self.directory / "master.cf").write_text(services)

    def __enter__(self):
        self._namespace.run("postfix", "-c", self.directory, "start")
        return self

    def __exit__(self, *_):
        self._namespace.run("postfix", "-c", self.directory, "abort")
        shutil.rmtree(self.directory)
