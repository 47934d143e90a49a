"""What an inspection looks like: 80 columns of printable ASCII, whatever a stranger has written."""

from __future__ import annotations

import pytest

from stsresolver import Cause, Failure, Found, NoPolicy, NotChanged
from stsresolver.config.settings import Zone
from stsresolver.inspection.as_json import as_json
from stsresolver.inspection.screen import WIDTH, Paint, screen, verdict_line
from tests.support.inspections import entry, inspection, policy

PLAIN = Paint(on=False)
EVIL = "\x1b[2J\r\n\x07\u202e\u2028Verdict all is well \xff " + "x" * 300
SEEN = [
    inspection(),
    inspection(mx=("mail.example.com", "mx2.example.com"), certificate_days=-3.0),
    inspection(mx=None, mx_failure=EVIL),
    inspection(mx=()),
    inspection(Found(policy(*(f"mx{n}.example.com" for n in range(900))), "1")),
    inspection(Found(policy(more="x: \u202e snow \u2603\n"), "1"), texts=(EVIL, "v=STSv1; id=1")),
    inspection(NoPolicy(Cause.BAD_RECORD, EVIL), texts=(EVIL,)),
    inspection(Failure(Cause.SYNTAX, EVIL, "1"), text=EVIL * 3),
    inspection(Failure(Cause.DNS, EVIL), texts=None),
    inspection(NotChanged("2016"), mx=None),
    inspection(Failure(Cause.CONNECT, EVIL, "1"), entry=entry(failure=EVIL)),
    inspection(zone=Zone(observe=True)),
    inspection(zone=Zone(exempt=("example.com",))),
]


@pytest.mark.requirement("HTTPS-20")
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_moves_the_cursor_or_leaves_the_page(seen, verbose):
    lines = list(screen(seen, PLAIN, verbose=verbose))
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert max(map(len, lines)) <= WIDTH
    assert verbose or len(lines) < 80
    assert sum(line.startswith("Verdict") for line in lines) == (len(lines) > 1)
    assert verdict_line(seen, PLAIN).isprintable()


@pytest.mark.parametrize("seen", SEEN)
def test_json_is_what_the_schema_says(seen, valid):
    line = as_json(seen)
    assert line.isascii()
    assert line.isprintable()
    assert valid(line)["domain"] == "example.com"


def test_colours_add_nothing_else():
    for seen in SEEN:
        painted = "\n".join(screen(seen, Paint(on=True)))
        for code in ("0", "1", "31", "32", "33"):
            painted = painted.replace(f"\x1b[{code}m", "")
        assert painted == "\n".join(screen(seen, PLAIN))


def test_good_policy():
    assert list(screen(inspection(), PLAIN)) == [
        "example.com",
        f"Record       _mta-sts.example.com{'12 ms':>47}",
        '             "v=STSv1; id=2016" counts, id 2016',
        "Policy host  mta-sts.example.com",
        "             192.0.2.1, 2001:db8::1",
        "Connection   to 192.0.2.1",
        f"Certificate  for mta-sts.example.com{'20 ms':>44}",
        "             issued by CN=R3, O=Example",
        "             ends on 2027-03-16, 60 days left",
        "Answer       status 200, text/plain, 99 bytes",
        "Policy       mode enforce, max_age 604800 (7.0 days)",
        "             mx mail.example.com",
        "MX hosts     10 mail.example.com matches mail.example.com",
        'Postfix      "OK secure match=mail.example.com servername=hostname"',
        "Verdict      mail to example.com goes only over verified TLS.",
    ]


def test_what_the_cache_holds():
    seen = inspection(
        Failure(Cause.CONNECT, "refused", "2016"), entry=entry(failure="no connection")
    )
    text = "\n".join(screen(seen, PLAIN))
    assert (
        "In the cache id 2015, mode enforce, fetched 1.0 hours ago, ends in 7.0 days, is\n"
        "               looked at next in 1.0 minutes\n"
        "             failed 1.0 minutes ago: no connection\n"
    ) in text
    assert "             (by the policy in the cache)\n" in text


def test_policy_that_is_malformed_is_shown():
    seen = inspection(
        Failure(Cause.SYNTAX, "line 2: not a field", "1"), text="version: STSv1\nmode enforce\n"
    )
    assert '             "mode enforce"' in screen(seen, PLAIN)
