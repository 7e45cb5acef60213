"""`prefix-affinity`: the replica that has most of the prompt in its cache, unless it is swamped.

Three rules, in this order:

1. A replica is swamped when it has more than `SWAMPED_RATIO` times the calls of the least busy one
   and more than `SWAMPED_CALLS` calls above it. Swamped replicas are out, so a prefix that is asked
   for by everybody spreads to a second replica, and then has two warm ones.
2. Among the others, the longest cached prefix wins if it is worth the name: `WARM_RATIO` of the
   prompt.
3. A prompt that is new to all goes where the least is running; among equals, where the cache has
   most room, which deals templates out evenly.

It is wrong where replicas differ in speed or outputs in length: it counts calls, not work.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..scheduling import Candidate, Facts, Finished, Placed, least

SWAMPED_RATIO = 1.5
SWAMPED_CALLS = 4
WARM_RATIO = 0.2


class PrefixAffinity:
    """Keeps prompts where their beginning is known."""

    uses_prefix = True

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        """The warmest replica that is not swamped, else the least busy."""
        fewest = min(candidate.sequences for candidate in candidates)
        limit = max(fewest * SWAMPED_RATIO, fewest + SWAMPED_CALLS)
        warm = facts.prompt_tokens * WARM_RATIO
        biggest = max(candidate.free_tokens for candidate in candidates) + 1.0

        def cost(candidate: Candidate) -> float:
            if candidate.sequences > limit:
                return float("inf")
            if candidate.cached_tokens >= warm and candidate.cached_tokens > 0:
                return -candidate.cached_tokens + candidate.sequences * 1e-6
            return candidate.sequences + 1.0 - candidate.free_tokens / biggest

        return least(candidates, cost, random)

    def observe(self, seen: Placed | Finished) -> None:
        """Nothing to learn: what each replica holds comes with the candidates."""
