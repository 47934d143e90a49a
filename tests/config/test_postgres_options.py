"""The options of `postgres`: libpq's names, those of asyncpg, and wrong ones."""

import pytest

from stsresolver.config.postgres_options import postgres_settings
from stsresolver.config.store_options import OptionsError

REST = {"connect_timeout": 5, "application_name": "stsresolver"}
FULL = {"host": "h", "port": "7", "user": "u", "password": "p", "database": "d"}


@pytest.mark.parametrize(
    ("options", "keywords", "why"),
    [
        ({}, {}, "all of it is libpq's business"),
        ({"host": None, "user": None}, {}, "left empty is left out"),
        ({"host": "h", "port": 7, "user": "u", "password": "p", "database": "d"}, FULL, "options"),
        ({"dbname": "d"}, {"database": "d"}, "libpq's name"),
        ({"password": 1234}, {"password": "1234"}, "YAML reads a number"),
        ({"dsn": "postgresql://u:p@h:7/d"}, FULL, "a URL"),
        ({"dsn": "postgres://u:p@h:7/d"}, FULL, "its other scheme"),
        ({"dsn": "host=h port=7 user=u password=p dbname=d"}, FULL, "libpq's other notation"),
        ({"dsn": r"user = u password='a \' b' host=h"},
         {"user": "u", "password": "a ' b", "host": "h"}, "with quotes"),
        ({"dsn": "postgresql://u:p%40%2F%3A@h/d"},
         {"user": "u", "password": "p@/:", "host": "h", "database": "d"}, "special characters"),
        ({"dsn": "postgresql:///d?host=/run/postgresql"},
         {"database": "d", "host": "/run/postgresql"}, "a socket"),
        ({"dsn": "postgresql://%2Frun%2Fpostgresql/d"},
         {"database": "d", "host": "/run/postgresql"}, "a socket in the place of the host"),
        ({"dsn": "postgresql://[2001:db8::1]:7/d"},
         {"host": "2001:db8::1", "port": "7", "database": "d"}, "IPv6"),
        ({"dsn": "postgresql://"}, {}, "an empty URL"),
        ({"dsn": "postgresql://h/d?sslmode=verify-full&connect_timeout=2"},
         {"host": "h", "database": "d", "sslmode": "verify-full", "connect_timeout": 2}, "a query"),
        ({"dsn": "postgresql://h?password=a+b%2Bc"}, {"host": "h", "password": "a+b+c"},
         "a plus is no space"),
        ({"dsn": "postgresql://h?ssl=true"}, {"host": "h", "sslmode": "require"},
         "what libpq takes from URLs of JDBC"),
        ({"dsn": "postgresql://a:1,b:2/d"},
         {"host": "a,b", "port": "1,2", "database": "d", "target_session_attrs": "read-write"},
         "of several hosts the one that can be written"),
        ({"dsn": "postgresql://a,b:2/d"},
         {"host": "a,b", "port": "5432,2", "database": "d", "target_session_attrs": "read-write"},
         "one with the usual port"),
        ({"host": ["a", "b"], "target_session_attrs": "any"},
         {"host": "a,b", "target_session_attrs": "any"}, "a list, and what the file wants"),
        ({"host": "a,b", "port": [1, 2]},
         {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"}, "libpq's list"),
        ({"host": "a, b", "port": "1, 2"},
         {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"}, "with spaces"),
        ({"server_settings": {"jit": False, "a.b": True}},
         {"options": "-c jit=off -c a.b=on"}, "YAML reads a truth value"),
        ({"ssl": True}, {"sslmode": "verify-full"}, "asyncpg: verified"),
        ({"ssl": False}, {"sslmode": "disable"}, "asyncpg: none"),
        ({"ssl": "require"}, {"sslmode": "require"}, "asyncpg: a mode"),
        ({"timeout": 60}, {"connect_timeout": 60}, "asyncpg: to connect"),
        ({"connect_timeout": 0.5}, {"connect_timeout": 2}, "libpq waits no shorter"),
        ({"server_settings": {"search_path": "a, b", "application_name": "x"}},
         {"options": r"-c search_path=a,\ b", "application_name": "x"}, "asyncpg"),
        ({"options": "-c a=b", "server_settings": {"c": 1}},
         {"options": "-c a=b -c c=1"}, "both"),
    ],
)  # fmt: skip
def test_keywords(options, keywords, why):
    settings, warnings = postgres_settings(options)
    assert settings.keywords == REST | keywords, why
    assert warnings == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "local socket:5432"),
        ({"dsn": "postgresql://u:p@h:7/d"}, "h:7/d"),
        ({"host": ["a", "::1"], "database": "d"}, "a:5432,[::1]:5432/d"),
        ({"host": "/run/postgresql"}, "/run/postgresql:5432"),
        ({"service": "mail"}, "service mail"),
        ({"service": "mail", "host": "h"}, "h:5432"),
    ],
)
def test_how_messages_call_it(options, name):
    assert postgres_settings(options)[0].name == name


@pytest.mark.parametrize(
    ("options", "connections", "timeout", "prepared"),
    [
        ({}, 10, 5.0, True),
        ({"max_size": 3, "command_timeout": 1}, 3, 1.0, True),
        ({"max_connections": 3, "statement_cache_size": 0}, 3, 5.0, False),
        ({"statement_cache_size": 100}, 10, 5.0, True),
        ({"prepared_statements": False}, 10, 5.0, False),
    ],
)
def test_what_is_ours(options, connections, timeout, prepared):
    found = postgres_settings(options)[0]
    assert found.max_connections == connections
    assert found.command_timeout == timeout
    assert found.prepared_statements is prepared


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"min_size": 5}, ("min_size", "ignored, connections are made when they are needed")),
        ({"direct_tls": True}, ("direct_tls", "ignored, TLS begins when")),
        ({"dsn": "postgresql://h/d", "database": "e"}, ("dsn", "database counts, which the dsn")),
        ({"dsn": "postgresql://h/d", "dbname": "e"}, ("dsn", "dbname counts, which the dsn")),
        ({"dsn": "postgresql://h/d?sslmode=require", "ssl": True}, ("dsn", "ssl counts, which")),
    ],
)
def test_warnings(options, warning):
    _, warnings = postgres_settings(options)
    assert [(one.option, one.sentence[: len(warning[1])]) for one in warnings] == [warning]


def test_an_option_wins_over_the_dsn():
    found, _ = postgres_settings({"dsn": "postgresql://h:7/d", "host": "other"})
    assert found.keywords["host"] == "other"
    assert found.keywords["port"] == "7"


@pytest.mark.parametrize(
    ("options", "option", "sentence"),
    [
        ({"dsn": "mysql://h"}, "dsn", "only postgresql://USER:PASSWORD@HOST:PORT/DATABASE or"),
        ({"dsn": "postgresql://h:x/d"}, "dsn", "only postgresql://"),
        ({"dsn": "postgresql://u:secret@with@h/d"}, "dsn", "only postgresql://"),
        ({"dsn": "postgresql://u:sec/ret@h/d"}, "dsn", "only postgresql://"),
        ({"dsn": "host"}, "dsn", "only postgresql://"),
        ({"dsn": "postgresql://h/d?sslmode"}, "dsn", "only postgresql://"),
        ({"dsn": 5}, "dsn", "only postgresql://"),
        ({"dsn": "postgresql://h:0/d"}, "port", "only a whole number from 1 to 65535, or a list"),
        ({"dsn": "postgresql://h/d?nothing=1"}, "nothing", "there is no such option"),
        ({"host": ["a", 5.5]}, "host", "only a host name, an address or the directory of a socket"),
        ({"host": "a,b,c", "port": "1,2"}, "port", "2 ports for 3 hosts; give one, or as many"),
        ({"databse": "d"}, "databse", "there is no such option (did you mean database?)"),
        ({"target_session_attrs": "read-only"}, "target_session_attrs",
         "only any, read-write or primary is allowed"),
        ({"ssl": "yes"}, "ssl", "only true, false, disable, allow"),
        ({"ssl": True, "sslmode": "require"}, "ssl", "is the old name of sslmode, which is there"),
        ({"max_size": 1, "max_connections": 2}, "max_size", "is the old name of max_connections"),
        ({"command_timeout": 0}, "command_timeout", "only a number of seconds over 0 is allowed"),
        ({"server_settings": {"a b": 1}}, "server_settings", "only a section of settings of the"),
        ({"server_settings": 5}, "server_settings", "only a section of settings of the server"),
    ],
)  # fmt: skip
def test_wrong(options, option, sentence):
    with pytest.raises(OptionsError) as caught:
        postgres_settings({**options, "password": "correct-horse"})
    assert caught.value.option == option
    assert caught.value.sentence.startswith(sentence)
    assert "correct-horse" not in str(caught.value)
    assert "secret" not in str(caught.value)
