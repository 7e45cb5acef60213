"""Where does a call go? Asks the policy, and tells it what came of it.

The policy that a pool has unless told otherwise is not asked: what its `choose` makes of candidates
is computed here from the books themselves.

Always true:
    W1  what a policy raises, and a choice that is none of the candidates, comes out of here as it
        is; the pool makes a refusal of it
    W2  a policy that learns nothing (`learn_nothing`) is asked where, and is not to be told
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from .calls import Usage
from .cost import TIE_S, Need, Place, cheapest_place
from .learning import Texts
from .policies.prompt_aware import PromptAware
from .replicas import STALE_S, ReplicaState, Try, forgive, places_of
from .scheduling import Candidate, Facts, Finished, Placed, Policy, ReplicaId, learns

_BY_COST = PromptAware.choose


class Where:
    """The policy of one pool, and what it is asked with."""

    def __init__(
        self, policy: Policy, replicas: list[ReplicaState], texts: Texts, random: Random
    ) -> None:
        self.policy = policy
        self._by_cost = getattr(policy.choose, "__func__", None) is _BY_COST
        """It chooses as `cheapest_place` does."""
        self._replicas = replicas
        self._candidates = [Candidate(one.replica, one.name) for one in replicas]
        """The replicas as the policy was shown them last."""
        self._stale_at = STALE_S
        """Before then no replica has been idle for long."""
        self.learns = learns(policy)
        """Whether it wants to be told (`placed`, `finished`)."""
        self._texts = texts
        self._random = random

    def choose(
        self, blocks: Sequence[int], need: Need, free: list[ReplicaState], now: float
    ) -> tuple[ReplicaState, float]:
        """The replica that the policy chooses, and how many tokens of the prompt it has."""
        per_byte = self._texts.tokens_per_byte.value
        if self._by_cost and now <= self._stale_at:  # nearly always
            chosen = cheapest_at(free, blocks, need, per_byte, self._random)
            return chosen, chosen.cached_tokens(blocks, per_byte) if blocks else 0.0
        places = places_of(free, blocks, per_byte)
        if now > self._stale_at:
            self._stale_at = min(one.changed_at for one in self._replicas) + STALE_S
            forgive(free, places, now)
        if self._by_cost:
            index = cheapest_place(places, need, self._random)
        else:
            index = self._asked(free, need, now)
        return free[index], places[index].cached_tokens

    def placed(self, replica: ReplicaId, need: Need, now: float) -> None:
        """A call was sent."""
        self.policy.observe(Placed(replica, _facts(need), now))

    def finished(
        self, stage: str, sent: Try, tokens: float, usage: Usage | None, now: float
    ) -> None:
        """A try wrote its whole text, of so many tokens."""
        began = now if sent.began_at is None else sent.began_at
        first_s, total_s = began - sent.sent_at, now - sent.sent_at
        cached = usage.cached_tokens if usage is not None else None
        self.policy.observe(Finished(sent.replica, stage, first_s, total_s, tokens, cached, now))

    def _asked(self, free: list[ReplicaState], need: Need, now: float) -> int:
        """What the policy says."""
        candidates: list[Candidate] = []
        for one in free:
            candidate = self._candidates[one.replica]
            _show(one.place, candidate)
            candidates.append(candidate)
        index = self.policy.choose(candidates, _facts(need), now, self._random)
        if not isinstance(index, int) or not 0 <= index < len(candidates):
            raise IndexError(f"it chose {index!r} of {len(candidates)} candidates")
        return index


def cheapest_at(
    replicas: list[ReplicaState],
    blocks: Sequence[int],
    need: Need,
    tokens_per_byte: float,
    random: Random,
) -> ReplicaState:
    """The one of these replicas where a call with these blocks costs least.

    It is what `cheapest_place` chooses of their `places_of`, but for each call of the pool. So it
    is written out, `cost` with it: no place is filled in, and no list is made.
    """
    speed = replicas[0].speed
    first_s, step_s, rise_s = speed.first.slope, speed.step.intercept, speed.step.slope
    prompt_tokens, output_tokens, weight = need.prompt_tokens, need.output_tokens, need.weight
    chosen = replicas[0]
    lowest = second = inf
    for one in replicas:
        beside = one.beside
        slowness = one.slowness.value
        prefill_s = first_s * slowness
        uncached = prompt_tokens
        if blocks:
            uncached -= one.cached_tokens(blocks, tokens_per_byte)
        reading = prefill_s * uncached
        others = one.weight + beside.weight
        total = weight * (
            prefill_s * (one.prefill_tokens + beside.prefill_tokens)
            + reading
            + output_tokens
            * ((step_s + rise_s * (one.sequences + beside.sequences + 1)) * slowness)
        ) + others * (reading + output_tokens * (rise_s * slowness))
        if uncached > one.cache.index.free_bytes * tokens_per_byte:
            pushed_out = uncached - one.cache.index.free_bytes * tokens_per_byte
            total += (others + weight) * (prefill_s * pushed_out)
        one.cost_s = total
        if total < lowest:
            chosen = one
            second = lowest
            lowest = total
        elif total < second:
            second = total
    limit = lowest + TIE_S
    if second > limit or len(replicas) == 1:
        return chosen
    ties = [one for one in replicas if one.cost_s <= limit]
    return ties[int(random.random() * len(ties))]


def _show(place: Place, candidate: Candidate) -> None:
    """Fill in a candidate, which a policy has seen before: a choice among many makes no objects."""
    candidate.sequences = round(place.running)
    candidate.prefill_tokens = place.prefill_tokens
    candidate.cached_tokens = place.cached_tokens
    candidate.free_tokens = place.free_tokens
    candidate.prefill_s = place.prefill_s
    candidate.step_s = place.step_s
    candidate.step_rise_s = place.step_rise_s
    candidate.weight = place.weight


def _facts(need: Need) -> Facts:
    return Facts(
        need.stage,
        need.prompt_tokens,
        need.output_tokens,
        need.deadline,
        need.waited_s,
        need.weight,
    )
