"""Who may open what, by the mode of a file and of the directories above it (path_resolution(7)).

Access control lists are not looked at. Root may do everything.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who opens files, with all the groups that count; `group` names the primary one."""

    name: str
    uid: int
    gids: frozenset[int]
    group: str = ""


def person(name: str) -> Person:
    """Return a user with all its groups, as the daemon becomes it. Raise `KeyError`."""
    account = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    gids = os.getgrouplist(account.pw_name, account.pw_gid)
    return Person(account.pw_name, account.pw_uid, frozenset(gids))


def myself() -> Person:
    """Return the user of this process."""
    return Person(f"uid {os.geteuid()}", os.geteuid(), frozenset({*os.getgroups(), os.getegid()}))


def postfix(mail_owner: str) -> Person:
    """Return the user of smtp(8): its primary group alone counts (set_ugid). Raise `KeyError`."""
    account = pwd.getpwnam(mail_owner)
    group = grp.getgrgid(account.pw_gid).gr_name
    return Person(mail_owner, account.pw_uid, frozenset({account.pw_gid}), group)


def allows(status: os.stat_result, who: Person, wanted: int) -> bool:
    """Say whether the mode of a file gives `who` all that is `wanted`, a sum of the constants."""
    if who.uid == 0:
        return True
    if status.st_uid == who.uid:
        shift = 6
    elif status.st_gid in who.gids:
        shift = 3
    else:
        shift = 0
    return stat.S_IMODE(status.st_mode) >> shift & wanted == wanted


def obstacle(path: str, who: Person, wanted: int, below: str = "/") -> str | None:
    """Return the first thing on the way to `path` that shuts `who` out, with its mode, or None.

    `below`: the directory where the way begins. Raise `OSError` where we cannot look ourselves.
    """
    real = Path(os.path.realpath(path))
    start = Path(os.path.realpath(below))
    way = [*takewhile(lambda parent: parent != start, real.parents), start]
    for directory in reversed([one for one in way if one in real.parents]):
        if not allows(status := directory.stat(), who, ENTER):
            return f"{directory}, {_owner(status)}"
    if not allows(status := real.stat(), who, wanted):
        return f"{real}, {_owner(status)}"
    return None


def _owner(status: os.stat_result) -> str:
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return f"mode 0{stat.S_IMODE(status.st_mode):o} of {name}"
