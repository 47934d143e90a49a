"""Postfix's configuration as a dictionary, read by postconf(1), $names expanded.

`read` runs postconf three times; the rest is parsing. Each smtp(8) of master.cf is a `Client` with
the settings that hold for it: those of main.cf, and above them its own (`-o name=value`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..net.deadline import Deadline

NAMES = (
    "compatibility_level",
    "config_directory",
    "mail_owner",
    "mail_version",
    "multi_instance_directories",
    "queue_directory",
    "smtp_dns_support_level",
    "smtp_enforce_tls",
    "smtp_host_lookup",
    "smtp_tls_CAfile",
    "smtp_tls_CApath",
    "smtp_tls_policy_maps",
    "smtp_tls_security_level",
    "smtp_tlsrpt_enable",
    "smtp_use_tls",
    "smtpd_tls_CAfile",
    "smtpd_tls_cert_file",
    "smtpd_tls_chain_files",
    "tls_append_default_CA",
)
# Where Debian and others have it, for a PATH without the programs of root.
_MORE_PATH = ("/usr/sbin", "/usr/local/sbin")
# Seconds for all three together.
_TIMEOUT = 10.0

Version = tuple[int, int, int]


class PostconfError(Exception):
    """Postfix's configuration cannot be read; the text says why."""


class NoPostfix(PostconfError):
    """There is no postconf on this host."""


@dataclass(frozen=True, slots=True)
class Client:
    """One smtp(8) of master.cf: its name there, what holds for it, whether it runs chrooted."""

    name: str
    settings: Mapping[str, str] = field(repr=False)
    chroot: bool = False

    def __getitem__(self, name: str) -> str:
        """Return a setting, "" for one that this Postfix does not know."""
        return self.settings.get(name, "")


@dataclass(frozen=True, slots=True)
class Postfix:
    """The settings of main.cf, and every smtp(8) of master.cf."""

    main: Mapping[str, str] = field(repr=False)
    clients: tuple[Client, ...]

    @property
    def version(self) -> Version | None:
        """The release, (3, 10, 5) for 3.10.5 and (3, 11, 0) for 3.11-20250101."""
        return version(self.main.get("mail_version", ""))


def read(directory: str | None = None) -> Postfix:
    """Read the configuration in `directory`, None for where Postfix has it (MAIL_CONFIG).

    Raise `PostconfError`.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_MORE_PATH))
    program = shutil.which("postconf", path=path)
    if program is None:
        raise NoPostfix("there is no postconf")
    deadline = Deadline(_TIMEOUT)
    command = [program]
    if directory := directory or os.environ.get("MAIL_CONFIG"):
        # For a second after a change Postfix 3.10 takes config_directory for the built-in one.
        command += ["-c", directory, "-o", f"config_directory={directory}"]
    return parse(
        *(_output([*command, *more], deadline) for more in (["-x", *NAMES], ["-M"], ["-Px"]))
    )


def parse(main: str, services: str, overrides: str) -> Postfix:
    """Return the configuration from the output of `postconf -x NAME...`, `-M` and `-Px`."""
    settings = _settings(main)
    own: dict[str, dict[str, str]] = {}
    for name, value in _settings(overrides).items():
        service, _, setting = name.rpartition("/")
        own.setdefault(service, {})[setting] = value
    default = _chroot_by_default(settings)
    clients = []
    for line in services.splitlines():
        columns = line.split(None, 8)
        if len(columns) < 8 or columns[7] != "smtp":
            continue
        name, kind, chroot = columns[0], columns[1], columns[4]
        clients.append(
            Client(
                name,
                settings | own.get(f"{name}/{kind}", {}),
                default if chroot == "-" else chroot == "y",
            )
        )
    return Postfix(settings, tuple(clients))


def version(text: str) -> Version | None:
    """Return the release in `mail_version`, None for a text that is none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def _settings(output: str) -> dict[str, str]:
    """Return the settings in lines of the form "name = value"."""
    pairs = (line.partition("=") for line in output.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _chroot_by_default(settings: Mapping[str, str]) -> bool:
    """Say what "-" in the chroot column means (master(5), COMPATIBILITY_README)."""
    level = settings.get("compatibility_level", "")
    release = version(settings.get("mail_version", ""))
    return (release is not None and release < (3, 0, 0)) or level in ("", "0")


def _output(command: list[str], deadline: Deadline) -> str:
    """Return what a program prints. Raise `PostconfError`."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline.left(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PostconfError(f"{command[0]} does not end") from None
    except (OSError, ValueError) as error:
        raise PostconfError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise PostconfError(last)
    return done.stdout
