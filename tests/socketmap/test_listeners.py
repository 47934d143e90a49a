"""Listening sockets: TCP addresses, shared ports, and the file of a UNIX socket."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
from collections.abc import Iterator

import pytest

from stsresolver.net.file_changes import stamp
from stsresolver.socketmap.listeners import ListenError, listen_tcp, listen_unix, name, remove_unix


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def tcp(closing):
    """Return `listen_tcp` whose sockets are closed at the end, and which skips without IPv6."""

    def listen(host: str, port: int = 0, *, reuse_port: bool = False) -> list[socket.socket]:
        if ":" in host and not has_ipv6():
            pytest.skip("no IPv6 on this machine")
        return [closing.enter_context(one) for one in listen_tcp(host, port, reuse_port=reuse_port)]

    return listen


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "socket")


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def connects(listener: socket.socket) -> bool:
    with socket.socket(listener.family) as client:
        client.settimeout(10)
        return client.connect_ex(listener.getsockname()) == 0


# TCP


@pytest.mark.parametrize(
    ("host", "family", "named"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1:"),
        ("::1", socket.AF_INET6, "[::1]:"),
        ("0.0.0.0", socket.AF_INET, "0.0.0.0:"),
        ("::", socket.AF_INET6, "[::]:"),
    ],
)
def test_address(tcp, host, family, named):
    [listener] = tcp(host)
    assert listener.family == family
    assert connects(listener)
    assert name(listener) == f"{named}{listener.getsockname()[1]}"


def test_host_name_is_every_address_it_has(tcp):
    listeners = tcp("localhost")
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    assert {one.getsockname()[0] for one in listeners} == {address[0] for *_, address in found}
    assert all(connects(one) for one in listeners)


def test_a_star_is_every_address_of_both_families(tcp):
    listeners = tcp("*")
    assert {one.family for one in listeners} == {socket.AF_INET, socket.AF_INET6}
    assert all(connects(one) for one in listeners)


def test_ipv6_leaves_ipv4_to_others(tcp):
    [six] = tcp("::")
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", six.getsockname()[1])) == errno.ECONNREFUSED
    assert tcp("0.0.0.0", six.getsockname()[1])


@pytest.mark.parametrize(
    ("first", "second", "works"),
    [
        (True, True, True),
        (True, False, False),
        (False, True, False),
        (False, False, False),
    ],
)
def test_reuse_port(tcp, first, second, works):
    [listener] = tcp("127.0.0.1", reuse_port=first)
    port = listener.getsockname()[1]
    if works:
        assert tcp("127.0.0.1", port, reuse_port=second)
        return
    with pytest.raises(ListenError, match=rf" 127\.0\.0\.1 port {port}: Address already in use$"):
        tcp("127.0.0.1", port, reuse_port=second)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_log_names_a_port_that_is_shared(tcp, host, caplog):
    [first] = tcp(host, reuse_port=True)
    assert caplog.messages == [], "it is alone"
    tcp(host, first.getsockname()[1], reuse_port=True)
    (message,) = caplog.messages
    assert message.startswith(f"another process listens on {name(first)} too (reuse_port)")


def test_the_log_names_no_connection_that_lingers(tcp, caplog):
    [listener] = tcp("127.0.0.1", reuse_port=True)
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        accepted, _ = listener.accept()
        listener.close()
        assert tcp("127.0.0.1", port, reuse_port=True), "one that is open"
        accepted.close()
        assert client.recv(1) == b""
    assert caplog.messages == []


def test_port_is_free_again_while_an_old_connection_lingers(tcp):
    """As when the daemon is restarted: it closes first, so its end stays in TIME_WAIT."""
    [listener] = tcp("127.0.0.1")
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        accepted, _ = listener.accept()
        accepted.close()
        listener.close()
        assert client.recv(1) == b""
    assert tcp("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("192.0.2.1", 8461, "an address of another machine"),
        ("a..b", 8461, "a name that the resolver's encoder refuses"),
        ("x" * 70 + ".example", 8461, "a label that it refuses"),
    ],
)
def test_address_that_cannot_be_listened_on(host, port, why):
    with pytest.raises(ListenError) as caught:
        listen_tcp(host, port, reuse_port=True)
    words = f"cannot listen on {host} port {port}: "
    assert str(caught.value).startswith(words), why
    assert len(str(caught.value)) > len(words), "without a reason"


def test_host_name_without_address(monkeypatch):
    def nothing(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    with pytest.raises(ListenError, match=r" unknown port 8461: .*Name or service not known"):
        listen_tcp("unknown", 8461, reuse_port=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_port_that_needs_root():
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        if int(file.read()) <= 25:
            pytest.skip("this machine lets everybody bind every port")
    with pytest.raises(ListenError, match="Permission denied"):
        listen_tcp("127.0.0.1", 25, reuse_port=True)


def test_failure_leaves_no_socket_behind(tcp, monkeypatch):
    """The first of two addresses is given back when the second cannot be had."""
    [taken] = tcp("127.0.0.1")
    port = taken.getsockname()[1]
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host in ("127.0.0.2", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(ListenError):
        listen_tcp("localhost", port, reuse_port=False)
    monkeypatch.undo()
    assert tcp("127.0.0.2", port)


# UNIX


def test_unix_socket(closing, path):
    listener = closing.enter_context(listen_unix(path, None))
    assert connects(listener)
    assert name(listener) == path


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_mode(closing, path, mode):
    umask = os.umask(0o022)
    try:
        closing.enter_context(listen_unix(path, mode))
        assert os.umask(0o022) == 0o022, "the umask was not put back"
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_the_socket_has_its_mode_from_the_start(closing, path, monkeypatch):
    bind = socket.socket.bind

    def checked(self: socket.socket, path: str) -> None:
        bind(self, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640

    monkeypatch.setattr(socket.socket, "bind", checked)
    closing.enter_context(listen_unix(path, 0o640))


def test_mode_is_what_the_umask_leaves(closing, path):
    umask = os.umask(0o027)
    try:
        closing.enter_context(listen_unix(path, None))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")
def test_owner(closing, path):
    nobody = pwd.getpwnam("nobody")
    closing.enter_context(listen_unix(path, 0o660, nobody.pw_uid, nobody.pw_gid))
    status = os.stat(path)
    assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert stat.S_IMODE(status.st_mode) == 0o660


def test_living_socket_is_replaced_if_that_is_asked_for(closing, path):
    closing.enter_context(listen_unix(path, None))
    listener = closing.enter_context(listen_unix(path, None, replace=True))
    assert connects(listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        listener.settimeout(10)
        listener.accept()[0].close()


def test_stale_socket_is_replaced(closing, path):
    listen_unix(path, None).close()
    old = stamp(path)
    listener = closing.enter_context(listen_unix(path, 0o600))
    assert stamp(path) != old
    assert connects(listener)


def test_living_socket_is_an_error(closing, path):
    listener = closing.enter_context(listen_unix(path, None))
    with pytest.raises(ListenError, match="another process listens there already"):
        listen_unix(path, None)
    assert connects(listener)


def test_living_socket_with_a_full_backlog_is_an_error(closing, path):
    listener = closing.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    waiting = [closing.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]
    for client in waiting:
        client.setblocking(False)
    assert any(client.connect_ex(path) for client in waiting), "the backlog is not full"
    with pytest.raises(ListenError, match="another process listens there already"):
        listen_unix(path, None)


def _regular(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("precious")


def _dangling(path: str) -> None:
    os.symlink(path + ".target", path)


def _link_to_socket(path: str) -> None:
    listen_unix(path + ".target", None).close()
    os.symlink(path + ".target", path)


@pytest.mark.parametrize("make", [_regular, os.mkdir, os.mkfifo, _dangling, _link_to_socket])
def test_other_file_is_left_alone(path, make):
    make(path)
    before = os.lstat(path)
    with pytest.raises(ListenError, match=f" {path}: a file that is no socket is there already$"):
        listen_unix(path, None)
    assert os.lstat(path) == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/directory/socket", "No such file or directory"),
        ("/dev/null/socket", "Not a directory"),
        ("/tmp/" + "x" * 200, "path too long"),
    ],
)
def test_unix_socket_that_cannot_be_made(path, reason):
    with pytest.raises(ListenError, match=reason) as caught:
        listen_unix(path, None)
    assert str(caught.value).startswith(f"cannot listen on {path}: ")


def test_removal(closing, path):
    closing.enter_context(listen_unix(path, None))
    remove_unix(path, stamp(path))
    assert not os.path.lexists(path)


def test_removal_of_what_is_gone_already(path):
    listen_unix(path, None).close()
    ours = stamp(path)
    os.unlink(path)
    remove_unix(path, ours)


def test_socket_of_a_successor_is_not_removed(closing, path):
    listen_unix(path, None).close()
    ours = stamp(path)
    successor = closing.enter_context(listen_unix(path, None))
    remove_unix(path, ours)
    assert connects(successor)
