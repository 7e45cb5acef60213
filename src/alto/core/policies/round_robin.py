"""`round-robin`: the next replica in turn.

For comparison, and for replicas that are alike behind calls that are alike. It is wrong when calls
differ in cost or replicas in speed, and it spreads every prompt prefix over all caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..scheduling import Candidate, Facts, Finished, Placed


class RoundRobin:
    """Takes the first candidate after the replica that was used last."""

    uses_prefix = False

    def __init__(self) -> None:
        self._last = -1

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        """The candidates come in the order of their replicas."""
        for index, candidate in enumerate(candidates):
            if candidate.replica > self._last:
                return index
        return 0

    def observe(self, seen: Placed | Finished) -> None:
        """Remember whose turn it was."""
        if isinstance(seen, Placed):
            self._last = seen.replica
