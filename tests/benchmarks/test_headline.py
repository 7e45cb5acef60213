"""The headline experiment: the same numbers for the same seed, requests as recorded, a whole table.

What the numbers are is for `make headline` to say; here only that they can be believed.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from benchmarks.headline import experiment, factool, load, splits, texts, wikichat
from benchmarks.headline.contenders import (
    ALTO,
    ENGINE,
    POOLED,
    Contender,
    Span,
    deployed,
    equal_split,
)
from benchmarks.headline.experiment import measure
from benchmarks.headline.full import variants
from benchmarks.headline.load import Point, around, between, recorded, run, search
from benchmarks.headline.plots import draw
from benchmarks.headline.reporting import HEADER, label, report

from alto.engines.tokens import tokenize

SHORT: dict[str, Any] = {"duration": 3.0, "warmup": 0.0}
SHAPES = [factool, wikichat]


def numbers(point: Point) -> dict[str, Any]:
    return {name: value for name, value in asdict(point).items() if name != "cpu_s"}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.NAME)
@pytest.mark.parametrize("contender", [ALTO, POOLED], ids=lambda contender: contender.name)
def test_the_same_seed_gives_the_same_numbers(shape: Any, contender: Contender) -> None:
    points = [run(shape, contender, 1.0, **SHORT, seed=3) for _ in range(2)]
    assert numbers(points[0]) == numbers(points[1])
    assert points[0].requests > 0


def test_another_seed_gives_others() -> None:
    one, other = (run(factool, ALTO, 1.0, **SHORT, seed=seed) for seed in (3, 4))
    assert numbers(one) != numbers(other)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.NAME)
def test_every_contender_does_the_same_work(shape: Any) -> None:
    split = deployed(equal_split(shape.LM_STAGES, 8))
    written = {
        sum(run(shape, each, 1.0, **SHORT).tokens.values()) for each in (ALTO, POOLED, split)
    }
    assert len(written) == 1


@pytest.mark.parametrize("record", texts.records()[::40], ids=lambda record: record.name)
def test_texts_are_as_long_as_recorded(record: texts.Record) -> None:
    assert len(tokenize(record.turn())) == record.question
    by_sentence = sum(max(3, tokens) for tokens in record.sentences)
    assert len(tokenize(record.answer())) == pytest.approx(by_sentence, abs=len(record.sentences))
    for claim in (claim for claims in record.claims for claim in claims):
        verdict = factool.answers()["verify", claim.name]
        assert len(tokenize(verdict)) == pytest.approx(claim.verdict, abs=2)


def test_no_two_texts_of_a_kind_share_a_name() -> None:
    names = [claim.name for each in texts.records() for claims in each.claims for claim in claims]
    assert len(set(names)) == len(names)
    assert len({record.name for record in texts.records()}) == len(texts.records())


def test_wikichat_keeps_its_own_limits() -> None:
    assert 0 < len(wikichat.records()) < len(texts.records())
    for (stage, _), text in wikichat.answers().items():
        if stage in wikichat.MAX and stage not in ("split", "generate"):
            assert len(tokenize(text)) <= wikichat.MAX[stage]


def point(rate: float, mean_s: float) -> Point:
    return Point(rate, 1, mean_s, mean_s, mean_s, mean_s, 1.0, 1.0, {}, 0.0)


def test_the_load_at_a_latency_lies_between_the_runs_around_it() -> None:
    points = [point(1.0, 2.0), point(4.0, 8.0), point(2.0, 3.0)]
    below, above = around(points, 4.0)
    assert below is not None and above is not None
    assert (below.rate, above.rate) == (2.0, 4.0)
    assert 2.0 < between(below, above, 4.0) < 4.0
    assert around(points, 1.0) == (None, points[0])


def test_the_best_split_is_found_by_moving_replicas() -> None:
    work = {"answer": 10.0, "extract": 10.0, "verify": 70.0}
    assert splits.proportional(work, 8) == {"answer": 1, "extract": 1, "verify": 6}
    found, tried = splits.best(
        {"answer": 2, "extract": 2, "verify": 4},
        lambda split: max(work[stage] / count for stage, count in split.items()),
    )
    assert found == {"answer": 1, "extract": 1, "verify": 6}
    assert all(sum(split.values()) == 8 for split, _ in tried)


def test_what_is_over_in_an_equal_split_goes_to_the_first_stages() -> None:
    assert equal_split(("a", "b", "c"), 8) == {"a": 3, "b": 3, "c": 2}


def test_recorded_arrivals_come_at_the_wanted_rate() -> None:
    times = list(recorded("azure_2023_conv", 8.0).times())
    assert len(times) / times[-1] == pytest.approx(8.0, rel=0.01)


def test_further_experiments_have_a_replica_for_every_stage() -> None:
    runs = variants(["factool", "wikichat"], {"seed": 1})
    assert ("factool", 5) in {(shape, engine["replicas"]) for shape, engine, _ in runs}
    assert min(engine["replicas"] for shape, engine, _ in runs if shape == "wikichat") == 7


class Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def served(shape: Any, contender: Contender, rate: float, **_: Any) -> Point:
    """Stands in for a simulation: a mean that rises as in a queue of one server."""
    capacity = 6.0 if contender.split else 12.0 if not contender.streaming else 20.0
    mean_s = 3.0 / (1.0 - min(rate / capacity, 0.99))
    written = dict.fromkeys(contender.split or ("chat",), 100)
    return Point(rate, 100, mean_s, mean_s, 2 * mean_s, mean_s / 2, 1.0, 0.5, written, 0.0)


@pytest.mark.parametrize("shape", ["factool", "wikichat"])
def test_the_table_is_whole(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "run", served)
    monkeypatch.setattr(load, "run", served)
    monkeypatch.setattr(experiment, "timeline", lambda *_, **__: [])
    outcome = measure(shape, Here(), ENGINE, {})
    assert outcome.latency_s == pytest.approx(1.4 * outcome.unloaded["pooled"].mean_s)
    assert {len(curve.points) for curve in outcome.curves.values()} == {6}
    for name, capacity in (("alto", 20.0), ("pooled", 12.0)):
        wanted = capacity * (1 - 3.0 / outcome.latency_s)
        assert outcome.curves[name].load == pytest.approx(wanted, rel=0.01)
    made = report("headline", [outcome])
    assert all(len(row) == len(HEADER) for row in made.rows)
    assert len(made.targets) == 5 and all(math.isfinite(each.measured) for each in made.targets)
    assert "at the load of pooled" in made.text()


def test_what_came_of_recorded_arrivals_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(experiment, "run", served)
    monkeypatch.setattr(load, "run", served)
    monkeypatch.setattr(experiment, "timeline", lambda *_, **__: [Span("1", "draft", (), 0, 1, 2)])
    outcomes = [
        measure("wikichat", Here(), ENGINE, more) for more in ({}, {"arrivals": "azure_2023_conv"})
    ]
    labels = [label(outcome) for outcome in outcomes]
    assert labels[1] == f"{labels[0]}, azure_2023_conv"
    pictures = [path.name for outcome in outcomes for path in draw(outcome, tmp_path)]
    assert len(set(pictures)) == len(pictures)


def test_a_search_goes_down_when_it_began_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "run", served)
    curve = search(factool, POOLED, 5.0, 11.0)
    assert curve.load == pytest.approx(12.0 * (1 - 3.0 / 5.0), rel=0.01)
    assert max(point.rate for point in curve.points) == 11.0


def test_a_load_that_cannot_be_found_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "run", lambda *_: point(1.0, 9.0))
    with pytest.raises(RuntimeError, match=r"alto: no rates with means on both sides of 4\.00 s"):
        search(factool, ALTO, 4.0, 1.0)
