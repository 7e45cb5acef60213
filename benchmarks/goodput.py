"""How many requests per second end in time, against the load, with and without shedding?

The two pipelines of the headline experiment (`headline/`) on the same eight simulated replicas, on
virtual time. Each request has a deadline: the latency L of that experiment. *Goodput* is the
requests per second that end before it. Loads are multiples of the saturating one: that at which the
goodput is highest when nobody is refused (`SATURATING`, found by runs at other loads).

Arrivals are Poisson, and in bursts: gamma-distributed gaps with a coefficient of variation of 3.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from random import Random
from types import ModuleType

from alto.simulation import simulate

from .headline import factool, wikichat
from .headline.contenders import ALTO, ENGINE
from .report import Report, Target

SHAPES: dict[str, ModuleType] = {"factool": factool, "wikichat": wikichat}
DEADLINE_S = {"factool": 5.5, "wikichat": 7.3}
SATURATING = {"factool": 10.0, "wikichat": 10.0}
"""Requests per second."""
LOADS = (0.25, 0.5, 1.0, 2.0, 3.0)
BURSTS = 3.0
"""Coefficient of variation."""
DURATION_S, WARMUP_S = 56.0, 24.0
SEEDS = (1, 2)
WANTED = 0.8
"""Of the peak, at twice the saturating load."""


@dataclass(frozen=True, slots=True)
class Gamma:
    """Arrivals whose gaps have this coefficient of variation; 1 is Poisson."""

    rate: float
    variation: float
    seed: int

    def times(self) -> Iterator[float]:
        random = Random(self.seed)
        shape = 1.0 / self.variation**2
        now = 0.0
        while True:
            now += random.gammavariate(shape, 1.0 / (shape * self.rate))
            yield now


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of run."""

    shape: str
    load: float
    """Multiples of the saturating one."""
    shed: bool
    variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run, over the requests that came after the warm-up."""

    goodput: float
    came: int
    good: int
    refused: int
    """At their start."""
    given_up: int
    """Before one of their LM calls."""
    late: int


def run(case: Case, seed: int, duration: float = DURATION_S, warmup: float = WARMUP_S) -> Outcome:
    """Simulate one case."""
    shape, deadline = SHAPES[case.shape], DEADLINE_S[case.shape]
    inputs = [record.turn() for record in shape.records()]
    Random(seed).shuffle(inputs)
    report = simulate(
        shape.build(ALTO.engines(shape.LM_STAGES)),
        inputs,
        arrivals=Gamma(case.load * SATURATING[case.shape], case.variation, seed),
        duration=duration,
        config=replace(ALTO.config(shape.respond, ENGINE), shed=case.shed),
        timeout=deadline,
    )
    counted = replace(report, requests=[r for r in report.requests if r.arrival >= warmup])
    counted.duration = duration - warmup
    refused = sum(r.error is not None and r.finish == r.arrival for r in counted.requests)
    good = round(counted.goodput(deadline) * counted.duration)
    return Outcome(
        counted.goodput(deadline),
        len(counted.requests),
        good,
        refused,
        counted.shed - refused,
        len(counted.requests) - good - counted.shed,
    )


def cases(quick: bool) -> list[Case]:
    """What is run."""
    loads = (0.5, 1.0, 2.0) if quick else LOADS
    found = [
        Case(shape, load, shed) for shape in SHAPES for load in loads for shed in (False, True)
    ]
    return found + [Case(shape, load, True, BURSTS) for shape in SHAPES for load in (1.0, 2.0)]


def measure(quick: bool = False) -> Report:
    """All of it, spread over the processors; the numbers do not depend on how many there are."""
    seeds = SEEDS[:1] if quick else SEEDS
    wanted = cases(quick)
    found: dict[Case, list[Outcome]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        futures: dict[Case, list[Future[Outcome]]] = {
            case: [pool.submit(run, case, seed) for seed in seeds]
            for case in sorted(wanted, key=lambda case: -case.load)  # the long ones first
        }
        for case in wanted:
            found[case] = [future.result() for future in futures[case]]
    report = Report(
        name="goodput",
        title="Goodput against load, with and without shedding (requests per second in time)",
        header=("pipeline", "arrivals", "load", "per second", "without", "with", "of those let in"),
    )
    for shape in SHAPES:
        for variation, arrivals in ((1.0, "Poisson"), (BURSTS, "in bursts")):
            these = {
                case: outcomes
                for case, outcomes in found.items()
                if case.shape == shape and case.variation == variation
            }
            add_rows(report, shape, arrivals, these)
    report.raw = {str(case): outcomes for case, outcomes in found.items()}
    report.notes = [
        f"Deadlines: {', '.join(f'{name} {time:g} s' for name, time in DEADLINE_S.items())}. "
        f"{ENGINE['replicas']} replicas, {ENGINE['profile']}; {DURATION_S:g} s of load, counted "
        f"after {WARMUP_S:g} s; seeds {', '.join(map(str, seeds))}."
    ]
    return report


def add_rows(report: Report, shape: str, arrivals: str, found: dict[Case, list[Outcome]]) -> None:
    """The rows and the target of one pipeline under one kind of arrivals."""
    these = {(case.load, case.shed): outcomes for case, outcomes in found.items()}
    for load in sorted({load for load, _ in these}):
        outcomes = these[load, True]
        let_in = sum(each.came - each.refused for each in outcomes)
        part = sum(each.good for each in outcomes) / let_in if let_in else math.nan
        report.rows.append(
            (
                shape,
                arrivals,
                f"{load:g}",
                f"{load * SATURATING[shape]:.1f}",
                f"{_mean(these[load, False]):.2f}" if (load, False) in these else "-",
                f"{_mean(outcomes):.2f}",
                f"{part:.0%} in time",
            )
        )
    peak = max(map(_mean, these.values()))
    claim = f"{shape}, {arrivals}: goodput at twice the saturating load, of its peak"
    report.targets.append(Target(claim, _mean(these[2.0, True]) / peak, WANTED, "at least"))


def _mean(outcomes: list[Outcome]) -> float:
    return statistics.fmean(each.goodput for each in outcomes)
