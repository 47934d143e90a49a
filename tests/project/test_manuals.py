"""The manual pages: keys, options, signals, exit statuses, variables and files, as in the code."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import yaml

from stsresolver import __version__, daemon, query
from stsresolver.config import postgres_options, redis_options
from stsresolver.config.effective import effective
from stsresolver.config.keys import DEFAULT_PATH, Config, ConfigError, MetricsSettings, parse
from stsresolver.config.settings import StatusSettings
from stsresolver.inspection import cache_command
from stsresolver.process import arguments, output
from tests.support.missing import not_installed

CHECKOUT = Path(__file__).resolve().parents[2]
MANUALS = CHECKOUT / "docs" / "man"
DAEMON, QUERY, FILE = "mta-sts-daemon.1", "mta-sts-query.1", "mta-sts-daemon.yml.5"
PAGES = [DAEMON, QUERY, FILE]

SECTION = "a section of KEY: VALUE lines"
SENTINELS = {"sentinel_master_name": "m", "sentinels": [["h", 1]]}
# What each type of cache cannot do without.
NEEDED = {
    "internal": {},
    "sqlite": {"filename": "f"},
    "redis": {},
    "redis_sentinel": SENTINELS,
    "postgres": {},
}


@cache
def tree(page):
    """Return the document tree of a page. Fails for what docutils would warn of."""
    if importlib.util.find_spec("docutils") is None:
        not_installed("docutils (extra package)")
    from docutils.core import publish_doctree

    text = (MANUALS / f"{page}.rst").read_text(encoding="utf-8")
    return publish_doctree(text, settings_overrides={"_disable_config": True, "halt_level": 2})


def sections(page):
    """Return, by the title of a section, its definitions: {term: paragraphs}."""
    document = tree(page)
    from docutils import nodes

    found = {}
    for section in document.findall(nodes.section):
        terms = found.setdefault(section[0].astext(), {})
        for each in section.children:
            for item in each if isinstance(each, nodes.definition_list) else ():
                paragraphs = [one.astext().replace("\n", " ") for one in item[-1]]
                for term in item[0].findall(nodes.literal):
                    assert term.astext() not in terms, "described twice"
                    terms[term.astext()] = paragraphs
    return found


def options(page):
    """Return the options of a page: {its spellings: (arguments, description)}."""
    document = tree(page)
    from docutils import nodes

    found = {}
    for item in document.findall(nodes.option_list_item):
        names = tuple(one.astext() for one in item.findall(nodes.option_string))
        takes = {one.astext() for one in item.findall(nodes.option_argument)}
        found[names] = takes, item[1].astext().replace("\n", " ")
    return found


# Keys


def allowed(key, content):
    """Return what the daemon says is allowed for a key when it finds `content`."""
    try:
        parse(yaml.safe_dump(content), "file")
    except ConfigError as error:
        for problem in error.problems:
            place, _, said = problem.partition(": ")
            found = re.search(f"^{re.escape(key)}: (?:.*?; allowed: |only )(.*)$", said)
            if found and place.startswith("file:"):
                return re.sub(r" is allowed( \(.*\))?$", "", found[1])
    raise AssertionError(f"{key} takes anything")


def names(key, content):
    """Return the keys of a section, from what is said of a key that is unknown."""
    return allowed(f"{key}.x" if key else "x", content).split(", ")


def keys():
    """Return what the code has: {dotted key: (what is allowed, default)}, but for the cache's."""
    defaults = yaml.safe_load("\n".join(effective(Config(), "", {})))
    defaults["metrics"] = asdict(MetricsSettings())
    defaults["status"] = {**asdict(StatusSettings()), "hosts": []}
    defaults["control"] = {"path": None}
    found = {}
    for name in names("", {"x": 1}):
        words = allowed(name, {name: [[]]})
        # How many zones there are, and their names, is left to the file.
        if words != SECTION or name == "zones":
            found[name] = words, defaults[name]
            continue
        for inner in names(name, {name: {"x": 1}}):
            if (name, inner) != ("cache", "options"):
                key = f"{name}.{inner}"
                found[key] = allowed(key, {name: {inner: [[]]}}), defaults[name][inner]
    return found


def cache_options(kind):
    """Return the options of a type of cache, as `keys` does."""
    base = {"type": kind, "options": NEEDED[kind]}
    printed = "\n".join(effective(parse(yaml.safe_dump({"cache": base}), "file"), "", {}))
    defaults = yaml.safe_load(printed)["cache"]["options"]
    found = {}
    for name in names("cache.options", {"cache": base | {"options": NEEDED[kind] | {"x": 1}}}):
        if name == "sentinel_kwargs":
            # Nothing but a section, whose options are others.
            continue
        content = {"cache": {"type": kind, "options": NEEDED[kind] | {name: [[]]}}}
        default = None if name in NEEDED[kind] else defaults.get(name)
        found[name] = allowed(f"cache.options.{name}", content), default
    return found


def check(name, paragraphs, words, default):
    """Hold the first paragraph of a description against the code, and see that there is more."""
    first = paragraphs[0].removeprefix("One of ")
    said, _, value = first.partition(". Default: ")
    if default is None:
        assert first.endswith(". No default."), name
        said = first.removesuffix(". No default.")
    elif name == "threads":
        assert value == "the number of CPUs."
    else:
        assert yaml.safe_load(value.removesuffix(".")) == default, name
    assert said[0].lower() + said[1:] == words, name
    assert "".join(paragraphs[1:]), name


IN_FILE = [
    "WHERE TO LISTEN",
    "ANSWERS",
    "LOG",
    "METRICS",
    "STATUS",
    "CONTROL",
    "WAY OUT",
    "CACHE",
    "PROACTIVE FETCHING",
    "ZONES",
]


def test_every_key_is_described_as_the_daemon_takes_it():
    page = sections(FILE)
    described = {key: text for title in IN_FILE for key, text in page[title].items()}
    code = keys()
    code["zones"] = SECTION, None
    assert sorted(described) == sorted(code)
    for name, (words, default) in code.items():
        check(name, described[name], words, default)


@pytest.mark.parametrize("kind", ["internal", "sqlite", "redis", "postgres"])
def test_every_option_of_the_cache(kind):
    described = sections(FILE)[f"Options of {kind}"]
    code = cache_options(kind)
    assert sorted(described) == sorted(code)
    for name, (words, default) in code.items():
        check(name, described[name], words, default)


def test_every_option_of_the_cache_with_sentinels():
    page = sections(FILE)
    described = page["Options of redis_sentinel"]
    alone = {"sentinel_kwargs": ("a section of options", None)}
    with pytest.raises(ConfigError, match="sentinel_kwargs: is no section of options"):
        content = {"type": "redis_sentinel", "options": SENTINELS | {"sentinel_kwargs": 1}}
        parse(yaml.safe_dump({"cache": content}), "file")
    common = cache_options("redis")
    for name, meaning in cache_options("redis_sentinel").items():
        if name in common:
            assert meaning == common[name], "the page says that it is the same"
        else:
            alone[name] = meaning
    assert sorted(described) == sorted(alone)
    for name, (words, default) in alone.items():
        check(name, described[name], words, default)
    assert set(common) - set(cache_options("redis_sentinel")) == {"url", *redis_options._WHERE}


@pytest.mark.parametrize("name", redis_options._WHERE)
def test_what_may_not_stand_beside_the_url(name):
    (says,) = (text for text in sections(FILE)["Options of redis"]["url"] if "beside it" in text)
    assert name in says
    cache = {"type": "redis", "options": {"url": "redis://h", name: 1 if name == "port" else "h"}}
    with pytest.raises(ConfigError, match=f"and so does {name}; give one"):
        parse(yaml.safe_dump({"cache": cache}), "file")


@pytest.mark.parametrize("options", [redis_options, postgres_options])
def test_older_names_of_options(options):
    text = tree(FILE).astext()
    for name in (*options._OLD_NAMES, *options._IGNORED):
        assert name in text


@pytest.mark.parametrize("page", [DAEMON, FILE])
def test_keys_that_take_a_restart(page):
    from stsresolver.service import _CHANGEABLE

    every = {name.replace("proactive_policy_fetching", "proactive") for name in names("", {"x": 1})}
    text = " ".join(tree(page).astext().split())
    found = re.search(
        r"(?:Only a restart changes|except for those of) ([a-z_, ]+ and [a-z]+)", text
    )
    assert set(re.split(", | and ", found[1])) == every - set(_CHANGEABLE)


def test_the_examples_of_the_page_are_right():
    from docutils import nodes

    blocks = [one.astext() for one in tree(FILE).findall(nodes.literal_block)]
    assert len(blocks) == 4
    for block in blocks:
        assert parse(block, "example").warnings == ()


def test_the_example_configuration_has_every_key():
    text = (CHECKOUT / "etc" / "mta-sts-daemon.yml").read_text(encoding="utf-8")
    # "#path: ..." is a key that can be switched on, "# Path: ..." is a comment.
    text = re.sub(r"(?m)^( *)#((  )?[a-z_]+:( |$))", r"\1\2", text)

    def below(node, place=""):
        for key, value in node.value:
            dotted = place + key.value
            if not isinstance(value, yaml.MappingNode):
                yield dotted, value
            elif place == "zones.":
                yield from below(value, "default_zone.")
            else:
                yield from below(value, f"{dotted}.")

    found = {name.replace("cache.options", "cache") for name, _ in below(yaml.compose(text))}
    code = set(keys()) - {"zones"} | {f"cache.{name}" for name in cache_options("internal")}
    assert found == code


# Programs


@pytest.mark.parametrize(("page", "program"), [(DAEMON, daemon), (QUERY, query)])
def test_every_option(page, program):
    described = options(page)
    actions = {
        tuple(sorted(one.option_strings, key=len)): one for one in program._arguments()._actions
    }
    positional = actions.pop((), None)
    assert set(described) == set(actions)
    for spellings, action in actions.items():
        takes, text = described[spellings]
        assert bool(takes) == (action.nargs is None), spellings
        for choice in action.choices or ():
            assert choice in text
        if action.default not in (None, False, "==SUPPRESS=="):
            value = action.default if isinstance(action.default, str) else f"{action.default:g}"
            assert f"Default: {value}." in text, spellings
    text = tree(page).astext()
    assert (positional is None) == ("KNOWN_ID" not in text)


def constants(*modules):
    """Return the source trees of modules."""
    for module in modules:
        yield from ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))


def exit_statuses(*modules):
    """Return the exit statuses of sysexits.h that modules name."""
    return {
        getattr(os, node.attr)
        for node in constants(*modules)
        if isinstance(node, ast.Attribute) and node.attr.startswith("EX_")
    }


def test_every_exit_status():
    of_both = exit_statuses(arguments, output) | {output.CLOSED}
    of_daemon = exit_statuses(daemon) | of_both | {0, 1}
    assert set(sections(DAEMON)["EXIT STATUS"]) == {str(one) for one in of_daemon}
    of_query = (
        exit_statuses(query, cache_command)
        | of_both
        | {
            *(query._POLICY, query._NONE, query._FAILURE, query._REFUSED),
            query._INTERRUPTED,
        }
    )
    assert set(sections(QUERY)["EXIT STATUS"]) == {str(one) for one in of_query}


def test_every_signal():
    code = {
        node.attr
        for node in constants(daemon)
        if isinstance(node, ast.Attribute) and re.fullmatch("SIG[A-Z0-9]+", node.attr)
    }
    assert set(sections(DAEMON)["SIGNALS"]) == code


def test_every_variable():
    from stsresolver.net import proxy
    from stsresolver.process import systemd

    for_both = {"SSL_CERT_FILE", "SSL_CERT_DIR"} | {
        node.value
        for node in constants(proxy)
        if isinstance(node, ast.Constant) and node.value in ("https_proxy", "no_proxy")
    }
    managers = {
        node.value
        for node in constants(systemd)
        if isinstance(node, ast.Constant)
        and re.fullmatch("(LISTEN|NOTIFY|WATCHDOG)_[A-Z]+", str(node.value))
    }
    assert len(managers) == 6
    assert set(sections(QUERY)["ENVIRONMENT"]) == for_both | {"NO_COLOR"}
    assert set(sections(DAEMON)["ENVIRONMENT"]) == for_both | managers | {"OPENSSL_CONF"}


def test_every_file():
    of_daemon = set(sections(DAEMON)["FILES"])
    assert {DEFAULT_PATH, "/etc/resolv.conf"} <= of_daemon
    script = (CHECKOUT / "etc" / "init.d" / "mta-sts-daemon").read_text(encoding="utf-8")
    for name in ("LOGFILE", "RUNDIR", "STATEDIR"):
        assert re.search(f"(?m)^{name}=(.*)$", script)[1] in of_daemon
    assert DEFAULT_PATH in sections(FILE)["FILES"]


@pytest.mark.parametrize("page", PAGES)
def test_it_is_of_this_version(page):
    from docutils import nodes

    (version,) = tree(page).findall(nodes.version)
    assert version.astext() == f"stsresolver {__version__}"


@pytest.mark.parametrize("page", PAGES)
def test_man_shows_it_without_a_warning(page, tmp_path):
    document = tree(page)
    if shutil.which("man") is None:
        not_installed("man (Debian: man-db)")
    from docutils.core import publish_from_doctree
    from docutils.writers.manpage import Writer

    rendered = tmp_path / page
    settings = {"_disable_config": True, "output_encoding": "utf-8"}
    rendered.write_bytes(
        publish_from_doctree(document.deepcopy(), writer=Writer(), settings_overrides=settings)
    )
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(rendered)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for title in sections(page):
        assert title in done.stdout
