"""The sdist and the wheel: what is in them, and what they leave behind.

They are built from a copy of the checkout, with what the package index has, or else skipped.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from stsresolver import __version__
from tests.support.missing import unavailable

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALL_SERVICE = CHECKOUT / "etc" / "install-service"
MANUALS = ["man1/mta-sts-daemon.1", "man1/mta-sts-query.1", "man5/mta-sts-daemon.yml.5"]
# For a checkout, not for a host.
NOT_SHIPPED = {"run-from-checkout", "make-deb"}
# What pip says when there is no index.
OFFLINE = ("No matching distribution found", "Could not find a version", "Failed to establish")


def run(*command, **options):
    """Run a command, and return what it says."""
    # What others warn of in pip and build is not ours to mend.
    others = {name: os.environ[name] for name in os.environ if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        **{"env": others, **options},
    )
    if done.returncode and any(words in done.stdout for words in OFFLINE):
        unavailable("needs a package index")
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a repository with the files of the checkout, those not yet committed included."""
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git, and a checkout")
    git = ["git", "-c", "safe.directory=*"]
    listed = run(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT)
    copy = tmp_path_factory.mktemp("checkout")
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, copy / name)
    run(*git, "init", "--quiet", cwd=copy)
    run(*git, "add", "--all", cwd=copy)
    return copy


@pytest.fixture(scope="module")
def built(tree):
    """Return the sdist and the wheel, built as anybody would."""
    if importlib.util.find_spec("check_manifest") is None:
        unavailable("not installed: build and check-manifest (extra package)")
    # -P: a directory `build` is no module.
    run(sys.executable, "-P", "-m", "build", "--outdir", tree.parent / "dist", tree, cwd="/")
    (sdist,) = (tree.parent / "dist").glob("*.tar.gz")
    (wheel,) = (tree.parent / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(built):
    """Return a new virtual environment with the wheel in it, and what the extras need."""
    _, wheel = built
    # Not below pytest's own directory: another user is to run the daemon.
    root = Path(tempfile.mkdtemp(prefix="stsresolver-"))
    root.chmod(0o755)
    try:
        run(sys.executable, "-m", "venv", root / "venv")
        run(root / "venv/bin/pip", "install", "--quiet", f"{wheel}[redis,metrics]")
        yield root / "venv"
    finally:
        shutil.rmtree(root)


def files(directory):
    """Return the paths of all files below a directory, relative to it."""
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


# What is in them


def test_the_sdist_has_every_file_of_the_repository(tree, built):
    sdist, _ = built
    # Its exit status says it.
    run(sys.executable, "-P", "-m", "check_manifest", tree, cwd="/")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    base = f"stsresolver-{__version__}"
    assert {f"{base}/docs/man/mta-sts-daemon.1.rst", f"{base}/tests/run"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_has_the_package_and_what_belongs_beside_it(tree, built):
    _, wheel = built
    data = f"stsresolver-{__version__}.data/data/share"
    sources = {f"stsresolver/{name}": f"stsresolver/{name}" for name in files(tree / "stsresolver")}
    for name in files(tree / "etc") - NOT_SHIPPED:
        if name.startswith("debian/"):
            continue
        sources[f"{data}/stsresolver/{name}"] = f"etc/{name}"
    for name in files(tree / "docs"):
        if not name.startswith("man/"):
            sources[f"{data}/doc/stsresolver/{name}"] = f"docs/{name}"
    for name in ("README.rst", "CHANGELOG.rst", "SECURITY.rst"):
        sources[f"{data}/doc/stsresolver/{name}"] = name
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == set(sources) | {f"{data}/man/{page}" for page in MANUALS}
        for name, source in sources.items():
            assert archive.read(name) == (tree / source).read_bytes()
            mode = archive.getinfo(name).external_attr >> 16
            executable = bool((tree / source).stat().st_mode & stat.S_IXUSR)
            assert bool(mode & stat.S_IXUSR) == executable, name
    assert "stsresolver/py.typed" in sources


def test_the_wheel_has_nothing_of_an_older_checkout(tree, built, tmp_path):
    """`pip install DIRECTORY` builds in build/lib, which may be full of older modules."""
    older = tree / "build" / "lib" / "stsresolver" / "older.py"
    older.parent.mkdir(parents=True)
    older.write_text("raise SystemExit")
    try:
        command = [sys.executable, "-P", "-m", "build", "--wheel", "--outdir", tmp_path, tree]
        run(*command, cwd="/")
    finally:
        shutil.rmtree(tree / "build")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as found, zipfile.ZipFile(built[1]) as expected:
        assert found.namelist() == expected.namelist()


def test_what_the_wheel_says_of_itself(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        about = f"stsresolver-{__version__}.dist-info"
        lines = archive.read(f"{about}/METADATA").decode().splitlines()
        assert f"{about}/licenses/LICENSE" in archive.namelist()
    assert "Requires-Python: >=3.11" in lines
    extras = {line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")}
    assert {"redis", "metrics"} <= extras


# Installed, and removed again


def test_it_runs_in_an_empty_environment(environment):
    share = environment / "share"
    programs = environment / "bin"
    run(programs / "pip", "check")
    run(
        programs / "python",
        "-I",
        "-c",
        "import stsresolver.monitoring.metrics, stsresolver.stores.redis",
    )
    for name in ("mta-sts-daemon", "mta-sts-query"):
        assert run(programs / name, "--version") == f"{name} {__version__}\n"
    example = share / "stsresolver" / "mta-sts-daemon.yml"
    assert "port: 8461" in run(programs / "mta-sts-daemon", "--check-config", "-c", example)


@pytest.mark.parametrize("page", MANUALS)
def test_man_finds_the_pages_by_their_names(environment, page):
    if shutil.which("man") is None:
        unavailable("not installed: man (Debian: man-db)")
    name, _, section = page.partition("/")[2].rpartition(".")
    variables = {
        **os.environ,
        "MANPATH": str(environment / "share" / "man"),
        "LC_ALL": "C.UTF-8",
        "MANWIDTH": "100",
    }
    text = run("man", "--warnings", "-E", "UTF-8", section, name, env=variables)
    # docutils before 0.22 writes the name in capitals.
    assert text.lower().startswith(f"{name}({section})")
    assert "SEE ALSO" in text
    assert "warning:" not in text


def test_uninstalling_leaves_nothing(environment, tmp_path):
    copy = tmp_path / "venv"
    shutil.copytree(environment, copy, symlinks=True)
    run(copy / "bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", "stsresolver")
    left = [str(path) for path in copy.rglob("*")]
    assert not [path for path in left if "mta-sts" in path or "stsresolver" in Path(path).name]


def test_into_a_prefix_below_a_scratch_root(built, tmp_path):
    _, wheel = built
    root = tmp_path / "root"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    run(*pip, "--no-index", "--no-warn-script-location", "--root", root, "--prefix", "/usr", wheel)
    before = files(root)
    assert {name.split("/")[0] for name in before} == {"usr"}
    assert {f"usr/share/man/{page}" for page in MANUALS} <= before
    script = root / "usr" / "share" / "stsresolver" / "install-service"
    run(script, "--root", root, "systemd")
    run(script, "--root", root, "init")
    assert files(root) - before == {
        "etc/default/mta-sts-daemon",
        "etc/init.d/mta-sts-daemon",
        "etc/logrotate.d/mta-sts-daemon",
        "etc/mta-sts-daemon.yml",
        "etc/systemd/system/mta-sts-daemon.service",
    }
    run(script, "--root", root, "remove")
    assert files(root) == before


# etc/install-service


class Host:
    """A scratch root with a program in it that passes for the daemon."""

    def __init__(self, root, daemon="/usr/bin/mta-sts-daemon"):
        self.root = root
        self.unit = root / "etc/systemd/system/mta-sts-daemon.service"
        self.drop_in = root / "etc/systemd/system/mta-sts-daemon.service.d/program.conf"
        self.script = root / "etc/init.d/mta-sts-daemon"
        self.settings = [
            root / name
            for name in (
                "etc/default/mta-sts-daemon",
                "etc/logrotate.d/mta-sts-daemon",
                "etc/mta-sts-daemon.yml",
            )
        ]
        program = root / daemon.lstrip("/")
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
        self.daemon = daemon
        self.empty = files(root)

    def __call__(self, *arguments):
        """Return the exit status of install-service, and what it says."""
        command = ["/bin/sh", INSTALL_SERVICE, "--root", self.root, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_the_unit_and_the_script_have_their_modes(host):
    assert host("systemd")[0] == host("init")[0] == 0
    assert stat.S_IMODE(host.script.stat().st_mode) == 0o755
    for path in (host.unit, *host.settings):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not host.drop_in.exists()


def test_a_daemon_elsewhere_is_named_to_whoever_starts_it(tmp_path):
    host = Host(tmp_path, "/opt/stsresolver/bin/mta-sts-daemon")
    where = ("--daemon", host.daemon)
    assert host(*where, "systemd")[0] == host(*where, "init")[0] == 0
    lines = host.drop_in.read_text().splitlines()
    assert lines[-3:] == ["[Service]", "ExecStart=", f"ExecStart={host.daemon}"]
    assert host.settings[0].read_text().endswith(f"\nDAEMON={host.daemon}\n")
    assert host(*where, "remove")[0] == 0
    assert files(tmp_path) == host.empty
    assert not host.drop_in.parent.exists()


@pytest.mark.parametrize(
    ("mine", "left", "why"),
    [
        ("", set(), "the file says itself where the daemon was"),
        ("OPTIONS=-v debug\n", {"etc/default/mta-sts-daemon"}, "changed by somebody"),
    ],
)
def test_removing_does_not_ask_where_the_daemon_was(tmp_path, mine, left, why):
    host = Host(tmp_path, "/opt/stsresolver/bin/mta-sts-daemon")
    assert host("--daemon", host.daemon, "init")[0] == 0
    with host.settings[0].open("a") as file:
        file.write(mine)
    assert host("remove")[0] == 0
    assert files(tmp_path) - host.empty == left, why


def test_the_drop_in_goes_when_the_daemon_moves_to_usr_bin(host):
    elsewhere = host.root / "opt/mta-sts-daemon"
    elsewhere.parent.mkdir()
    elsewhere.touch(mode=0o755)
    assert host("--daemon", "/opt/mta-sts-daemon", "systemd")[0] == 0
    assert host.drop_in.exists()
    assert host("systemd")[0] == 0
    assert not host.drop_in.exists()


LINKED = (
    "bin/mta-sts-daemon",
    "bin/mta-sts-query",
    "share/man/man1/mta-sts-daemon.1",
    "share/man/man1/mta-sts-query.1",
    "share/man/man5/mta-sts-daemon.yml.5",
)


def in_a_prefix(host, prefix):
    """Install what pip installs beside the daemon."""
    for name in LINKED:
        path = host.root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o755)
    return ("--daemon", f"/{prefix}/bin/mta-sts-daemon")


@pytest.mark.parametrize("service", ["systemd", "init"])
def test_programs_and_pages_are_linked_to_where_they_are_looked_for(host, service):
    where = in_a_prefix(host, "opt/stsresolver")
    before = files(host.root)
    local = host.root / "usr/local"
    for prefix in ("opt/stsresolver", "opt/newer", "opt/newer"):
        where = in_a_prefix(host, prefix)
        assert host(*where, service)[0] == 0
        assert {name: os.readlink(local / name) for name in LINKED} == {
            name: f"/{prefix}/{name}" for name in LINKED
        }
    shutil.rmtree(host.root / "opt/newer")
    assert host("remove")[0] == 0
    assert files(host.root) == before, "also where the daemon is gone already"


@pytest.mark.parametrize("prefix", ["usr", "usr/local"])
def test_what_is_found_anyway_is_not_linked(host, prefix):
    where = in_a_prefix(host, prefix)
    before = files(host.root)
    assert host(*where, "init")[0] == 0
    assert {name for name in files(host.root) - before if name.startswith("usr")} == set()
    assert host("remove")[0] == 0
    assert files(host.root) == before


def test_what_somebody_else_has_in_usr_local_stays(host):
    where = in_a_prefix(host, "opt/stsresolver")
    local = host.root / "usr/local/bin"
    local.mkdir(parents=True)
    (local / "mta-sts-query").write_text("mine")
    (local / "mta-sts-daemon").symlink_to("/opt/wrapper")
    (host.root / "opt/wrapper").touch()
    status, said = host(*where, "init")
    assert status == 0
    assert f"left {local}/mta-sts-query as it is" in said
    assert f"left {local}/mta-sts-daemon as it is" in said
    assert host("remove")[0] == 0
    assert (local / "mta-sts-query").read_text() == "mine"
    assert os.readlink(local / "mta-sts-daemon") == "/opt/wrapper"


def test_what_somebody_has_changed_is_neither_overwritten_nor_removed(host):
    host("systemd")
    host("init")
    for path in host.settings:
        path.write_text("# mine\n")
    for path in (host.unit, host.script):
        path.write_text("# an older version\n")
    host("systemd")
    host("init")
    assert host.unit.read_text().startswith("# mta-sts-daemon for Postfix")
    assert host.script.read_text().startswith("#!/bin/sh")
    status, said = host("remove")
    assert status == 0
    assert files(host.root) - host.empty == {
        str(one.relative_to(host.root)) for one in host.settings
    }
    for path in host.settings:
        assert path.read_text() == "# mine\n"
        assert f"left {path}, which is not as it was installed" in said


REFUSED = [
    (("systemd", "init"), 64, "usage: ", "one thing at a time"),
    ((), 64, "usage: ", "nothing is meant by nothing"),
    (("--daemon", "mta-sts-daemon", "init"), 64, "begins with a slash", "no service has our PATH"),
    (("--daemon", "/opt/none", "init"), 1, "there is no program", "would never start"),
    (("--daemon", "/home/me/mta-sts-daemon", "systemd"), 1, "the unit hides", "ProtectHome"),
    (("--daemon", "/tmp/mta-sts-daemon", "systemd"), 1, "the unit hides", "PrivateTmp"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "sentence", "why"), REFUSED)
def test_refused_with_nothing_changed(host, arguments, status, sentence, why):
    for name in ("home/me", "tmp"):
        (host.root / name).mkdir(parents=True)
        (host.root / name / "mta-sts-daemon").touch(mode=0o755)
    before = files(host.root)
    found, said = host(*arguments)
    assert found == status, why
    assert sentence in said
    assert files(host.root) == before


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives directories away")


@as_root
@pytest.mark.parametrize("name", ["etc", "etc/default", "etc/systemd/system", ""])
@pytest.mark.parametrize("how", ["owner", "group", "everybody"])
def test_root_writes_only_where_nobody_else_does(host, name, how):
    """Or a link there would have it write elsewhere."""
    directory = host.root / name
    directory.mkdir(parents=True, exist_ok=True)
    before = files(host.root)
    if how == "owner":
        os.chown(directory, pwd.getpwnam("nobody").pw_uid, -1)
    elif how == "group":
        os.chown(directory, -1, grp.getgrnam("adm").gr_gid)
        directory.chmod(0o2775)
    else:
        directory.chmod(0o777)
    for action in ("systemd", "init", "remove"):
        status, said = host(action)
        assert status == 1
        assert "nothing was done: others than root may write to " in said
    assert files(host.root) == before


@as_root
def test_root_makes_no_link_where_others_may_write(tmp_path):
    host = Host(tmp_path, "/opt/stsresolver/bin/mta-sts-daemon")
    local = tmp_path / "usr/local"
    local.mkdir(parents=True)
    os.chown(local, -1, grp.getgrnam("adm").gr_gid)
    local.chmod(0o2775)
    status, said = host("--daemon", host.daemon, "systemd")
    assert status == 0
    assert f"left {local}/bin/mta-sts-daemon as it is: others than root may write" in said
    assert list(local.iterdir()) == []


def test_removing_what_is_not_there(host):
    assert host("remove")[0] == 0
    assert files(host.root) == host.empty


# A host of its own: what is written below /etc, /var and /usr/local lands in a file system in
# memory, and is gone with the process. /run is empty, so that no service manager is reached.
LIFE = """
mount -t tmpfs none "$SCRATCH"
for directory in etc var usr/local; do
    mkdir -p "$SCRATCH/$directory" "$SCRATCH/work/$directory"
    mount -t overlay none "/$directory" \
        -o "lowerdir=/$directory,upperdir=$SCRATCH/$directory,workdir=$SCRATCH/work/$directory" ||
        { echo "no overlay"; exit 0; }
done
mount -t tmpfs -o mode=755 none /run
ip link set lo up
service=$VENV/share/stsresolver/install-service
daemons() {
    grep -lsx mta-sts-daemon /proc/[0-9]*/comm | xargs -r dirname
}

# What it says is left to do, one command a line.
"$service" init >"$SCRATCH/said"
cat "$SCRATCH/said"
sed -n 's/^    //p' "$SCRATCH/said" | sh -e
echo "found: $(PATH=/usr/local/bin:$PATH command -v mta-sts-query)"
echo "users: $(daemons | xargs -r stat -c %U | sort -u | tr '\\n' ' ')"
"$VENV/bin/python" -I -c '
import socket
with socket.create_connection(("127.0.0.1", 8461), timeout=10) as connection:
    connection.sendall(b"16:zone [192.0.2.1],")
    print("answer:", connection.recv(100).decode())
'
! "$service" remove
service mta-sts-daemon stop
echo "running: $(daemons)"
"$service" remove >"$SCRATCH/said"
sed -n 's/^    //p' "$SCRATCH/said" | sh -e
(cd "$SCRATCH" && find etc var usr -name '*mta-sts*' | sed 's/^/left: /')
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: installs and starts a service")
def test_the_life_of_a_service(environment, tmp_path):
    programs = ("unshare", "ip", "adduser", "start-stop-daemon", "update-rc.d", "service")
    for program in programs:
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            unavailable(f"not installed: {program}")
    variables = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "VENV": str(environment),
        "SCRATCH": str(tmp_path),
    }
    own = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    said = run("unshare", *own, "sh", "-eu", "-c", LIFE, env=variables)
    lines = said.splitlines()
    if "no overlay" in lines:
        unavailable("needs overlayfs in a mount namespace")
    assert "found: /usr/local/bin/mta-sts-query" in lines, said
    assert "users: mta-sts " in lines, said
    assert "answer: 9:NOTFOUND ," in lines, said
    assert "install-service: first do: service mta-sts-daemon stop" in lines, said
    assert "running: " in lines, said
    left = {line.removeprefix("left: ") for line in lines if line.startswith("left: ")}
    assert left == {"var/lib/mta-sts-daemon", "var/log/mta-sts-daemon.log"}, "the data"
