"""Texts that a hostile domain, client or store may write, as hypothesis's strategies.

They lie near what is allowed, where a mistake would show: random bytes alone are refused by their
first line.
"""

from dataclasses import fields

from hypothesis import settings
from hypothesis import strategies as st

from stsresolver.config import postgres_options, redis_options
from stsresolver.config.settings import ProactiveSettings, Zone

# The same cases in every run, however slow the machine is: new ones are the fuzzer's business.
SETTINGS = settings(derandomize=True, database=None, deadline=None, max_examples=100)

# What means something to Postfix, to a log, to YAML or to JSON, and what only looks like it.
CHARACTERS = st.sampled_from(
    "{}=,:;.*[]\"'\\&!<#-_%@ \t\r\n\0\x01\x7f\x85\xa0ü，｛｝\u2028\u202e\ufeff😀"
)
CONTROLS = "".join(map(chr, [*range(32), 127]))
PIECES = st.sampled_from(
    [
        "{ policy_string = x }",
        "} match=evil.example {",
        " policy_failure=validation-failure ",
        "mx_host_pattern=*.evil.example",
        ", protocols=!TLSv1.3",
        "\nmx: evil.example",
        "\r\nmode: none",
        "} {",
        "{{",
        "}}",
    ]
)
texts = st.lists(
    st.one_of(CHARACTERS, PIECES, st.text(max_size=5), st.sampled_from("abcXYZ019")), max_size=12
).map("".join)
anything = st.one_of(st.binary(max_size=200), texts.map(str.encode))

NAMES = st.sampled_from(
    ["match", "policy_string", "mx_host_pattern", "policy_failure", "servername", "x", "X-1.y_z"]
)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
hosts = st.tuples(labels, labels, st.sampled_from(["com", "example", "xn--p1ai"])).map(".".join)
patterns = st.tuples(st.sampled_from(["", "*."] * 8 + ["*.*.", "."]), hosts).map("".join)

# Values of extensions: every character that the grammar allows, and more of those that
# could do harm.
SAFE = st.characters(exclude_categories=["Cs"], exclude_characters=CONTROLS)
NEAR = st.sampled_from("{}{}=,:; \x85\xa0\u2028") | PIECES.filter(str.isprintable)
values = st.lists(NEAR | SAFE, min_size=1, max_size=20).map("".join).map(str.strip).filter(bool)
faulty = st.integers(0, 9).flatmap(lambda number: values if number else texts)

extensions = st.tuples(NAMES | labels, st.just(":"), faulty).map("".join)
own_again = st.tuples(st.sampled_from(["version:", "mode:", "max_age:"]), faulty).map("".join)
ends = st.sampled_from(["\n", "\r\n", " \n", "\t\r\n", "\n\n"])


@st.composite
def policies(draw):
    """Policies, most of them without fault, with all that Postfix must not see in their fields."""
    fields = [
        "version:" + draw(st.sampled_from(["STSv1", " STSv1", "\tSTSv1"])),
        "mode:" + draw(st.sampled_from(["enforce", " testing", "enforce ", "none"])),
        f"max_age: {draw(st.integers(0, 10**10))}",
        *(f"mx: {name}" for name in draw(st.lists(patterns, max_size=4))),
    ]
    fields = draw(st.permutations(fields))
    # A field that stands again is ignored, whatever it says.
    fields += draw(st.lists(st.one_of(extensions, own_again), max_size=6))
    first = draw(st.lists(extensions, max_size=2))
    return "".join(field + draw(ends) for field in (*first, *fields)).encode()


@st.composite
def sound_policies(draw):
    """Policies that pass the grammar, with every character in their extensions that it allows."""
    mode = draw(st.sampled_from(["enforce", "testing"]))
    names = draw(st.lists(hosts, min_size=1, max_size=5))
    again = st.sampled_from(["version", "mode", "max_age", "match", "policy_string", "a.b-c_d"])
    more = draw(st.lists(st.tuples(again, values), max_size=8))
    fields = [("version", "STSv1"), ("mode", mode), ("max_age", "86400")]
    fields += [("mx", draw(st.sampled_from(["", "*."])) + name) for name in names]
    return "".join(f"{name}: {value}\n" for name, value in fields + more).encode()


@st.composite
def records(draw):
    """TXT records of a domain, one a line."""
    field = st.tuples(
        st.sampled_from(["id", "x", "x.y-z_"] * 4 + ["id ", ""]),
        st.sampled_from(["="] * 8 + [" =", ""]),
        st.one_of(st.sampled_from(["1", "20160831", "a" * 32] * 2 + ["a" * 33, "", "é"]), texts),
    ).map("".join)
    delimiter = st.sampled_from([";", "; ", " ;\t"] * 3 + [";;"])
    version = st.sampled_from(["v=STSv1"] * 4 + ["v=stsv1", "v=STSv10", "v=spf1"])
    lines = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        fields = draw(st.lists(field, max_size=3))
        parts = [draw(version), *(draw(delimiter) + text for text in fields)]
        lines.append("".join(parts) + draw(st.sampled_from(["", ";", "; ", " "])))
    return "\n".join(lines).encode()


@st.composite
def requests(draw):
    """Requests: a zone and a next hop in the forms that Postfix has, or nearly."""
    name = draw(st.one_of(hosts, texts, st.text(max_size=20), st.just("münchen.example")))
    form = draw(
        st.sampled_from(["{}", "[{}]", "{}:25", "[{}]:{}", "[{}]:smtp", ".{}", "{}.", "{}:"])
    )
    zone = draw(st.sampled_from(["postfix ", "short ", "", " "]))
    return (zone + form.replace("{}", name)).encode("utf-8", "surrogatepass")


@st.composite
def configurations(draw):
    """Configuration files: known keys, near and far values."""
    scalar = st.one_of(
        st.sampled_from(
            ["1", "0", "-1", "true", "~", "0660", "1e3", ".inf", ".nan", "1:30", "''", "[]", "{}"]
        ),
        st.sampled_from(["!!int x", "!!timestamp x", "!!binary x", "!!set {a}", "&a [*a]", "*b"]),
        st.sampled_from(
            [
                "redis://u:p@h:1/2",
                "postgres://u:p@h:1,i:x/d?a=%",
                "unix:///s",
                "[[h, 1]]",
                "2026-02-30",
                "'1'",
                "|\n a",
            ]
        ),
        st.integers().map(str),
        texts,
    )
    lines = []
    for section in draw(st.lists(st.sampled_from(list(KEYS)), max_size=3)):
        indent = " " * section.count("\n")
        lines += section.splitlines()
        keys = st.sampled_from([*KEYS[section] * 4, "<<", "host", "x"])
        lines += [f"{indent}{draw(keys)}: {draw(scalar)}" for _ in range(draw(st.integers(0, 3)))]
    return "\n".join(lines).encode()


# The keys that each section has; the section's own lines tell how deep they stand.
KEYS = {
    "": ["host", "port", "path", "mode", "reuse_port", "cache_grace", "workers", "cache"],
    "default_zone:\n": [field.name for field in fields(Zone)],
    "zones:\n a:\n": [field.name for field in fields(Zone)],
    "cache:\n type: sqlite\n options:\n": ["filename", "threads", "timeout", "cache_size"],
    "cache:\n type: redis\n options:\n": [*redis_options._WHERE, "url", "address", "password"],
    "cache:\n type: postgres\n options:\n": [*postgres_options._KEYWORDS, "dsn", "ssl", "max_size"],
    "cache:\n type: redis_sentinel\n options:\n": [*redis_options._SENTINEL, "sentinels"],
    "proactive_policy_fetching:\n": [field.name for field in fields(ProactiveSettings)],
}
