"""Files of exempt domains: read again when they change, and kept when they become wrong."""

from __future__ import annotations

import pytest

from stsresolver.config.yaml_schema import ConfigError
from stsresolver.net import file_changes
from stsresolver.policies import exempt_files
from stsresolver.policies.exempt_files import ExemptFiles
from tests.support.socketmap_client import wait_for


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(file_changes, "PAUSE", 0.0)
    path = tmp_path / "exempt"
    path.write_text("example.com\n")
    return path


@pytest.fixture
def told():
    return []


@pytest.fixture
def files(file, told):
    made = ExemptFiles(lambda: told.append(1))
    made.read([str(file)])
    made.look()
    return made


def test_a_change_is_noticed_once(file, files, told):
    files.look()
    assert told == []
    file.write_text("example.com\nexample.net\n")
    files.look()
    files.look()
    assert told == [1]
    assert files.entries == {str(file): {"example.com", "example.net"}}


def test_what_says_the_same_is_no_change(file, files, told):
    file.write_text("# a comment\nexample.com\n")
    files.look()
    assert told == []


@pytest.mark.parametrize("wrong", ["*.example.com\n", None])
def test_what_was_exempt_stays_so_where_the_file_is_wrong(file, files, told, caplog, wrong):
    if wrong is None:
        file.unlink()
    else:
        file.write_text(wrong)
    files.look()
    files.look()
    assert files.entries == {str(file): {"example.com"}}
    assert told == []
    assert len(caplog.records) == 1
    assert "what was exempt before stays so: " in caplog.text
    file.write_text("example.org\n")
    files.look()
    assert files.entries == {str(file): {"example.org"}}
    assert told == [1]


def test_one_that_is_wrong_at_the_start(file, told):
    file.write_text("*\n")
    with pytest.raises(ConfigError, match=r"exempt:1: found"):
        ExemptFiles(lambda: None).read([str(file)])


def test_on_its_thread(file, told, monkeypatch):
    monkeypatch.setattr(exempt_files, "PAUSE", 0.01)
    files = ExemptFiles(lambda: told.append(1))
    files.read([str(file)])
    files.start()
    try:
        file.write_text("example.net\n")
        wait_for(lambda: files.entries[str(file)] == {"example.net"}, "the change")
        wait_for(lambda: told, "the call")
    finally:
        files.stop()
