"""Who takes part in a comparison, as the command line says."""

import argparse
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from servers import Server, asyncio_daemon, make_asyncio_venv, ours

OURS = "stsresolver"


def peer(text: str) -> Server:
    """A type for argparse: NAME=HOST:PORT/MAP, and after a space the command that starts it."""
    what, _, command = text.partition(" ")
    name, _, where = what.partition("=")
    address, _, map_name = where.rpartition("/")
    port = address.rpartition(":")[2]
    if not (name and map_name and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{what!r} is not NAME=HOST:PORT/MAP")
    # Another daemon may add attributes of its own to the answer.
    return Server(name, address, tuple(shlex.split(command)), map_name, "OK secure match=")


def checkout(text: str) -> tuple[str, Path]:
    """A type for argparse: NAME=DIRECTORY, another checkout of this repository."""
    name, _, directory = text.partition("=")
    path = Path(directory).resolve()
    if not (name and (path / "stsresolver" / "daemon.py").exists()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIRECTORY of a checkout")
    return name, path


def add_contenders(parser: argparse.ArgumentParser) -> None:
    """The options that say who takes part, and --json."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    add = parser.add_argument
    add("--peer", type=peer, action="append", default=[], metavar="NAME=HOST:PORT/MAP [COMMAND]")
    add(
        "--checkout",
        type=checkout,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another checkout of this repository, to hold against this one",
    )
    add(
        "--peer-venv",
        type=Path,
        default=cache / "stsresolver-bench" / "asyncio",
        metavar="DIR",
        help="where the asyncio daemon is installed",
    )
    add("--without", action="append", default=[], metavar="NAME", help="leave a server out")
    add("--json", action="store_true", help="nothing but JSON on standard output")


def contenders(
    options: argparse.Namespace, directory: Path, cache: Callable[[str], Mapping[str, object]]
) -> list[Server]:
    """Who takes part, ours first, each at an address of its own.

    `cache`: that of a server, by its name, as in the configuration file.
    """
    servers = [
        ours("127.0.0.1:8461", directory, OURS, cache(OURS)),
        *(
            ours(f"127.0.0.1:{8470 + number}", directory, name, cache(name), checkout=path)
            for number, (name, path) in enumerate(options.checkout)
        ),
        asyncio_daemon("127.0.0.1:8462", directory, options.peer_venv, cache("asyncio")),
        *options.peer,
    ]
    return [server for server in servers if server.name not in options.without]


def distinct(servers: list[Server]) -> list[Server]:
    """The same; RuntimeError if two have the same name."""
    names = [server.name for server in servers]
    if len(set(names)) != len(names):
        raise RuntimeError(f"two servers of the same name: {', '.join(names)}")
    return servers


def startable(servers: list[Server]) -> list[Server]:
    """The same; RuntimeError if one is not ours to start, which is done for each figure."""
    for server in servers:
        if not server.command:
            raise RuntimeError(f"{server.name}: say the command that starts it")
    return servers


def prepare(options: argparse.Namespace) -> None:
    """Install what has to be installed, while there is a network."""
    if "asyncio" not in options.without:
        make_asyncio_venv(options.peer_venv)
