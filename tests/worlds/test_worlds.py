"""Whatever moods replicas have, each call ends as it should, and once all are well all is well.

A seed that fails says what was wrong; `python -m tests.worlds SEED` runs it again.
"""

import pytest

from . import calls, pipelines

CHUNK = 50


@pytest.mark.parametrize("chunk", range(6))
def test_calls_survive_moody_replicas(chunk: int) -> None:
    answered = sum(calls.one(seed) for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK))
    assert answered > 40 * CHUNK


@pytest.mark.parametrize("chunk", range(4))
def test_requests_survive_moody_replicas(chunk: int) -> None:
    answered = sum(pipelines.one(seed) for seed in range(chunk * 25, (chunk + 1) * 25))
    assert answered > 6 * 25


@pytest.mark.parametrize(
    "seed",
    [
        1009,  # an answer that ended without a finish reason passed for a whole one
        9,  # one server's absurd usage made every later break look like a text at its limit
        266,  # who came long after the last replica went out was sent away while it was probed
    ],
)
def test_what_once_went_wrong_does_not_again(seed: int) -> None:
    calls.one(seed)


@pytest.mark.parametrize(
    "seed",
    [
        167,  # what could not be read was asked again of the same replica, and read no better
    ],
)
def test_what_once_went_wrong_with_requests_does_not_again(seed: int) -> None:
    pipelines.one(seed)


def test_a_world_is_the_same_each_time() -> None:
    assert [calls.one(seed) for seed in range(5)] == [calls.one(seed) for seed in range(5)]
