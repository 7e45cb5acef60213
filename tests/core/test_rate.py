"""Limits per minute: what fits when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alto.core.pool_events import Allowed
from alto.core.rate import GRAIN_S, WINDOW_S, Rate, Window, part_of, rate_of
from alto.errors import ConfigError

A_TABLE = [
    # charged (at, amount) before | asked (at, amount) | fits at
    ([], (0.0, 10), 0.0),
    ([(0.0, 9)], (1.0, 1), 1.0),
    ([(0.0, 10)], (1.0, 1), 60.0),
    ([(0.0, 5), (10.0, 5)], (20.0, 1), 60.0),
    ([(0.0, 5), (10.0, 5)], (20.0, 6), 70.0),
    ([(0.0, 5), (10.0, 5)], (60.0, 5), 60.0),
    ([(0.0, 1), (0.4, 9)], (1.0, 1), 60.4),  # charges of one moment leave together
    ([(0.0, 1)], (1.0, 25), 60.0),  # larger than the limit: when nothing else is there
    ([(0.0, 25)], (1.0, 1), 150.0),  # and counted for as long as it is worth
]


@pytest.mark.parametrize(("before", "asked", "at"), A_TABLE)
def test_what_fits_when(
    before: list[tuple[float, int]], asked: tuple[float, int], at: float
) -> None:
    window = Window(10)
    for time, amount in before:
        window.charge(amount, time)
    now, amount = asked
    assert window.fits_at(amount, now) == pytest.approx(at)


calls = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 40), st.integers(0, 40)), max_size=30)


@given(calls)
def test_no_minute_has_more_than_the_limit_and_every_call_gets_its_turn(
    given_calls: list[tuple[float, int, int]],
) -> None:
    limit, now = 20, 0.0
    window = Window(limit)
    sent: list[tuple[float, int]] = []
    for pause, amount, used in given_calls:
        now += pause
        for _ in range(200):
            at = window.fits_at(amount, now)
            if at <= now:
                break
            now = at
        else:
            pytest.fail("never its turn")
        before = sum(many for when, many in sent if when + WINDOW_S > now)
        assert before + min(amount, limit) <= limit
        charge = window.charge(amount, now)
        if used < amount:
            window.correct(charge, used - amount, now)
        sent.append((now, min(amount, used)))
    assert window.used(now + 3 * WINDOW_S) == 0


def test_what_was_not_used_is_given_back_and_what_was_used_beyond_counts_from_then() -> None:
    window = Window(100)
    charge = window.charge(90, 0.0)
    window.correct(charge, -50, 5.0)
    assert window.used(5.0) == 40
    window.correct(charge, 10, 30.0)
    assert window.used(59.0) == 50
    assert window.used(60.0) == 10
    window.correct(charge, -40, 61.0)  # it has left the window: there is nothing to give back
    assert window.used(61.0) == 10
    assert window.used(90.0) == 0


def test_a_large_reservation_that_was_hardly_used_does_not_block_for_long() -> None:
    window = Window(100)
    charge = window.charge(400, 0.0)
    assert window.fits_at(10, 1.0) == 240.0
    window.correct(charge, -370, 2.0)
    assert window.fits_at(10, 2.0) == 2.0
    assert window.fits_at(400, 2.0) == 60.0


def test_what_the_server_says_lowers_what_is_left_and_never_raises_it() -> None:
    window = Window(100)
    window.charge(10, 0.0)
    window.told(1000, 1.0, 1.0)
    assert window.used(1.0) == 10
    window.told(20, 7.0, 1.0)
    assert window.used(1.0) == 80
    assert window.fits_at(30, 1.0) == 8.0
    window.told(50, 7.0, 2.0)  # the latest word stands
    assert window.used(2.0) == 50
    window.told(0, 1e9, 3.0)  # nonsense: nobody waits for longer than a window
    assert window.fits_at(1, 3.0) == 60.0
    assert window.fits_at(95, 3.0) == 63.0
    assert window.used(63.0) == 0


def test_memory_is_constant() -> None:
    window = Window(10**9)
    for n in range(100_000):
        window.charge(1, n / 1000)
    assert len(window._charges) <= WINDOW_S / GRAIN_S + 2


def test_both_limits_hold() -> None:
    rate = rate_of(2, 1000)
    assert isinstance(rate, Rate)
    assert rate.fits_at(600.5, 0.0) == 0.0
    reserved = rate.reserve(600.5, 0.0)
    assert rate.fits_at(500, 10.0) == 60.0
    rate.settle(reserved, 100, 10.0)
    assert rate.fits_at(500, 10.0) == 10.0
    rate.reserve(500, 10.0)
    assert rate.fits_at(1, 20.0) == 60.0
    assert "2 of 2 requests" in rate.describe(20.0)
    assert "600 of 1000 tokens" in rate.describe(20.0)
    rate.told(Allowed(tokens=(0, 30.0)), 61.0)
    assert rate.fits_at(400, 61.0) == 70.0
    assert rate.fits_at(600, 61.0) == 91.0
    assert rate_of(None, None) is None


@pytest.mark.parametrize(("limit", "parts"), [(8, [2, 2, 2, 2]), (7, [2, 2, 2, 1]), (None, [None])])
def test_a_shared_limit_is_dealt_out(limit: int | None, parts: list[int | None]) -> None:
    assert [part_of(limit, place, len(parts)) for place in range(len(parts))] == parts


def test_a_limit_too_small_to_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="a limit of 3 per minute cannot be shared by 4"):
        part_of(3, 0, 4)
