"""Giving up root. What needs root runs in processes of its own, which end with it given up."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys

import pytest

from stsresolver.process.privileges import PrivilegeError, become

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives it up")

# Becomes argv[1] and argv[2], and prints what /proc says and which ways back to root are open.
BECOME = """
import contextlib, json, os, sys
from stsresolver.process.privileges import become

os.setgroups([0, 4, 27])
become(*(argument or None for argument in sys.argv[1:]))
with open("/proc/self/status") as file:
    found = dict(line.split(":", 1) for line in file)
status = {name: list(map(int, found[name].split())) for name in ("Uid", "Gid", "Groups")}
status["capable"] = int(found["CapEff"], 16) != 0
ways = {
    "setuid": lambda: os.setuid(0),
    "seteuid": lambda: os.seteuid(0),
    "setresuid real": lambda: os.setresuid(0, -1, -1),
    "setresuid saved": lambda: os.setresuid(-1, -1, 0),
    "setgid": lambda: os.setgid(0),
    "setegid": lambda: os.setegid(0),
    "setgroups": lambda: os.setgroups([0]),
}
status["home"] = [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")]
status["back"] = []
for name, way in ways.items():
    with contextlib.suppress(PermissionError):
        way()
        status["back"].append(name)
json.dump(status, sys.stdout)
"""

# Becomes nobody, and then tries to become argv[1] and argv[2].
ALREADY_GIVEN_UP = """
import os, sys
from stsresolver.process.privileges import PrivilegeError, become

os.setresuid(65534, 65534, 65534)
try:
    become(*(argument or None for argument in sys.argv[1:]))
except PrivilegeError as error:
    print(error, os.getresuid())
"""


def run(program: str, user: str | None, group: str | None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, user or "", group or ""],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def accounts() -> list[str]:
    """Return an ordinary account of every system, and one with groups besides its own, if any."""
    names = ["nobody"]
    for account in pwd.getpwall():
        if account.pw_uid and len(os.getgrouplist(account.pw_name, account.pw_gid)) > 1:
            return [*names, account.pw_name]
    return names


@as_root
@pytest.mark.parametrize("name", accounts())
@pytest.mark.parametrize(
    ("by_number", "group"), [(False, None), (True, None), (False, "daemon"), (True, "1")]
)
def test_every_id_is_the_new_one_and_there_is_no_way_back(name, by_number, group):
    account = pwd.getpwnam(name)
    gid = account.pw_gid
    if group is not None:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    status = json.loads(run(BECOME, str(account.pw_uid) if by_number else name, group))
    assert status["Uid"] == [account.pw_uid] * 4
    assert status["Gid"] == [gid] * 4
    assert set(status["Groups"]) == set(os.getgrouplist(account.pw_name, gid))
    assert not status["capable"]
    assert status["back"] == []
    assert status["home"] == [account.pw_dir, account.pw_name, account.pw_name]


@as_root
def test_the_group_of_root_can_be_asked_for():
    status = json.loads(run(BECOME, "nobody", "0"))
    assert status["Uid"] == [pwd.getpwnam("nobody").pw_uid] * 4
    assert status["Gid"] == [0] * 4
    assert not status["capable"]


@as_root
def test_group_alone():
    gid = grp.getgrnam("daemon").gr_gid
    status = json.loads(run(BECOME, None, "daemon"))
    assert status["Uid"] == [0] * 4
    assert status["Gid"] == [gid] * 4
    assert status["Groups"] == [gid]


@as_root
def test_nothing_asked_for_changes_nothing():
    status = json.loads(run(BECOME, None, None))
    assert status["Uid"] == [0] * 4
    assert status["Groups"] == [0, 4, 27]
    assert status["home"] == [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")]


@as_root
@pytest.mark.parametrize(("user", "group"), [("root", None), ("nobody", None), (None, "daemon")])
def test_only_root_can(user, group):
    printed = run(ALREADY_GIVEN_UP, user, group)
    assert printed.startswith("only root can change user and group: ")
    assert printed.endswith("(65534, 65534, 65534)\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
@pytest.mark.parametrize(("user", "group"), [("root", None), (None, "root"), ("nobody", "nogroup")])
def test_ordinary_user_cannot(user, group):
    with pytest.raises(PrivilegeError, match="only root can change user and group"):
        become(user, group)


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "there is no user 'no-such-user'"),
        ("no-such-user", "daemon", "there is no user 'no-such-user'"),
        ("4000000000", None, "there is no user '4000000000'"),
        ("99999999999999999999", None, "there is no user '99999999999999999999'"),
        ("-1", None, "there is no user '-1'"),
        ("", None, "there is no user ''"),
        (None, "no-such-group", "there is no group 'no-such-group'"),
        ("nobody", "no-such-group", "there is no group 'no-such-group'"),
        (None, "-1", "there is no group '-1'"),
        (None, "", "there is no group ''"),
        (None, "4294967295", "there is no group '4294967295'"),
        (None, "99999999999999999999", "there is no group '99999999999999999999'"),
    ],
)
def test_no_such_account(user, group, message):
    before = os.getresuid(), os.getresgid(), os.getgroups()
    with pytest.raises(PrivilegeError) as caught:
        become(user, group)
    assert str(caught.value) == message
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
