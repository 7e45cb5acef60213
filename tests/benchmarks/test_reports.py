"""Reports: a target not measured is a miss, and ratios are taken within a repeat."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from benchmarks.measure import difference, ratio
from benchmarks.report import Report, Spread, Target, table
from benchmarks.requests import percentile


def test_a_target_is_met_at_its_limit_and_missed_beyond() -> None:
    assert Target("cost", 8.0, 8.0).met
    assert not Target("cost", 8.1, 8.0).met
    assert Target("gain", 1.5, 1.5, "at least").met
    assert not Target("gain", 1.4, 1.5, "at least").met


def test_a_target_that_was_not_measured_is_a_miss_that_says_so() -> None:
    assert Target("cost", math.nan, 8.0).row() == ("MISS", "cost", "not measured", "at most 8")


def test_ratios_are_taken_within_a_repeat() -> None:
    # The machine was three times slower in the second repeat; neither contender was.
    values = {"handwritten": [1.0, 3.0], "alto": [4.0, 12.0, 5.0]}
    assert ratio(values, "alto") == 4.0
    assert difference({"handwritten": [1.0], "alto": [3.5]}, "alto") == 2.5
    assert math.isnan(ratio({"handwritten": [], "alto": [1.0]}, "alto"))


def test_a_spread_shows_its_range_only_where_there_is_one() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0-3.0)"
    assert Spread.of([2.0]).text() == "2.00"
    with pytest.raises(ValueError, match="no measurements"):
        Spread.of([])


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([float(k) for k in range(1, 201)], 99) == 198.0
    assert percentile([5.0], 50) == 5.0


def test_a_table_is_aligned() -> None:
    text = table(("who", "us"), [("a", "1.5"), ("long", "10.5")])
    assert text.splitlines() == ["who     us", "----  ----", "a      1.5", "long  10.5"]


def test_a_saved_report_is_plain_json(tmp_path: Path) -> None:
    report = Report("name", "Title", targets=[Target("cost", math.nan, 8.0)], raw={"a": [1]})
    saved = json.loads(report.save(tmp_path).read_text())
    assert saved["targets"][0]["measured"] is None
    assert saved["targets"][0]["met"] is False
    assert saved["raw"] == {"a": [1]}
