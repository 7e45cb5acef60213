"""The tables and targets of the headline experiment, from its outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..report import Report, Target
from .contenders import ALTO, POOLED
from .experiment import BEST, EQUAL, Outcome
from .load import Point

OVER_EQUAL_MIN = 3.0
OVER_BEST_MIN = 1.3
OVER_POOLED_MIN = 1.3
P99_MIN = 1.8
FIRST_MIN = 2.0

HEADER = ("", "requests/s", "mean, s", "p50, s", "p99, s", "first verdict, s", "prefix hits")


def report(name: str, outcomes: Sequence[Outcome]) -> Report:
    """Tables of all shapes, with what was promised beside what was found."""
    made = Report(name=name, title="Headline: load at the same latency", header=HEADER)
    for outcome in outcomes:
        made.rows += rows(outcome)
        made.targets += targets(outcome)
        made.notes.append(note(outcome))
    made.raw = {"outcomes": [asdict(outcome) for outcome in outcomes]}
    return made


def label(outcome: Outcome) -> str:
    """The shape, the servers it runs on, and how requests come if not independently."""
    where = f"{outcome.shape}, {outcome.engine['replicas']} x {outcome.engine['profile']}"
    return f"{where}, {outcome.arrivals}" if outcome.arrivals else where


def rows(outcome: Outcome) -> list[Sequence[str]]:
    """One block of the table for each question that is asked."""
    found: list[Sequence[str]] = [_title(label(outcome))]
    found.append(_title("without load"))
    found += [_row(name, point) for name, point in outcome.unloaded.items()]
    found.append(_title(f"load at a mean latency of {outcome.latency_s:.2f} s"))
    for name, curve in outcome.curves.items():
        found.append(_row(name, curve.at_load, curve.load))
    found.append(_title("at the load of deployed, equal split"))
    found += [_row(name, point) for name, point in outcome.at_deployed.items()]
    found.append(_title("at the load of pooled"))
    found += [_row(name, point) for name, point in outcome.at_pooled.items()]
    found.append(_title("at the load of alto, a mechanism off"))
    found += [_row(name, point) for name, point in outcome.ablations.items()]
    return found


def targets(outcome: Outcome) -> list[Target]:
    """What the experiment is held to."""
    where = label(outcome)
    alto = outcome.curves[ALTO.name].load
    equal, pooled = outcome.at_deployed, outcome.at_pooled
    return [
        Target(
            f"{where}: load, times {EQUAL}",
            alto / outcome.curves[EQUAL].load,
            OVER_EQUAL_MIN,
            "at least",
            "x",
        ),
        Target(
            f"{where}: load, times {BEST}",
            alto / outcome.curves[BEST].load,
            OVER_BEST_MIN,
            "at least",
            "x",
        ),
        Target(
            f"{where}: load, times pooled",
            alto / outcome.curves[POOLED.name].load,
            OVER_POOLED_MIN,
            "at least",
            "x",
        ),
        Target(
            f"{where}: p99 lower, at the load of {EQUAL}",
            equal[EQUAL].p99_s / equal[ALTO.name].p99_s,
            P99_MIN,
            "at least",
            "x",
        ),
        Target(
            f"{where}: first verdict earlier, at the load of pooled",
            pooled[POOLED.name].first_s / pooled[ALTO.name].first_s,
            FIRST_MIN,
            "at least",
            "x",
        ),
    ]


def note(outcome: Outcome) -> str:
    """What the search for the best split found."""
    split = ", ".join(f"{stage} {count}" for stage, count in outcome.split.items())
    return f"{label(outcome)}: best of {len(outcome.splits)} splits tried: {split}."


def _title(text: str) -> Sequence[str]:
    return (text, *[""] * (len(HEADER) - 1))


def _row(name: str, point: Point, load: float | None = None) -> Sequence[str]:
    return (
        f"  {name}",
        f"{point.rate if load is None else load:.2f}",
        f"{point.mean_s:.2f}",
        f"{point.p50_s:.2f}",
        f"{point.p99_s:.2f}",
        f"{point.first_s:.2f}",
        f"{100 * point.hit_rate:.0f} %",
    )
