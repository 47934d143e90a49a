"""Asks the daemon over its control socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from .commands import LOOK_LIMIT
from .messages import MAX_LINE, End, Item, MessageError, Request, parse_item, request_line

_CONNECT_LIMIT = 5.0


class NoDaemon(Exception):
    """No daemon listens there; the text says why."""


class ControlError(Exception):
    """The daemon did not do what it was asked for; the text says why."""


def ask(path: str, request: Request) -> Iterator[Item]:
    """Yield the parts of the reply but for its end.

    Raise `NoDaemon` before the first, and `ControlError`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_LIMIT)
        try:
            connection.connect(path)
        except OSError as error:
            raise NoDaemon(f"{path}: {error.strerror or error}") from error
        connection.settimeout(LOOK_LIMIT + _CONNECT_LIMIT)
        try:
            connection.sendall(request_line(request))
            with connection.makefile("rb") as reply:
                while line := reply.readline(MAX_LINE):
                    item = parse_item(line)
                    if isinstance(item, End):
                        if item.error:
                            raise ControlError(item.error)
                        return
                    yield item
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from error
        except MessageError as error:
            raise ControlError(f"{path}: {error}") from error
        raise ControlError(f"{path}: the daemon ended before its reply did")
