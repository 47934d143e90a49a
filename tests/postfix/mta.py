"""The Postfix under test: an instance with a configuration and a queue of its own."""

import re
import shutil
from dataclasses import dataclass, field

from .namespace import Log, wait_until

SOCKETMAP = "socketmap:inet:127.0.0.1:8461:postfix"

# The transports `strict`, `tlsrpt`, `reuse` and `unix` differ from `smtp` in whom they ask, and
# how. `tlsrpt` and `reuse` also report to a socket what became of TLS, from Postfix 3.10 on; for
# `reuse`, tlsproxy(8) does TLS.
MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/maillog
maillog_file_prefixes = {directory}
myhostname = sender.example
mydestination =
alias_maps =
alias_database =
inet_interfaces = loopback-only
inet_protocols = ipv4
transport_maps = inline:{{
    {{ .strict.example = strict: }}
    {{ .tlsrpt.example = tlsrpt: }}
    {{ .reuse.example = reuse: }}
    {{ .unix.example = unix: }}
    {{ nobody@on-purpose.example = sts-test: }}
    {{ behind-relay.example = smtp:[relay.example]:25 }} }}
smtp_tls_security_level = may
smtp_tls_CAfile = {authority}
smtp_tls_loglevel = 1
smtp_tls_policy_maps = {socketmap}
"""

MASTER = """\
pickup    unix       n - n 60    1 pickup
cleanup   unix       n - n -     0 cleanup
qmgr      unix       n - n 300   1 qmgr
tlsmgr    unix       - - n 1000? 1 tlsmgr
rewrite   unix       - - n -     - trivial-rewrite
bounce    unix       - - n -     0 bounce
defer     unix       - - n -     0 bounce
trace     unix       - - n -     0 bounce
verify    unix       - - n -     1 verify
flush     unix       n - n 1000? 0 flush
proxymap  unix       - - n -     - proxymap
proxywrite unix      - - n -     1 proxymap
smtp      unix       - - n -     - smtp
relay     unix       - - n -     - smtp
strict    unix       - - n -     - smtp
  -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8461:strict
tlsrpt    unix       - - n -     - smtp
  -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8461:tlsrpt
  -o smtp_tlsrpt_enable=yes
  -o smtp_tlsrpt_socket_name={directory}/tlsrpt.sock
reuse     unix       - - n -     - smtp
  -o smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8461:tlsrpt
  -o smtp_tlsrpt_enable=yes
  -o smtp_tlsrpt_socket_name={directory}/tlsrpt.sock
  -o smtp_tls_connection_reuse=yes
tlsproxy  unix       - - n -     0 tlsproxy
unix      unix       - - n -     - smtp
  -o smtp_tls_policy_maps=socketmap:unix:{directory}/daemon.sock:postfix
sts-test  unix       - - n -     - smtp
  -o smtp_tls_CAfile={directory}/nobody.pem
  -o smtp_tls_CApath=
showq     unix       n - n -     - showq
error     unix       - - n -     - error
retry     unix       - - n -     - error
discard   unix       - - n -     - discard
local     unix       - n n -     - local
virtual   unix       - n n -     - virtual
lmtp      unix       - - n -     - lmtp
anvil     unix       - - n -     1 anvil
scache    unix       - - n -     1 scache
postlog   unix-dgram n - n -     1 postlogd
"""


@dataclass(frozen=True)
class Mail:
    """A mail that Postfix has tried to deliver: its words about that, and its log meanwhile."""

    recipient: str
    status: str
    why: str
    log: str = field(repr=False)


class Mta:
    """A running Postfix; `directory` is its configuration directory (postfix(1), -c).

    `more`: lines of main.cf.
    """

    def __init__(self, namespace, authority, more=""):
        self._namespace = namespace
        self._count = 0
        self.directory = namespace.directory / "postfix"
        for path in (self.directory, self.directory / "queue", self.directory / "data"):
            path.mkdir()
        shutil.chown(self.directory / "data", "postfix")
        self.log = Log(self.directory / "maillog")
        main = MAIN.format(directory=self.directory, authority=authority, socketmap=SOCKETMAP)
        (self.directory / "main.cf").write_text(main + more)
        (self.directory / "master.cf").write_text(MASTER.format(directory=namespace.directory))
        namespace.run("postfix", "-c", self.directory, "start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._namespace.run("postfix", "-c", self.directory, "abort")

    @property
    def version(self):
        """The release: (3, 10) for 3.10.13."""
        return tuple(int(part) for part in self.setting("mail_version").split(".")[:2])

    def setting(self, name):
        """Return the value of a setting of main.cf, "" for one that this Postfix does not know."""
        done = self._namespace.run("postconf", "-c", self.directory, "-h", name, check=False)
        return done.stdout.decode().strip()

    def send(self, domain, user=None):
        """Send a mail to `user` at `domain`, and return what became of the first try."""
        self._count += 1
        recipient = f"{user or f'mail-{self._count}'}@{domain}"
        mark = self.log.mark()
        self._namespace.run(
            *("sendmail", "-C", self.directory, "-i", "-f", "somebody@sender.example", recipient),
            stdin=b"Subject: end to end\n\nHello.\n",
        )
        return self._tried(recipient, mark)

    def flush(self, *mails):
        """Have Postfix try its whole queue now; return what became of each of `mails`."""
        mark = self.log.mark()
        self._namespace.run("postqueue", "-c", self.directory, "-f")
        return [self._tried(mail.recipient, mark) for mail in mails]

    def empty(self):
        """Delete every mail that is still in the queue."""
        self._namespace.run("postsuper", "-c", self.directory, "-d", "ALL")

    def ask(self, *keys, socketmap=SOCKETMAP):
        """Look the keys up on one connection (postmap -q -) and return its output, line by line."""
        lines = b"".join(key.encode(errors="surrogateescape") + b"\n" for key in keys)
        done = self._namespace.run(
            "postmap", "-c", self.directory, "-q", "-", socketmap, stdin=lines, check=False
        )
        return done.stdout.decode().splitlines()

    def query(self, key, socketmap=SOCKETMAP):
        """Look one key up (postmap -q KEY): exit status, standard output, standard error."""
        done = self._namespace.run(
            "postmap", "-c", self.directory, "-q", key, socketmap, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def _tried(self, recipient, mark):
        words = re.compile(
            rf": (?P<id>\w+): to=<{re.escape(recipient)}>, .*"
            r" dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) (?P<why>\(.*\))$",
            re.MULTILINE,
        )
        found = wait_until(
            lambda: words.search(self.log.since(mark)), f"Postfix to deliver or defer {recipient}"
        )
        if found["status"] == "deferred":
            # Postfix says so before it puts the mail where the next flush looks for it.
            deferred = self.directory / "queue" / "deferred"
            wait_until(lambda: [*deferred.rglob(found["id"])], f"{recipient} in {deferred}")
        why = f"{found['dsn']} {found['why']}"
        return Mail(recipient, found["status"], why, self.log.since(mark))
