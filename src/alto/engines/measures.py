"""What a simulated LM server counts: the numbers a real one shows under `/metrics`.

Plain counters and histograms, so that a report, a test and a metrics page read the same values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
"""Upper bounds of the buckets of times to the first token and of queueing."""

TOKEN_SECONDS = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
"""The same for the time between two tokens."""

REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0),
)
"""The same for whole requests."""


class Histogram:
    """Counts by bucket, the sum and the number: a Prometheus histogram in plain values."""

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """By bucket, not cumulative; the last is everything above the last bound."""
        self.count = 0
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.count += times
        self.total += value * times

    @property
    def mean(self) -> float:
        """0 while nothing was observed."""
        return self.total / self.count if self.count else 0.0


class Timed(Protocol):
    """What `finished` reads of a sequence."""

    arrived_at: float
    output_tokens: int
    first_token_at: float | None
    pooled: bool


@dataclass(slots=True)
class Measures:
    """Totals of one server since its start."""

    prompt_tokens: int = 0
    """Tokens of prompts taken in, cached ones included."""
    prefilled_tokens: int = 0
    """Tokens really computed as prompt, recomputation after preemption included."""
    generation_tokens: int = 0
    """Tokens of answers that ended."""
    cache_queries: int = 0
    """Prompt tokens looked up in the prefix cache."""
    cache_hits: int = 0
    """Of these, tokens found."""
    preemptions: int = 0
    succeeded: int = 0
    cancelled: int = 0
    embedded: int = 0
    """Texts that were embedded."""
    reranked: int = 0
    """Documents that were scored."""
    finish_reasons: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    busy_seconds: float = 0.0
    queued: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    first_token: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    inter_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_SECONDS))
    per_output_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_SECONDS))
    """One observation a request: its mean time between tokens."""
    whole: Histogram = field(default_factory=lambda: Histogram(REQUEST_SECONDS))

    def finished(self, generation: Timed, at: float) -> None:
        """A sequence wrote its last token."""
        self.succeeded += 1
        if not generation.pooled:
            self.generation_tokens += generation.output_tokens
        self.whole.observe(at - generation.arrived_at)
        first = generation.first_token_at
        if first is not None and generation.output_tokens > 1:
            self.per_output_token.observe((at - first) / (generation.output_tokens - 1))

    @property
    def prefix_hit_rate(self) -> float:
        """Prompt tokens found in the prefix cache, of those looked up; 0 while none were."""
        return self.cache_hits / self.cache_queries if self.cache_queries else 0.0
