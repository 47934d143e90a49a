"""Gives up root for good, once the sockets and files are open."""

from __future__ import annotations

import grp
import os
import pwd


class PrivilegeError(Exception):
    """The process cannot become the user or group asked for."""


def become(user: str | None, group: str | None) -> None:
    """Become `user` and `group`, each a name or a number, None for none.

    Real, effective, saved and supplementary ids all change. The user's own groups are taken; its
    primary group unless `group` names another. `HOME`, `USER` and `LOGNAME` become the user's, too:
    libpq looks for files in the home, and goes on without TLS where it may not. Raise
    `PrivilegeError`.
    """
    if user is None and group is None:
        return
    account = _account(user) if user is not None else None
    gid = _gid(group) if group is not None else None
    if account is not None and gid is None:
        gid = account.pw_gid
    assert gid is not None
    try:
        if account is not None:
            os.initgroups(account.pw_name, gid)
        else:
            os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        if account is not None:
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except PermissionError as error:
        raise PrivilegeError(f"only root can change user and group: {error.strerror}") from error
    if account is not None:
        os.environ |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    if account is not None and account.pw_uid != 0:
        _check_that_root_is_gone(gid)


def user_id(user: str) -> int:
    """Return the number of a user given by name or number. Raise `PrivilegeError`."""
    return _account(user).pw_uid


def group_id(group: str) -> int:
    """Return the number of a group given by name or number. Raise `PrivilegeError`."""
    return _gid(group)


def _check_that_root_is_gone(gid: int) -> None:
    # A capability that outlived the change (CAP_SETUID, by prctl(2) of whoever started us).
    # Who became root's group on purpose has nothing to regain there.
    for way in (os.setresuid, os.setresgid) if gid != 0 else (os.setresuid,):
        try:
            way(0, 0, 0)
        except PermissionError:
            continue
        raise PrivilegeError("root could be regained: the process still has CAP_SETUID")


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise PrivilegeError(f"there is no user {user!r}") from None


def _gid(group: str) -> int:
    try:
        found = grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)
    except (KeyError, OverflowError):
        raise PrivilegeError(f"there is no group {group!r}") from None
    return found.gr_gid
