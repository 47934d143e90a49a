import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from stsresolver.config import keys
from stsresolver.config.keys import (
    Config,
    ConfigError,
    ControlSettings,
    InternalCache,
    LogSettings,
    ProactiveSettings,
    Proxy,
    SqliteCache,
    Zone,
)
from stsresolver.config.settings import DnsSettings, TcpAddress, UnixAddress
from stsresolver.net.proxy import ProxyError
from tests.support.server_caches import postgres_cache, redis_cache

EXAMPLE = Path(__file__).parent.parent.parent / "etc" / "mta-sts-daemon.yml"

# The example of the manual page mta-sts-daemon.yml(5), unchanged.
MANUAL = """\
host: 127.0.0.1
port: 8461
reuse_port: true
shutdown_timeout: 20
proactive_policy_fetching:
  enabled: true
  interval: 86400
  concurrency_limit: 100
  grace_ratio: 2
cache:
  type: internal
  options:
    cache_size: 10000
default_zone:
  strict_testing: false
  timeout: 4
zones:
  myzone:
    strict_testing: false
    timeout: 4
"""


def parse(text):
    return keys.parse(text, "f.yml")


def problems(text, name="f.yml"):
    with pytest.raises(ConfigError) as caught:
        keys.parse(text, name)
    return caught.value.problems


LISTEN = (
    "a list of HOST:PORT, [IPV6-ADDRESS]:PORT, unix:PATH, and sections with such an address and"
    " with mode, owner or group"
)
CONTROL = ControlSettings("/run/mta-sts-daemon/control")


def test_example_is_the_built_in_configuration_with_a_control_socket():
    example = keys.load(str(EXAMPLE))
    assert example == Config(control=CONTROL)
    assert example.warnings == ()


def test_example_names_every_key():
    sections = (Config, InternalCache, LogSettings, ProactiveSettings, Zone)
    names = {field.name for section in sections for field in fields(section)}
    names -= {"warnings", "lines", "proactive"}
    names |= {"proactive_policy_fetching", "type", "options"}
    there = set(re.findall(r"^ *#? *([a-z_]+):", EXAMPLE.read_text(), re.MULTILINE))
    assert names - there == set()


def test_example_with_its_comments_switched_on():
    text = re.sub(
        r"^( *)#(?=(path|mode|https_proxy|no_proxy|patient|  [a-z_]+):)",
        r"\1",
        EXAMPLE.read_text(),
        flags=re.MULTILINE,
    )
    text = text.replace("target: stderr\n", "target: file\n").replace("#file: ", "file: ")
    assert parse(text) == Config(
        control=CONTROL,
        path="/var/spool/postfix/mta-sts/socket",
        mode=0o666,
        log=LogSettings(target="file", file="/var/log/mta-sts-daemon.log"),
        https_proxy=Proxy("proxy.example.com", 3128),
        no_proxy=("internal.example.com", "example.net"),
        zones={"patient": Zone(timeout=10)},
    )


@pytest.mark.requirement("KEY-10")
def test_manual_pages_example():
    manual = parse(MANUAL)
    assert manual == Config(proactive=ProactiveSettings(enabled=True), zones={"myzone": Zone()})
    assert manual.warnings == ()


def test_every_key():
    text = """\
host: "::1"
port: 1
path: /run/mta-sts.sock
mode: 0660
owner: mta-sts
group: 118
reuse_port: false
cache_grace: 1.5
shutdown_timeout: 2.5
workers: 3
log: {format: json, target: file, file: /var/log/mta-sts.log}
https_proxy: http://postfix:secret@proxy.example:3128
no_proxy: [one.example, .two.example]
cache: {type: internal, options: {cache_size: 4}}
proactive_policy_fetching: {enabled: true, interval: 5, concurrency_limit: 6, grace_ratio: 7.5}
default_zone: {strict_testing: true, timeout: 8.5, require_sni: false, tlsrpt: true}
zones:
  one: {timeout: 9}
  two: {tlsrpt: true}
"""
    assert parse(text) == Config(
        host="::1",
        port=1,
        path="/run/mta-sts.sock",
        mode=0o660,
        owner="mta-sts",
        group="118",
        reuse_port=False,
        cache_grace=1.5,
        shutdown_timeout=2.5,
        workers=3,
        log=LogSettings("json", "file", "/var/log/mta-sts.log"),
        https_proxy=Proxy("proxy.example", 3128, "Basic cG9zdGZpeDpzZWNyZXQ="),
        no_proxy=("one.example", "two.example"),
        cache=InternalCache(4),
        proactive=ProactiveSettings(True, 5, 6, 7.5),
        default_zone=Zone(strict_testing=True, timeout=8.5, require_sni=False, tlsrpt=True),
        zones={"one": Zone(timeout=9.0), "two": Zone(tlsrpt=True)},
    )


@pytest.mark.requirement("KEY-10")
def test_documented_defaults():
    assert Config() == Config(
        host="127.0.0.1",
        port=8461,
        path=None,
        mode=None,
        reuse_port=True,
        cache_grace=60,
        shutdown_timeout=20,
        workers=256,
        log=LogSettings(format="text", target="stderr", file=None),
        https_proxy=None,
        no_proxy=None,
        cache=InternalCache(10000),
        proactive=ProactiveSettings(
            enabled=False, interval=86400, concurrency_limit=100, grace_ratio=2
        ),
        default_zone=Zone(strict_testing=False, timeout=4, require_sni=True, tlsrpt=False),
        zones={},
    )
    assert keys.DEFAULT_PATH == "/etc/mta-sts-daemon.yml"


def test_configuration_is_frozen():
    with pytest.raises(FrozenInstanceError):
        parse("").default_zone.timeout = 5


# Every one of these is the built-in configuration.
NOTHING = [
    ("", "an empty file"),
    ("# nothing\n\n", "comments only"),
    ("---\n", "an empty document"),
    ("---\n...\n", "an empty document with its end"),
    ("null", "YAML's word for nothing"),
    ("{}", "a section without keys"),
    ("\ufeff", "a byte order mark"),
    (b"\xef\xbb\xbfport: 8461\n", "a byte order mark before the first key"),
    ("port: 8461\r\nhost: 127.0.0.1\r\n", "line ends of Windows"),
    ("zones:", "an empty section"),
    ("log:", "an empty section"),
    ("log: {format: , target: , file: }", "empty keys in a section"),
    ("https_proxy:\nno_proxy:", "left to the environment"),
    ("cache:", "an empty section"),
    ("cache: {options: }", "an empty section in a section"),
    ("cache: {type: , options: {}}", "an empty type"),
    ("default_zone:", "an empty section"),
    ("proactive_policy_fetching:", "an empty section"),
    ("host:\nport:\npath:\nmode:\nreuse_port:\ncache_grace:\nworkers:", "empty keys"),
    ("default_zone: {timeout: , strict_testing: ~, tlsrpt: null}", "empty keys in a section"),
]


@pytest.mark.parametrize(("text", "reason"), NOTHING)
def test_what_is_left_empty_has_its_default(text, reason):
    assert parse(text) == Config(), reason


GOOD = [
    ("port: 0", Config(port=0), "the kernel chooses"),
    ("port: 65535", Config(port=65535), "the last port"),
    ("port: 1_0", Config(port=10), "YAML 1.1 ignores _ in numbers"),
    ("port: 020", Config(port=16), "YAML 1.1: octal"),
    ("port: !!int '25'", Config(port=25), "a tag makes it a number"),
    ('"port": 25', Config(port=25), "a quoted key is the same key"),
    ("? port\n: 25", Config(port=25), "a key in the long form"),
    ("reuse_port: off", Config(reuse_port=False), "YAML 1.1: off is false"),
    ("reuse_port: No", Config(reuse_port=False), "YAML 1.1: No is false"),
    ("host: mail.example", Config(host="mail.example"), "a name"),
    ("host: '10:20'", Config(host="10:20"), "quotes keep a number text"),
    ("path: my dir/socket", Config(path="my dir/socket"), "relative, and with a space"),
    ("listen: [127.0.0.1:8461, 'unix:/run/a b', '[::1]:0', '*:1']",
     Config(listen=(TcpAddress("127.0.0.1", 8461), UnixAddress("/run/a b"), TcpAddress("::1", 0),
                    TcpAddress("*", 1))), "several addresses"),
    ("listen:\n- {address: unix:a, mode: 0660, owner: o, group: 12}\n- address: localhost:1",
     Config(listen=(UnixAddress("a", 0o660, "o", "12"), TcpAddress("localhost", 1))),
     "sections, for more about a socket"),
    ("listen: []\nport: 1", Config(port=1), "none: the old keys count"),
    ("path: /" + "x" * 106, Config(path="/" + "x" * 106), "107 bytes"),
    ("mode: 0666", Config(mode=0o666), "YAML 1.1: octal"),
    ('mode: "0666"', Config(mode=0o666), "quoted"),
    ('mode: "0o666"', Config(mode=0o666), "quoted, as Python writes it"),
    ("mode: 0o666", Config(mode=0o666), "text in YAML 1.1, octal in 1.2"),
    ("mode: 0", Config(mode=0), "nobody"),
    ("mode: 0777", Config(mode=0o777), "everybody"),
    ("mode: 0x1b6", Config(mode=0o666), "hexadecimal"),
    ("cache_grace: 0", Config(cache_grace=0), "always check"),
    ("cache_grace: 86400", Config(cache_grace=86400), "a day"),
    ("cache_grace: 1:30", Config(cache_grace=90), "YAML 1.1: base 60"),
    ("shutdown_timeout: 0", Config(shutdown_timeout=0), "at once"),
    ("shutdown_timeout: 3600", Config(shutdown_timeout=3600), "an hour"),
    ("workers: 1", Config(workers=1), "one by one"),
    ("workers: 4096", Config(workers=4096), "the most"),
    ("log: {format: json}", Config(log=LogSettings("json")), "to standard error"),
    ("log: {target: syslog}", Config(log=LogSettings(target="syslog")), "no file needed"),
    ("https_proxy: 10.0.0.1:3128", Config(https_proxy=Proxy("10.0.0.1", 3128)), "no scheme"),
    ("https_proxy: http://p.example", Config(https_proxy=Proxy("p.example", 80)), "no port"),
    ("dns: {nameservers: ['192.0.2.1', '2001:db8::1', '[2001:db8::1]:53', '192.0.2.1:5353']}",
     Config(dns=DnsSettings(
         ("192.0.2.1", "2001:db8::1", "[2001:db8::1]:53", "192.0.2.1:5353"))), "each form"),
    ("dns: {nameservers: [192.0.2.1, 192.0.2.1]}", Config(dns=DnsSettings(("192.0.2.1",))),
     "once"),
    ("dns: {nameservers: []}", Config(), "those of resolv.conf"),
    ("dns: {trust_ad: no}", Config(dns=DnsSettings(trust_ad=False)), "not even this host's own"),
    ("default_zone: {observe: true, exempt: [Example.COM, .bücher.example, example.com]}",
     Config(default_zone=Zone(
         observe=True, exempt=("example.com", ".xn--bcher-kva.example"))), "as A-labels, once"),
    ("zones: {a: {exempt_file: /etc/exempt}}",
     Config(zones={"a": Zone(exempt_file="/etc/exempt")}), "not read yet"),
    ("no_proxy: a.example b.example", Config(no_proxy=("a.example", "b.example")), "one text"),
    ("no_proxy: ''", Config(no_proxy=()), "nothing, whatever the environment says"),
    ("no_proxy: []", Config(no_proxy=()), "nothing, whatever the environment says"),
    ("no_proxy: '*'", Config(no_proxy=("*",)), "everything"),
    ("cache: {options: {cache_size: 1}}", Config(cache=InternalCache(1)), "internal is default"),
    ("cache: {type: internal}", Config(), "without options"),
    ("cache: {type: 'internal'}", Config(), "quoted"),
    ("default_zone: {timeout: 0.5}", Config(default_zone=Zone(timeout=0.5)), "a fraction"),
    ("default_zone: {timeout: 40}", Config(default_zone=Zone(timeout=40)), "the longest"),
    ("default_zone: {timeout: 9}\nzones: {z: }",
     Config(default_zone=Zone(timeout=9), zones={"z": Zone()}), "an empty zone"),
    ("default_zone: {timeout: 9, tlsrpt: true}\nzones: {z: {require_sni: no}}",
     Config(default_zone=Zone(timeout=9, tlsrpt=True), zones={"z": Zone(require_sni=False)}),
     "a zone does not inherit from default_zone"),
    ("zones: {123: , 007: , on: , ~: , 1.50: }",
     Config(zones=dict.fromkeys(["123", "007", "on", "~", "1.50"], Zone())),
     "a zone's name is what is written"),
    ("zones: {münchen: }", Config(zones={"münchen": Zone()}), "any script"),
    ("proactive_policy_fetching: {grace_ratio: 1.5}",
     Config(proactive=ProactiveSettings(grace_ratio=1.5)), "a fraction"),
    ("proactive_policy_fetching: {grace_ratio: 1, interval: 1, concurrency_limit: 1}",
     Config(proactive=ProactiveSettings(interval=1, concurrency_limit=1, grace_ratio=1)),
     "the least"),
    ("default_zone: &z {timeout: 5}\nzones: {a: *z}",
     Config(default_zone=Zone(timeout=5), zones={"a": Zone(timeout=5)}), "an alias"),
    ("default_zone: &z {timeout: 5, tlsrpt: true}\nzones: {a: {<<: *z, timeout: 6}}",
     Config(default_zone=Zone(timeout=5, tlsrpt=True), zones={"a": Zone(timeout=6, tlsrpt=True)}),
     "a merged key yields to the zone's own"),
    ("zones: {a: &a {timeout: 5}, b: &b {timeout: 6, tlsrpt: on}, c: {<<: [*a, *b]}}",
     Config(zones={"a": Zone(timeout=5), "b": Zone(timeout=6, tlsrpt=True),
                   "c": Zone(timeout=5, tlsrpt=True)}), "the first merged section wins"),
    ("zones: {a: &a {timeout: 5}, b: {<<: *a, timeout: }}",
     Config(zones={"a": Zone(timeout=5), "b": Zone()}), "left empty: the default, not merged"),
    ("zones: {a: &a {<<: *a, timeout: 5}}", Config(zones={"a": Zone(timeout=5)}),
     "a section that merges itself"),
    ("zones: {<<: {a: {timeout: 5}}}", Config(zones={"a": Zone(timeout=5)}), "merged zones"),
]  # fmt: skip


@pytest.mark.requirement("KEY-9")
@pytest.mark.parametrize(("text", "expected", "reason"), GOOD)
def test_good(text, expected, reason):
    found = parse(text)
    assert found == expected, reason
    assert found.warnings == (), reason


PORT = "a whole number from 0 to 65535 (0: the kernel chooses one)"
TIMEOUT = "a number of seconds, over 0 and at most 3600"
HOST = "a host name or an IP address, in quotes if it looks like a number"
SOCKET = "the name of a socket, 1 to 107 bytes long"
MODE = "an octal number with a leading zero, from 0 to 0777, such as 0660"
GRACE = "a number of seconds from 0 to 31557600"
TOP = (
    "host, port, path, mode, owner, group, listen, reuse_port, cache_grace, shutdown_timeout, "
    "workers, log, metrics, status, control, dns, https_proxy, no_proxy, cache, "
    "proactive_policy_fetching, default_zone, zones"
)
ZONE = "strict_testing, timeout, require_sni, tlsrpt, dane, observe, exempt, exempt_file"
SERVERS = (
    "a list of addresses of name servers, such as 192.0.2.1, 192.0.2.1:53, 2001:db8::1 and"
    ' "[2001:db8::1]:53"'
)
EXEMPT = "a list of domains, such as example.com, or .example.com for all domains below it"
SECTION = "a section of KEY: VALUE lines"
NAME = "one without white space and control characters"

# (text, line and key, found, allowed): each has this one problem.
CACHES = "internal, sqlite, redis, redis_sentinel, postgres"
PROXY = ProxyError("").allowed
HIDDEN = "another text, which is not shown because it may hold a password"
NAMES = "names of hosts with commas between, or a list of them"

ACCOUNT = "a name or a number of the system's accounts"
BAD = [
    # Types are strict.
    ("port: true", "1: port", "the truth value true", PORT),
    ("port: '8461'", "1: port", 'the quoted text "8461"', PORT),
    ("port: !!str 8461", "1: port", 'the text "8461"', PORT),
    ("port: 8461.0", "1: port", "the number 8461.0", PORT),
    ("port: {a: 1}", "1: port", "a section", PORT),
    ("\n\nport: [8461]", "3: port", "a list", PORT),
    ("port: 2026-02-01", "1: port", '"2026-02-01" of the YAML type timestamp', PORT),
    ("port: 2026-02-30", "1: port", '"2026-02-30" of the YAML type timestamp', PORT),
    ("port: 0b_", "1: port", "the number 0b_", PORT),
    ("port: !!int abc", "1: port", "the number abc", PORT),
    ("port: !!int ''", "1: port", "the number ", PORT),
    ("port: !!timestamp x", "1: port", '"x" of the YAML type timestamp', PORT),
    ("port: !mine 5", "1: port", '"5" of the YAML type !mine', PORT),
    ("port: !!python/name:os.system x", "1: port",
     '"x" of the YAML type python/name:os.system', PORT),
    ("port: =", "1: port", '"=" of the YAML type value', PORT),
    ("reuse_port: 1", "1: reuse_port", "the number 1", "true or false"),
    ("reuse_port: 'true'", "1: reuse_port", 'the quoted text "true"', "true or false"),
    ("reuse_port: y", "1: reuse_port", 'the text "y"', "true or false"),
    ("reuse_port: !!bool x", "1: reuse_port", "the truth value x", "true or false"),
    ("workers: many", "1: workers", 'the text "many"', "a whole number from 1 to 4096"),
    ("workers: 2.5", "1: workers", "the number 2.5", "a whole number from 1 to 4096"),
    ("cache_grace: yes", "1: cache_grace", "the truth value yes", GRACE),
    ("cache_grace: 1e3", "1: cache_grace", 'the text "1e3"', GRACE),
    ("cache_grace: .nan", "1: cache_grace", "the number .nan", GRACE),
    ("cache_grace: .inf", "1: cache_grace", "the number .inf", GRACE),
    ("host: 1.5", "1: host", "the number 1.5", HOST),
    ("host: 10:20", "1: host", "the number 10:20", HOST),
    ("host: [a]", "1: host", "a list", HOST),
    ("dns: {nameservers: 192.0.2.1}", "1: dns.nameservers", 'the text "192.0.2.1"', SERVERS),
    ("dns: {nameservers: [ns.example.com]}", "1: dns.nameservers", 'the text "ns.example.com"',
     SERVERS),
    ("dns: {nameservers: [192.0.2.1:0]}", "1: dns.nameservers", 'the text "192.0.2.1:0"', SERVERS),
    ("dns: {nameservers: [5]}", "1: dns.nameservers", "the number 5", SERVERS),
    ("dns: {nameservers: ['']}", "1: dns.nameservers", 'the quoted text ""', SERVERS),
    ("dns: {trust_ad: auto}", "1: dns.trust_ad", 'the text "auto"', "true or false"),
    ("dns: {resolvers: []}", "1: dns.resolvers", "an unknown key", "nameservers, trust_ad"),
    ("default_zone: {exempt: example.com}", "1: default_zone.exempt", 'the text "example.com"',
     EXEMPT),
    ("default_zone: {exempt: ['*.example.com']}", "1: default_zone.exempt",
     'the quoted text "*.example.com"', EXEMPT),
    ("default_zone: {exempt: [example.com, 192.0.2.1]}", "1: default_zone.exempt",
     'the text "192.0.2.1"', EXEMPT),
    ("default_zone: {exempt: [5]}", "1: default_zone.exempt", "the number 5", EXEMPT),
    ("default_zone: {exempt_file: 5}", "1: default_zone.exempt_file", "the number 5",
     "the name of a file"),
    ("listen: 127.0.0.1:1", "1: listen", 'the text "127.0.0.1:1"', LISTEN),
    ("listen: {address: a:1}", "1: listen", "a section", LISTEN),
    ("listen:\n- a", "2: listen", 'the text "a"', LISTEN),
    ("listen: [8461]", "1: listen", "the number 8461", LISTEN),
    ("listen: [a:65536]", "1: listen", 'the text "a:65536"', LISTEN),
    ("listen: ['::1:1']", "1: listen", 'the quoted text "::1:1"', LISTEN),
    ("listen: ['unix:']", "1: listen", 'the quoted text "unix:"', LISTEN),
    ("listen: ['a b:1']", "1: listen", 'the quoted text "a b:1"', LISTEN),
    ("listen: [[a:1]]", "1: listen", "a list", LISTEN),
    ("listen: [~]", "1: listen", "nothing", LISTEN),
    ("listen:\n- address: 7", "2: listen.address", "the number 7", LISTEN),
    ("listen: [{address: unix:a, mdoe: 0}]", "1: listen.mdoe",
     "an unknown key (did you mean mode?)", "address, mode, owner, group"),
    ("path: 5", "1: path", "the number 5", SOCKET),
    ("cache: internal", "1: cache", 'the text "internal"', SECTION),
    ("cache: !mine {}", "1: cache", "a section", SECTION),
    ("cache: {options: 5}", "1: cache.options", "the number 5", SECTION),
    ("zones: [a]", "1: zones", "a list", SECTION),
    ("zones:\n  a: 5", "2: zones.a", "the number 5", SECTION),
    ("default_zone: []", "1: default_zone", "a list", SECTION),
    ("- port", "1: top level", "a list", SECTION),
    ("port 25", "1: top level", 'the text "port 25"', SECTION),
    ("5", "1: top level", "the number 5", SECTION),
    ("log: json", "1: log", 'the text "json"', SECTION),
    ("log: {format: 5}", "1: log.format", "the number 5", "text, json"),
    ("log: {format: jsn}", "1: log.format", 'the text "jsn" (did you mean json?)', "text, json"),
    ("log: {target: journal}", "1: log.target", 'the text "journal"', "stderr, file, syslog"),
    ("log: {target: file, file: 5}", "1: log.file", "the number 5", "the name of a file"),
    ("https_proxy: 8080", "1: https_proxy", "the number 8080", PROXY),
    ("https_proxy: ''", "1: https_proxy", HIDDEN, PROXY),
    ("https_proxy: http://u:se/cret@p.example", "1: https_proxy", HIDDEN, PROXY),
    ("https_proxy: https://u:secret@p.example", "1: https_proxy", "the scheme https", PROXY),
    ("https_proxy: http://u:secret@p.example:0", "1: https_proxy", "the port 0", PROXY),
    ("no_proxy: 10", "1: no_proxy", "the number 10", NAMES),
    ("no_proxy: [10]", "1: no_proxy", "a list", NAMES),
    ("no_proxy: {a.example: }", "1: no_proxy", "a section", NAMES),
    # Ranges.
    ("port: -1", "1: port", "the number -1", PORT),
    ("port: 65536", "1: port", "the number 65536", PORT),
    ("cache_grace: -1", "1: cache_grace", "the number -1", GRACE),
    ("cache_grace: 31557601", "1: cache_grace", "the number 31557601", GRACE),
    ("shutdown_timeout: -0.1", "1: shutdown_timeout", "the number -0.1",
     "a number of seconds from 0 to 3600"),
    ("shutdown_timeout: 3601", "1: shutdown_timeout", "the number 3601",
     "a number of seconds from 0 to 3600"),
    ("workers: 0", "1: workers", "the number 0", "a whole number from 1 to 4096"),
    ("workers: 4097", "1: workers", "the number 4097", "a whole number from 1 to 4096"),
    ("default_zone: {timeout: 0}", "1: default_zone.timeout", "the number 0", TIMEOUT),
    ("default_zone: {timeout: 0.0}", "1: default_zone.timeout", "the number 0.0", TIMEOUT),
    ("default_zone: {timeout: 3601}", "1: default_zone.timeout", "the number 3601", TIMEOUT),
    ("default_zone:\n  timeout: abc", "2: default_zone.timeout", 'the text "abc"', TIMEOUT),
    ("zones:\n  a:\n    timeout: -4", "3: zones.a.timeout", "the number -4", TIMEOUT),
    ("cache: {options: {cache_size: 0}}", "1: cache.options.cache_size", "the number 0",
     "a whole number, at least 1"),
    ("proactive_policy_fetching: {interval: 0}", "1: proactive_policy_fetching.interval",
     "the number 0", "a whole number of seconds from 1 to 31557600"),
    ("proactive_policy_fetching: {concurrency_limit: 0}",
     "1: proactive_policy_fetching.concurrency_limit", "the number 0",
     "a whole number, at least 1"),
    ("proactive_policy_fetching: {grace_ratio: 0.5}", "1: proactive_policy_fetching.grace_ratio",
     "the number 0.5", "a number, at least 1"),
    ("proactive_policy_fetching: {grace_ratio: .inf}", "1: proactive_policy_fetching.grace_ratio",
     "the number .inf", "a number, at least 1"),
    ("host: ''", "1: host", 'the quoted text ""', HOST),
    ("host: a b", "1: host", 'the text "a b"', HOST),
    ('host: "a\\0"', "1: host", 'the quoted text "a\\x00"', HOST),
    ("path: ''", "1: path", 'the quoted text ""', SOCKET),
    ('path: "/a\\nb"', "1: path", r'the quoted text "/a\nb"', SOCKET),
    ('path: "/\\ud800"', "1: path", r'the quoted text "/\ud800"', SOCKET),
    ("path: /" + "x" * 107, "1: path", f'the text "/{"x" * 58}…"', SOCKET),
    ("path: /" + "ü" * 54, "1: path", f'the text "/{"ü" * 54}"', SOCKET),
    # The socket's mode, owner and group.
    ("owner: [a]", "1: owner", "a list", ACCOUNT),
    ("owner: ''", "1: owner", 'the quoted text ""', ACCOUNT),
    ("owner: -1", "1: owner", "the number -1", ACCOUNT),
    ("group: yes", "1: group", "the truth value yes", ACCOUNT),
    ("group: a b", "1: group", 'the text "a b"', ACCOUNT),
    ("mode: 666", "1: mode",
     "the decimal number 666, which is mode 01232 (is a leading zero missing?)", MODE),
    ("mode: 01000", "1: mode", "the number 01000", MODE),
    ("mode: -0666", "1: mode", "the number -0666", MODE),
    ("mode: '666'", "1: mode", 'the quoted text "666"', MODE),
    ("mode: '01000'", "1: mode", 'the quoted text "01000"', MODE),
    ("mode: 0888", "1: mode", 'the text "0888"', MODE),
    ("mode: '\u0660666'", "1: mode", 'the quoted text "\u0660666"', MODE),
    ("mode: ''", "1: mode", 'the quoted text ""', MODE),
    ("mode: 4.5", "1: mode", "the number 4.5", MODE),
    ("mode: true", "1: mode", "the truth value true", MODE),
    ("mode: rw", "1: mode", 'the text "rw"', MODE),
    # Keys.
    ("prot: 25", "1: prot", "an unknown key (did you mean port?)", TOP),
    ("Port: 25", "1: Port", "an unknown key (did you mean port?)", TOP),
    ("xyz: 25", "1: xyz", "an unknown key", TOP),
    ("xyz:", "1: xyz", "an unknown key", TOP),
    ("'': 25", '1: ""', "an unknown key", TOP),
    ('"a\\e[1m": 25', r"1: a\x1b[1m", "an unknown key", TOP),
    ("25: 25", "1: 25", "a key that is the number 25", TOP),
    ("on: 25", "1: on", "a key that is the truth value on", TOP),
    ("~: 25", "1: ~", "a key that is nothing", TOP),
    ("[a]: 25", "1: ?", "a list as a key", "a name"),
    ("zones: {{a: b}: }", "1: zones.?", "a section as a key", "a name"),
    ("cache: {cache_size: 5}", "1: cache.cache_size", "an unknown key", "type, options"),
    ("cache: {options: {filename: x}}", "1: cache.options.filename", "an unknown key",
     "cache_size"),
    ("default_zone:\n  timeot: 5", "2: default_zone.timeot",
     "an unknown key (did you mean timeout?)", ZONE),
    ("zones:\n  a:\n    ttl: 5", "3: zones.a.ttl", "an unknown key", ZONE),
    ("zones: &z {a: *z}", "1: zones.a.a", "an unknown key", ZONE),
    ("port: 1\nhost: a\nport: 2", "3: port", "a second time, after line 1", "a key once"),
    ("{port: 1, port: 1}", "1: port", "a second time, after line 1", "a key once"),
    ("port:\n'port': 2", "2: port", "a second time, after line 1", "a key once"),
    ("zones:\n  5:\n  '5':", "3: zones.5", "a second time, after line 2", "a key once"),
    ("zones: {a: {<<: 5}}", "1: zones.a.<<", "the number 5", "a section or a list of sections"),
    ("zones: {a: {<<: [5]}}", "1: zones.a.<<", "the number 5", "a section or a list of sections"),
    ("zones: {a b: }", "1: zones.a b", "such a zone name", NAME),
    ("zones: {'': }", '1: zones.""', "such a zone name", NAME),
    ('zones: {"a\\n": }', r"1: zones.a\n", "such a zone name", NAME),
    ('zones: {"a\\0": }', r"1: zones.a\x00", "such a zone name", NAME),
    # Types of cache.
    ("cache: {type: memory}", "1: cache.type", 'the text "memory"', CACHES),
    ("cache: {type: Internal}", "1: cache.type",
     'the text "Internal" (did you mean internal?)', CACHES),
    ("cache: {type: 5}", "1: cache.type", "the number 5", CACHES),
    ("cache: {type: [internal]}", "1: cache.type", "a list", CACHES),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "found", "allowed"), BAD)
def test_bad(text, place, found, allowed):
    assert problems(text) == (f"f.yml:{place}: found {found}; allowed: {allowed}",)


# (text, the one problem)
NO_YAML = [
    ("port: 1\nhost: [", "2: is no YAML: while parsing a flow node, expected the node content"),
    ("\tport: 1", "1: is no YAML: while scanning for the next token, found character"),
    ("port: 1\n  host: a", "2: is no YAML: mapping values are not allowed here"),
    ("port: *nowhere", "1: is no YAML: found undefined alias (a text that begins with * or &"),
    ("a: &x 1\nb: &x 2", "2: is no YAML: found duplicate anchor (a text that begins with * or &"),
    ("port: 1\n---\nport: 2", "2: is no YAML: expected a single document in the stream"),
    ('port: 1\nhost: "\\UFFFFFFFF"', "2: is no YAML: "),
    ("a: " + "[" * 500, "1: is nested too deeply"),
    ("port: 1\nhost: \x07", "2: found the character \\x07; allowed: printable text"),
    ("port: 1\nhost: a\0", "2: found the character \\x00; allowed: printable text"),
    ("port: 1\nhost: \ud800", "2: found the character \\ud800; allowed: printable text"),
    (b"port: 1\nhost: m\xfcnchen", "2: found the byte 0xfc; allowed: UTF-8 text"),
    ("port: 1".encode("utf-16"), "1: found the byte 0xff; allowed: UTF-8 text"),
]


@pytest.mark.parametrize(("text", "start"), NO_YAML)
def test_what_is_no_yaml(text, start):
    (problem,) = problems(text)
    assert problem.startswith(f"f.yml:{start}")
    assert problem.isprintable()


def test_all_problems_are_named_in_the_order_of_their_lines():
    text = """\
port: 70000
default_zone: &zone
  timeout: abc
  prot: 1
zones:
  a: {<<: *zone, tlsrpt: 1}
host: ""
port: 1
"""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    starts = [problem.split(": found ")[0] for problem in caught.value.problems]
    assert starts == [
        "f.yml:1: port",
        "f.yml:3: default_zone.timeout",
        "f.yml:3: zones.a.timeout",
        "f.yml:4: default_zone.prot",
        "f.yml:4: zones.a.prot",
        "f.yml:6: zones.a.tlsrpt",
        "f.yml:7: host",
        "f.yml:8: port",
    ]
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_found_text_is_shortened_and_stays_on_one_line():
    (problem,) = problems('port: "' + "x" * 500 + '\\n"')
    assert len(problem) < 200
    assert "x…" in problem
    (problem,) = problems("x\u2028" * 500 + ": 1")
    assert problem.isprintable()
    (problem,) = problems("port: x", "a\nb.yml")
    assert problem.startswith(r"a\nb.yml:1: port: ")


def test_sections_that_merge_each_other_many_times_end():
    lines = ["z0: &z0 {timeout: 5}"]
    lines += [f"z{i}: &z{i} {{<<: [{', '.join([f'*z{i - 1}'] * 9)}]}}" for i in range(1, 40)]
    zones = parse("zones:\n" + "".join(f"  {line}\n" for line in lines)).zones
    assert zones["z39"] == Zone(timeout=5)


@pytest.mark.parametrize(
    ("mode", "value"),
    [("438", 0o666), ("400", 0o620)],
)
def test_a_decimal_mode_passes_with_a_warning(mode, value):
    found = parse(f"mode: {mode}")
    assert found.mode == value
    assert found.warnings == (
        f"f.yml:1: mode: found the decimal number {mode}, which is mode 0{value:o}"
        " (is a leading zero missing?)",
    )


def test_warnings_do_not_make_a_configuration_differ():
    assert parse("mode: 438") == parse("mode: 0666")


def test_load(tmp_path):
    path = tmp_path / "f.yml"
    path.write_text("zones: {münchen: }\nport: 25\n", encoding="utf-8")
    assert keys.load(str(path)) == Config(port=25, zones={"münchen": Zone()})


def test_load_names_the_file_in_its_problems(tmp_path):
    path = tmp_path / "f.yml"
    path.write_text("\nport: x\n")
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}:2: port: found "):
        keys.load(str(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.yml", "No such file or directory"),
        (".", "Is a directory"),
        ("a\0b", "embedded null byte"),
        ("x" * 300, "File name too long"),
    ],
)
def test_load_says_why_a_file_cannot_be_read(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        keys.load(name)
    shown = name.replace("\0", "\\x00")
    assert caught.value.problems == (f"{shown}: cannot be read: {reason}",)


def test_load_stops_at_a_file_that_is_too_large():
    with pytest.raises(ConfigError, match=r"^/dev/zero: is larger than 1048576 bytes$"):
        keys.load("/dev/zero")


CACHE_GOOD = [
    ("{type: sqlite, options: {filename: /var/lib/x.db}}", SqliteCache("/var/lib/x.db"), "sqlite"),
    (
        "{type: sqlite, options: {filename: x, threads: 3, timeout: 2.5, cache_size: 7}}",
        SqliteCache("x", 3, 2.5, 7),
        "all options of sqlite",
    ),
    ("{type: redis}", redis_cache({}), "redis on this host"),
    ("{type: redis, options: {host: r, port: 1}}", redis_cache({"host": "r", "port": 1}), "passed"),
    (
        "{type: redis, options: {url: 'redis://r/2', cache_size: 7}}",
        redis_cache({"url": "redis://r/2"}, cache_size=7),
        "our own option is not passed on",
    ),
    (
        "{type: redis_sentinel, options: {sentinel_master_name: m, sentinels: [[a, 1], [b, 2]]}}",
        redis_cache(
            {"sentinel_master_name": "m", "sentinels": [["a", 1], ["b", 2]]}, by_sentinels=True
        ),
        "sentinels",
    ),
    (
        "{type: postgres, options: {dsn: 'postgresql://u@h/d', cache_size: 7}}",
        postgres_cache({"dsn": "postgresql://u@h/d"}, cache_size=7),
        "PostgreSQL",
    ),
    (
        "{type: postgres, options: {host: h, database: d, ssl: true, max_size: 5}}",
        postgres_cache({"host": "h", "database": "d", "ssl": True, "max_size": 5}),
        "asyncpg's names",
    ),
]


@pytest.mark.parametrize(("text", "cache", "why"), CACHE_GOOD)
def test_cache_types(text, cache, why):
    found = parse(f"cache: {text}")
    assert found.cache == cache, why
    assert found.warnings == ()


OPTION_WARNINGS = [
    ("redis", "minsize: 5", "5: cache.options.minsize: ignored, ", "an older name, on its line"),
    ("redis", "db: 7", "5: cache.options.db: ignored, the url says it too", "twice"),
    ("redis", "socket_timeout: 1", "", "nothing to say"),
    ("redis_sentinel", "minsize: 5", "6: cache.options.minsize: ignored, ", "of the other type"),
    (
        "redis_sentinel",
        "sentinel_kwargs: {minsize: 5}",
        "6: cache.options.sentinel_kwargs: minsize: ignored, ",
        "one below",
    ),
    ("postgres", "min_size: 5", "5: cache.options.min_size: ignored, ", "asyncpg's"),
    ("postgres", "user: v", "4: cache.options.dsn: user counts, which the dsn says too", "twice"),
]


@pytest.mark.requirement("LIB-15")
@pytest.mark.parametrize(("kind", "option", "begins", "why"), OPTION_WARNINGS)
def test_what_is_passed_over_is_a_warning_on_its_line(kind, option, begins, why):
    where = {
        "redis": "url: redis://r/2",
        "redis_sentinel": "sentinel_master_name: m",
        "postgres": "dsn: postgresql://u@h",
    }[kind]
    if kind == "redis_sentinel":
        where += "\n    sentinels: [[a, 1]]"
    found = parse(f"cache:\n  type: {kind}\n  options:\n    {where}\n    {option}\n")
    assert found.cache.cache_size
    assert len(found.warnings) == bool(begins), why
    assert all(line.startswith(f"f.yml:{begins}") for line in found.warnings), why


def test_what_a_url_says_is_a_warning_of_the_section():
    found = parse("cache:\n  type: redis\n  options:\n    url: redis://r/2?encoding=x\n")
    assert found.warnings == ("f.yml:3: cache.options: encoding: ignored, what is stored is UTF-8",)


def test_a_zone_that_is_called_default_zone_passes_with_a_warning():
    found = parse("zones:\n  default_zone:\n    timeout: 5\n")
    assert found == Config(zones={"default_zone": Zone(timeout=5)})
    assert found.warnings == (
        "f.yml:2: zones.default_zone: is a zone of that name alone; for every other name, write"
        " default_zone at the top level, not below zones",
    )


def test_the_docstring_shows_what_is_said():
    (problem,) = problems("\n" * 6 + "default_zone: {timeout: abc}", "/etc/mta-sts-daemon.yml")
    assert problem in keys.__doc__


CACHE_BAD = [
    ("cache:\n  type: sqlite\n", "f.yml:1: cache: filename is missing", "no options"),
    (
        "cache:\n  type: sqlite\n  options: {threads: 2}\n",
        "f.yml:3: cache.options: filename is missing",
        "no filename",
    ),
    (
        "cache:\n  type: sqlite\n  options:\n    filename: x\n    threads: 0\n",
        "f.yml:5: cache.options.threads: found the number 0;",
        "out of range",
    ),
    (
        "cache:\n  type: redis\n  options:\n    hots: x\n",
        "f.yml:4: cache.options.hots: ",
        "a misspelt option has its own line",
    ),
    (
        "cache:\n  type: redis\n  options:\n    cache_sise: 7\n",
        "f.yml:4: cache.options.cache_sise: there is no such option (did you mean cache_size?);"
        " allowed: url, cache_size, ",
        "what is allowed, the memory's option included",
    ),
    (
        "cache:\n  type: redis\n  options: {'a.\\nb': 7}\n".replace("'", '"'),
        "f.yml:3: cache.options: a.\\nb: there is no such option",
        "one line, whatever an option is called",
    ),
    (
        "cache:\n  type: redis_sentinel\n  options:\n    sentinel_kwargs: {x: 1}\n"
        "    sentinel_master_name: m\n    sentinels: [[a, 1]]",
        "f.yml:4: cache.options.sentinel_kwargs: x: there is no such option",
        "an option of the sentinels has a name, too",
    ),
    ("cache:\n  type: redis_sentinel\n", "f.yml:1: cache: sentinels: is missing", "no options"),
]


@pytest.mark.parametrize(("text", "begins", "why"), CACHE_BAD)
def test_cache_problems(text, begins, why):
    (problem,) = problems(text)
    assert problem.startswith(begins), why


@pytest.mark.requirement("WIRE-8")
def test_a_timeout_that_postfix_does_not_wait_for_is_shortened_with_a_warning():
    found = parse("zones:\n  z:\n    timeout: 60\n")
    assert found.zones["z"].timeout == 40
    assert found.warnings == (
        "f.yml:3: zones.z.timeout: 40 seconds are used: Postfix gives up before a longer one ends",
    )


@pytest.mark.parametrize("name", ["sqlite", "redis", "postgres"])
def test_the_examples_for_other_caches_are_valid(name):
    example = keys.load(str(EXAMPLE.with_name(f"mta-sts-daemon-{name}.yml")))
    assert type(example.cache).__name__.lower() == f"{name}cache"
    assert example.proactive.enabled
    assert example.warnings == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metrics: {path: /s, mode: 0666}\nstatus: {path: /s, mode: 0600}",
         "2: status.mode: is another one than that of metrics, whose socket this is"),
        ("metrics: {path: /s, mode: 0666}\nstatus: {path: /s}",
         "2: status: is another one than that of metrics, whose socket this is"),
        ("metrics: {host: localhost, port: 1}\nstatus: {port: 1}",
         "2: status.port: is that of metrics: give both the same host, or another port"),
        ("status: {hosts: [a]}", "1: status: port is missing, and so is path: where to listen"),
    ],
)  # fmt: skip
def test_places_for_pages_that_cannot_be_had(text, problem):
    assert problems(text) == (f"f.yml:{problem}",)


def test_names_of_this_host():
    found = parse("status: {port: 1, hosts: [MailHost, B\u00fccher.example, sts.example.com]}")
    assert found.status.hosts == ("mailhost", "xn--bcher-kva.example", "sts.example.com")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("log: {target: file}", "file is missing: the name of the log file"),
        ("log: {file: a}", "file is only for target: file, and the target is stderr"),
        (
            "log: {target: syslog, file: a}",
            "file is only for target: file, and the target is syslog",
        ),
    ],
)
def test_log_file_and_target_go_together(text, sentence):
    assert problems(text) == (f"f.yml:1: log: {sentence}",)


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("listen: [a:1, b:1, a:1]", "1: listen", "a:1 is listed twice"),
        ("listen: [unix:a, {address: unix:a, mode: 0}]", "1: listen", "unix:a is listed twice"),
        ("listen:\n- a:1\n- mode: 0660", "3: listen", "address is missing: HOST:PORT or unix:PATH"),
        ("listen:\n- {address: a:1, mode: 0}", "2: listen",
         "mode is only for unix:PATH, and the address is a:1"),
        *(
            (f"{key}: {value}\nlisten: [a:1]", f"1: {key}",
             "listen says where to listen already; remove this key, or listen")
            for key, value in (("host", "a"), ("port", 1), ("path", "a"), ("mode", "0660"),
                               ("owner", "a"), ("group", "a"))
        ),
    ],
)  # fmt: skip
def test_addresses_that_do_not_fit_together(text, place, sentence):
    assert problems(text) == (f"f.yml:{place}: {sentence}",)


def test_where_to_listen():
    """The old keys, and the list in their place."""
    assert parse("").addresses == (TcpAddress("127.0.0.1", 8461),)
    assert parse("host: a\nport: 1").addresses == (TcpAddress("a", 1),)
    assert parse("port: 1\npath: a\nmode: 0\nowner: b\ngroup: c").addresses == (
        UnixAddress("a", 0, "b", "c"),
    )
    assert parse("listen: [a:1, unix:b]").addresses == (TcpAddress("a", 1), UnixAddress("b"))
