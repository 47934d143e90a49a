"""Which faults last, and what the log says of them."""

from __future__ import annotations

import logging

import pytest

from stsresolver.mta_sts.results import Cause, Failure
from stsresolver.policies.faults import HOUR, Fault
from stsresolver.policies.outages import Outages
from tests.policies.test_in_force import NO_RECORD
from tests.support.policies import policy

LOST = Failure(Cause.PROCESS, "it did not answer in time")


@pytest.fixture
def outages():
    return Outages()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "stsresolver")

    def lines():
        found = [(one.levelname, one.getMessage()) for one in caplog.records]
        caplog.clear()
        return found

    return lines


def test_it_lasts_from_the_first_failure_to_the_first_success(outages, said):
    outages.looked_up(LOST, 100.0)
    outages.looked_up(LOST, 200.0)
    assert outages.lasting(200.0) == {Fault.PROCESS: 100.0}
    ((level, line),) = said()
    assert level == "ERROR"
    assert "the resolver process failed" in line
    assert "it did not answer in time" in line
    outages.looked_up(NO_RECORD, 300.0)
    assert outages.lasting(300.0) == {}
    assert said() == [("INFO", "over after 200 s: the resolver process failed")]
    outages.looked_up(LOST, 400.0)
    assert outages.lasting(400.0) == {Fault.PROCESS: 400.0}


def test_a_success_without_a_failure_says_nothing(outages, said):
    outages.looked_up(NO_RECORD, 100.0)
    outages.end(Fault.STORE, 100.0)
    assert said() == []


def test_that_mail_no_longer_waits_is_told_once_for_each_outage(outages, said):
    for start in (0.0, 10 * HOUR):
        outages.begin(Fault.STORE, start)
        outages.lasting(start + HOUR - 1)
        assert said() == [], "the store's own line says that it fails"
        for _ in range(3):
            outages.lasting(start + HOUR)
        ((level, line),) = said()
        assert level == "ERROR"
        assert line.startswith("the policy cache cannot be read for too long")
        outages.end(Fault.STORE, start + 2 * HOUR)
        assert len(said()) == 1


def test_while_the_process_fails_mail_waits_without_end(outages, said):
    outages.looked_up(LOST, 0.0)
    said()
    outages.lasting(1000 * HOUR)
    assert said() == []


def test_one_that_comes_and_goes_gets_five_errors_an_hour(outages, said):
    for number in range(50):
        outages.looked_up(LOST, float(number))
        outages.looked_up(NO_RECORD, number + 0.5)
    assert [level for level, _ in said()].count("ERROR") == 5
    outages.looked_up(LOST, HOUR + 1)
    assert [level for level, _ in said()] == ["ERROR"]


def test_a_proxy_that_fails_is_an_error_and_no_mail_waits(outages, said):
    outages.looked_up(Failure(Cause.PROXY, "192.0.2.1:3128: no connection"), 100.0)
    outages.lasting(100.0 + HOUR)
    ((level, line),) = said()
    assert level == "ERROR"
    assert line.startswith("the proxy fails, so domains whose policy is not known count as having")
    assert "192.0.2.1:3128" in line
    outages.looked_up(policy(), 200.0)
    assert said() == [("INFO", "over after 100 s: the proxy fails")]
