"""`prompt-aware` (the default): the replica where the call costs everybody the least time.

The cost of a place is in seconds that requests wait, and has two halves. What the call itself will
need there, as far as its request waits for it:

    weight * prefill_s * (prefill_tokens + uncached)    reading what is queued before it,
                                                        then its own
  + weight * output_tokens * step_s                     writing, at the speed of that replica
                                                        under load
and what it takes from the others that run there:

    others * prefill_s * uncached                   a prompt being read holds every writer up
  + others * output_tokens * step_rise_s            one more in the batch makes every step longer
  + (others + weight) * prefill_s * evicted         what is pushed out of the cache is read again

where `uncached = prompt_tokens - cached_tokens`, `evicted = max(0, uncached - free_tokens)`,
`weight` is how much the call's request waits for it (1 if it is the only one under way or leads to
what is shown first, less beside others), and `others` the sum of the weights of the calls there. So
a warm replica is preferred by just the time that its cache saves, to the call and to its
neighbours; a busy one is left by just the time that its queue costs; a replica twice as fast gets
about twice the calls. And a call that its request does nothing but wait for finds a replica that
writes fast, as the crowds of calls of one request gather on others. Nothing needs tuning, since all
terms are the same seconds. Among replicas within two milliseconds the lot decides.

It is wrong where its numbers are: an engine that reports no usage teaches it little, and a stage
whose texts are sometimes ten and sometimes a thousand tokens long has no useful mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..cost import Need, Place, cheapest_place
from ..scheduling import Candidate, Facts, learn_nothing


class PromptAware:
    """Least added time for all."""

    uses_prefix = True

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        """The cheapest place, by lot among those that are nearly as cheap. (Its own pool leaves
        out the candidates: `where.cheapest_at` chooses the same.)"""
        return cheapest_place([place_of(one) for one in candidates], need_of(facts), random)

    observe = learn_nothing
    """The pool measures speed and lengths for every policy."""


def place_of(one: Candidate) -> Place:
    """What a candidate says, as `cost` takes it."""
    return Place(
        one.sequences,
        one.prefill_tokens,
        one.cached_tokens,
        one.free_tokens,
        one.prefill_s,
        one.step_s,
        one.step_rise_s,
        one.weight,
    )


def need_of(facts: Facts) -> Need:
    """What is known of a call, as `cost` takes it."""
    return Need(
        facts.stage,
        facts.prompt_tokens,
        facts.output_tokens,
        facts.deadline,
        facts.waited_s,
        facts.weight,
    )
