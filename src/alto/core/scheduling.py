"""Where should a call run? The values that a policy sees, and what a policy is.

The pool decides *which* call is next (see `pool.py`) and asks its policy *where*. A policy is two
verbs: `choose` one of the replicas that have room, and `observe` what came of it. It never sees
prompts, sockets or the pool: only numbers that the pool has measured or expects.

What a policy sees are values, for one choice: candidates are the pool's own and filled in anew for
the next one, so that a choice among many replicas makes no objects. A policy that wants to remember
something of them notes the numbers.

Always true of a policy:
    Y1  `choose` returns an index into the candidates and changes nothing
    Y2  luck comes from the random that is handed in, so that a replay gives the same choices
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NewType, Protocol

from .cost import cheapest

CallId = NewType("CallId", int)
ReplicaId = NewType("ReplicaId", int)
"""The place of a replica in its pool, from 0."""


@dataclass(slots=True)
class Facts:
    """What is known of a call before it runs."""

    stage: str
    prompt_tokens: float
    """Estimated: bytes of the prompt times the measured tokens per byte."""
    output_tokens: float
    """Expected, from what the stage has written so far."""
    deadline: float | None = None
    """In the clock of `now`."""
    waited_s: float = 0.0
    """How long the call's request has been in this pool."""
    weight: float = 1.0
    """How much its request waits for it: 1 for a call alone, and for one that leads to the first
    thing that its request shows; 1 / sqrt(n) for another of n calls of a request. Of calls side by
    side the slowest counts, and each might be that; were it surely another one it would count
    nothing, were all equally slow, 1 / n."""


@dataclass(slots=True)
class Candidate:
    """A healthy replica with room, as it stands now."""

    replica: ReplicaId
    name: str
    sequences: int = 0
    """Calls under way there: those this pool sent, and those of others as far as reported."""
    prefill_tokens: float = 0.0
    """Prompt tokens sent there, not in its cache, of calls that have not begun to answer."""
    cached_tokens: float = 0.0
    """Tokens of *this* call's prompt that it is expected to have in its cache."""
    free_tokens: float = 0.0
    """Tokens that its cache can take before it must forget something."""
    prefill_s: float = 0.0
    """Measured seconds to read one prompt token that is not cached."""
    step_s: float = 0.0
    """Measured seconds to write one token, with the present calls and this one."""
    step_rise_s: float = 0.0
    """Seconds by which one more call makes every token of all calls there later."""
    weight: float = 0.0
    """The sum of the weights of the calls under way there."""


@dataclass(slots=True)
class Placed:
    """A call was sent."""

    replica: ReplicaId
    facts: Facts
    now: float


@dataclass(slots=True)
class Finished:
    """A call ended well."""

    replica: ReplicaId
    stage: str
    first_s: float
    """From sending to the first piece of text."""
    total_s: float
    output_tokens: float
    cached_tokens: float | None
    """As the engine reports it; None if it does not."""
    now: float


class Policy(Protocol):
    """A choice among replicas with room. Any object with these two methods will do."""

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        """The index of the replica to use. There is always at least one candidate."""
        ...

    def observe(self, seen: Placed | Finished) -> None:
        """Learn what came of a choice. Called once when a call is sent, once when it ended."""
        ...


def needs_prefix(policy: Policy) -> bool:
    """Does the policy look at `cached_tokens`? Hashing prompts is the costly part of scheduling.

    A policy that does not, sets `uses_prefix = False`; without a word it is taken that it does.
    """
    return bool(getattr(policy, "uses_prefix", True))


def learn_nothing(policy: object, seen: Placed | Finished) -> None:
    """The `observe` of a policy that learns nothing. Pools do not even ask it."""


def learns(policy: Policy) -> bool:
    """Whether the policy's `observe` is its own."""
    return getattr(policy.observe, "__func__", None) is not learn_nothing


def least(
    candidates: Sequence[Candidate],
    cost: Callable[[Candidate], float],
    random: Random,
    *,
    slack: float = 0.0,
) -> int:
    """The index of the cheapest candidate; one by lot among those at most `slack` dearer.

    The lot matters where several pools see the same numbers: without it all would pick the same
    replica at the same moment.
    """
    if len(candidates) == 1:
        return 0
    return cheapest([cost(candidate) for candidate in candidates], random, slack=slack)
