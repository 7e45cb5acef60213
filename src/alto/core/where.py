"""Where does a call go? Asks the policy, and tells it what came of it.

Always true:
    W1  what a policy raises, and a choice that is none of the candidates, comes out of here as it
        is; the pool makes a refusal of it
    W2  a policy that learns nothing (`learn_nothing`) is asked where, and told nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from .calls import Usage
from .learning import Texts
from .replicas import STALE_S, ReplicaState, Try, candidates_of, forgive
from .scheduling import Facts, Finished, Placed, Policy, ReplicaId, learns


class Where:
    """The policy of one pool, and what it is asked with."""

    def __init__(
        self, policy: Policy, replicas: Sequence[ReplicaState], texts: Texts, random: Random
    ) -> None:
        self.policy = policy
        self._replicas = replicas
        self._stale_at = STALE_S
        """Before then no replica has been idle for long."""
        self._learns = learns(policy)
        self._texts = texts
        self._random = random

    def choose(
        self, blocks: Sequence[int], facts: Facts, free: Sequence[ReplicaState], now: float
    ) -> tuple[ReplicaState, float]:
        """The replica that the policy chooses, and how many tokens of the prompt it has."""
        candidates = candidates_of(free, blocks, self._texts.tokens_per_byte.value)
        if now > self._stale_at:
            self._stale_at = min(one.changed_at for one in self._replicas) + STALE_S
            forgive(free, candidates, now)
        index = self.policy.choose(candidates, facts, now, self._random)
        if not isinstance(index, int) or not 0 <= index < len(candidates):
            raise IndexError(f"it chose {index!r} of {len(candidates)} candidates")
        return free[index], candidates[index].cached_tokens

    def placed(self, replica: ReplicaId, facts: Facts, now: float) -> None:
        """A call was sent."""
        if self._learns:
            self.policy.observe(Placed(replica, facts, now))

    def finished(
        self, stage: str, sent: Try, tokens: float, usage: Usage | None, now: float
    ) -> None:
        """A try wrote its whole text, of so many tokens."""
        if self._learns:
            began = now if sent.began_at is None else sent.began_at
            first_s, total_s = began - sent.sent_at, now - sent.sent_at
            cached = usage.cached_tokens if usage is not None else None
            self.policy.observe(
                Finished(sent.replica, stage, first_s, total_s, tokens, cached, now)
            )
