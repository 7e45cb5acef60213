"""Thousands of random pipelines come to what a plain reading of the ancestry rule says.

A seed that fails prints its pipeline; `python -m tests.oracle SEED` runs it again.
"""

import pytest

from . import production, puppets
from .draw import REVISING_FROM, draw

CHUNK = 250


@pytest.mark.parametrize("chunk", range(10))
def test_the_core_agrees_with_the_oracle(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        puppets.one(seed)


@pytest.mark.parametrize("chunk", range(4))
def test_the_runtime_agrees_with_the_oracle(chunk: int) -> None:
    for seed in range(10_000 + chunk * CHUNK, 10_000 + (chunk + 1) * CHUNK):
        production.one(seed)


@pytest.mark.parametrize("chunk", range(4))
def test_what_is_taken_back_leaves_nothing_behind(chunk: int) -> None:
    for seed in range(REVISING_FROM + chunk * CHUNK, REVISING_FROM + (chunk + 1) * CHUNK):
        puppets.one(seed)


@pytest.mark.parametrize(
    "seed",
    [
        30_035,  # two items fail under an `AsCompleted`: either may be met first
        802_282,
        1_001_184,  # a stream read to its end was empty, and is so no more after a re-run
        4_001_186,  # committed stages that would wait for each other's readers
        50_103_736,  # an either was settled twice in one step, and two attempts ran beside each other
        50_200_062,  # a list was given up half-way, and wanted again
    ],
)
def test_what_once_went_wrong_does_not_again(seed: int) -> None:
    puppets.one(seed)
    production.one(seed)


def test_the_draw_reaches_every_kind_of_thing() -> None:
    """What no case had would be tested by no case."""
    met = set()
    for seed in range(1000):
        case = draw(seed, puppets.no_body)
        for use in case.pipeline.graph.uses:
            met.add(use.kind.value)
            met.add(f"level {use.level.depth}")
            met.update(gather.mode.value for gather in use.gathers)
            met.add(f"retries {use.rules.retries}")
            met.add("committed" if use.rules.committed else "provisional")
            met.add(str(use.rules.on_error))
            if "inner" in use.name:
                met.add("nested")
            if use.name.endswith("#2") and use.stage is not None:
                met.add("used twice")
        for plan in case.plans.values():
            met.add("echo" if plan.echo else "plain")
            met.update(f"reads {most}" for most in plan.reads.values())
    assert met >= {
        *("stage", "instant", "either", "merge", "Stream", "AsCompleted", "list"),
        *(f"level {depth}" for depth in range(6)),
        *("retries 0", "retries 2", "committed", "provisional", "fail", "drop"),
        *("Default(value=7)", "Default(value=[7, 8])", "nested", "used twice", "echo"),
        *("reads None", "reads 0", "reads 1", "reads 2"),
    }
