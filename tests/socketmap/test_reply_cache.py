"""Ready replies: said again in time, dropped when their domain changes, bounded."""

import math

import pytest

from stsresolver.socketmap.reply_cache import MAX_REQUEST, Reply, ReplyCache


def said(cache, request, now):
    reply = cache.find(request, now)
    return reply.data if reply else None


@pytest.mark.requirement("LIB-8")
def test_said_again_until_its_time():
    ready = ReplyCache()
    ready.put(b"1:a,", Reply(b"reply", 10.0, "example.com"))
    assert said(ready, b"1:a,", 9.9) == b"reply"
    assert said(ready, b"1:a,", 10.0) is None
    assert said(ready, b"1:b,", 0.0) is None


def test_the_last_reply_counts():
    ready = ReplyCache()
    ready.put(b"1:a,", Reply(b"old", 10.0, "example.com"))
    ready.put(b"1:a,", Reply(b"new", 20.0, "example.com"))
    assert said(ready, b"1:a,", 15.0) == b"new"
    ready.forget("example.com")
    assert said(ready, b"1:a,", 15.0) is None


def test_forget_drops_every_spelling_of_a_domain_and_no_other():
    ready = ReplyCache(max_replies=2)
    spellings = [b"1:a,", b"1:A,", b"2:a.,"]
    for spelling in spellings:
        ready.put(spelling, Reply(b"reply", math.inf, "example.com"))
    ready.put(b"1:b,", Reply(b"other", math.inf, "example.net"))
    ready.forget("example.com")
    assert [said(ready, spelling, 0.0) for spelling in spellings] == [None] * 3
    assert said(ready, b"1:b,", 0.0) == b"other"


def test_forget_after_a_reply_moved_to_the_newer_table():
    ready = ReplyCache(max_replies=1)
    ready.put(b"1:a,", Reply(b"reply", math.inf, "example.com"))
    ready.put(b"1:b,", Reply(b"other", math.inf, "example.net"))
    assert said(ready, b"1:a,", 0.0) == b"reply"
    ready.forget("example.com")
    assert said(ready, b"1:a,", 0.0) is None


def test_bounded_in_number_and_what_is_in_use_stays():
    ready = ReplyCache(max_replies=100)
    ready.put(b"used", Reply(b"reply", math.inf))
    for number in range(10_000):
        ready.put(b"%d" % number, Reply(b"reply", math.inf, f"{number}.example"))
        assert said(ready, b"used", 0.0) == b"reply"
        assert len(ready) <= 200
    assert said(ready, b"9999", 0.0) == b"reply"
    assert said(ready, b"0", 0.0) is None


def test_bounded_in_bytes():
    ready = ReplyCache(max_bytes=10_000)
    for number in range(100):
        ready.put(b"%d" % number, Reply(b"x" * 1000, math.inf))
    assert len(ready) <= 22


def test_what_was_replaced_or_forgotten_takes_no_room():
    ready = ReplyCache(max_bytes=1000)
    ready.put(b"used once", Reply(b"reply", math.inf))
    for _ in range(100):
        ready.put(b"1:a,", Reply(b"x" * 100, math.inf, "example.com"))
        ready.put(b"1:b,", Reply(b"x" * 100, math.inf, "example.net"))
        ready.forget("example.net")
    assert said(ready, b"used once", 0.0) == b"reply"


def test_long_requests_stay_out():
    ready = ReplyCache()
    ready.put(b"x" * MAX_REQUEST, Reply(b"reply", math.inf))
    ready.put(b"y" * (MAX_REQUEST + 1), Reply(b"reply", math.inf))
    assert len(ready) == 1


def test_clear():
    ready = ReplyCache(max_replies=1)
    for request in (b"1:a,", b"1:b,"):
        ready.put(request, Reply(b"reply", math.inf, "example.com"))
    ready.clear()
    assert len(ready) == 0
