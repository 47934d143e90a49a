"""The Redis store on a real Redis: away and back, slow, in another program's company, shared."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from stsresolver.cache.entry import CLOCK_SKEW
from stsresolver.cache.store import StoreError
from stsresolver.mta_sts.policy import Mode, Policy
from tests.cache.test_store import DAY, NOW, POLICY, StoreContract, entry

pytest.importorskip("redis")

import redis
from redis.sentinel import MasterNotFoundError

from stsresolver.config.redis_options import connection_options, sentinel_options
from stsresolver.stores.redis import MARGIN, RedisStore, _Sentinels
from tests.support.redis_server import RedisServer, eventually, free_port

_numbers = itertools.count()


def opened(options):
    return RedisStore(connection_options(options)[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with contextlib.closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def prefix():
    """A prefix of the test's own, so that one server does for all."""
    return f"test{next(_numbers)}:"


@pytest.fixture
def store(server, prefix):
    with contextlib.closing(opened({"port": server.port, "prefix": prefix})) as store:
        yield store


@pytest.fixture
def client(server):
    with contextlib.closing(server.client()) as client:
        yield client


class TestRedisStore(StoreContract):
    """The contract over TCP."""


class TestRedisStoreByUnixSocket(StoreContract):
    @pytest.fixture
    def store(self, server, prefix):
        url = f"unix://{server.socket}?db=3"
        with contextlib.closing(opened({"url": url, "prefix": prefix})) as store:
            yield store


class TestKeys:
    @pytest.mark.requirement("LIB-13")
    def test_names_and_lifetimes(self, store, client, prefix):
        store.put(entry(), NOW)
        assert store.lease("a", 60.0, NOW)
        left = {key.decode(): client.pttl(key) for key in client.scan_iter(prefix + "*")}
        life = (POLICY.max_age + MARGIN) * 1000
        assert left.keys() == {
            prefix + name for name in ("policy:example.com", "due", "end", "fetched", "lease")
        }
        assert 50_000 < left.pop(prefix + "lease") <= 60_000
        assert all(life - 60_000 < ttl <= life for ttl in left.values())

    def test_a_clock_of_redis_that_is_ahead_by_years_removes_nothing(self, store, client, prefix):
        """Redis removes what it loads past its lifetime, by its own clock."""
        store.put(entry(), NOW)
        assert client.pttl(prefix + "policy:example.com") > 2 * 366 * DAY * 1000

    def test_a_touch_leaves_the_lifetime(self, store, client, prefix):
        store.put(entry(), NOW)
        client.pexpire(prefix + "policy:example.com", 500_000)
        store.touch(entry(checked=NOW + 60))
        assert 400_000 < client.pttl(prefix + "policy:example.com") <= 500_000

    def test_an_index_lives_as_long_as_its_last_entry(self, store, client, prefix):
        short = replace(POLICY, max_age=60)
        store.put(entry("a.example", policy=short), NOW)
        store.put(entry("b.example"), NOW)
        store.put(entry("c.example", policy=short), NOW)
        for name in ("due", "end", "fetched"):
            assert client.pttl(prefix + name) > (POLICY.max_age + MARGIN - 60) * 1000

    @pytest.mark.requirement("LIB-13")
    def test_no_clock_makes_a_key_for_ever(self, store, client, prefix):
        store.put(entry(fetched=NOW + 100 * 365 * DAY), NOW)
        life = (POLICY.max_age + CLOCK_SKEW + MARGIN) * 1000
        assert client.pttl(prefix + "policy:example.com") <= life

    def test_what_redis_has_removed_is_neither_due_nor_counted_as_an_entry(
        self, store, client, prefix
    ):
        for number in range(5):
            store.put(entry(f"{number}.example", due=NOW - 10 + number), NOW)
        for number in (0, 1, 3):
            client.delete(f"{prefix}policy:{number}.example")
        assert [one.domain[0] for one in store.due(NOW, 2)] == ["2", "4"]
        assert client.zcard(prefix + "end") == 2

    @pytest.mark.parametrize(
        "lost", [["due"], ["end"], ["fetched"], ["due", "end", "fetched"]], ids=" and ".join
    )
    def test_a_lost_index_is_made_again(self, store, client, prefix, lost, caplog):
        """As after an eviction. What is put afterwards makes the index, but not whole."""
        for number in range(3):
            store.put(entry(f"{number}.example", due=NOW - 1), NOW)
        store.put(entry("later.example"), NOW)
        client.set(prefix + "policy:other.example", "another program's")
        client.delete(*(prefix + name for name in lost))
        store.put(entry("new.example"), NOW)
        assert [one.domain[0] for one in store.due(NOW, 10)] == ["0", "1", "2"]
        for name in ("due", "end", "fetched"):
            assert client.zcard(prefix + name) == 5
            assert client.pttl(prefix + name) > POLICY.max_age * 1000
        told = [one.getMessage() for one in caplog.records if "indexes" in one.getMessage()]
        assert len(told) == 1
        assert "had lost 4 policies" in told[0]

    def test_an_index_that_is_lost_while_the_daemon_runs_is_made_again(self, store, client, prefix):
        store.put(entry(due=NOW), NOW)
        assert store.due(NOW, 10)
        client.delete(prefix + "due")
        assert store.due(NOW + 60, 10)
        client.delete(*(prefix + name for name in ("due", "end", "fetched")))
        assert not store.due(NOW + 120, 10), "nothing shows it"
        assert store.due(NOW + DAY + 120, 10), "but the daily comparison"

    def test_the_names_of_others_are_not_taken_for_ours(self, server, client):
        """A prefix may hold what has a meaning in Redis's patterns."""
        client.set("[x?*policy:example.org", "another program's")
        for prefix in ("[x?*", "x"):
            with contextlib.closing(
                opened({"url": f"redis://127.0.0.1:{server.port}", "prefix": prefix})
            ) as store:
                store.put(entry(due=NOW), NOW)
                client.delete(prefix + "due")
                assert len(store.due(NOW, 10)) == 1
                client.delete(*(prefix + name for name in ("policy:example.com", "end", "fetched")))

    def test_purge_cleans_up_after_redis(self, store, client, prefix):
        store.put(entry(), NOW)
        client.delete(prefix + "policy:example.com")
        assert store.purge(NOW + POLICY.max_age, 10) == 1
        assert list(client.scan_iter(prefix + "*")) == []

    def test_the_largest_policy(self, store):
        mx = tuple(f"mx{number:04}.{'x' * 40}.example.com" for number in range(1000))
        lines = "version: STSv1", "mode: enforce", *(f"mx: {name}" for name in mx), "max_age: 86400"
        large = entry(
            policy=Policy(Mode.ENFORCE, mx, 86_400, "\n".join(lines)), failure="é\n\udc80"
        )
        store.put(large, NOW)
        found = store.get("example.com")
        assert found == replace(large, failure=r"'\xe9\n\udc80'")
        store.touch(replace(found, checked=NOW + 1))
        assert store.get("example.com").checked == NOW + 1


class TestLease:
    def test_one_holder_at_a_time(self, store, client, prefix):
        assert store.lease("a", 60.0, NOW)
        assert not store.lease("b", 60.0, NOW)
        assert client.pttl(prefix + "lease") > 50_000
        assert store.lease("a", 600.0, NOW), "prolonged"
        assert client.pttl(prefix + "lease") > 500_000

    def test_it_runs_out(self, store):
        assert store.lease("a", 0.05, NOW)
        eventually(lambda: store.lease("b", 60.0, NOW), "the lease of a runs out")
        assert not store.lease("a", 60.0, NOW)

    @pytest.mark.requirement("LIB-14")
    @pytest.mark.parametrize("kind", ["text", "set"])
    def test_another_program_s_key_stops_nobody(self, store, client, prefix, kind, caplog):
        if kind == "text":
            client.set(prefix + "lease", "x")
        else:
            client.sadd(prefix + "lease", "x")
        assert store.lease("a", 60.0, NOW)
        assert store.lease("b", 60.0, NOW)
        assert client.pttl(prefix + "lease") == -1
        assert len(caplog.records) == 1


def stored(**changes):
    fields = {"domain": "example.com", "id": "1", "policy": POLICY.body}
    times = dict.fromkeys(("fetched", "checked", "asked", "due"), NOW)
    return json.dumps({**fields, **times, "failed": 0, "failure": "", **changes})


class TestWhatIsReadBack:
    def test_what_others_write_in_our_form_is_taken(self, store, client, prefix):
        client.set(prefix + "policy:example.com", stored(id="2"))
        assert store.get("example.com") == entry(id="2", asked=NOW, due=NOW)

    @pytest.mark.requirement("POL-15")
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "empty"),
            ("hello", "no JSON"),
            ("[" * 100_000, "nested too deeply for the parser"),
            ("[1]", "no object"),
            ("9" * 5000, "more digits than Python reads"),
            (b"\xff\xfe\x00", "no text"),
            (stored(domain="example.net"), "of another domain"),
            (stored(id="a b"), "no policy id"),
            (stored(id=1), "no text"),
            (stored(policy="version: STSv1"), "no policy"),
            (stored(policy=POLICY.body + "\nmx: a b"), "a hostile mx"),
            (stored(policy="\ud800"), "no UTF-8"),
            (stored(due=float("nan")), "not a number"),
            (stored(checked=float("-inf")), "not finite"),
            (stored(asked=True), "no time"),
            (stored(failed=10**400), "more than a float"),
            (stored(fetched="1"), "a text for a time"),
            (stored(failure=None), "no text"),
            (stored()[:-1], "cut off"),
        ],
    )
    def test_what_does_not_pass_is_absent_and_stops_no_scan(
        self, store, client, prefix, caplog, text, why
    ):
        key = prefix + "policy:example.com"
        store.put(entry("example.org", due=NOW), NOW)
        store.put(entry(due=NOW - 1), NOW)
        client.set(key, text)
        assert store.get("example.com") is None, why
        assert [one.domain for one in store.due(NOW, 1)] == ["example.org"], why
        assert store.get("example.com") is None
        assert len(caplog.records) == 1, "once"
        assert caplog.records[0].levelno == logging.WARNING
        assert "example.com" in caplog.messages[0]
        assert store.purge(NOW, 10) == 0
        assert client.get(key) == (text if isinstance(text, bytes) else text.encode())

    def test_a_damaged_entry_of_ours_is_replaced(self, store, client, prefix):
        client.set(prefix + "policy:example.com", stored(policy="mode: enforce"))
        store.put(entry(), NOW)
        assert store.get("example.com") == entry()


class TestOtherPrograms:
    @pytest.fixture(params=["set", "list", "text", "object"])
    def foreign(self, client, prefix, request):
        """Put another program's value under the name of a domain; return its dump."""
        key = prefix + "policy:example.com"
        match request.param:
            case "set":
                client.sadd(key, "x")
            case "list":
                client.rpush(key, "x")
            case "text":
                client.set(key, "x")
            case "object":
                client.set(key, '{"domain": "example.com", "fetched": null}')
        return key, client.dump(key)

    @pytest.mark.requirement("LIB-14")
    def test_a_foreign_value_is_left_alone(self, store, client, prefix, foreign, caplog):
        key, dump = foreign
        client.zadd(prefix + "due", {"example.com": 1.0})
        client.zadd(prefix + "end", {"example.com": 1.0})
        store.put(entry("example.org", due=NOW), NOW)
        assert store.get("example.com") is None
        store.put(entry(), NOW)
        store.touch(entry())
        assert [one.domain for one in store.due(NOW, 1)] == ["example.org"]
        client.zadd(prefix + "end", {"example.com": 1.0})
        assert store.purge(NOW, 10) == 1
        assert store.get("example.com") is None
        assert client.dump(key) == dump
        assert client.ttl(key) == -1
        assert len(caplog.records) == 1, "once"

    @pytest.mark.requirement("LIB-14")
    @pytest.mark.parametrize("name", ["due", "end", "fetched"])
    def test_a_foreign_index_is_an_error_that_names_it(self, store, client, prefix, name):
        client.set(prefix + name, "x")
        for call in (
            lambda: store.put(entry(), NOW),
            lambda: store.touch(entry()),
            lambda: store.due(NOW, 1),
            lambda: store.purge(NOW, 1),
        ):
            with pytest.raises(StoreError, match=f"{prefix}{name}.*another program"):
                call()
        assert [key.decode() for key in client.scan_iter(prefix + "*")] == [prefix + name]
        assert client.get(prefix + name) == b"x"

    def test_strange_members_of_an_index(self, store, client, prefix):
        client.zadd(prefix + "due", {b"\xff\x00": 1.0, "": 2.0, "a b": 3.0})
        client.set(prefix.encode() + b"policy:\xff\x00", "x")
        store.put(entry(due=NOW), NOW)
        assert store.due(NOW, 2) == [entry(due=NOW)]
        assert client.zcard(prefix + "due") == 1

    def test_other_names_are_never_touched(self, store, client, prefix):
        others = [f"other{prefix}", f"{prefix}policy", f"{prefix}policyexample.com", "due"]
        for key in others:
            client.set(key, "x")
        store.put(entry(fetched=NOW - 30 * DAY), NOW)
        assert store.purge(NOW, 10) == 1
        assert client.mget(others) == [b"x"] * len(others)
        client.delete(*others)


@contextlib.contextmanager
def _says(answer):
    """Give the port of a server that says `answer` to everybody and reads nothing."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    sock = stack.enter_context(listener.accept()[0])
                    if answer:
                        sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class TestAway:
    @pytest.fixture
    def own(self, tmp_path):
        """A server of the test's own."""
        with contextlib.closing(RedisServer(tmp_path / "own")) as own:
            yield own

    def test_nothing_is_connected_at_the_start(self):
        port = free_port()
        refused = pytest.raises(StoreError, match=f"localhost:{port}/0.*Connection refused")
        with contextlib.closing(opened({"port": port})) as store, refused:
            store.get("example.com")

    def test_killed_and_started_again(self, own):
        with contextlib.closing(opened({"host": "127.0.0.1", "port": own.port})) as store:
            store.put(entry(), NOW)
            own.kill()
            for call in (
                lambda: store.get("example.com"),
                lambda: store.put(entry(), NOW),
                lambda: store.due(NOW, 1),
                lambda: store.lease("a", 1.0, NOW),
            ):
                with pytest.raises(StoreError, match=f"127.0.0.1:{own.port}/0"):
                    call()
            own.start()
            store.put(entry(), NOW)
            assert store.get("example.com") == entry()
            assert store.due(NOW + DAY, 1) == [entry()]

    def test_a_redis_that_stops_answering(self, own):
        options = {"port": own.port, "host": "127.0.0.1", "timeout": 0.3}
        with contextlib.closing(opened(options)) as store:
            store.put(entry(), NOW)
            own.signal(signal.SIGSTOP)
            for call in (lambda: store.get("example.com"), lambda: store.touch(entry())):
                start = time.monotonic()
                with pytest.raises(StoreError, match=r"Timeout"):
                    call()
                assert time.monotonic() - start < 1.0
            own.signal(signal.SIGCONT)
            assert store.get("example.com") == entry()

    def test_waiting_for_a_connection_has_an_end(self, own):
        options = {"port": own.port, "maxsize": 1, "socket_timeout": 5}
        options["create_connection_timeout"] = 0.2
        with contextlib.closing(opened(options)) as store:
            store.put(entry(), NOW)
            own.signal(signal.SIGSTOP)
            other = threading.Thread(target=store.get, args=("example.com",))
            other.start()
            eventually(lambda: store._free._value == 0, "the one connection is in use")
            with pytest.raises(StoreError, match="all 1 connections are in use"):
                store.get("example.com")
            own.signal(signal.SIGCONT)
            other.join(10)
            assert store.get("example.com") == entry()

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (None, "accepts and says nothing"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Redis"),
            (b":abc\r\n", "no number"),
            (b"$-5\r\n" * 20, "a length below zero"),
            (b"-ERR unknown command `AUTH`, with args: `secret`\r\n", "tells what it was told"),
            (b"-LOADING Redis is loading the dataset in memory\r\n", "not ready yet"),
        ],
    )
    def test_what_is_no_redis(self, answer, why):
        with _says(answer) as port:
            url = f"redis://:secret@127.0.0.1:{port}?timeout=0.3"
            with contextlib.closing(opened({"url": url})) as store:
                start = time.monotonic()
                with pytest.raises(StoreError) as caught:
                    store.get("example.com")
                assert time.monotonic() - start < 1.5, why
                assert "secret" not in str(caught.value)

    def test_the_password_is_not_in_an_error(self, tmp_path):
        with contextlib.closing(RedisServer(tmp_path / "own", "requirepass right")) as own:
            options = {"port": own.port, "password": "topsecret"}
            with contextlib.closing(opened(options)) as store:
                with pytest.raises(StoreError, match="invalid username-password pair") as caught:
                    store.get("example.com")
                assert "topsecret" not in str(caught.value)
                assert "topsecret" not in repr(connection_options(options)[0])
            with contextlib.closing(opened({**options, "password": "right"})) as store:
                store.put(entry(), NOW)
                assert store.get("example.com") == entry()

    def test_without_redis_py(self):
        """An error names the command that installs it."""
        program = "import sys; sys.modules['redis'] = None; import stsresolver.stores.redis"
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert "ImportError: a Redis cache needs redis-py" in run.stderr
        assert "pip install 'stsresolver[redis]'" in run.stderr


def client_of_a_shared_store(options, number, ready, results):
    """Be one process with twelve clients; send the latest fetch of each domain, and what failed."""
    latest, errors = {}, []

    def work(seed):
        chance = random.Random(seed)
        try:
            for step in range(60):
                domain, at = f"{chance.randrange(10)}.example", NOW + chance.randrange(10_000)
                # Times of one domain are never equal: an entry is one writer's.
                at += (seed * 60 + step) / 10_000
                one = entry(domain, fetched=at, id=str(at).replace(".", "x"))
                store.put(one, NOW + 10_000)
                latest[seed, step] = domain, at
                found = store.get(domain)
                assert found.fetched >= at, "an older entry overwrote a newer one"
                assert found.id == str(found.fetched).replace(".", "x"), "of two writers"
                store.touch(replace(found, checked=NOW + step))
                if step % 10 == 0:
                    assert store.due(NOW + 2 * DAY, 5)
                    store.purge(NOW, 5)
        except BaseException as error:
            errors.append(repr(error))
            raise

    with contextlib.closing(opened(options)) as store:
        threads = [threading.Thread(target=work, args=(number * 12 + n,)) for n in range(12)]
        ready.wait(30)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    results.put((list(latest.values()), errors))


def test_two_processes_with_24_clients(server, store, prefix):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    options = {"port": server.port, "prefix": prefix, "max_connections": 8}
    processes = [
        context.Process(target=client_of_a_shared_store, args=(options, number, ready, results))
        for number in range(2)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
    assert [errors for _, errors in outcomes] == [[], []]
    written = [one for latest, _ in outcomes for one in latest]
    assert len(written) == 24 * 60
    for domain in {domain for domain, _ in written}:
        last = max(at for name, at in written if name == domain)
        assert store.get(domain).fetched == last, "the latest is lost"
    assert len(store.due(NOW + 2 * DAY, 100)) == 10


class Asked:
    """A sentinel that says what it is told to, or raises it."""

    def __init__(self, port, says):
        self.port, self.says = port, says

    def sentinel_masters(self):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def get_connection_kwargs(self):
        return {"host": "h", "port": self.port}


MASTER = {
    "ip": "192.0.2.1",
    "port": 6379,
    "is_master": True,
    "is_sdown": False,
    "is_odown": False,
    "num-other-sentinels": 1,
}
OURS = {"ours": MASTER}
AWAY = redis.ConnectionError("Error 111 connecting to h:1. Connection refused.")


@pytest.mark.parametrize(
    ("says", "options", "address", "why"),
    [
        ([OURS], {}, "192.0.2.1", "it knows"),
        ([AWAY, OURS], {}, "192.0.2.1", "the next one is asked"),
        ([redis.ResponseError("NOAUTH"), OURS], {}, "192.0.2.1", "one that says no is no end"),
        ([{}, OURS], {}, "192.0.2.1", "one that knows others"),
        ([OURS], {"min_other_sentinels": 1}, "192.0.2.1", "there are enough of them"),
        ([OURS], {"force_master_ip": "192.0.2.9"}, "192.0.2.9", "as the file says"),
    ],
)
def test_a_sentinel_knows_the_master(says, options, address, why):
    sentinels = _Sentinels([], **options)
    sentinels.sentinels = asked = [Asked(port, one) for port, one in enumerate(says)]
    assert sentinels.discover_master("ours") == (address, 6379), why
    assert sentinels.sentinels == asked[-1:] + asked[:-1], "the first to be asked next time"


@pytest.mark.parametrize(
    ("says", "sentence", "why"),
    [
        (AWAY, "Error 111 connecting to h:1. Connection refused", "it says the address itself"),
        (redis.TimeoutError("Timeout reading from socket"), "h:1: Timeout reading from socket",
         "it does not"),
        (redis.ConnectionError(), "h:1: ConnectionError", "it says nothing at all"),
        (redis.ResponseError("NOAUTH"), "h:1: NOAUTH", "it wants a password"),
        ({}, "h:1: knows no master ours that can be used", "another name"),
        ({"ours": MASTER | {"is_sdown": True}}, "h:1: knows no master ours that can be used",
         "away"),
        (OURS, "h:1: knows no master ours that can be used", "it sees too few others"),
    ],
)  # fmt: skip
def test_no_sentinel_knows_the_master(says, sentence, why):
    sentinels = _Sentinels([], min_other_sentinels=2)
    sentinels.sentinels = [Asked(1, says), Asked(2, {})]
    with pytest.raises(MasterNotFoundError) as caught:
        sentinels.discover_master("ours")
    assert str(caught.value) == f"{sentence}; h:2: knows no master ours that can be used", why


def test_all_sentinels_are_away():
    pairs = [["127.0.0.1", free_port()] for _ in range(3)]
    options = {"sentinel_master_name": "ours", "sentinels": pairs}
    store = RedisStore(sentinel_options(options)[0])
    with contextlib.closing(store), pytest.raises(StoreError) as caught:
        store.get("example.com")
    _, _, why = str(caught.value).partition("): ")
    reasons = (f"Error 111 connecting to {host}:{port}. Connection refused" for host, port in pairs)
    assert why == f"no sentinel knows a master ({'; '.join(reasons)})"


@pytest.fixture
def tls_port(tmp_path, authority):
    """The port of a Redis with TLS, whose certificate is not for 127.0.0.1."""
    file, port = authority.server_file("redis.example"), free_port()
    lines = f"tls-port {port}", f"tls-cert-file {file}", f"tls-key-file {file}"
    ca = f"tls-ca-cert-file {authority.bundle}"
    with contextlib.closing(RedisServer(tmp_path / "tls", *lines, ca, "tls-auth-clients no")):
        yield port


@pytest.mark.parametrize(
    ("more", "works", "why"),
    [
        ("", False, "the name is wrong"),
        ("ssl_check_hostname=true", False, "as said"),
        ("ssl_check_hostname=false", True, "the file says that the name does not matter"),
        ("ssl_cert_reqs=none", True, "the file says that nothing matters"),
    ],
)
def test_the_name_in_the_certificate_counts(tls_port, authority, more, works, why):
    url = f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={authority.bundle}&{more}"
    with contextlib.closing(opened({"url": url})) as store:
        if works:
            assert store.get("example.com") is None, why
            return
        with pytest.raises(StoreError, match=r"certificate is not valid for '127\.0\.0\.1'"):
            store.get("example.com")


def test_a_sentinel_s_failover(tmp_path, prefix):
    with contextlib.ExitStack() as stack:

        def started(name, *options, program="redis-server"):
            server = RedisServer(tmp_path / name, *options, program=program)
            return stack.enter_context(contextlib.closing(server))

        quick = "repl-ping-replica-period 1", "repl-diskless-sync-delay 0"
        master = started("master", *quick)
        replica = started("replica", *quick, f"replicaof 127.0.0.1 {master.port}")
        sentinel = started(
            "sentinel",
            f"sentinel monitor ours 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds ours 500",
            "sentinel failover-timeout ours 5000",
            program="redis-sentinel",
        )
        options = {
            "sentinel_master_name": "ours",
            # The first is away: the next one is asked.
            "sentinels": [["127.0.0.1", free_port()], ["127.0.0.1", sentinel.port]],
            "prefix": prefix,
            "timeout": 2,
        }
        store = RedisStore(sentinel_options(options)[0])
        stack.enter_context(contextlib.closing(store))
        store.put(entry(), NOW)
        of_master = stack.enter_context(contextlib.closing(master.client()))
        assert of_master.exists(prefix + "policy:example.com")
        assert of_master.wait(1, 4000) == 1, "the replica has it"
        of_sentinel = stack.enter_context(contextlib.closing(sentinel.client()))
        eventually(
            lambda: of_sentinel.sentinel_masters()["ours"]["num-slaves"] == 1,
            "the sentinel knows the replica",
        )

        master.kill()
        with pytest.raises(StoreError, match=r"ours/0 \(sentinels 127\.0\.0\.1"):
            store.get("example.com")

        def works():
            try:
                store.put(entry(fetched=NOW + 1), NOW + 1)
            except StoreError:
                return False
            return True

        eventually(works, "the replica is the master")
        assert store.get("example.com") == entry(fetched=NOW + 1)
        of_replica = stack.enter_context(contextlib.closing(replica.client()))
        assert of_replica.exists(prefix + "policy:example.com")

        unknown = RedisStore(sentinel_options({**options, "sentinel_master_name": "other"})[0])
        stack.enter_context(contextlib.closing(unknown))
        with pytest.raises(StoreError, match="no sentinel knows a master"):
            unknown.get("example.com")
