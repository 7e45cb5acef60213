"""What several orchestrators lose: the search for a load, and one short run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.orchestrators import CASES, Case, Point, load_at

from benchmarks import orchestrators

TEMPLATES = CASES[-1]


def test_the_load_is_found_between_two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of 1 / (10 - rate) is a straight line when turned over: L of 0.5 s is at 8."""

    def run(case: Case, rate: float, count: int, exchange_s: float | None) -> Point:
        return Point(rate, 1 / (10 - rate), 0.0)

    monkeypatch.setattr(orchestrators, "run", run)
    case = replace(TEMPLATES, latency_s=0.5, rates=(2.0, 9.0))
    found = load_at(case, 4, "none", points=4)
    assert found.load == pytest.approx(8.0)
    assert len(found.points) == 3
    assert load_at(replace(case, rates=(2.0, 5.0)), 4, "none", points=4).load == 5.0
    assert load_at(replace(case, rates=(9.0, 9.5)), 4, "none", points=4).load == 9.0


def test_a_run_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrators, "DURATION_S", 3.0)
    monkeypatch.setattr(orchestrators, "WARMUP_S", 1.0)
    first, second = (orchestrators.run(TEMPLATES, 10.0, 2, 0.1) for _ in range(2))
    assert first == second
    assert first.mean_s > 0.2


@pytest.mark.parametrize("seed", [1, 2])
def test_four_know_as_well_as_one_what_the_replicas_caches_keep(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Prompts that are sent astray push out others, which then go astray too. With each pool for
    itself that took the half of 60 requests a second: they took 2 to 3 s instead of 0.47."""
    monkeypatch.setattr(orchestrators, "SEED", seed)
    monkeypatch.setattr(orchestrators, "DURATION_S", 14.0)
    four = orchestrators.run(TEMPLATES, 60.0, 4, 0.1)
    assert four.mean_s < 0.5
    assert four.hit_rate > 0.8


def test_a_leap_of_the_latency_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat up to 43 requests a second, and far beyond L from there on: a line alone would creep."""

    def run(case: Case, rate: float, count: int, exchange_s: float | None) -> Point:
        return Point(rate, 0.4 if rate < 43.0 else 9.0, 0.0)

    monkeypatch.setattr(orchestrators, "run", run)
    case = replace(TEMPLATES, latency_s=0.5, rates=(20.0, 80.0))
    assert load_at(case, 4, "none", points=8).load == pytest.approx(43.0, abs=4.0)
