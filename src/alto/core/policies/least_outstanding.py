"""`least-outstanding`: the replica with the fewest calls under way, by lot among equals.

What good general load balancers do. Slow replicas hold their calls longer and so get fewer. It is
wrong where a cache counts: it sends each prompt prefix everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..scheduling import Candidate, Facts, learn_nothing, least


class LeastOutstanding:
    """Counts calls and nothing else."""

    uses_prefix = False

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        """The least busy one."""
        return least(candidates, lambda candidate: candidate.sequences, random)

    observe = learn_nothing
    """The counts come with the candidates."""
