"""What a call costs at each replica (see `policies.prompt_aware`), and which is the cheapest.

Here are the numbers of a choice alone, in classes of their own that are compiled: what a policy of
somebody else is shown (`scheduling.Candidate` and `Facts`) is filled from them, and the pool's own
policy needs no more.
"""

from __future__ import annotations

from random import Random
from typing import Final

TIE_S: Final = 0.002
"""Places that cost so little more than the cheapest are as good."""


class Place:
    """A replica as it stands for one choice; see `scheduling.Candidate`."""

    __slots__ = (
        "cached_tokens",
        "free_tokens",
        "prefill_s",
        "prefill_tokens",
        "running",
        "step_rise_s",
        "step_s",
        "weight",
    )

    def __init__(
        self,
        running: float = 0.0,
        prefill_tokens: float = 0.0,
        cached_tokens: float = 0.0,
        free_tokens: float = 0.0,
        prefill_s: float = 0.0,
        step_s: float = 0.0,
        step_rise_s: float = 0.0,
        weight: float = 0.0,
    ) -> None:
        self.running = running
        """Calls there; a part of one, where other pools are believed by parts."""
        self.prefill_tokens = prefill_tokens
        self.cached_tokens = cached_tokens
        self.free_tokens = free_tokens
        self.prefill_s = prefill_s
        self.step_s = step_s
        self.step_rise_s = step_rise_s
        self.weight = weight


class Need:
    """What is known of a call before it runs; see `scheduling.Facts`."""

    __slots__ = ("deadline", "output_tokens", "prompt_tokens", "stage", "waited_s", "weight")

    def __init__(
        self,
        stage: str,
        prompt_tokens: float,
        output_tokens: float,
        deadline: float | None,
        waited_s: float,
        weight: float,
    ) -> None:
        self.stage = stage
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.deadline = deadline
        self.waited_s = waited_s
        self.weight = weight


def cost(need: Need, place: Place) -> float:
    """Seconds that the call needs at a place, and takes from others there, each as far as a request
    waits for it."""
    output_tokens, weight, others = need.output_tokens, need.weight, place.weight
    uncached = need.prompt_tokens - place.cached_tokens
    reading = place.prefill_s * uncached
    alone = place.prefill_s * place.prefill_tokens + reading + output_tokens * place.step_s
    harm = others * (reading + output_tokens * place.step_rise_s)
    total = weight * alone + harm
    if uncached > place.free_tokens:
        total += (others + weight) * (place.prefill_s * (uncached - place.free_tokens))
    return total


def costs(places: list[Place], need: Need) -> list[float]:
    """What the call costs at each place."""
    return [cost(need, place) for place in places]


def cheapest_place(places: list[Place], need: Need, random: Random) -> int:
    """The index of the place where the call costs least, by lot among those nearly as cheap."""
    if len(places) == 1:
        return 0
    return cheapest(costs(places, need), random, slack=TIE_S)


def cheapest(costs: list[float], random: Random, *, slack: float = 0.0) -> int:
    """The index of the lowest cost; one by lot among those at most `slack` above it."""
    rising = sorted(costs)
    limit = rising[0] + slack
    if len(rising) == 1 or rising[1] > limit:
        return costs.index(rising[0])
    ties = [index for index, value in enumerate(costs) if value <= limit]
    return ties[int(random.random() * len(ties))]
