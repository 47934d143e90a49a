"""Policies that outlive the daemon and are shared: real daemons with sqlite and Redis behind them.

What is right is judged by what Postfix would be answered, by what becomes of a mail, and by what
the policy hosts were asked for.
"""

import collections
import contextlib
import datetime
import itertools
import random
import re
import shutil
import signal
import threading
import time

import pytest
import redis

from tests.stores.test_older_daemon import body, make_old_file
from tests.support.missing import not_installed
from tests.support.small_disk import small_disk
from tests.support.socketmap_client import Client
from tests.support.sqlite_files import assert_sound, raw

from .lab import STORE_PAUSE, policy
from .namespace import ENVIRONMENT, wait_until
from .test_delivery import assert_deferred, assert_delivered, verified

NOT_FOUND = "NOTFOUND "
PROACTIVE = """\
proactive_policy_fetching:
  enabled: true
  interval: {}
"""
SUMMARY = re.compile(
    r"^(?P<when>[0-9-]+ [0-9:,]+) INFO proactive fetching: (?P<checked>\d+) checked,"
    r" (?P<fetched>\d+) fetched, (?P<changed>\d+) changed, (?P<failed>\d+) failed$",
    re.MULTILINE,
)
numbers = itertools.count()


def secure(host):
    return f"OK secure match={host} servername=hostname"


def warnings(process):
    found = re.findall(r" (?:WARNING|ERROR|CRITICAL) (.*)", process.output)
    return [text for text in found if not text.startswith("the daemon goes on as root")]


def summaries(daemon):
    """Return the daemon's lines about proactive fetching, as dicts."""
    found = [match.groupdict() for match in SUMMARY.finditer(daemon.output)]
    return [
        {name: text if name == "when" else int(text) for name, text in one.items()} for one in found
    ]


class SqliteFile:
    """A database file in a directory of its own."""

    def __init__(self, lab, _stack):
        self.file = lab.directory / f"sqlite-{next(numbers)}" / "cache.db"
        self.file.parent.mkdir()
        self.settings = f"cache:\n  type: sqlite\n  options:\n    filename: {self.file}\n"

    def domains(self):
        """Return the domains that have an entry."""
        with raw(self.file) as connection:
            return {domain for (domain,) in connection.execute("SELECT domain FROM policy")}

    def assert_sound(self):
        assert_sound(self.file)


class Redis:
    """A Redis at 127.0.0.1:6379 in the namespace, empty whenever it starts."""

    settings = """\
cache:
  type: redis
  options:
    address: redis://127.0.0.1:6379/0?timeout=0.5
"""
    name = "Redis at 127.0.0.1:6379/0"

    def __init__(self, lab, stack):
        shutil.which("redis-server", path=ENVIRONMENT["PATH"]) or not_installed("redis-server")
        self._lab = lab
        self._socket = lab.directory / "redis.sock"
        self._client = redis.Redis(unix_socket_path=str(self._socket), protocol=2)
        self._process = None
        stack.callback(self.close)

    def start(self):
        self._process = self._lab.start(
            *("redis", "redis-server", "--port", 6379, "--bind", "127.0.0.1", "--save", ""),
            *("--dir", self._lab.directory, "--unixsocket", self._socket),
        )
        self._process.ready("Ready to accept connections")

    def kill(self):
        self._process.kill()

    def hang(self):
        self._process.signal(signal.SIGSTOP)

    def go_on(self):
        self._process.signal(signal.SIGCONT)

    def domains(self):
        """Return the domains that have an entry."""
        keys = self._client.keys("stsresolver:policy:*")
        return {key.decode().rpartition(":")[2] for key in keys}

    def assert_sound(self):
        assert self._client.zcard("stsresolver:due") == len(self.domains())

    def close(self):
        self._client.close()
        if self._process is not None and self._process.running:
            self._process.kill()


@pytest.fixture
def lab(lab):
    """The lab, whose daemons log neither a bug nor a lock."""
    logs = [lab.logs()[name] for name in ("unix-daemon", "second-daemon")]
    marks = [log.mark() for log in logs]
    yield lab
    for log, mark in zip(logs, marks, strict=True):
        assert not re.search("Traceback|locked|internal error", log.since(mark))


@pytest.fixture
def make_redis(lab):
    with contextlib.ExitStack() as stack:
        yield lambda: Redis(lab, stack)


@pytest.fixture(params=["sqlite", "redis"])
def store(request, lab):
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield SqliteFile(lab, stack)
        else:
            running = Redis(lab, stack)
            running.start()
            yield running


def two_daemons(lab, stack, settings, **options):
    return [
        stack.enter_context(start(settings, **options))
        for start in (lab.quick_daemon, lab.second_daemon)
    ]


def disappear(lab, domain):
    """Take the domain's record and policy host away; an impersonator takes its mail."""
    lab.take_down_policy_host(domain)
    lab.remove_record(domain)
    lab.impersonate(domain)


# WHAT OUTLIVES THE PROCESS


@pytest.mark.requirement("KEEP-14")
def test_policy_outlives_kill_9(lab, store):
    domain = f"outlives-{next(numbers)}.unix.example"
    lab.publish(domain)
    with lab.quick_daemon(store.settings) as daemon:
        mail = lab.mta.send(domain)
        assert_delivered(lab, mail)
        assert verified(mail, f"mx.{domain}")
        daemon.kill()
    disappear(lab, domain)
    with lab.quick_daemon(store.settings) as daemon:
        assert daemon.ask(domain) == [secure(f"mx.{domain}")]
        found = secure(f"mx.{domain}").removeprefix("OK ")
        by_postmap = lab.mta.query(domain, f"socketmap:unix:{daemon.path}:postfix")
        assert by_postmap == (0, f"{found}\n", "")
        assert_deferred(lab, lab.mta.send(domain))


def test_older_daemons_file_is_taken_over(lab):
    store = SqliteFile(lab, None)
    domain = "older.unix.example"
    lab.publish(domain)
    disappear(lab, domain)
    now = int(time.time())
    rows = [
        (domain, now - 3600, "20250101", body(mx=[f"mx.{domain}"])),
        ("hostile-older.example", now, "1", body(mx=["a.example policy_type=x"])),
        ("expired-older.example", now - 86401, "1", body()),
    ]
    make_old_file(store.file, rows)
    with lab.quick_daemon(store.settings) as daemon:
        assert_deferred(lab, lab.mta.send(domain))
        answers = daemon.ask(domain, "hostile-older.example", "expired-older.example")
        assert answers == [secure(f"mx.{domain}"), NOT_FOUND, NOT_FOUND]
        assert (
            "took over 1 policies from the older daemon's tables; 1 have expired, 1 are"
            in daemon.output
        )
        daemon.kill()
    with lab.quick_daemon(store.settings) as daemon:
        assert daemon.ask(domain) == [secure(f"mx.{domain}")]
        assert "took over" not in daemon.output


# WHAT TWO DAEMONS SHARE


def test_what_one_has_learned_the_other_answers_without_fetching(lab, store):
    domain, last = (f"{name}-{next(numbers)}.example" for name in ("learned", "last"))
    lab.publish_policies({name: policy("enforce", ["one.example"]) for name in (domain, last)})
    mark = lab.policy_hosts.log.mark()
    with contextlib.ExitStack() as stack:
        first, second = two_daemons(lab, stack, store.settings)
        assert first.ask(domain) == [secure("one.example")]
        assert second.ask(domain) == [secure("one.example")]

        lab.publish_policies({domain: policy("enforce", ["two.example"])}, policy_id=2)
        for daemon in (first, second):
            wait_until(
                lambda daemon=daemon: daemon.ask(domain) == [secure("two.example")],
                "the new policy",
            )
        # nginx writes its lines in order: with this one, all before it have come.
        assert second.ask(last) == [secure("one.example")]
        wait_until(lambda: lab.policy_hosts.fetches(last, mark), "the last fetch in nginx's log")
    assert lab.policy_hosts.fetches(domain, mark) == 2


class Crowd:
    """24 clients that ask two daemons for domains at random, and what they were answered."""

    def __init__(self, daemons, domains):
        self._domains = domains
        self._over = threading.Event()
        # (daemon, domain, when it was sent, when the answer had come, answer), by client.
        self._heard = [[] for _ in range(24)]
        self.latest = {}
        self.failures = []
        self._threads = [
            threading.Thread(target=self._ask, args=(n, n % 2, daemons[n % 2]))
            for n in range(len(self._heard))
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number, which, daemon):
        chance = random.Random(number)
        try:
            with Client(daemon.path) as client:
                while not self._over.is_set():
                    domain = chance.choice(self._domains)
                    sent = time.monotonic()
                    answer = client.ask(f"postfix {domain}".encode()).decode()
                    heard = which, domain, sent, time.monotonic(), answer
                    self._heard[number].append(heard)
                    self.latest[which, domain] = answer
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))

    def await_answers(self, right, what):
        """Wait until each daemon's latest answers are those of `right`, a dict by domain."""
        try:
            wait_until(
                lambda: (
                    self.failures
                    or all(
                        self.latest.get((n, name)) == right[name] for name in right for n in (0, 1)
                    )
                ),
                what,
                seconds=10,
            )
        except TimeoutError:
            late = {key: text for key, text in self.latest.items() if text != right[key[1]]}
            pytest.fail(f"{what}: {late}")
        assert self.failures == []

    @property
    def heard(self):
        return sorted(itertools.chain(*self._heard), key=lambda one: one[2])


# Seconds after a change in which the answer of before is still right: grace, and lookups under way.
LATE = 3.0


def wrong_answers(heard, history):
    """Return what was right at no moment of the last seconds, or what a daemon took back.

    `history`: for each domain its answers in turn, and the monotonic times between which each was
    what is published.
    """
    wrong = []
    # When each answer of a domain was first heard of a daemon.
    first = collections.defaultdict(dict)
    for which, domain, sent, came, answer in heard:
        places = [
            place
            for place, (text, since, until) in enumerate(history[domain])
            if text == answer and since <= came and sent <= until + LATE
        ]
        seen = first[which, domain]
        if answer == NOT_FOUND and not seen:
            # Nothing is known yet, and a busy machine may be slower than the time limit.
            continue
        before = max((place for place, when in seen.items() if when < sent), default=0)
        if not places or places[0] < before:
            wrong.append((which, domain, answer, before))
        else:
            seen[places[0]] = min(came, seen.get(places[0], came))
    return wrong


def test_two_daemons_under_24_clients(lab, store):
    domains = [f"crowd-{next(numbers)}.example" for _ in range(60)]
    history = {domain: [] for domain in domains}

    def publish(number, modes):
        # One step: a fetch that meets the end of the name server is not repeated for minutes.
        since = time.monotonic()
        texts = {name: policy(mode, [f"{number}.{name}"]) for name, mode in modes.items()}
        lab.publish_policies(texts, number)
        for name, mode in modes.items():
            answer = secure(f"{number}.{name}") if mode == "enforce" else NOT_FOUND
            if history[name]:
                history[name][-1][2] = time.monotonic()
            history[name].append([answer, since, float("inf")])

    def right():
        return {name: states[-1][0] for name, states in history.items()}

    publish(1, dict.fromkeys(domains, "enforce"))
    settings = store.settings + PROACTIVE.format(1)
    with contextlib.ExitStack() as stack:
        first, second = two_daemons(lab, stack, settings)
        with Crowd([first, second], domains) as crowd:
            crowd.await_answers(right(), "all domains are learned")
            some = zip(domains[:40], itertools.cycle(["enforce", "none", "testing"]), strict=False)
            publish(2, dict(some))
            crowd.await_answers(right(), "the first change is seen")
            disappear_all(lab, domains[40:])
            publish(3, dict.fromkeys(domains[:40], "enforce"))
            crowd.await_answers(right(), "the second change is seen")
            publish(4, dict.fromkeys(domains[:40:3], "testing"))
            crowd.await_answers(right(), "the third change is seen")
        first.kill()
        second.kill()
    heard = crowd.heard
    assert len(heard) > 2000
    assert wrong_answers(heard, history) == []
    assert {(which, domain) for which, domain, *_ in heard} == {
        (which, domain) for which in (0, 1) for domain in domains
    }

    store.assert_sound()
    assert store.domains() == set(domains)
    disappear_all(lab, domains)
    with lab.second_daemon(store.settings) as daemon:
        assert dict(zip(domains, daemon.ask(*domains), strict=True)) == right()


def disappear_all(lab, domains):
    """Take records and policy hosts of all these domains away."""
    lab.dns.change(
        {
            (name, kind): None
            for domain in domains
            for name, kind in ((f"_mta-sts.{domain}", "TXT"), (f"mta-sts.{domain}", "A"))
        }
    )


# WHILE THE STORE IS AWAY

# Seconds: what a repeated answer may take, and one that needs a lookup, on a busy machine; a Redis
# that hangs is waited for half a second.
AT_ONCE = 0.3
SOON = 2.0


class Impatient:
    """Asks one question again and again, and notes the longest wait and the answers."""

    def __init__(self, daemon, domain):
        self._path, self._domain = daemon.path, domain
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.longest, self.asked, self.answers = 0.0, 0, set()

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.asked, "the first answer")
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _ask(self):
        with Client(self._path) as client:
            while not self._over.wait(0.002):
                start = time.monotonic()
                answer = client.ask(f"postfix {self._domain}".encode())
                self.longest = max(self.longest, time.monotonic() - start)
                self.answers.add(answer.decode())
                self.asked += 1


def published(lab, how_many):
    """Publish domains that are new to everybody, and return their answers."""
    domains = [f"new-{next(numbers)}.example" for _ in range(how_many)]
    lab.publish_policies({domain: policy("enforce", [f"mx.{domain}"]) for domain in domains})
    return {domain: secure(f"mx.{domain}") for domain in domains}


def assert_answers_soon(daemon, right):
    for domain, answer in right.items():
        start = time.monotonic()
        assert daemon.ask(domain) == [answer]
        assert time.monotonic() - start < SOON


def outlast_pauses(holds=lambda: True):
    """Let the daemon try its store again a few times; `holds()` must be true meanwhile."""
    end = time.monotonic() + 3 * STORE_PAUSE
    while time.monotonic() < end:
        assert holds()
        time.sleep(0.02)


def assert_recovers(daemon, store, right):
    """The store gets what it missed, of the domains that are asked for."""

    def written():
        assert daemon.ask(*right) == list(right.values())
        return store.domains() >= set(right)

    def told():
        # It is read again once grace is over.
        assert daemon.ask(*right) == list(right.values())
        return daemon.output.count("the policy cache can be used again") == 1

    wait_until(written, "the entries in the store")
    wait_until(told, "the line of its recovery")


@pytest.mark.requirement("KEEP-14")
@pytest.mark.parametrize("how", ["not started yet", "killed", "hanging"])
def test_redis_is_away(lab, make_redis, how):
    running = make_redis()
    right = published(lab, 4)
    known, *new = right
    if how != "not started yet":
        running.start()
    # A grace that the questions of the impatient one stay within.
    with lab.quick_daemon(running.settings, grace=2) as daemon:
        assert daemon.ask(known) == [right[known]]
        with Impatient(daemon, known) as impatient:
            if how == "killed":
                running.kill()
            elif how == "hanging":
                running.hang()
            assert_answers_soon(daemon, {domain: right[domain] for domain in new})
            outlast_pauses()
        assert impatient.answers == {right[known]}
        assert impatient.longest < AT_ONCE
        [warning] = warnings(daemon)
        assert warning.startswith(running.name)
        assert warning.endswith("; going on from memory and with live lookups")

        if how == "hanging":
            running.go_on()
        else:
            running.start()
        assert_recovers(daemon, running, right)
        assert warnings(daemon) == [warning]


def test_redis_goes_twice(lab, make_redis):
    """Each time is one warning, if it was well for a while in between."""
    running = make_redis()
    right = published(lab, 2)
    running.start()
    with lab.quick_daemon(running.settings) as daemon:
        for times in (1, 2):
            assert_answers_soon(daemon, right)
            running.kill()
            wait_until(
                lambda times=times: (
                    daemon.ask(*right) == list(right.values()) and len(warnings(daemon)) == times
                ),
                "the warning",
            )
            running.start()
            wait_until(
                lambda: daemon.ask(*right) and running.domains() == set(right), "the entries"
            )
            outlast_pauses()
        assert len(warnings(daemon)) == 2


def test_sentinels_know_where_redis_is(lab, make_redis):
    """The store of a daemon that asks the sentinel is that of one that does not."""
    if shutil.which("redis-sentinel", path=ENVIRONMENT["PATH"]) is None:
        not_installed("redis-sentinel")
    running = make_redis()
    running.start()
    file = lab.directory / "sentinel.conf"
    file.write_text(
        f"port 26379\nbind 127.0.0.1\ndir {lab.directory}\nsentinel monitor ours 127.0.0.1 6379 1\n"
    )
    settings = """\
cache:
  type: redis_sentinel
  options:
    sentinel_master_name: ours
    sentinels: [[127.0.0.1, 26379]]
    timeout: 1
"""
    right = published(lab, 1)
    with lab.start("sentinel", "redis-sentinel", file) as sentinel:
        sentinel.ready("monitor master ours")
        with lab.quick_daemon(settings) as daemon:
            assert daemon.ask(*right) == list(right.values())
            assert warnings(daemon) == []
            assert running.domains() == set(right)
    disappear_all(lab, right)
    with lab.second_daemon(running.settings) as daemon:
        assert daemon.ask(*right) == list(right.values())


@contextlib.contextmanager
def moved_away(store):
    away = store.file.parent.rename(store.file.parent.with_name("moved"))
    try:
        yield "was moved or replaced while in use"
    finally:
        away.rename(store.file.parent)


@contextlib.contextmanager
def full_disk(store):
    filler = store.file.with_name("filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield "no space is left on its disk"
    finally:
        filler.unlink()


@pytest.mark.requirement("KEEP-14")
@pytest.mark.parametrize("becomes", [moved_away, full_disk])
def test_sqlite_file_becomes_unusable(lab, becomes):
    right = published(lab, 4)
    known, *new = right
    with contextlib.ExitStack() as stack:
        store = SqliteFile(lab, stack)
        if becomes is full_disk:
            stack.enter_context(small_disk(store.file.parent))
        daemon = stack.enter_context(lab.quick_daemon(store.settings))
        assert daemon.ask(known) == [right[known]]
        with becomes(store) as reason:
            assert_answers_soon(daemon, {domain: right[domain] for domain in new})
            outlast_pauses(lambda: daemon.ask(*right) == list(right.values()))
            [warning] = warnings(daemon)
            assert warning.startswith(f"{store.file}: {reason}")
        assert_recovers(daemon, store, right)
        assert warnings(daemon) == [warning]
        assert daemon.stop() == 0


# THOUGH NOBODY ASKS


# A policy of three seconds is fetched again after half of that, or a fifth of the half earlier.
BRIEF = 3
EARLIEST = 0.8 * BRIEF / 2
INTERVAL = 1


def published_briefly(lab, how_many):
    domains = [f"brief-{next(numbers)}.example" for _ in range(how_many)]
    text = policy("enforce", ["mx.brief.example"], max_age=BRIEF)
    lab.publish_policies(dict.fromkeys(domains, text))
    return domains


@pytest.mark.requirement("KEEP-7")
def test_policy_is_fetched_again_though_nobody_asks(lab, store):
    [domain] = published_briefly(lab, 1)
    mark = lab.policy_hosts.log.mark()
    with lab.quick_daemon(store.settings + PROACTIVE.format(INTERVAL)) as daemon:
        assert daemon.ask(domain) == [secure("mx.brief.example")]
        over = time.monotonic() + BRIEF
        wait_until(
            lambda: lab.policy_hosts.fetches(domain, mark) >= 3 and time.monotonic() > over,
            "two renewals, and the end of what was fetched first",
        )
        # Who fetches only now has no policy.
        lab.dns.change({(f"mta-sts.{domain}", "A"): None})
        assert daemon.ask(domain) == [secure("mx.brief.example")]

        found = wait_until(lambda: len(summaries(daemon)) >= 2 and summaries(daemon), "summaries")
        whens = [datetime.datetime.strptime(one["when"], "%Y-%m-%d %H:%M:%S,%f") for one in found]
        for earlier, later in itertools.pairwise(whens):
            assert 0.95 * INTERVAL < (later - earlier).total_seconds() < 2 * INTERVAL
        assert sum(one["checked"] for one in found) >= sum(one["fetched"] for one in found) >= 1
        assert all(one["changed"] == 0 for one in found)


def test_new_policy_is_found_though_nobody_asks(lab, store):
    [domain] = published_briefly(lab, 1)
    with lab.quick_daemon(store.settings + PROACTIVE.format(INTERVAL), grace=3600) as daemon:
        assert daemon.ask(domain) == [secure("mx.brief.example")]
        text = policy("enforce", ["mx2.brief.example"], max_age=86400)
        lab.publish_policies({domain: text}, policy_id=2)
        wait_until(lambda: any(one["changed"] for one in summaries(daemon)), "the summary")
        assert [one["changed"] for one in summaries(daemon)][-1] == 1
        assert daemon.ask(domain) == [secure("mx2.brief.example")]


def test_one_of_two_daemons_fetches(lab, store):
    domains = published_briefly(lab, 10)
    hosts = lab.policy_hosts
    settings = store.settings + PROACTIVE.format(INTERVAL)
    with contextlib.ExitStack() as stack:
        first, second = two_daemons(lab, stack, settings)
        first.ask(*domains)
        start, mark = time.monotonic(), hosts.log.mark()
        wait_until(
            lambda: all(hosts.fetches(domain, mark) >= 2 for domain in domains), "two renewals"
        )
        counts = [hosts.fetches(domain, mark) for domain in domains]
        assert max(counts) <= (time.monotonic() - start) / EARLIEST + 1

        def fetched(daemon):
            return sum(one["fetched"] for one in summaries(daemon))

        wait_until(lambda: summaries(first) and summaries(second), "the summaries of both")
        holder, other = (first, second) if fetched(first) else (second, first)
        assert fetched(holder) > 0
        assert fetched(other) == 0

        holder.kill()
        mark = hosts.log.mark()
        wait_until(lambda: hosts.fetches(domains[0], mark), "the other to go on")
        assert other.ask(*domains) == [secure("mx.brief.example")] * len(domains)
