"""What a call costs at each replica (see `policies.prompt_aware`), and which is the cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scheduling import Candidate, Facts


def costs(candidates: Sequence[Candidate], facts: Facts) -> list[float]:
    """Seconds that the call needs at each replica, and takes from others there, each as far as a
    request waits for it."""
    prompt_tokens, output_tokens, weight = facts.prompt_tokens, facts.output_tokens, facts.weight
    found: list[float] = []
    for one in candidates:
        prefill_s, others = one.prefill_s, one.weight
        uncached = prompt_tokens - one.cached_tokens
        reading = prefill_s * uncached
        alone = prefill_s * one.prefill_tokens + reading + output_tokens * one.step_s
        harm = others * (reading + output_tokens * one.step_rise_s)
        total = weight * alone + harm
        if uncached > one.free_tokens:
            total += (others + weight) * (prefill_s * (uncached - one.free_tokens))
        found.append(total)
    return found


def cheapest(costs: Sequence[float], random: Random, *, slack: float = 0.0) -> int:
    """The index of the lowest cost; one by lot among those at most `slack` above it."""
    limit = min(costs) + slack
    ties = [index for index, value in enumerate(costs) if value <= limit]
    return ties[0] if len(ties) == 1 else ties[int(random.random() * len(ties))]
