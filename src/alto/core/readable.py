"""Which replica writes what nobody can read?

A replica may answer every call with 200 and nonsense: to the pool all is well. Whoever reads an
answer knows better, and asks again, naming the replica that could not be read (`Submitted.avoid`).
One such answer is no evidence, as every model fails to follow a form now and then, and a bad prompt
makes all of them fail. What sets a broken replica apart is that the others do better.

Nothing is counted before the first complaint, so where all is readable this costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from .replicas import ReplicaState
from .scheduling import ReplicaId

COMPLAINTS_MIN = 3
"""So many (old ones fade), and"""
SHARE_MIN = 0.2
"""this part of its answers, and"""
TIMES_OTHERS = 3.0
"""so many times the part that the others have: then a replica is left alone for a while."""
_FADE = 0.97
"""What an answer leaves of the weight of those before it: about 30 of them count."""


class Readable:
    """Counts what could not be read, replica by replica."""

    def __init__(self, replicas: Sequence[ReplicaState]) -> None:
        self._replicas = replicas
        self.counts = False
        """Somebody has complained at least once."""
        self._answers = [0.0] * len(replicas)
        self._complaints = [0.0] * len(replicas)

    def answered(self, replica: ReplicaId) -> None:
        """A whole text came from there."""
        self._answers[replica] = self._answers[replica] * _FADE + 1.0
        self._complaints[replica] *= _FADE
        if self._complaints[replica] < 1.0:
            self._replicas[replica].distrusted = 0

    def complained(self, replica: ReplicaId, random: Random, now: float) -> None:
        """What came from there could not be read."""
        self.counts = True
        self._complaints[replica] += 1.0
        if self._stands_out(replica):
            self._replicas[replica].distrust(random, now)

    def _stands_out(self, replica: ReplicaId) -> bool:
        complaints = self._complaints[replica]
        answers = max(self._answers[replica], complaints)
        other_answers = sum(self._answers) - self._answers[replica]
        other_share = (sum(self._complaints) - complaints) / max(other_answers, 1.0)
        share = complaints / answers
        known = complaints > COMPLAINTS_MIN - 0.5 and other_answers >= COMPLAINTS_MIN
        return known and share >= SHARE_MIN and share >= TIMES_OTHERS * other_share
