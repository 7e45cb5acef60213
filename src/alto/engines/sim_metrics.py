"""A simulated server's measures under the names that vLLM gives its own.

Routers, autoscalers and dashboards scrape these names; see `measures.py` for what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .measures import Histogram
from .sim_replica import SimReplica

_LABELS = ("model_name", "engine")

_GAUGES: dict[str, tuple[str, Callable[[SimReplica], float]]] = {
    "num_requests_running": ("Requests in the batch.", lambda each: each.running),
    "num_requests_waiting": ("Requests in the queue.", lambda each: each.waiting),
    "kv_cache_usage_perc": ("KV blocks in use, 1 is all.", lambda each: each.kv_usage),
}
_COUNTERS: dict[str, tuple[str, Callable[[SimReplica], float]]] = {
    "prefix_cache_queries": (
        "Prompt tokens looked up in the prefix cache.",
        lambda each: each.measures.cache_queries,
    ),
    "prefix_cache_hits": (
        "Prompt tokens found in the prefix cache.",
        lambda each: each.measures.cache_hits,
    ),
    "num_preemptions": ("Preemptions.", lambda each: each.measures.preemptions),
    "prompt_tokens": ("Prompt tokens taken in.", lambda each: each.measures.prompt_tokens),
    "generation_tokens": ("Tokens generated.", lambda each: each.measures.generation_tokens),
}
_HISTOGRAMS: dict[str, tuple[str, Callable[[SimReplica], Histogram]]] = {
    "time_to_first_token_seconds": (
        "From arrival to the first token.",
        lambda each: each.measures.first_token,
    ),
    "inter_token_latency_seconds": (
        "Between two tokens of a request.",
        lambda each: each.measures.inter_token,
    ),
    "request_time_per_output_token_seconds": (
        "Mean time between the tokens of a request.",
        lambda each: each.measures.per_output_token,
    ),
    "request_queue_time_seconds": (
        "From arrival to admission.",
        lambda each: each.measures.queued,
    ),
    "e2e_request_latency_seconds": (
        "From arrival to the last token.",
        lambda each: each.measures.whole,
    ),
}


class ServerMetrics:
    """A Prometheus collector over the replicas of a server."""

    def __init__(self, model: str, replicas: Sequence[SimReplica]) -> None:
        self._each = [((model, str(at)), replica) for at, replica in enumerate(replicas)]

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for labels, replica in self._each:
                gauge.add_metric(labels, value(replica))
            yield gauge
        for name, (text, value) in _COUNTERS.items():
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for labels, replica in self._each:
                counter.add_metric(labels, value(replica))
            yield counter
        yield self._successes()
        for name, (text, read) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            for labels, replica in self._each:
                histogram = read(replica)
                family.add_metric(labels, _cumulative(histogram), histogram.total)
            yield family
        yield self._cache_config()

    def _successes(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:request_success", "Requests answered.", labels=(*_LABELS, "finished_reason")
        )
        for labels, replica in self._each:
            counts = {"stop": 0, "length": 0, **replica.measures.finish_reasons}
            for reason, count in counts.items():
                family.add_metric((*labels, reason), count)
        return family

    def _cache_config(self) -> Metric:
        family = GaugeMetricFamily(
            "vllm:cache_config_info",
            "The KV cache.",
            labels=(*_LABELS, "block_size", "num_gpu_blocks", "enable_prefix_caching"),
        )
        for labels, replica in self._each:
            blocks = (str(replica.block_tokens), str(replica.kv_blocks), str(replica.shares))
            family.add_metric((*labels, *blocks), 1)
        return family


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    buckets = []
    count = 0
    for bound, more in zip(histogram.bounds, histogram.counts, strict=False):
        count += more
        buckets.append((str(bound), float(count)))
    return [*buckets, ("+Inf", float(histogram.count))]
