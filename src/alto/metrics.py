"""A runtime's pools in Prometheus' form: what waits, how replicas are, what went wrong.

    from prometheus_client import REGISTRY
    REGISTRY.register(PoolMetrics(runtime))         # beside your own metrics, or
    page(runtime)                                   # the text of a page of these alone

Nothing is counted here: a page is made of `Pool.load()` and `Pool.totals()` when it is asked for.
Names begin with `alto_`, units are seconds and tokens. Engines that have no pool are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .engines.load import ReplicaLoad
from .engines.pool import Pool
from .runtime.embedded import Runtime

_Read = Callable[[ReplicaLoad], "float | None"]

_GAUGES: dict[str, tuple[str, _Read]] = {
    "running_calls": ("Calls of this pool under way.", lambda one: one.sequences),
    "running_calls_limit": (
        "Calls that may be under way, as of now.",
        lambda one: one.sequences_limit,
    ),
    "other_calls": ("Calls of others under way, as far as told.", lambda one: one.others),
    "prefill_tokens": ("Prompt tokens waiting to be read.", lambda one: one.prefill_tokens),
    "up": ("1 if it is sent calls, 0 if it is left alone.", lambda one: one.state == "well"),
    "retry_seconds": ("How long it is still left alone.", lambda one: one.retry_in_s),
    "prefill_token_seconds": (
        "Learned time to read an uncached prompt token.",
        lambda one: one.prefill_token_s,
    ),
    "step_seconds": ("Learned time to each token of an answer.", lambda one: one.step_s),
    "slowness_ratio": ("Its times, as a multiple of the pool's.", lambda one: one.slowness),
    "cache_hit_ratio": (
        "Part of the prompt tokens found in its cache, as it reports.",
        lambda one: one.hit_ratio,
    ),
    "cache_hit_expected_ratio": (
        "The part that was expected to be there.",
        lambda one: one.hit_ratio_expected,
    ),
    "cache_tokens": ("What its cache is thought to keep.", lambda one: one.cache_tokens),
    "slots": ("Slots that keep a prompt each.", lambda one: one.slots),
}
_COUNTERS: dict[str, tuple[str, _Read]] = {
    "calls": ("Calls sent there.", lambda one: one.sent),
    "failures": ("Calls that failed or broke off there.", lambda one: one.failed),
    "turned_away_calls": ("Calls that it refused as too many.", lambda one: one.turned_away),
}


class PoolMetrics:
    """A Prometheus collector over the pools of a runtime, one a registry. It may be read from any
    thread.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, so that a registry refuses a second runtime: the engines of
        both may have the same names.
        """
        return _of({})

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        engines = self._runtime.engines
        return _of({name: pool for name, pool in engines.items() if isinstance(pool, Pool)})


def _of(pools: dict[str, Pool]) -> Iterator[Metric]:
    yield from _of_pools(pools)
    yield from _of_replicas(pools)


def _of_replicas(pools: dict[str, Pool]) -> Iterator[Metric]:
    loads = [
        ((engine, replica), load)
        for engine, pool in pools.items()
        for replica, load in pool.load().items()
    ]
    for name, (text, read) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"alto_replica_{name}", text, labels=("engine", "replica"))
        for labels, load in loads:
            if (value := read(load)) is not None:
                gauge.add_metric(labels, value)
        yield gauge
    for name, (text, read) in _COUNTERS.items():
        total = CounterMetricFamily(f"alto_replica_{name}", text, labels=("engine", "replica"))
        for labels, load in loads:
            total.add_metric(labels, read(load) or 0)
        yield total


def _of_pools(pools: dict[str, Pool]) -> Iterator[Metric]:
    labels = ("engine",)
    waiting = GaugeMetricFamily(
        "alto_pool_waiting_calls", "Calls that wait for a replica to have room.", labels=labels
    )
    hedged = CounterMetricFamily(
        "alto_pool_hedged_calls", "Calls sent to a second replica beside a first.", labels=labels
    )
    resumed = CounterMetricFamily(
        "alto_pool_resumed_calls", "Texts that broke off and were gone on with.", labels=labels
    )
    refused = CounterMetricFamily(
        "alto_pool_refused_calls", "Calls that ended with an error.", labels=("engine", "error")
    )
    for name, pool in pools.items():
        load = pool.totals()
        waiting.add_metric([name], load.waiting)
        hedged.add_metric([name], load.hedged)
        resumed.add_metric([name], load.resumed)
        for error, count in load.refused.items():
            refused.add_metric([name, error], count)
    yield from (waiting, hedged, resumed, refused)


def page(runtime: Runtime) -> bytes:
    """A runtime's pools as a page that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(PoolMetrics(runtime))
    return generate_latest(registry)
