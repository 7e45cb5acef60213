"""The pool before hosted servers, which have limits of their own and say so."""

from __future__ import annotations

import pytest
from pool_machine import Machine, refused, send

from alto.core.pool_events import Refuse
from alto.errors import EngineError

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
