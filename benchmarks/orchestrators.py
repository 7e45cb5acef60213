"""What several orchestrators lose against one that knows everything, on virtual time.

Three loads on simulated replicas: the two pipelines of the headline experiment, and one where
everything is prompt prefixes (eight templates, replicas that hold about three each). For each, the
load that one orchestrator carries at a mean latency L is found; then 2, 4 and 8 orchestrators get
loads around it, with summaries ten times a second, once a second, and without. What is compared is
the load at L. Requests are dealt in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from types import ModuleType
from typing import Any

from alto import Config, Pipeline, Simulated, lm, pipeline
from alto.simulation import Poisson, simulate

from .headline import factool, wikichat
from .headline.contenders import ALTO, ENGINE
from .policies import words
from .report import Report, Target

SEED = 1
DURATION_S = 30.0
WARMUP_S = 8.0
LOSS_MAX = 0.05
"""Four lose less than this part of the load."""

EXCHANGES: dict[str, float | None] = {"10 a second": 0.1, "1 a second": 1.0, "none": None}


@dataclass(frozen=True, slots=True)
class Case:
    """A load: a pipeline, what it is asked, the servers, and where to measure."""

    name: str
    build: Callable[[], Pipeline[Any, Any]]
    inputs: Callable[[], list[Any]]
    config: Callable[[], Config]
    latency_s: float
    rates: tuple[float, float]
    """Between these the mean latency of one orchestrator passes L."""
    more_runs: int = 0
    """Runs to find the load with, more than the others have: they are short, or latency leaps."""


def _headline(shape: ModuleType, latency_s: float, rates: tuple[float, float]) -> Case:
    def inputs() -> list[Any]:
        turns = [record.turn() for record in shape.records()]
        Random(SEED).shuffle(turns)
        return turns

    return Case(
        shape.NAME,
        lambda: shape.build(ALTO.engines(shape.LM_STAGES)),
        inputs,
        lambda: ALTO.config(shape.respond, ENGINE),
        latency_s,
        rates,
    )


@lm(engine="chat", returns=str)
def ask(prompt: str) -> str:
    return prompt


@pipeline
def templates(prompt: str) -> Any:
    return ask(prompt)


def _prompts() -> list[Any]:
    random = Random(SEED)
    beginnings = [words(random, 1500) for _ in range(8)]
    return [random.choice(beginnings) + words(random, 200) for _ in range(4000)]


def _small() -> Config:
    answer = words(Random(SEED), 60)
    spec = Simulated(replicas=4, respond=lambda call: answer, kv_tokens=9000, max_num_seqs=64)
    return Config(engines={"chat": spec})


CASES = (
    _headline(factool, 5.0, (8.0, 11.0)),
    _headline(wikichat, 7.0, (9.0, 13.0)),
    Case("templates", lambda: templates, _prompts, _small, 0.47, (20.0, 80.0), more_runs=5),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One run: requests a second, and what came of it (means, over those after the warm-up)."""

    rate: float
    mean_s: float
    hit_rate: float


@dataclass(frozen=True, slots=True)
class Found:
    """So many orchestrators, and the load at which the mean latency is L."""

    case: str
    orchestrators: int
    summaries: str
    load: float
    points: tuple[Point, ...]


def run(case: Case, rate: float, orchestrators: int, exchange_s: float | None) -> Point:
    """Simulate. A request that fails is an error of the benchmark."""
    report = simulate(
        case.build(),
        case.inputs(),
        arrivals=Poisson(rate, SEED),
        duration=DURATION_S,
        config=case.config(),
        orchestrators=orchestrators,
        exchange_s=exchange_s,
    )
    if report.errors:
        raise report.errors[0]
    times = [each.latency for each in report.requests if each.arrival >= WARMUP_S]
    mean_s = statistics.fmean(each for each in times if each is not None)
    return Point(rate, mean_s, report.engines["chat"].prefix_hit_rate)


def load_at(case: Case, orchestrators: int, summaries: str, points: int) -> Found:
    """The load at L: between two rates, brought nearer with each further run, then along a line.
    If a rate is not passed it is the limit that is named; a line beyond it would say too much."""
    exchange_s = EXCHANGES[summaries]
    found = [run(case, rate, orchestrators, exchange_s) for rate in case.rates]
    low, high = found
    while len(found) < points and low.mean_s < case.latency_s < high.mean_s:
        # Where latency leaps at some load, a line alone lands on the same side of it for ever.
        halved = len(found) % 2 == 1
        rate = (low.rate + high.rate) / 2 if halved else _between(case, low, high)
        middle = run(case, rate, orchestrators, exchange_s)
        found.append(middle)
        low, high = (middle, high) if middle.mean_s < case.latency_s else (low, middle)
    load = _between(case, low, high)
    return Found(case.name, orchestrators, summaries, load, tuple(found))


def _between(case: Case, low: Point, high: Point) -> float:
    """Where the mean would be L. It rises ever steeper, so its inverse is nearer to a line."""
    first, last, wanted = 1 / low.mean_s, 1 / high.mean_s, 1 / case.latency_s
    if first <= last:
        return low.rate
    part = min(max((first - wanted) / (first - last), 0.0), 1.0)
    return low.rate + part * (high.rate - low.rate)


def measure(quick: bool = False) -> Report:
    """All cases. `quick`: four orchestrators only, and fewer runs."""
    counts: Sequence[int] = (4,) if quick else (2, 4, 8)
    report = Report(
        "orchestrators",
        "Several orchestrators before the same replicas: load at the same mean latency",
        ("load", "orchestrators", "summaries", "requests/s", "of one", "cache hits"),
    )
    rows: list[Found] = []
    for case in CASES:
        points = (3 if quick else 4) + case.more_runs
        alone = load_at(case, 1, "none", points)
        rows.append(alone)
        _show(report, alone, alone)
        for count in counts:
            for summaries in EXCHANGES:
                several = load_at(case, count, summaries, points)
                rows.append(several)
                _show(report, several, alone)
                if count == 4 and summaries == "10 a second":
                    claim = f"{case.name}: load that four lose against one"
                    lost = 100 * (1 - several.load / alone.load)
                    report.targets.append(Target(claim, lost, 100 * LOSS_MAX, unit="%"))
    report.notes.append(
        "L is " + ", ".join(f"{case.latency_s:g} s for {case.name}" for case in CASES) + "."
    )
    report.raw["found"] = [asdict(each) for each in rows]
    return report


def _show(report: Report, found: Found, alone: Found) -> None:
    report.rows.append(
        (
            found.case,
            str(found.orchestrators),
            found.summaries if found.orchestrators > 1 else "-",
            f"{found.load:.2f}",
            f"{found.load / alone.load:.2f}",
            f"{found.points[-1].hit_rate:.2f}",
        )
    )
