"""Questions under way: packets, time limits, and what is asked once more."""

import json

import pytest

from stsresolver.lookup import questions
from stsresolver.lookup.questions import Questions, Wanted

NOW = 1000.0


@pytest.fixture
def several():
    return Questions(tries=2)


def add(several, number, seconds=10.0, now=NOW):
    for _ in range(number):
        several.add(Wanted("policy id", "example.com", 4.0, (), print), seconds, now)


def send(several, now=NOW):
    """Send what is unsent; return the numbers in each packet."""
    packets = []
    while several.unsent:
        packet, batch = several.packet()
        packets.append([json.loads(message)[0] for message in packet.split(b"\n")])
        several.sent(batch, now)
    return packets


def test_questions_go_out_in_one_packet(several):
    add(several, 3)
    assert send(several) == [[1, 2, 3]]
    assert len(several) == 3


@pytest.mark.parametrize(
    ("under_way", "enough", "why"),
    [
        (0, 4, "fewer can wait for others"),
        (15, 4, "a quarter"),
        (20, 6, "a quarter, those to be sent included"),
        (200, 8, "it begins with these"),
    ],
)
def test_a_packet_is_full_by_what_the_process_has_to_do(several, under_way, enough, why):
    add(several, under_way)
    send(several)
    add(several, enough - 1)
    assert not several.fill_a_packet
    add(several, 1)
    assert several.fill_a_packet, why


def test_a_packet_is_bounded(several, monkeypatch):
    monkeypatch.setattr(questions, "_BATCH", 2)
    add(several, 5)
    assert send(several) == [[1, 2], [3, 4], [5]]
    monkeypatch.setattr(questions, "MAX_MESSAGE", 1)
    add(several, 2)
    assert send(several) == [[6], [7]], "one message goes alone, however long"


def test_an_answer_is_for_one_question_once(several):
    add(several, 2)
    send(several)
    assert several.answered(2).number == 2
    assert several.answered(2) is None
    assert several.answered(99) is None
    assert len(several) == 1


def test_an_answer_to_what_was_not_sent_takes_it_from_the_packet(several):
    add(several, 2)
    several.answered(1)
    assert send(several) == [[2]]


def test_what_is_overdue(several):
    add(several, 1, seconds=5.0)
    add(several, 1, seconds=2.0)
    send(several)
    assert several.next_end() == NOW + 2.0
    assert several.overdue(NOW + 1.9) == []
    assert [one.number for one in several.overdue(NOW + 2.0)] == [2]
    several.answered(1)
    assert several.overdue(NOW + 5.0) == []
    assert len(several) == 0


def test_the_time_of_what_had_to_wait_begins_when_it_is_sent(several):
    add(several, 2)
    several.answered(2)
    send(several, NOW + 9.0)
    assert several.overdue(NOW + 18.9) == []
    assert [one.number for one in several.overdue(NOW + 19.0)] == [1]


def test_what_was_lost_is_asked_once_more_with_its_whole_time(several):
    add(several, 2)
    send(several)
    assert several.lost(NOW + 9.0) == ({"example.com"}, [])
    assert several.overdue(NOW + 18.0) == [], "its time begins anew"
    assert send(several, NOW + 9.0) == [[1, 2]]
    under_way, over = several.lost(NOW + 18.0)
    assert under_way == {"example.com"}
    assert [one.number for one in over] == [1, 2], "and no third time"
    assert len(several) == 0


def test_what_was_never_sent_loses_no_try(several):
    add(several, 1)
    for _ in range(5):
        assert several.lost(NOW) == (set(), [])
    assert send(several) == [[1]]


def test_what_was_not_sent_can_be_taken_away(several):
    add(several, 1)
    send(several)
    add(several, 2)
    assert [one.number for one in several.take_unsent()] == [2, 3]
    assert send(several) == []
    assert len(several) == 1


def test_what_waits_for_a_process_for_too_long(several):
    add(several, 1)
    add(several, 1, now=NOW + 1.0)
    assert [one.number for one in several.older(NOW)] == [1]
    assert send(several) == [[2]]
