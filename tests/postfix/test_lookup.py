"""What postmap -q gets to see: the answers alone, without a mail."""

import itertools

import pytest

KNOWN = [f"known-{n}.example" for n in range(8)]

# Forms of a next hop that ask for the policy of the domain in them.
FORMS = [
    "{}",
    "{}.",
    "{}:587",
    "[{}]",
    "[{}]:587",
    "[{}]:submission",
]

NOTHING = [
    *(f".{domain}" for domain in KNOWN),  # asked for by Postfix after the domain itself
    ".example",
    *(f"nobody-{n}.example" for n in range(40)),
    *(f"sub.{domain}" for domain in KNOWN),
    "elsewhere.invalid",  # NXDOMAIN, from another zone
    "bücher-nobody.example",
    "[192.0.2.1]",
    "[192.0.2.1]:25",
    "192.0.2.1",
    "[IPv6:2001:db8::1]",
    "[2001:db8::1]:25",
    "localhost",
    "[localhost]:10025",
    "a..b",
    f"{'a' * 64}.example",
    f"{KNOWN[0]}:",
    f"{KNOWN[0]}:66000",
    f"{KNOWN[0]}:no port",
    f"[{KNOWN[0]}",
    f"{KNOWN[0]}]",
    "two words.example",
    "a@b.example",
    "x" * 9000,
    "\udcff\udcfe.example",  # bytes that are no UTF-8
    ":25",
    "[]",
    "",
]


@pytest.mark.requirement("APPLY-4", "WIRE-14", "KEY-1", "KEY-7")
def test_hundreds_of_keys_on_one_connection(lab):
    for domain in KNOWN:
        lab.publish(domain)
    lab.publish("xn--bcher-kva.example")
    good = [
        *((form.format(domain), domain) for form in FORMS for domain in KNOWN),
        *((form.format("bücher.example"), "xn--bcher-kva.example") for form in FORMS),
        *((form.format("xn--bcher-kva.example"), "xn--bcher-kva.example") for form in FORMS),
    ]
    # Found and not found in turn, each several times: an answer that slips by one is seen.
    pairs = [*zip(itertools.cycle(good), NOTHING * 4, strict=False)]
    keys = [key for (found, _), nothing in pairs for key in (found, nothing)]
    assert len(keys) > 500
    assert lab.mta.ask(*keys) == [
        f"{key}\tsecure match=mx.{domain} servername=hostname" for (key, domain), _ in pairs
    ]


@pytest.mark.requirement("WIRE-1")
def test_key_without_a_policy_is_not_found(lab):
    lab.publish("plain.example", mode=None)
    assert lab.mta.query("plain.example") == (1, "", "")


@pytest.mark.requirement("WIRE-1", "ANSWER-1")
def test_key_with_a_policy_is_found(lab):
    lab.publish("found.example", mx=["mx.found.example", "*.found.example"])
    assert lab.mta.query("found.example") == (
        0,
        "secure match=mx.found.example:.found.example servername=hostname\n",
        "",
    )


@pytest.mark.requirement("WIRE-14")
def test_stopped_daemon_is_no_answer(lab):
    lab.daemon.stop()
    status, output, error = lab.mta.query("anything.example")
    assert (status, output) == (1, "")
    assert "Connection refused" in error
