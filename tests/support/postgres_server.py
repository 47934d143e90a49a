"""A real PostgreSQL on a loopback port, in a directory of its own, as an unprivileged user."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from tests.support.missing import not_installed
from tests.support.redis_server import eventually, free_port

_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = '{directory}'
fsync = off
shared_buffers = 8MB
max_wal_size = 64MB
log_min_messages = log
max_connections = 40
{more}
"""
USER, PASSWORD = "mta", "correct-horse"


def program(name):
    """Return where Debian has a program of PostgreSQL, of the newest release."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: path.parts[4]
    )
    return str(found[-1]) if found else shutil.which(name) or not_installed("postgresql")


class PostgresServer:
    """A PostgreSQL that can be stopped, killed and started again on its port, data kept.

    The user `mta` may log in with a password, by TCP and by the socket in `directory`.
    `settings`: lines of postgresql.conf. `copy_of`: a server that it is a standby of.
    """

    def __init__(self, directory, *settings, copy_of=None):
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.process = None
        directory.mkdir()
        self.who = {}
        if os.geteuid() == 0:
            name = "postgres" if _is_user("postgres") else "nobody"
            account = pwd.getpwnam(name)
            self.who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(directory, account.pw_uid, account.pw_gid)
            # pytest's directories are for root alone.
            for parent in directory.parents:
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o001)
        if copy_of is None:
            self._initdb()
        else:
            self._copy(copy_of)
        text = _SETTINGS.format(directory=directory, more="\n".join(settings))
        with open(self.data / "postgresql.conf", "a") as file:
            file.write(text)
        self.start()
        if copy_of is None:
            self.admin(f"CREATE DATABASE sts OWNER {USER}")

    def _initdb(self):
        secret = self.directory / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            *(
                program("initdb"),
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
            ),
            *(f"--username={USER}", f"--pwfile={secret}", f"--pgdata={self.data}"),
        )
        with open(self.data / "pg_hba.conf", "a") as file:
            file.write(f"host replication {USER} 127.0.0.1/32 scram-sha-256\n")

    def _copy(self, other):
        where = f"host=127.0.0.1 port={other.port} user={USER} password={PASSWORD}"
        self._run(
            *(program("pg_basebackup"), "--no-sync", "--checkpoint=fast", "--write-recovery-conf"),
            *(f"--dbname={where}", f"--pgdata={self.data}"),
        )

    def _run(self, *command):
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=self.directory,
            env=_ENVIRONMENT,
            **self.who,
        )

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", self.data, "-p", str(self.port)],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_ENVIRONMENT,
                **self.who,
            )
        eventually(self.answers, "PostgreSQL answers")

    def answers(self):
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            self.admin("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def admin(self, *statements):
        """Execute statements; return the rows of the last one."""
        database = (
            "postgres" if "DATABASE" in statements[0] or statements == ("SELECT 1",) else "sts"
        )
        with contextlib.closing(self.client(database)) as client:
            for statement in statements:
                found = client.execute(statement)
            return found.fetchall() if found.description else []

    def client(self, database="sts"):
        return psycopg.connect(self.where(dbname=database), autocommit=True, connect_timeout=5)

    def where(self, **changes):
        """Return the connection as libpq's `key=value`."""
        parts = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD}
        return " ".join(
            f"{key}={value}" for key, value in (parts | {"dbname": "sts"} | changes).items()
        )

    @property
    def options(self):
        """Return the options of the cache in a configuration."""
        return {"dsn": f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/sts"}

    def signal(self, number):
        """Send a signal to the server and to all of its processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in (*map(int, children.split()), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self):
        """End it as an administrator does who does not wait for clients."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()

    def promote(self):
        """Make a standby the primary."""
        self.admin("SELECT pg_promote()")

    close = stop


_BOUNCER = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 3
"""


class PgBouncer:
    """A PgBouncer on a loopback port, which pools transactions in front of a server."""

    def __init__(self, directory, server):
        bouncer = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if bouncer is None:
            not_installed("pgbouncer")
        self.port = free_port()
        place = server.directory / directory.name
        place.mkdir()
        settings = place / "settings"
        text = _BOUNCER.format(server=server.port, port=self.port, directory=place)
        said = subprocess.run([bouncer, "--version"], check=True, capture_output=True, text=True)
        if tuple(map(int, said.stdout.split()[1].split(".")[:2])) >= (1, 21):
            # From then on it knows prepared statements, unless it is told otherwise.
            text += "max_prepared_statements = 0\n"
        settings.write_text(text)
        (place / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        with open(place / "log", "ab") as log:
            self._process = subprocess.Popen(
                [bouncer, settings], stdout=log, stderr=log, env=_ENVIRONMENT, **server.who
            )
        eventually(lambda: self._answers(place / "log"), "PgBouncer answers")

    def _answers(self, log):
        assert self._process.poll() is None, log.read_text()
        where = f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname=sts"
        try:
            psycopg.connect(where, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def close(self):
        """End it."""
        self._process.terminate()
        self._process.wait(20)


_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def _is_user(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
