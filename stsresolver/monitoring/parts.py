"""What metrics and status page read of a running daemon, whose parts know nothing of either."""

from __future__ import annotations

from typing import Protocol

from ..cache.store import Cache
from ..lookup.pool import ResolverPool
from ..policies.dane_states import DaneStates
from ..policies.in_force import Policies
from ..policies.proactive import Proactive
from ..socketmap.answer import ReplyCounts
from ..socketmap.server import SocketmapServer


class Parts(Protocol):
    """The parts of a daemon: see `service.Service`."""

    server: SocketmapServer
    cache: Cache
    resolver: ResolverPool
    policies: Policies
    dane: DaneStates
    proactive: Proactive
    replies: ReplyCounts
