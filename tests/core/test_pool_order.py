"""Which call of a pool is next: by deadline, by what follows in its request, by priority."""

from __future__ import annotations

import pytest
from pool_machine import Machine

from alto.core.pool_events import Send


def order(one: Machine, calls: list[int]) -> list[int]:
    """The order in which waiting calls are sent, one at a time."""
    found = []
    running = 0
    for _ in calls:
        actions = one.ended(running, 0, 1.0)
        sends = [action.call for action in actions if isinstance(action, Send)]
        assert len(sends) == 1
        running = sends[0]
        found.append(running)
    return found


def full() -> Machine:
    """A pool with one replica that takes one call and has it: call 0."""
    one = Machine(1, limits={"sequences_start": 1, "sequences_max": 1})
    one.submit(0, 0.0)
    return one


def test_the_least_slack_goes_first_and_what_follows_a_call_counts() -> None:
    one = full()
    one.submit(1, 0.1, deadline=6.0, rest_s=0.5)
    one.submit(2, 0.1, deadline=8.0, rest_s=5.0)  # early in a long chain
    one.submit(3, 0.1, deadline=5.0, rest_s=1.0)
    assert order(one, [1, 2, 3]) == [2, 3, 1]


def test_higher_priority_goes_first() -> None:
    one = full()
    for call, priority in ((1, 0), (2, 1), (3, -1), (4, 2)):
        one.submit(call, 0.1, priority=priority)
    assert order(one, [1, 2, 3, 4]) == [4, 2, 1, 3]


@pytest.mark.parametrize(("age", "first"), [(9.0, 2), (11.0, 1)])
def test_a_level_of_priority_is_worth_some_seconds_of_age(age: float, first: int) -> None:
    one = full()
    one.submit(1, 0.0)
    one.submit(2, age, priority=1)
    actions = one.ended(0, 0, age + 0.5)
    assert [action.call for action in actions if isinstance(action, Send)] == [first]
    assert one.core.limits.priority_s == 10.0


def test_deadlines_of_a_burst_are_forgotten_when_it_is_over() -> None:
    pool = Machine(1, limits={"sequences_start": 1})
    calls = range(1, 301)
    for call in calls:
        pool.submit(call, deadline=1e6)
    for call in calls:
        pool.left(call, 1.0)
    assert pool.core.waiting == 0
    assert len(pool.core._waiting._deadlines) <= 64
