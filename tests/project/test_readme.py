"""What the README says is so: its library example runs, its options and scripts are there."""

import functools
import re
import textwrap
from pathlib import Path

import pytest

import stsresolver
from stsresolver import daemon, query
from stsresolver.config.keys import load
from tests.support.authority import Authority, trusted
from tests.support.hostile_dns import NameServer, addresses, mx, nxdomain, txt
from tests.support.hostile_https import PolicyHost, page

CHECKOUT = Path(__file__).resolve().parents[2]
README = (CHECKOUT / "README.rst").read_text(encoding="utf-8")

POLICY = b"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 604800\n"


def example(number):
    """Return one of the two Python examples of the README."""
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README, re.MULTILINE)
    assert len(blocks) == 2
    return textwrap.dedent(blocks[number])


@pytest.mark.parametrize(
    ("record", "prints"),
    [
        (
            txt("v=STSv1; id=2016"),
            "enforce ('*.example.com',) 604800 2016\nTrue\n",
        ),
        (nxdomain(), "no policy: the domain publishes no MTA-STS record\n"),
    ],
)
def test_the_library_example_runs(record, prints, tmp_path, monkeypatch, capsys):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    zone = {"_mta-sts.example.com TXT": record}
    with (
        NameServer(zone, otherwise=addresses("127.0.0.1")) as dns,
        PolicyHost(page(POLICY), authority.server("mta-sts.example.com")) as host,
    ):
        local = functools.partial(
            stsresolver.Resolver,
            resolv_conf=str(resolv_conf),
            dns_port=dns.port,
            https_port=host.port,
        )
        monkeypatch.setattr(stsresolver, "Resolver", local)
        exec(compile(example(0), "README.rst", "exec"), {})
    assert capsys.readouterr().out == prints


def test_the_example_of_an_inspection_runs(tmp_path, monkeypatch, capsys):
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    zone = {
        "_mta-sts.example.com TXT": txt("v=STSv1; id=2016"),
        "example.com MX": mx("10 mx.example.com.", "20 mx.example.org."),
    }
    with (
        trusted(tmp_path) as authority,
        NameServer(zone, otherwise=addresses("127.0.0.1")) as dns,
        PolicyHost(page(POLICY), authority.server("mta-sts.example.com", days=(-1, 1))) as host,
    ):
        local = functools.partial(
            stsresolver.Inspector,
            resolv_conf=str(resolv_conf),
            dns_port=dns.port,
            https_port=host.port,
        )
        monkeypatch.setattr("stsresolver.inspection.inspector.Inspector", local)
        exec(compile(example(1), "README.rst", "exec"), {})
    assert capsys.readouterr().out == (
        "mail to example.com will be refused by mx.example.org: its name is not in the policy\n"
        "10 mx.example.com *.example.com\n"
        "20 mx.example.org None\n"
        "warning certificate-ends the certificate of the policy host ends in 0 days\n"
        "error mx-mismatch mx.example.org matches no mx pattern of the policy: mail is not"
        " delivered there\n"
    )


@pytest.mark.parametrize("text", ["192.0.2.1", "[192.0.2.1]", "com", "a b", ""])
def test_what_is_no_domain_name_raises_what_it_says(text):
    assert "Text that is no domain name" in README
    with pytest.raises(ValueError, match="no domain name"):
        stsresolver.Resolver().resolve(text)


@pytest.mark.parametrize("program", [daemon, query])
def test_every_option_is_described(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    options = set(re.findall(r"(?<!\S)-[a-z]\b", capsys.readouterr().out)) - {"-h"}
    assert options, "the help names its options"
    assert not [option for option in options if option not in README]


def test_every_script_it_names_is_there():
    scripts = re.findall(r"^    sh (\S+)", README, re.MULTILINE)
    assert scripts
    assert all((CHECKOUT / script).is_file() for script in scripts)


def test_the_example_configuration_is_valid():
    assert load(str(CHECKOUT / "etc" / "mta-sts-daemon.yml")).workers == 256
