"""The pauses between the attempts of a stage, in the core alone."""

from __future__ import annotations

import random

import pytest

from alto import pipeline, stage
from alto.core.execution import Execution


@stage(retries=4, backoff=1.0)
async def again(x: int) -> int:
    return x


@pipeline
def tries(x: int):
    return again(x)


def pauses(name: str) -> list[float]:
    """How long a request waits after each of four attempts that fail."""
    execution = Execution(tries.graph, name=name)
    execution.begin({"x": 1})
    found = []
    for _ in range(4):
        (start,) = execution.take_actions()
        execution.broke(start.invocation, ValueError("no"))
        wake = execution.wake_at()
        assert wake is not None
        found.append(wake - execution.now)
        execution.now = wake
        execution.tick()
    return found


def test_each_pause_is_another_draw_from_the_luck_of_its_request() -> None:
    luck = random.Random("a")
    drawn = [2.0**n * (0.5 + luck.random() / 2) for n in range(4)]
    assert pauses("a") == pytest.approx(drawn)
    assert pauses("a") == pauses("a") != pauses("b")
