"""How long a request takes at a load, learned from what was seen."""

from __future__ import annotations

from random import Random

import pytest

from alto.core.forecast import HALF_LIFE_S, RANGES, Forecast, Low


def learned(*seen: tuple[float, float], times: int = 30, now: float = 0.0) -> Forecast:
    forecast = Forecast()
    for load, seconds in seen:
        for _ in range(times):
            forecast.observe(load, seconds, True, now)
    return forecast


def expected(forecast: Forecast, *loads: float, now: float = 0.0) -> list[float]:
    found = [forecast.expected(load, now) for load in loads]
    return [round(-1.0 if seconds is None else seconds, 2) for seconds in found]


def test_nothing_seen_nothing_expected() -> None:
    assert Forecast().expected(1.0, 0.0) is None


def test_between_known_loads_the_line_is_straight() -> None:
    forecast = learned((2.0, 1.0), (10.0, 3.0))
    low, middle, high = expected(forecast, 2.0, 6.0, 10.0)
    assert middle == pytest.approx((low + high) / 2, abs=0.01)
    assert high == pytest.approx(3 * low, rel=0.02)


def test_one_known_load_says_nothing_of_others() -> None:
    forecast = learned((10.0, 2.0))
    assert expected(forecast, 1.0, 10.0, 1000.0) == [round(2.0 * 0.887, 2)] * 3
    assert forecast.lowest() == pytest.approx((10.0, 2.0 * 0.887), abs=0.01)


def test_above_the_known_the_line_goes_on_less_steeply() -> None:
    forecast = learned((2.0, 1.0), (20.0, 10.0))
    at, above = expected(forecast, 20.0, 40.0)
    slope = (at - expected(forecast, 2.0)[0]) / 18
    assert at < above < at + 20 * slope


def test_means_that_fall_are_pooled() -> None:
    forecast = learned((2.0, 1.0), (10.0, 5.0), (20.0, 4.0), (40.0, 8.0))
    line = expected(forecast, 2, 5, 10, 15, 20, 30, 40)
    assert line == sorted(line)


def test_who_was_cut_off_would_have_taken_longer() -> None:
    random = Random(1)
    forecast = Forecast()
    for _ in range(400):
        seconds = random.weibullvariate(6.0, 3.0)  # a mean of 5.36 s
        forecast.observe(8.0, min(seconds, 4.0), seconds <= 4.0, 0.0)
    assert forecast.expected(8.0, 0.0) == pytest.approx(5.36, rel=0.2)


def test_old_knowledge_fades_but_for_that_of_the_lowest_load() -> None:
    forecast = learned((1.0, 1.0), (30.0, 30.0))
    later = 10 * HALF_LIFE_S
    low, high = expected(forecast, 1.0, 30.0, now=later)
    assert high == low == pytest.approx(0.887, abs=0.01)


def test_a_first_short_request_at_a_low_load_does_not_count_yet() -> None:
    forecast = learned((60.0, 6.0))
    forecast.observe(30.0, 1.0, True, 0.0)
    assert expected(forecast, 30.0) == expected(forecast, 60.0)
    for _ in range(5):
        forecast.observe(30.0, 3.0, True, 0.0)
    assert 2.0 < expected(forecast, 30.0)[0] < 3.0


def test_memory_is_bounded() -> None:
    forecast = Forecast()
    for power in range(200):
        forecast.observe(2.0 ** (power / 4), 1.0, True, 0.0)
    assert len(forecast._ranges) <= RANGES


@pytest.mark.parametrize("part", [0.1, 0.25])
def test_a_low_quantile_finds_its_place(part: float) -> None:
    random = Random(1)
    low = Low(part, 1.0)
    found = []
    for number in range(3000):
        low.observe(random.uniform(1.0, 2.0))
        if number > 1000:
            found.append(low.value)
    assert sum(found) / len(found) == pytest.approx(1.0 + part, abs=0.05)


def test_a_low_quantile_comes_back_from_nought() -> None:
    low = Low(0.25, 0.0)
    for _ in range(1000):
        low.observe(1.0)
    assert low.value > 0.9
