"""Room for calls beyond the limit, on replicas that know their prompt."""

from __future__ import annotations

import pytest
from pool_machine import Machine, send

from alto.core.pool_events import CacheFacts, Reported
from alto.core.prefix import Prompt, chain
from alto.core.scheduling import ReplicaId
from alto.core.slots import SlotIndex

PROMPT, OTHER = (Prompt(chain(letter * 6000), 6000) for letter in (b"t", b"o"))


def machine(**limits: int) -> Machine:
    """Two replicas of two calls. The first knows the prompt."""
    pool = Machine(2, policy="prompt-aware", limits={"sequences_start": 2, **limits})
    pool.core.replicas[0].cache.add(PROMPT.blocks)
    return pool


def taken(pool: Machine, *calls: int, now: float) -> int:
    """How many of these the first replica takes."""
    return sum(
        pool.submit(call, now, prompt=PROMPT, max_tokens=10) == [send(call, 0)] for call in calls
    )


@pytest.mark.parametrize(
    ("why", "sequences_max", "most"),
    [("twice the room", 100, 4), ("but no more than there may be", 3, 3)],
)
def test_a_full_replica_takes_more_calls_that_it_knows(
    why: str, sequences_max: int, most: int
) -> None:
    """While another has room. Else the prompt would be read there too."""
    assert taken(machine(sequences_max=sequences_max), *range(most + 1), now=0.1) == most, why


def test_it_takes_no_more_of_those_that_it_does_not_know() -> None:
    pool = machine()
    pool.core.replicas[0].cache.index.clear()
    for call in range(4):
        pool.submit(call, 0.1, prompt=(PROMPT, OTHER)[call % 2], max_tokens=10)
    assert [one.sequences for one in pool.core.replicas] == [2, 2]


def test_a_replica_that_refuses_calls_is_given_no_more_than_it_takes() -> None:
    pool = machine()
    pool.core.replicas[0].cache.add(OTHER.blocks)
    assert pool.submit(1, 0.1, prompt=OTHER) == [send(1, 0)]
    pool.broke(1, 0, 0.2, status=429)
    pool.left(1, 0.3)
    limit = int(pool.core.replicas[0].sequences_limit)
    assert taken(pool, 2, 3, 4, now=9.0) == limit == 1


def test_a_replica_with_slots_is_given_no_more_calls_than_slots() -> None:
    """Though it keeps the prompt six times, beside its slots."""
    pool = machine()
    pool.tell(Reported(ReplicaId(0), 0, 0, CacheFacts(slots=3)), 0.0)
    index = pool.core.replicas[0].cache.index
    assert isinstance(index, SlotIndex)
    for _ in range(3):
        index.correct(promised=0, found=6000)
    for slot in [index.add(PROMPT.blocks) for _ in range(6)]:
        index.end(slot)
    assert taken(pool, *range(5), now=0.1) == 3
