"""All runs of one shape on one set of servers, spread over processes.

The order is that of what is known: L needs the unloaded pooled mean; the curves need L; the best
split and the comparisons at equal load need the curves' loads. What does not depend on each other
runs side by side. Every run is a function of its arguments, so the numbers do not depend on how
many processes there are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from . import factool, wikichat
from .contenders import ABLATIONS, ALTO, POOLED, Contender, Span, deployed, equal_split
from .load import Curve, Point, run, search, timeline
from .settings import TABLE
from .splits import Split, best, proportional

T = TypeVar("T")

SHAPES: dict[str, ModuleType] = {"factool": factool, "wikichat": wikichat}
LOAD: dict[str, Any] = TABLE["load"]


@dataclass(slots=True)
class Outcome:
    """What was found for one shape on one set of servers."""

    shape: str
    engine: dict[str, Any]
    unloaded: dict[str, Point]
    """With next to no load: what no scheduling can improve on."""
    latency_s: float
    curves: dict[str, Curve]
    """By contender: deployed equal, deployed best, pooled, alto."""
    split: Split
    splits: list[tuple[Split, float]]
    """Every static split that was tried, with its mean latency."""
    at_deployed: dict[str, Point]
    """At the load of deployed with the equal split."""
    at_pooled: dict[str, Point]
    """At the load of pooled."""
    ablations: dict[str, Point]
    """At the load of alto."""
    timelines: dict[str, list[Span]]
    """One request in each contender, at the load of pooled."""
    arrivals: str = ""
    """The recorded trace that requests come as; else they come independently."""


EQUAL, BEST = "deployed, equal split", "deployed, best split"


def measure(
    shape: str, pool: Executor, engine: Mapping[str, Any], options: Mapping[str, Any]
) -> Outcome:
    """Everything about one shape. `options` are those of a run: duration, warmup, seed."""
    stages, given = SHAPES[shape].LM_STAGES, {"engine": dict(engine), **options}
    calm = {"engine": dict(engine), "duration": LOAD["unloaded_duration_s"], "warmup": 0.0}
    unloaded = {
        each.name: pool.submit(_run, shape, each, LOAD["unloaded_rate"], calm)
        for each in (POOLED, ALTO)
    }
    pooled_s = unloaded[POOLED.name].result().mean_s
    latency_s = max(LOAD["latency_s"], LOAD["latency_unloaded"] * pooled_s)
    _tell(shape, engine, f"loads at a mean of {latency_s:.2f} s")
    first = TABLE["start"][shape]
    slower = round(pooled_s / first["unloaded_s"], 1)
    scale = engine["replicas"] / TABLE["engine"]["replicas"] / slower
    start = {name: rate * scale for name, rate in first.items()}

    def curve(contender: Contender, rate: float) -> Future[Curve]:
        return pool.submit(_search, shape, contender, latency_s, rate, given)

    def at(load: float, *contenders: Contender) -> dict[str, Future[Point]]:
        return {each.name: pool.submit(_run, shape, each, load, given) for each in contenders}

    equal = deployed(equal_split(stages, engine["replicas"]), EQUAL)
    found = {
        EQUAL: curve(equal, start["deployed"]),
        POOLED.name: curve(POOLED, start["pooled"]),
        ALTO.name: curve(ALTO, start["alto"]),
    }
    slow = found[EQUAL].result()
    split_run = pool.submit(_best_split, shape, slow, engine)
    at_deployed = at(slow.load, ALTO)
    even = found[POOLED.name].result()
    at_pooled = at(even.load, ALTO)
    timelines = {
        each.name: pool.submit(_timeline, shape, each, even.load, dict(engine))
        for each in (equal, POOLED, ALTO)
    }
    split, tried = split_run.result()
    _tell(shape, engine, f"best of {len(tried)} splits found")
    found[BEST] = curve(deployed(split, BEST), slow.load)
    fast = found[ALTO.name].result()
    ablations = at(fast.load, *ABLATIONS)
    return Outcome(
        shape,
        dict(engine),
        _results(unloaded),
        latency_s,
        {name: found[name].result() for name in (EQUAL, BEST, POOLED.name, ALTO.name)},
        split,
        tried,
        {EQUAL: slow.at_load, **_results(at_deployed)},
        {POOLED.name: even.at_load, **_results(at_pooled)},
        {ALTO.name: fast.at_load, **_results(ablations)},
        _results(timelines),
        given.get("arrivals", ""),
    )


def _results(futures: Mapping[str, Future[T]]) -> dict[str, T]:
    return {name: future.result() for name, future in futures.items()}


def _tell(shape: str, engine: Mapping[str, Any], what: str) -> None:
    """Whoever waits for minutes wants to see that something goes on."""
    where = f"{shape}, {engine['replicas']} x {engine['profile']}"
    print(f"{where}: {what} ...", file=sys.stderr, flush=True)


def _run(shape: str, contender: Contender, rate: float, given: Mapping[str, Any]) -> Point:
    return run(SHAPES[shape], contender, rate, **given)


def _search(
    shape: str, contender: Contender, latency_s: float, start: float, given: Mapping[str, Any]
) -> Curve:
    return search(SHAPES[shape], contender, latency_s, start, **given)


def _timeline(
    shape: str, contender: Contender, rate: float, engine: Mapping[str, Any]
) -> list[Span]:
    return timeline(SHAPES[shape], contender, rate, engine=engine)


def _best_split(
    shape: str, equal: Curve, engine: Mapping[str, Any]
) -> tuple[Split, list[tuple[Split, float]]]:
    """Splits are compared a little above the load that the equal one can take."""
    short = {
        "engine": engine,
        "duration": LOAD["split_duration_s"],
        "warmup": LOAD["split_warmup_s"],
    }

    def latency(split: Split) -> float:
        rate = equal.load * SPLIT_LOAD
        return run(SHAPES[shape], deployed(split), rate, **short).mean_s

    work = equal.points[0].tokens
    stages = SHAPES[shape].LM_STAGES
    start = proportional({stage: work[stage] for stage in stages}, engine["replicas"])
    return best(start, latency)


SPLIT_LOAD = 1.3
