"""One contender under one load, and the load at which its mean latency is L."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import ModuleType
from typing import Any

from alto.simulation import Poisson, simulate

from .contenders import ENGINE, Contender
from .settings import TABLE

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
) -> Point:
    """Simulate; a request that fails is an error of the experiment."""
    began = time.process_time()
    inputs = [record.turn() for record in shape.records()]
    Random(seed).shuffle(inputs)
    report = simulate(
        shape.build(contender.engines(shape.LM_STAGES)),
        inputs,
        arrivals=Poisson(rate, seed),
        duration=duration,
        config=contender.config(shape.respond, engine),
        streaming=contender.streaming,
    )
    if report.errors:
        raise report.errors[0]
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
        time.process_time() - began,
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """One contender at several rates, and the rate at which its mean latency is `latency_s`."""

    name: str
    latency_s: float
    points: tuple[Point, ...]
    load: float


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
    """Find the load at latency L with so many runs: up until it is passed, then between."""
    points: list[Point] = []
    rate = start
    while len(points) < rates:
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
    load = between(below, above, latency_s) if below and above else math.nan
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
