"""The options of `redis` and `redis_sentinel`: today's names, older ones, and wrong ones."""

import pytest

from stsresolver.config.redis_options import connection_options, sentinel_options
from stsresolver.config.store_options import OptionsError

LOCAL = {"host": "localhost", "port": 6379}
REST = {"db": 0, "socket_timeout": 5.0, "socket_connect_timeout": 5.0}
# With TLS, and nothing else said about it.
TLS = {"ssl": True, "ssl_check_hostname": True}
TWO = [["a.example", 26379], ["b.example", 26380]]


@pytest.mark.requirement("LIB-15")
@pytest.mark.parametrize(
    ("options", "keywords", "why"),
    [
        ({}, LOCAL, "the defaults"),
        ({"host": None, "db": None}, LOCAL, "left empty is left out"),
        ({"host": "r.example", "port": 7000, "db": 2},
         {"host": "r.example", "port": 7000, "db": 2}, "redis-py's names"),
        ({"username": "u", "password": "p"}, LOCAL | {"username": "u", "password": "p"}, "both"),
        ({"password": 1234}, LOCAL | {"password": "1234"}, "YAML reads a number"),
        ({"unix_socket_path": "/s"}, {"unix_socket_path": "/s"}, "redis-py's name of a socket"),
        ({"ssl": True, "ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "required"},
         LOCAL | TLS | {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "required"}, "TLS"),
        ({"ssl": True, "ssl_check_hostname": False}, LOCAL | TLS | {"ssl_check_hostname": False},
         "the file says that the name does not matter"),
        ({"ssl": True, "ssl_cert_reqs": "none"},
         LOCAL | TLS | {"ssl_cert_reqs": "none", "ssl_check_hostname": False},
         "where nothing is verified, Python refuses to verify the name"),
        ({"socket_timeout": 1, "socket_connect_timeout": 0.5},
         LOCAL | {"socket_timeout": 1.0, "socket_connect_timeout": 0.5}, "whole numbers too"),
        ({"url": "redis://r.example"}, {"host": "r.example", "port": 6379}, "a bare URL"),
        ({"url": "redis://u:p%40%2F@r.example:7000/3"},
         {"host": "r.example", "port": 7000, "db": 3, "username": "u", "password": "p@/"},
         "a full URL, with special characters in the password"),
        ({"url": "redis://[::1]:7000/"}, {"host": "::1", "port": 7000}, "IPv6, an empty path"),
        ({"url": "rediss://r.example"}, {"host": "r.example", "port": 6379} | TLS, "TLS"),
        ({"url": "redis://h?socket_timeout=1.5&socket_keepalive=yes"},
         {"host": "h", "port": 6379, "socket_timeout": 1.5, "socket_keepalive": True}, "a query"),
        ({"url": "unix:///run/redis.sock?db=1"},
         {"unix_socket_path": "/run/redis.sock", "db": 1}, "a socket"),
        ({"url": "redis://", "db": 1}, LOCAL | {"db": 1}, "what the URL leaves open"),
        ({"address": "redis://127.0.0.1/0?timeout=2"},
         {"host": "127.0.0.1", "port": 6379, "socket_timeout": 2.0, "socket_connect_timeout": 2.0},
         "aioredis 1: a time limit that redis-py refuses"),
        ({"address": "redis://:pw@h?password=other"}, {"host": "h", "port": 6379,
         "password": "other"}, "aioredis 1: a password in the query"),
        ({"address": "/run/redis.sock"}, {"unix_socket_path": "/run/redis.sock"}, "aioredis 1"),
        ({"address": ["h", 7000], "db": 1}, {"host": "h", "port": 7000, "db": 1}, "aioredis 1"),
        ({"timeout": 3}, LOCAL | {"socket_timeout": 3.0, "socket_connect_timeout": 3.0},
         "aioredis 1: to open a connection, and no shorter than to use it"),
        ({"timeout": 3, "create_connection_timeout": 1},
         LOCAL | {"socket_timeout": 3.0, "socket_connect_timeout": 1.0}, "aioredis 2"),
    ],
)  # fmt: skip
def test_keywords(options, keywords, why):
    settings, warnings = connection_options(options)
    assert settings.keywords == REST | keywords, why
    assert warnings == []
    assert settings.prefix == "stsresolver:"
    assert settings.max_connections == 32
    assert settings.sentinels == ()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "localhost:6379/0"),
        ({"url": "redis://user:secret@h:1/2"}, "h:1/2"),
        ({"address": ["::1", 1]}, "[::1]:1/0"),
        ({"address": "/run/redis.sock", "db": 4}, "/run/redis.sock/4"),
    ],
)
def test_name_in_messages(options, name):
    assert connection_options(options)[0].name == name


def test_our_own_and_the_size_of_the_pool():
    settings, warnings = connection_options({"prefix": "mx1:", "maxsize": 7})
    assert (settings.prefix, settings.max_connections, warnings) == ("mx1:", 7, [])
    assert connection_options({"url": "redis://h?max_connections=9"})[0].max_connections == 9


@pytest.mark.requirement("LIB-15")
@pytest.mark.parametrize(
    ("options", "warning", "why"),
    [
        ({"minsize": 1}, "minsize: ignored, ", "aioredis 1"),
        ({"minsize": "what?"}, "minsize: ignored, ", "whatever it is"),
        ({"parser": "hiredis"}, "parser: ignored, ", "aioredis 1"),
        ({"encoding": "utf-8"}, "encoding: ignored, ", "both"),
        ({"address": "redis://h?encoding=utf-8"}, "encoding: ignored, ", "in a query"),
        ({"decode_responses": True}, "decode_responses: ignored, ", "redis-py's"),
        (
            {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": True},
            "ssl_check_hostname: ignored, ssl_cert_reqs: none verifies nothing",
            "a contradiction",
        ),
        ({"retry_on_timeout": True}, "retry_on_timeout: ignored, ", "redis-py's"),
        ({"address": "redis://h/1", "db": 2}, "db: ignored, the address says it too", "twice"),
    ],
)
def test_warnings(options, warning, why):
    warnings = connection_options(options)[1]
    assert len(warnings) == 1, why
    assert ": ".join(warnings[0]).startswith(warning), why


@pytest.mark.parametrize(
    ("options", "text", "why"),
    [
        ({"hots": "h"}, r"hots: there is no such option \(did you mean host\?\)", "a slip"),
        ({7: "h"}, "7: there is no such option; allowed: url, cache_size, ", "no name at all"),
        ({"urls": "redis://h"}, r".* \(did you mean url\?\)", "a slip, in what is taken apart"),
        ({"addres": "redis://h"}, r".* \(did you mean address\?\)", "a slip, in an older name"),
        ({"max_size": 7}, r".* \(did you mean maxsize\?\)", "in another older name"),
        ({"cache_sise": 7}, r".* \(did you mean cache_size\?\)", "in what is the memory's"),
        ({"connection_pool": 1}, "connection_pool: there is no such option", "no file can say it"),
        ({"sentinels": TWO}, "sentinels: there is no such option", "of the other type"),
        ({"url": "redis://h?hots=1"}, "hots: there is no such option", "in a query"),
        ({"host": ""}, "host: only a host name", "empty"),
        ({"host": "a..b"}, "host: only a host name", "getaddrinfo takes no empty label"),
        ({"port": 0}, "port: only a whole number from 1 to 65535", "no port"),
        ({"port": 65536}, "port: only a whole number", "too large"),
        ({"port": True}, "port: only a whole number", "YAML's yes"),
        ({"port": 6379.0}, "port: only a whole number", "not whole"),
        ({"db": -1}, "db: only a whole number", "below 0"),
        ({"maxsize": 0}, "maxsize: only a whole number", "no connection at all"),
        ({"timeout": 0}, "timeout: only a number of seconds over 0", "no time at all"),
        ({"timeout": float("inf")}, "timeout: only a number of seconds", "never"),
        ({"socket_timeout": float("nan")}, "socket_timeout: only a number", "not a number"),
        ({"socket_timeout": "soon"}, "socket_timeout: only a number", "a word"),
        ({"password": ["x"]}, "password: only a text", "a list"),
        ({"client_name": "a\nb"}, "client_name: only a text", "two lines"),
        ({"ssl": "perhaps"}, "ssl: only true or false", "a word"),
        ({"ssl": True, "ssl_cert_reqs": "no"}, "ssl_cert_reqs: only none, optional", "a slip"),
        ({"ssl_ca_certs": "/ca"}, "ssl_ca_certs: means nothing without ssl: true", "no TLS"),
        ({"ssl": True, "address": "/s"}, "ssl: a UNIX socket has no TLS", "no TLS"),
        ({"unix_socket_path": "/s", "port": 1}, "port: Redis is reached by the UNIX", "which?"),
        ({"url": "redis://h", "address": "redis://h"}, "url: says where.* address; give", "which?"),
        ({"url": "redis://h", "host": "h"}, "url: says where Redis is, and so does host", "which?"),
        ({"maxsize": 1, "max_connections": 2}, "maxsize: is the old name of max_conn", "which?"),
        ({"url": "http://h"}, "url: only redis://", "another scheme"),
        ({"url": "localhost:6379"}, "url: only redis://", "no scheme"),
        ({"url": "redis://h/one"}, "db: only a whole number", "redis-py passes over it"),
        ({"address": 7}, "address: only redis://", "a number"),
        ({"address": ["h"]}, "address: only redis://", "no port"),
        ({"address": ["h", "x"]}, "port: only a whole number", "no port"),
    ],
)
def test_wrong_options(options, text, why):
    with pytest.raises(OptionsError, match=f"^{text}"):
        connection_options(options)


@pytest.mark.parametrize(
    "url", ["redis://:top#secret@h", "redis://:top/secret@h", "redis://:secret", "x://:secret@h"]
)
def test_a_wrong_url_does_not_show_its_password(url):
    with pytest.raises(OptionsError) as caught:
        connection_options({"url": url})
    assert "secret" not in str(caught.value)


class TestSentinel:
    def test_options(self):
        options = {"sentinel_master_name": "ours", "sentinels": TWO, "password": "p", "db": 1}
        settings, warnings = sentinel_options(options)
        assert settings.master == "ours"
        assert settings.sentinels == (("a.example", 26379), ("b.example", 26380))
        assert settings.keywords == REST | {"password": "p", "db": 1}
        assert settings.name == "ours/1 (sentinels a.example:26379, b.example:26380)"
        assert warnings == []

    def test_all_sentinels_together_get_the_time_of_one_connection(self):
        options = {"sentinel_master_name": "m", "sentinels": TWO, "timeout": 3}
        asking = sentinel_options(options)[0].sentinel_keywords["sentinel_kwargs"]
        assert asking == {"socket_timeout": 1.5, "socket_connect_timeout": 1.5}

    def test_what_is_passed_on(self):
        options = {
            "sentinel_master_name": "m",
            "sentinels": TWO,
            "min_other_sentinels": 1,
            "sentinel_kwargs": {"password": "p", "timeout": 1, "encoding": "utf-8"},
            "minsize": 1,
        }
        settings, warnings = sentinel_options(options)
        assert settings.sentinel_keywords == {
            "min_other_sentinels": 1,
            "sentinel_kwargs": {
                "password": "p",
                "socket_timeout": 1.0,
                "socket_connect_timeout": 1.0,
            },
        }
        assert [one.option for one in warnings] == ["minsize", "sentinel_kwargs.encoding"]

    @pytest.mark.parametrize(
        ("options", "text", "why"),
        [
            ({"sentinels": None}, "sentinels: is missing$", "missing"),
            ({"sentinels": None, "sentinel": TWO},
             r"sentinel: there is no such option \(did you mean sentinels\?\); allowed: sentinels",
             "the slip before what is missing for it"),
            ({"sentinels": []}, "sentinels: only a list", "nobody to ask"),
            ({"sentinels": "a:1"}, "sentinels: only a list", "no list"),
            ({"sentinels": ["a:1"]}, "sentinels: only a list", "no pairs"),
            ({"sentinels": [["a"]]}, "sentinels: only a list", "no port"),
            ({"sentinels": [["a", 1, 2]]}, "sentinels: only a list", "too much"),
            ({"sentinels": [["a", 0]]}, "sentinels: only a list", "no port"),
            ({"sentinels": [7]}, "sentinels: only a list", "numbers"),
            ({"sentinel_master_name": None}, "sentinel_master_name: is missing", "missing"),
            ({"host": "h"}, "host: there is no such option", "the sentinels say where"),
            ({"sentinel_kwargs": 1}, "sentinel_kwargs: is no section", "no section"),
            ({"sentinel_kwargs": {"x": 1}},
             "sentinel_kwargs.x: there is no such option; allowed: db, ", "below"),
        ],
    )  # fmt: skip
    def test_wrong_options(self, options, text, why):
        given = {"sentinel_master_name": "m", "sentinels": TWO, **options}
        with pytest.raises(OptionsError, match=f"^{text}"):
            sentinel_options(given)
