"""The goodput benchmark: what it counts, and when it is content."""

from __future__ import annotations

import pytest
from benchmarks.goodput import Case, Outcome
from benchmarks.report import Report

from benchmarks import goodput


def test_one_run_counts_every_request_once() -> None:
    found = goodput.run(Case("factool", 0.5, shed=True), seed=1, duration=10.0, warmup=4.0)
    assert found.came == found.good + found.refused + found.given_up + found.late > 10
    assert found.goodput == pytest.approx(found.good / 6.0)
    assert found.refused == 0


@pytest.mark.parametrize(("at_twice", "met"), [(7.9, False), (8.1, True)])
def test_the_target_is_held_against_the_peak_at_any_load(at_twice: float, met: bool) -> None:
    per_second = {(1.0, False): 10.0, (1.0, True): 9.0, (2.0, False): 0.0, (2.0, True): at_twice}
    found = {
        Case("factool", load, shed): [Outcome(rate, 100, 50, 30, 10, 10)]
        for (load, shed), rate in per_second.items()
    }
    report = Report("goodput", "")
    goodput.add_rows(report, "factool", "Poisson", found)
    assert [target.met for target in report.targets] == [met]
    assert [row[-1] for row in report.rows] == ["71% in time"] * 2
