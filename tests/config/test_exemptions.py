"""Which domains a zone exempts, and what a file of them may say."""

from __future__ import annotations

import pytest

from stsresolver.config.exemptions import exempted_by, read_file
from stsresolver.config.yaml_schema import ConfigError

ENTRIES = {"example.com", ".example.net", ".deep.example.org"}


@pytest.mark.parametrize(
    ("domain", "entry", "why"),
    [
        ("example.com", "example.com", "by name"),
        ("mail.example.com", None, "a name is for itself alone"),
        ("example.net", None, "a name after a dot is for what is below it"),
        ("mail.example.net", ".example.net", "below"),
        ("a.b.example.net", ".example.net", "far below"),
        ("xexample.net", None, "only at a dot"),
        ("deep.example.org", None, "not itself"),
        ("very.deep.example.org", ".deep.example.org", "below"),
        ("example.org", None, "above"),
        ("com", None, "a single label"),
    ],
)
def test_which_domains(domain, entry, why):
    assert exempted_by(domain, ENTRIES) == entry, why


def test_a_file(tmp_path):
    file = tmp_path / "exempt"
    file.write_text("# until 2027\n\nExample.com  # ticket 7\n\t.bücher.example\r\nexample.com\n")
    assert read_file(str(file)) == {"example.com", ".xn--bcher-kva.example"}
    file.write_bytes(b"")
    assert read_file(str(file)) == frozenset()


def test_each_wrong_line_is_named(tmp_path):
    file = tmp_path / "exempt"
    file.write_bytes(b"example.com\n*.example.com\nexample com\n\xff\n.\n192.0.2.1\n")
    with pytest.raises(ConfigError) as error:
        read_file(str(file))
    lines = str(error.value).splitlines()
    assert [line.partition(": found")[0] for line in lines] == [f"{file}:{n}" for n in range(2, 7)]
    assert lines[0].endswith(
        'found "*.example.com"; allowed: a domain, such as example.com, or .example.com for all'
        " domains below it"
    )
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, why in (
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_file(str(path))
    large = tmp_path / "large"
    large.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="is larger than 1048576 bytes"):
        read_file(str(large))
