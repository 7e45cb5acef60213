"""The best static split of replicas over LM stages, by search.

From a split in proportion to the tokens that the stages write, replicas are moved one by one, as
long as a move lowers the mean latency under the same load; every split is simulated once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Split = dict[str, int]
ROUNDS_MAX = 3


def proportional(work: Mapping[str, float], replicas: int) -> Split:
    """One replica each, and every further one to the stage with most work for each of its own."""
    split = dict.fromkeys(work, 1)
    for _ in range(replicas - len(split)):
        busiest = max(split, key=lambda stage: work[stage] / split[stage])
        split[busiest] += 1
    return split


def neighbours(split: Mapping[str, int]) -> list[Split]:
    """Every split that is one move away."""
    return [
        {**split, giver: split[giver] - 1, taker: split[taker] + 1}
        for giver in split
        if split[giver] > 1
        for taker in split
        if taker != giver
    ]


def best(
    start: Split, latency: Callable[[Split], float]
) -> tuple[Split, list[tuple[Split, float]]]:
    """The best split that moves lead to, and all that were tried with their mean latency."""
    tried: dict[tuple[int, ...], tuple[Split, float]] = {}

    def mean(split: Split) -> float:
        key = tuple(split.values())
        if key not in tried:
            tried[key] = split, latency(split)
        return tried[key][1]

    chosen = start
    for _ in range(ROUNDS_MAX):
        better = min([chosen, *neighbours(chosen)], key=mean)
        if better == chosen:
            break
        chosen = better
    return chosen, list(tried.values())
