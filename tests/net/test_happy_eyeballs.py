"""Happy Eyeballs: which address is tried, and when (RFC 8305). The clock is set by hand."""

from __future__ import annotations

import math

import pytest

from stsresolver.net.happy_eyeballs import MAX_ADDRESSES, MAX_ATTEMPTS, HappyEyeballs

# What happens, with its second: a family is looked up, or an attempt fails (None). And what is
# tried, with its second.
RACES = [
    pytest.param(
        {0.0: ("AAAA", "6"), 0.01: ("A", "4")},
        {0.0: "6", 0.25: "4"},
        id="the preferred family comes first: it begins, the other follows",
    ),
    pytest.param(
        {0.0: ("A", "4"), 0.02: ("AAAA", "6")},
        {0.02: "6", 0.27: "4"},
        id="the other comes first: it waits for the preferred one",
    ),
    pytest.param(
        {0.0: ("A", "4"), 1.0: ("AAAA", "6")},
        {0.05: "4", 1.0: "6"},
        id="for 50 ms and no longer",
    ),
    pytest.param(
        {0.0: ("A", "4"), 0.02: ("AAAA",)},
        {0.02: "4"},
        id="no address of the preferred family: the other begins at once",
    ),
    pytest.param(
        {0.0: ("AAAA",), 0.3: ("A", "4")},
        {0.3: "4"},
        id="no address of the preferred family, which is known first",
    ),
    pytest.param({0.0: ("AAAA", "6"), 9.0: ("A",)}, {0.0: "6"}, id="no address of the other"),
    pytest.param(
        {0.0: ("AAAA", "6", "6b"), 0.1: ("A", "4", "4b")},
        {0.0: "6", 0.25: "4", 0.5: "6b", 0.75: "4b"},
        id="the families take turns",
    ),
    pytest.param(
        {0.0: ("AAAA", "6", "6b", "6c"), 0.4: ("A", "4")},
        {0.0: "6", 0.25: "6b", 0.5: "4", 0.75: "6c"},
        id="one that is found later takes its turn",
    ),
    pytest.param(
        {0.0: ("AAAA", "6"), 0.01: ("A", "4", "4b"), 0.02: None, 0.1: None},
        {0.0: "6", 0.02: "4", 0.1: "4b"},
        id="an attempt that fails makes room for the next at once",
    ),
    pytest.param(
        {0.0: ("AAAA", "6"), 0.1: None, 0.7: ("A", "4")},
        {0.0: "6", 0.7: "4"},
        id="one that is found when all have failed begins at once",
    ),
]


@pytest.mark.requirement("HTTPS-18")
@pytest.mark.parametrize(("happens", "tried"), RACES)
def test_what_is_tried_when(happens, tried):
    race = HappyEyeballs("AAAA", "A")
    seen = {}
    for hundredth in range(1001):
        now = hundredth / 100
        match happens.get(now, ()):
            case None:
                race.failed(now)
            case (family, *addresses):
                race.found(family, addresses, now)
        while (address := race.next(now)) is not None:
            assert now not in seen, "two at once"
            seen[now] = address
    assert seen == tried
    assert race.wakes() == math.inf, "nothing is left to try"


def test_it_wakes_when_the_next_is_due():
    race = HappyEyeballs("AAAA", "A")
    assert race.wakes() == math.inf
    race.found("A", ["4"], 5.0)
    assert race.wakes() == 5.05
    race.found("AAAA", ["6"], 5.01)
    assert race.wakes() == 5.01
    assert race.next(5.01) == "6"
    assert race.wakes() == 5.26
    assert race.next(5.26) == "4"
    assert race.wakes() == math.inf


@pytest.mark.requirement("HTTPS-18")
def test_many_addresses_are_tried_in_part():
    race = HappyEyeballs("AAAA", "A")
    race.found("AAAA", [f"6{n}" for n in range(100)], 0.0)
    race.found("A", [f"4{n}" for n in range(100)], 0.0)
    tried = []
    while not race.over:
        if (address := race.next(0.0)) is None:
            race.failed(0.0)
        else:
            tried.append(address)
    assert sorted(tried) == sorted(f"{family}{n}" for n in range(MAX_ADDRESSES) for family in "46")


@pytest.mark.requirement("HTTPS-18")
def test_so_many_attempts_are_under_way_at_once():
    race = HappyEyeballs("AAAA", "A")
    race.found("AAAA", [f"6{n}" for n in range(MAX_ADDRESSES)], 0.0)
    race.found("A", [f"4{n}" for n in range(MAX_ADDRESSES)], 0.0)
    for n in range(MAX_ATTEMPTS):
        assert race.next(float(n)) is not None
    assert race.next(100.0) is None
    assert race.wakes() == math.inf
    race.failed(100.0)
    assert race.next(100.0) is not None


@pytest.mark.parametrize(
    ("happens", "over"),
    [
        pytest.param([("AAAA",), ("A",)], True, id="no address of either family"),
        pytest.param([("AAAA",)], False, id="the other family is not known yet"),
        pytest.param([("AAAA",), ("A", "4")], False, id="an address is to be tried"),
        pytest.param([("AAAA",), ("A", "4"), "next"], False, id="an attempt is under way"),
        pytest.param([("AAAA",), ("A", "4"), "next", "failed"], True, id="it has failed"),
        pytest.param([("A", "4"), "next", "failed"], False, id="the other one may have more"),
    ],
)
def test_when_it_is_over(happens, over):
    race = HappyEyeballs("AAAA", "A")
    now = 0.0
    for one in happens:
        now += 1.0
        match one:
            case "next":
                assert race.next(now) is not None
            case "failed":
                race.failed(now)
            case (family, *addresses):
                race.found(family, addresses, now)
    assert race.over is over
