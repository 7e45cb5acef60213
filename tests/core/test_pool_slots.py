"""A pool over replicas that keep one prompt a slot: who waits for whom, and how long."""

from __future__ import annotations

from typing import Any

from pool_machine import Machine, calls, send

from alto.core.next_call import LOOK_AHEAD
from alto.core.pool_events import CacheFacts, Reported
from alto.core.prefix import Prompt, chain
from alto.core.scheduling import ReplicaId


def prompt(letter: bytes) -> Prompt:
    return Prompt(chain(letter * 8000), 8000)


def slotted(replicas: int = 2, slots: int = 1, **options: Any) -> Machine:
    """Replicas that have said how many slots they have."""
    pool = Machine(replicas, policy="prefix-affinity", **options)
    for replica in range(replicas):
        pool.tell(told(replica, slots), 0.0)
    return pool


def told(replica: int, slots: int) -> Reported:
    return Reported(ReplicaId(replica), 0, 0, CacheFacts(slots=slots))


def at_home(pool: Machine) -> None:
    """Replica 0 has read a, and replica 1 has read b; no call is under way."""
    first, second = pool.submit(1, prompt=prompt(b"a")), pool.submit(2, prompt=prompt(b"b"))
    homes = {first[0].replica: 1, second[0].replica: 2}  # type: ignore[union-attr]
    assert set(homes) == {0, 1}
    for replica, call in homes.items():
        pool.began(call, replica, 0.1)
        pool.ended(call, replica, 0.2)


def home_of(pool: Machine, letter: bytes) -> int:
    blocks = prompt(letter).blocks
    (home,) = [one.replica for one in pool.core.replicas if one.cache.index.held(blocks)]
    return home


def test_a_replica_is_sent_as_many_calls_as_it_has_slots() -> None:
    pool = slotted(1, slots=2)
    assert calls(pool.submit(1)) == [1]
    assert calls(pool.submit(2)) == [2]
    assert pool.submit(3) == []
    assert pool.core.replicas[0].sequences_limit == 2


def test_a_call_waits_for_the_replica_that_knows_its_prompt_though_another_is_free() -> None:
    pool = slotted()
    at_home(pool)
    home = home_of(pool, b"a")
    assert pool.submit(3, 1.0, prompt=prompt(b"a")) == [send(3, home)]
    assert pool.submit(4, 1.1, prompt=prompt(b"a")) == []
    assert pool.submit(5, 1.2, prompt=prompt(b"b")) == [send(5, 1 - home)]
    pool.began(3, home, 1.2)
    assert pool.ended(3, home, 1.3) == [send(4, home)]


def test_it_waits_also_where_another_slot_is_free_on_the_same_replica() -> None:
    """In the other slot the prompt would be read again, over what stands there."""
    pool = slotted(1, slots=2)
    for call, letter in ((1, b"a"), (2, b"b")):
        pool.submit(call, prompt=prompt(letter))
    for call in (1, 2):
        pool.began(call, 0, 0.1)
        pool.ended(call, 0, 0.2)
    assert pool.submit(3, 1.0, prompt=prompt(b"a")) == [send(3, 0)]
    assert pool.submit(4, 1.1, prompt=prompt(b"a")) == []
    assert pool.submit(5, 1.2, prompt=prompt(b"b")) == [send(5, 0)]


def test_it_waits_no_longer_than_reading_elsewhere_costs() -> None:
    pool = slotted()
    at_home(pool)
    home = home_of(pool, b"a")
    pool.submit(3, 1.0, prompt=prompt(b"a"))
    pool.submit(4, 1.5, prompt=prompt(b"a"))
    tokens = 8000 * pool.core.texts.tokens_per_byte.value
    patience_s = 4.0 * pool.core.replicas[home].prefill_s * tokens
    at, actions = pool.wake()
    assert at == 1.5 + patience_s
    assert actions == [send(4, 1 - home)]


def test_the_wait_has_a_limit_whatever_reading_costs() -> None:
    pool = slotted(limits={"home_wait_max_s": 0.125})
    at_home(pool)
    home = home_of(pool, b"a")
    pool.submit(3, 1.0, prompt=prompt(b"a"))
    pool.submit(4, 1.5, prompt=prompt(b"a"))
    assert pool.wake() == (1.625, [send(4, 1 - home)])


def test_a_call_that_nobody_knows_does_not_wait() -> None:
    pool = slotted()
    at_home(pool)
    home = home_of(pool, b"a")
    pool.submit(3, 1.0, prompt=prompt(b"a"))
    pool.submit(4, 1.1, prompt=prompt(b"a"))
    assert pool.submit(5, 1.2, prompt=prompt(b"c")) == [send(5, 1 - home)]


def test_a_call_that_waits_is_not_overtaken_for_ever() -> None:
    pool = slotted(limits={"patience_s": 0.0})
    at_home(pool)
    home = home_of(pool, b"a")
    pool.submit(3, 1.0, prompt=prompt(b"a"))
    pool.submit(4, 1.0, prompt=prompt(b"a"))
    went: list[int] = []
    for number in range(LOOK_AHEAD + 1):
        now = 1.001 + number / 1000
        actions = pool.submit(5 + number, now, prompt=prompt(b"b"))
        went += calls(actions)
        for call in calls(actions):
            pool.began(call, 1 - home, now)
            went += calls(pool.ended(call, 1 - home, now))
    assert went[LOOK_AHEAD] == 4


def test_nobody_waits_for_a_replica_that_broke() -> None:
    pool = slotted(limits={"failures_max": 1})
    at_home(pool)
    home = home_of(pool, b"a")
    pool.submit(3, 1.0, prompt=prompt(b"a"))
    pool.submit(4, 1.1, prompt=prompt(b"a"))
    assert pool.broke(3, home, 1.2) == [send(3, 1 - home)]
    pool.began(3, 1 - home, 1.3)
    assert pool.ended(3, 1 - home, 1.4) == [send(4, 1 - home)]


def test_slots_that_are_told_in_mid_flight_count_the_calls_under_way() -> None:
    pool = Machine(1, policy="prefix-affinity")
    pool.submit(1, prompt=prompt(b"a"))
    pool.tell(told(0, 2), 0.5)
    index = pool.core.replicas[0].cache.index
    blocks = prompt(b"a").blocks
    assert (index.match(blocks), index.held(blocks)) == (0, len(blocks))
    pool.began(1, 0, 0.6)
    pool.ended(1, 0, 0.7)
    assert index.match(blocks) == len(blocks)


def test_policies_that_know_no_prompts_wait_for_none() -> None:
    pool = Machine(2, policy="round-robin")
    for replica in (0, 1):
        pool.tell(told(replica, 1), 0.0)
    assert pool.submit(1, prompt=prompt(b"a")) == [send(1, 0)]
    assert pool.submit(2, prompt=prompt(b"a")) == [send(2, 1)]


def test_a_prompt_too_short_to_be_known_takes_a_slot_too() -> None:
    pool = slotted(1, slots=2)
    for call, letter in ((1, b"a"), (2, b"b")):
        pool.submit(call, prompt=prompt(letter))
        pool.began(call, 0, 0.1)
        pool.ended(call, 0, 0.2)
    pool.submit(3, 1.0)
    index = pool.core.replicas[0].cache.index
    assert [index.held(prompt(letter).blocks) > 0 for letter in (b"a", b"b")] == [False, True]
