"""--check-config: what holds, where each value comes from, and no password."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from stsresolver import daemon
from stsresolver.config import keys
from stsresolver.config.effective import effective
from stsresolver.config.keys import Config, ConfigError, PostgresCache, RedisCache, parse

EXAMPLES = sorted((Path(__file__).parents[2] / "etc").glob("*.yml"))
SECRETS = "s3cret"


def said(text, environment=None):
    """Return what is printed for a configuration: {dotted key: (value, source)}."""
    return read(effective(parse(text, "file"), "file", environment or {}))


def read(lines):
    values, path = {}, []
    for line in list(lines)[1:]:
        key, value, source = re.fullmatch(r"( *[^ ]+):(?: (.*?))?(?: +# (.*))?", line).groups()
        depth = (len(key) - len(key.lstrip())) // 2
        path[depth:] = [key.strip()]
        if source is not None:
            values[".".join(path)] = ((value or "").strip(), source)
    return values


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Return what runs the daemon on a text; it returns exit status, output and errors."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def run(text, *more):
        file = tmp_path / "daemon.yml"
        file.write_text(text)
        status = daemon.main(["-c", str(file), "--check-config", *more])
        return status, *capsys.readouterr()

    return run


def test_without_a_file_every_value_is_a_default(capsys, monkeypatch, tmp_path):
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(daemon, "DEFAULT_PATH", str(tmp_path / "missing.yml"))
    assert daemon.main(["--check-config"]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith(f"# built-in defaults: there is no {tmp_path}/missing.yml\n")
    assert {source for _, source in read(output.splitlines()).values()} == {"built-in default"}
    assert parse(output, "output") == Config()
    assert errors == ""


def test_every_key_is_printed_and_no_other():
    printed = yaml.safe_load("\n".join(effective(Config(), "", {})))
    assert set(printed) == set(keys._KEYS)


TEXTS = [
    ("", "nothing"),
    ("port: 1\npath: /run/a b\nmode: 0660", "octal, and a name with a space"),
    ("path: '8461'\nhost: '0x10'", "texts that look like numbers"),
    ("path: /run/tür/☃\nhost: '::1'", "more than ASCII"),
    ("cache_grace: 1.0e-7", "a small number"),
    ("cache: {type: sqlite, options: {filename: '#x: y', threads: 3}}", "sqlite"),
    ("cache: {type: internal, options: {cache_size: 7}}", "memory"),
    ("proactive_policy_fetching: {enabled: yes, grace_ratio: 3}", "a section of its own name"),
    ("zones: {a.b: {timeout: 1}, 'no': {tlsrpt: on}, '12': {}}", "names that YAML would read"),
    ("zones: {" + "z" * 80 + ": {timeout: 1}}", "a long name"),
    ("https_proxy: http://proxy.example:3128\nno_proxy: [a.example, .b.example]", "a proxy"),
    ("no_proxy: []", "nothing is excepted, whatever the environment says"),
    ("status: {port: 1, hosts: [a.example, B\u00fccher.example]}", "a status page"),
    ("metrics: {path: /run/metrics}\nowner: postfix\ngroup: '12'\npath: /s", "who, and metrics"),
    ("listen: [a:1, '[::1]:2', {address: 'unix:/tür, {☃}', mode: 0660, owner: '12'}]", "several"),
    ("listen: [{address: unix:a, group: 'no'}]", "a name that YAML would read"),
    ("log: {format: json, target: file, file: /var/log/a}", "a log"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), TEXTS, ids=[why for _, why in TEXTS])
def test_what_is_printed_gives_the_same_configuration(text, why):
    found = parse(text, "file")
    output = "\n".join(effective(found, "file", {}))
    assert parse(output, "output") == found, why
    assert output.isascii()


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_so_do_the_examples(path):
    found = keys.load(str(path))
    again = parse("\n".join(effective(found, "file", {})), "output")
    if isinstance(found.cache, RedisCache):
        before, after = found.cache.redis, again.cache.redis
        assert (after.name, after.prefix) == (before.name, before.prefix)
    elif isinstance(found.cache, PostgresCache):
        assert again.cache.postgres.name == found.cache.postgres.name
    else:
        assert again == found


SOURCES = [
    ("host: '::1'", "host", "::1", "line 1", "a value of the file"),
    ("mode: 0660", "mode", "0660", "line 1", "octal, as it is written"),
    ("\n\nworkers: 3", "workers", "3", "line 3", "empty lines count"),
    ("host: '::1'", "port", "8461", "built-in default", "a key left out"),
    ("port:", "port", "8461", "built-in default", "a key left empty"),
    ("default_zone:\n  timeout: 2", "default_zone.timeout", "2.0", "line 2", "in a section"),
    ("default_zone:\n  timeout: 99", "default_zone.timeout", "40", "line 2", "a value cut down"),
    ("zones:\n  a:\n    tlsrpt: yes", "zones.a.tlsrpt", "true", "line 3", "in a zone"),
    ("zones:\n  a:\n    tlsrpt: yes", "zones.a.timeout", "4.0", "built-in default", "beside it"),
    ("default_zone: &d\n  timeout: 2\nzones:\n  a:\n    <<: *d\n    tlsrpt: yes",
     "zones.a.timeout", "2.0", "line 2", "merged: the line that says it"),
    ("default_zone: &d\n  timeout: 2\nzones:\n  a:\n    <<: *d\n    timeout:",
     "zones.a.timeout", "4.0", "built-in default", "left empty over one that is merged"),
    ("cache:\n  type: sqlite\n  options:\n    filename: /f", "cache.options.filename", "/f",
     "line 4", "an option of the cache"),
    ("cache:\n  type: sqlite\n  options:\n    filename: /f", "cache.type", "sqlite", "line 2",
     "its type"),
    ("cache:\n  type: redis", "cache.options.port", "6379", "built-in default", "Redis's own"),
    ("cache:\n  type: redis\n  options:\n    port: 7", "cache.options.port", "7", "line 4",
     "an option of Redis"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h:7/2", "cache.options.port", "7",
     "line 4, url", "a part of a URL"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h:7", "cache.options.db", "0",
     "built-in default", "what a URL leaves open"),
    ("cache:\n  type: redis\n  options:\n    db: 1\n    url: redis://h/2", "cache.options.db", "2",
     "line 5, url", "the URL wins"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h:6379", "cache.options.port", "6379",
     "line 4, url", "the default, and the URL has it"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h/0", "cache.options.db", "0",
     "line 4, url", "the same of the database"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h:7", "cache.options.prefix",
     "'stsresolver:'", "built-in default", "what no URL says"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h?timeout=5",
     "cache.options.socket_timeout", "5.0", "line 4, url", "an older name, in the URL"),
    ("cache:\n  type: redis\n  options:\n    url: redis://h?timeout=5\n    socket_timeout: 5",
     "cache.options.socket_timeout", "5.0", "line 5", "the closer name wins over one for two"),
    ("cache:\n  type: redis\n  options:\n    address: [h, 6379]", "cache.options.port", "6379",
     "line 4, address", "a pair"),
    ("cache:\n  type: redis\n  options:\n    maxsize: 9", "cache.options.max_connections", "9",
     "line 4, maxsize", "an older name"),
    ("cache:\n  type: redis\n  options:\n    maxsize: 32", "cache.options.max_connections", "32",
     "line 4, maxsize", "an older name with the default"),
    ("cache:\n  type: redis\n  options:\n    timeout: 2", "cache.options.socket_timeout", "2.0",
     "line 4, timeout", "an older name for two"),
    ("cache:\n  type: redis_sentinel\n  options:\n    sentinel_master_name: m\n"
     "    sentinels: [[a, 1], [b, 2]]", "cache.options.sentinels", "[[a, 1], [b, 2]]", "line 5",
     "sentinels"),
    ("cache:\n  type: redis_sentinel\n  options:\n    sentinel_master_name: m\n"
     "    sentinels: [[a, 1]]\n    sentinel_kwargs: {username: u}",
     "cache.options.sentinel_kwargs.username", "u", "line 6", "options of the sentinels"),
    ("cache:\n  type: postgres\n  options:\n    dsn: postgresql://u@h/d", "cache.options.database",
     "d", "line 4, dsn", "a part of a dsn"),
    ("cache:\n  type: postgres\n  options:\n    max_size: 3", "cache.options.max_connections",
     "3", "line 4, max_size", "asyncpg's name"),
    ("cache:\n  type: postgres\n  options:\n    ssl: yes", "cache.options.sslmode",
     "verify-full", "line 4, ssl", "asyncpg's name of a mode"),
    ("cache:\n  type: postgres", "cache.options.command_timeout", "5.0", "built-in default",
     "PostgreSQL's own"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "value", "source", "why"), SOURCES, ids=[case[-1] for case in SOURCES]
)
def test_source(text, key, value, source, why):
    assert said(text)[key] == (value, source), why


@pytest.mark.parametrize(
    ("text", "environment", "proxy", "no_proxy", "why"),
    [
        ("", {"HTTPS_PROXY": "http://p.example:1", "no_proxy": "a.example"},
         ("http://p.example:1", "environment"), ("[a.example]", "environment"), "both"),
        ("https_proxy: http://q.example:2", {"https_proxy": "http://p.example:1"},
         ("http://q.example:2", "line 1"), ("[]", "built-in default"), "the file wins"),
        ("", {"https_proxy": "http://p.example:1", "no_proxy": "*"},
         ("", "built-in default"), ("", "built-in default"), "everything is excepted"),
    ],
)  # fmt: skip
def test_the_proxy_of_the_environment(text, environment, proxy, no_proxy, why):
    values = said(text, environment)
    assert (values["https_proxy"], values["no_proxy"]) == (proxy, no_proxy), why


def test_a_proxy_of_the_environment_that_cannot_be_used():
    with pytest.raises(ConfigError, match="https_proxy in the environment") as raised:
        list(effective(Config(), "", {"https_proxy": f"ftp://u:{SECRETS}@h"}))
    assert SECRETS not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        f"{{password: {SECRETS}}}",
        f"{{url: 'redis://u:{SECRETS}@h/1'}}",
        f"{{url: 'redis://h/1?password={SECRETS}'}}",
        f"{{address: 'redis://h/1?%70assword={SECRETS}'}}",
        f"{{ssl: yes, ssl_password: {SECRETS}}}",
        f"{{url: 'redis://u:other@h', password: {SECRETS}}}",
    ],
)
def test_no_password_of_redis_is_printed(run, options):
    status, output, errors = run(f"cache: {{type: redis, options: {options}}}")
    assert status == 0
    assert "'***'" in output
    assert SECRETS not in output + errors
    assert "other" not in output


@pytest.mark.parametrize(
    "options",
    [
        f"{{password: {SECRETS}}}",
        f"{{dsn: 'postgresql://u:{SECRETS}@h/1'}}",
        f"{{dsn: 'host=h password={SECRETS}'}}",
        f"{{dsn: 'postgresql://u:other@h', password: {SECRETS}}}",
        f"{{sslmode: require, sslpassword: {SECRETS}}}",
    ],
)
def test_no_password_of_postgresql_is_printed(run, options):
    status, output, errors = run(f"cache: {{type: postgres, options: {options}}}")
    assert status == 0
    assert "'***'" in output
    assert SECRETS not in output + errors
    assert "other" not in output


def test_no_password_of_sentinels_or_proxies_is_printed(run):
    status, output, _ = run(
        f"https_proxy: http://u:{SECRETS}@p.example:3128\n"
        "cache:\n  type: redis_sentinel\n  options:\n    sentinel_master_name: m\n"
        f"    sentinels: [[a, 1]]\n    sentinel_kwargs: {{password: {SECRETS}}}\n"
    )
    assert status == 0
    assert SECRETS not in output
    assert "http://***@p.example:3128 " in output
    assert "      password: '***'" in output


def test_warnings_go_to_standard_error(run, tmp_path):
    status, output, errors = run("default_zone: {timeout: 99}")
    assert status == 0
    assert "seconds" not in output
    place = f"{tmp_path}/daemon.yml:1: default_zone.timeout"
    assert errors == (
        f"mta-sts-daemon: warning: {place}: 40 seconds are used:"
        " Postfix gives up before a longer one ends\n"
    )


def test_problems_are_those_of_the_daemon(run, tmp_path):
    status, output, errors = run("prot: 1\nworkers: 0\n")
    assert (status, output) == (os.EX_CONFIG, "")
    with pytest.raises(ConfigError) as raised:
        keys.load(str(tmp_path / "daemon.yml"))
    lines = [f"mta-sts-daemon: {problem}" for problem in raised.value.problems]
    assert len(lines) == 2
    assert errors.splitlines() == lines


def test_nothing_is_opened_or_made(run, tmp_path):
    text = f"path: {tmp_path}/s\ncache: {{type: sqlite, options: {{filename: {tmp_path}/db}}}}"
    status, *_ = run(text, "-p", str(tmp_path / "pid"), "-l", str(tmp_path / "log"))
    assert status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["daemon.yml"]


def test_it_is_this_or_the_doctor(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("", "--doctor")
    assert ended.value.code == os.EX_USAGE
    assert "not allowed with" in capsys.readouterr().err
