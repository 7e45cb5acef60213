"""One contender under one load, and the load at which its mean latency is L."""

from __future__ import annotations

import gzip
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any

from alto.simulation import Poisson, Report, Trace, simulate

from .contenders import ENGINE, Contender, Span
from .settings import HERE, TABLE

SEED = 1


@dataclass(frozen=True, slots=True)
class Point:
    """One contender at one rate: seconds, over the requests that came after the warm-up."""

    rate: float
    requests: int
    mean_s: float
    p50_s: float
    p99_s: float
    first_s: float
    """Median time to the first verdict."""
    busy: float
    """Part of the time that replicas were at work."""
    hit_rate: float
    """Part of the prompt tokens that the prefix caches had."""
    tokens: dict[str, int]
    """Written by each engine."""
    cpu_s: float


def run(
    shape: ModuleType,
    contender: Contender,
    rate: float,
    *,
    engine: Mapping[str, Any] = ENGINE,
    duration: float = TABLE["load"]["duration_s"],
    warmup: float = TABLE["load"]["warmup_s"],
    seed: int = SEED,
    arrivals: str = "",
) -> Point:
    """Simulate; a request that fails is an error of the experiment. Requests come independently, or
    as in a recorded trace of that name."""
    began = time.process_time()
    coming = recorded(arrivals, rate) if arrivals else Poisson(rate, seed)
    report = _simulate(shape, contender, coming, engine, duration, seed)
    counted = [each for each in report.requests if each.arrival >= warmup]
    times = sorted(each.latency for each in counted if each.latency is not None)
    first = [each.first["verdicts"] - each.arrival for each in counted if "verdicts" in each.first]
    engines = report.engines.values()
    replicas = sum(each.replicas for each in engines)
    queries = sum(each.cache_queries for each in engines)
    return Point(
        rate,
        len(times),
        statistics.fmean(times),
        statistics.median(times),
        times[max(0, math.ceil(0.99 * len(times)) - 1)],
        statistics.median(first),
        sum(each.busy_seconds for each in engines) / (replicas * report.end),
        sum(each.cache_hits for each in engines) / queries if queries else 0.0,
        {name: each.generation_tokens for name, each in report.engines.items()},
        time.process_time() - began,
    )


def _simulate(
    shape: ModuleType,
    contender: Contender,
    arrivals: Poisson | Trace,
    engine: Mapping[str, Any],
    duration: float,
    seed: int,
    log: list[Span] | None = None,
) -> Report:
    inputs = [record.turn() for record in shape.records()]
    Random(seed).shuffle(inputs)
    report = simulate(
        shape.build(contender.engines(shape.LM_STAGES)),
        inputs,
        arrivals=arrivals,
        duration=duration,
        config=contender.config(shape.respond, engine, log),
        streaming=contender.streaming,
    )
    if report.errors:
        raise report.errors[0]
    return report


def recorded(name: str, rate: float) -> Trace:
    """Recorded arrivals, at another speed so that there are `rate` a second on average."""
    with gzip.open(HERE / f"{name}.txt.gz", "rt") as file:
        times = [float(line) for line in file]
    return Trace(times, rate * times[-1] / len(times))


SHOWN_CLAIMS = range(6, 11)
"""A request that is shown has so many claims: enough to see, few enough to draw."""


def timeline(
    shape: ModuleType,
    contender: Contender,
    rate: float,
    *,
    engine: Mapping[str, Any] = ENGINE,
    seed: int = SEED,
) -> list[Span]:
    """The LM calls of one request, the same in every contender; times from its arrival."""
    log: list[Span] = []
    warmup = TABLE["load"]["warmup_s"]
    report = _simulate(
        shape, contender, Poisson(rate, seed), engine, warmup + TIMELINE_S, seed, log
    )
    inputs = list(shape.records())
    Random(seed).shuffle(inputs)
    for number, request in enumerate(report.requests):
        claims = sum(map(len, inputs[number % len(inputs)].claims))
        if request.arrival >= warmup and claims in SHOWN_CLAIMS:
            spans = [span for span in log if span.request.rpartition("-")[2] == str(number + 1)]
            for span in spans:
                span.asked -= request.arrival
                span.begun -= request.arrival
                span.ended -= request.arrival
            return spans
    return []


TIMELINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One contender at several rates, and the rate at which its mean latency is `latency_s`."""

    name: str
    latency_s: float
    points: tuple[Point, ...]
    load: float

    @property
    def at_load(self) -> Point:
        """The run nearest to that load."""
        return min(self.points, key=lambda point: abs(point.rate - self.load))


TRIES = 3
"""A search takes at most so many times the wanted number of runs."""
GROWTH = 1.45
"""Rates grow by this factor until one is too high."""


def search(
    shape: ModuleType,
    contender: Contender,
    latency_s: float,
    start: float,
    *,
    rates: int = TABLE["load"]["rates"],
    **options: Any,
) -> Curve:
    """Find the load at latency L with so many runs: up until it is passed, then between. Should
    none have passed it, more runs follow."""
    points: list[Point] = []
    rate = start
    below = above = None
    while len(points) < rates or (None in (below, above) and len(points) < TRIES * rates):
        points.append(run(shape, contender, rate, **options))
        below, above = around(points, latency_s)
        if above is None:
            rate *= GROWTH
        elif below is None:
            rate /= GROWTH
        else:
            rate = between(below, above, latency_s)
    points.sort(key=lambda point: point.rate)
    below, above = around(points, latency_s)
    if below is None or above is None:
        means = ", ".join(f"{point.mean_s:.2f} s at {point.rate:.2f}/s" for point in points)
        raise RuntimeError(
            f"{shape.NAME}, {contender.name}: no rates with means on both sides of {latency_s:.2f} "
            f"s in {len(points)} runs ({means}). Give another first rate in settings.toml."
        )
    load = between(below, above, latency_s)
    return Curve(contender.name, latency_s, tuple(points), load)


def around(points: list[Point], latency_s: float) -> tuple[Point | None, Point | None]:
    """The highest rate at which the mean is still at most L, and the lowest above it."""
    above = min((p for p in points if p.mean_s > latency_s), key=lambda p: p.rate, default=None)
    below = max(
        (p for p in points if p.mean_s <= latency_s and (above is None or p.rate < above.rate)),
        key=lambda p: p.rate,
        default=None,
    )
    return below, above


def between(below: Point, above: Point, latency_s: float) -> float:
    """The rate between two where the mean is L. A mean rises ever steeper, so its inverse is
    nearer to a straight line than it is itself."""
    low, high, wanted = 1 / below.mean_s, 1 / above.mean_s, 1 / latency_s
    part = (low - wanted) / (low - high)
    return below.rate + min(max(part, 0.02), 0.98) * (above.rate - below.rate)
