"""Prompts find their cache on servers that keep one prompt a slot: what counts there is to wait.

Eight templates on four servers of three slots each, as in `benchmarks/routers.py`, where the
servers are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from slot_replica import SlotReplica

from alto.core.calls import Call
from alto.core.pool_events import CacheFacts
from alto.engines.pool import Pool
from alto.testing.loop import run

SLOTS = 3
TEMPLATES, STATIC_WORDS, OWN_WORDS = 8, 1500, 200
BEST = STATIC_WORDS / (STATIC_WORDS + OWN_WORDS)
"""All that prompts have in common is found."""


def words(random: Random, count: int) -> str:
    return "".join(f"{random.randrange(1000):03} " for _ in range(count))


def hit_ratio(policy: str, *, clients: int, told: bool, seed: int) -> float:
    """Of the second 120 calls, so that the first reading of each template is not counted."""

    async def main() -> float:
        replicas = [SlotReplica(f"r{number}", SLOTS) for number in range(4)]
        pool = Pool("chat", replicas, policy=policy, seed=seed)
        random = Random(seed)
        templates = [words(random, STATIC_WORDS) for _ in range(TEMPLATES)]

        async def client(turns: Iterator[int]) -> None:
            for _ in turns:
                prompt = random.choice(templates) + words(random, OWN_WORDS)
                call = Call(messages=[{"role": "user", "content": prompt}], max_tokens=8)
                async for _delta in pool.stream(call):
                    pass

        if told:
            for at in range(len(replicas)):
                pool.report(at, running=0, waiting=0, cache=CacheFacts(slots=SLOTS))
        for _ in range(2):
            asked, found = (sum(getattr(r, name) for r in replicas) for name in ("asked", "found"))
            turns = iter(range(120))
            await asyncio.gather(*(client(turns) for _ in range(clients)))
        pool.check()
        await pool.aclose()
        found = sum(replica.found for replica in replicas) - found
        return found / (sum(replica.asked for replica in replicas) - asked)

    return run(main())


@pytest.mark.parametrize("policy", ["prompt-aware", "prefix-affinity"])
@pytest.mark.parametrize(("clients", "least"), [(8, 0.95), (16, 0.9)])
def test_where_slots_are_known_nearly_all_that_could_be_found_is_found(
    policy: str, clients: int, least: float
) -> None:
    for seed in (1, 2):
        assert hit_ratio(policy, clients=clients, told=True, seed=seed) > least * BEST


def test_without_knowing_the_slots_most_is_read_again() -> None:
    """Why servers are asked how many they have."""
    assert hit_ratio("prompt-aware", clients=16, told=False, seed=1) < 0.5 * BEST
