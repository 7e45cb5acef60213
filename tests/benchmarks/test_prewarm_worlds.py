"""What `prewarm` measures holds in each load, not only on average."""

from __future__ import annotations

import pytest

from benchmarks import prewarm

WORLDS = {world.name: world for world in prewarm.WORLDS}


def rows(name: str, seed: int) -> tuple[prewarm.Row, prewarm.Row]:
    """Without and with prewarming."""
    world = WORLDS[name]
    plain, ahead = (
        prewarm.row(world, [prewarm.load(world, on, seed, 20.0)]) for on in (False, True)
    )
    return plain, ahead


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["idle", "70B"])
def test_long_evidence_and_idle_replicas_answer_sooner(name: str, seed: int) -> None:
    plain, ahead = rows(name, seed)
    assert ahead.first_s < plain.first_s / 2
    assert ahead.total_s < plain.total_s
    assert ahead.read < 1.1 * plain.read
    assert ahead.prewarm > plain.prewarm == 0


def test_short_prompts_are_left_alone() -> None:
    plain, ahead = rows("short", 1)
    assert ahead == plain
