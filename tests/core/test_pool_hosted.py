"""The pool before hosted servers, which have limits of their own and say so."""

from __future__ import annotations

import pytest
from pool_machine import Machine, calls, refused, send

from alto.core.calls import Usage
from alto.core.pool_events import Allowed, Refuse, Send, Woke
from alto.core.rate import rate_of
from alto.errors import DeadlineExceeded, EngineError

# ---- servers that want to be left alone


def test_nobody_waits_for_servers_that_want_to_be_left_alone_for_too_long() -> None:
    pool = Machine(2, limits={"sequences_start": 1, "sequences_max": 1})
    pool.submit(1)
    pool.submit(2)
    pool.submit(3, stage="verify")
    assert pool.broke(1, 0, 1.0, status=429, retry_after=3600.0, message="quota used up") == []
    refusals = pool.broke(2, 1, 2.0, status=429, retry_after=121.0, message="come back later")
    assert sorted(action.call for action in refusals if isinstance(action, Refuse)) == [1, 2, 3]
    (error,) = (one.error for one in refusals if isinstance(one, Refuse) and one.call == 3)
    assert isinstance(error, EngineError)
    assert (error.status, error.retryable) == (429, True)
    assert error.retry_after == pytest.approx(121.0)
    for word in ("verify", "r0", "3600 s", "quota used up", "come back", "busy_wait_max_s", "120"):
        assert word in str(error)
    later = refused(pool.submit(4, 2.5))
    assert isinstance(later, EngineError)
    assert later.retry_after == pytest.approx(120.5)
    assert pool.submit(5, 10.0) == []
    assert pool.wake() == (pytest.approx(123.0), [send(5, 1)])


@pytest.mark.parametrize("free", [True, False])
def test_a_server_that_is_merely_full_is_waited_for(free: bool) -> None:
    pool = Machine(2, limits={"sequences_start": 1, "sequences_max": 1})
    pool.submit(1)
    pool.submit(2)
    if free:
        pool.ended(2, 1, 0.5)
    sent = pool.broke(1, 0, 1.0, status=429, retry_after=3600.0)
    assert sent == ([send(1, 1)] if free else [])
    if not free:
        assert pool.ended(2, 1, 500.0) == [send(1, 1)]


def test_who_has_been_turned_away_for_too_long_gives_up() -> None:
    pool = Machine(1, limits={"busy_wait_max_s": 10.0})
    pool.submit(1)
    at = 0.0
    for _ in range(2):
        assert pool.broke(1, 0, at, status=429, retry_after=4.0) == []
        at, actions = pool.wake()
        assert actions == [send(1, 0)]
    error = refused(pool.broke(1, 0, at, status=429, retry_after=4.0))
    assert at == pytest.approx(8.0)
    assert "busy_wait_max_s" in str(error)


def test_a_server_that_asks_for_hours_is_asked_again_after_a_while() -> None:
    pool = Machine(1, limits={"busy_wait_max_s": 1000.0, "hold_max_s": 300.0})
    pool.submit(1)
    assert pool.broke(1, 0, 0.0, status=429, retry_after=36000.0) == []
    assert pool.wake() == (pytest.approx(300.0), [send(1, 0)])


# ---- limits per minute


def test_a_call_that_would_exceed_the_limit_waits_in_the_usual_order() -> None:
    pool = Machine(2, rate=rate_of(2, None))
    assert calls(pool.submit(1, 0.0, request="old") + pool.submit(2, 10.0)) == [1, 2]
    assert pool.submit(3, 11.0, request="young") == []
    assert pool.submit(4, 12.0, request="old") == []
    assert pool.core.wake_at() == pytest.approx(60.0)
    assert calls(pool.wake()[1]) == [4]
    at, actions = pool.wake()
    assert (at, calls(actions)) == (pytest.approx(70.0), [3])
    assert pool.core.wake_at() is None


def test_a_deadline_that_passes_meanwhile_ends_the_call_and_says_why() -> None:
    pool = Machine(1, rate=rate_of(1, None))
    pool.submit(1)
    pool.submit(2, 1.0, deadline=20.0)
    at, actions = pool.wake()
    assert at == pytest.approx(20.0)
    error = refused(actions)
    assert isinstance(error, DeadlineExceeded)
    assert "1 of 1 requests of a minute used" in str(error)


def test_tokens_are_reserved_by_what_may_be_written_and_corrected_by_usage() -> None:
    pool = Machine(1, rate=rate_of(None, 1000))
    assert calls(pool.submit(1, max_tokens=500)) == [1]  # 100 of prompt, as far as is known
    assert pool.submit(2, 1.0, max_tokens=500) == []
    pool.began(1, 0, 2.0)
    assert calls(pool.ended(1, 0, 3.0, Usage(100, 200, calls=1))) == [2]
    assert pool.submit(3, 4.0, max_tokens=500) == []
    pool.began(2, 0, 5.0)
    assert pool.ended(2, 0, 6.0, Usage(100, 500, calls=1)) == []
    assert pool.wake() == (pytest.approx(63.0), [send(3, 0)])


def test_without_max_tokens_what_its_stage_usually_writes_is_reserved() -> None:
    pool = Machine(1, rate=rate_of(None, 1000))
    for call in range(1, 5):  # 128 tokens each before anything is known
        pool.submit(call, stage="verify")
    assert pool.core.waiting == 0
    assert pool.submit(5, stage="verify") == []


def test_a_call_larger_than_the_limit_is_sent_when_nothing_else_is_there() -> None:
    pool = Machine(1, rate=rate_of(None, 1000))
    pool.submit(1)
    assert pool.submit(2, 1.0, max_tokens=5000) == []
    assert pool.wake() == (pytest.approx(60.0), [send(2, 0)])


def test_a_try_that_failed_before_it_began_costs_a_request_but_no_tokens() -> None:
    pool = Machine(2, rate=rate_of(3, 1000))
    (first,) = pool.submit(1, max_tokens=800)
    assert isinstance(first, Send)
    assert pool.broke(1, first.replica, 1.0) == [send(1, 1 - first.replica)]
    assert pool.submit(2, 2.0, max_tokens=1) == []
    assert pool.core._rate is not None
    assert "2 of 3 requests of a minute used and 900 of 1000" in pool.core._rate.describe(2.0)


def test_a_hedge_does_not_exceed_the_limit() -> None:
    for limit, raced in ((1, []), (2, [1])):
        pool = Machine(2, rate=rate_of(limit, None), hedge_s=1.0)
        pool.submit(1)
        assert calls(pool.tell(Woke(), 1.0)) == raced


def test_a_server_that_says_that_little_is_left_is_believed() -> None:
    pool = Machine(1, rate=rate_of(100, None))
    pool.submit(1)
    pool.tell(Allowed(requests=(0, 12.0)), 1.0)
    assert pool.submit(2, 2.0) == []
    assert pool.wake() == (pytest.approx(13.0), [send(2, 0)])
