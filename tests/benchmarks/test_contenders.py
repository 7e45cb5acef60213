"""Every contender does the whole job: right results, in order, for each question its own."""

from __future__ import annotations

import asyncio

import pytest

from alto.testing.loop import run
from benchmarks import contenders, probe, workload

NAMES = list(contenders.MODULES)
QUESTIONS = workload.questions(4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("items", [1, 10])
def test_a_fanout_gives_every_item_once_in_order(name: str, items: int) -> None:
    async def main() -> list[int]:
        async with contenders.load(name).fanout() as fanout:
            return await fanout(items)

    probe.check_fanout(run(main()), items)


@pytest.mark.parametrize("name", NAMES)
def test_requests_served_together_get_each_their_own_tally(name: str) -> None:
    async def main() -> list[dict[str, int]]:
        async with contenders.load(name).verification(workload.ScheduledLM()) as serve:
            return await asyncio.gather(*(serve(question) for question in QUESTIONS))

    assert run(main()) == [workload.expected(question) for question in QUESTIONS]


def test_streaming_by_hand_takes_the_critical_path_and_no_more() -> None:
    """So that the limit is the limit: its latency is what the LM's schedule alone dictates."""
    lm = workload.ScheduledLM()
    (question,) = workload.questions(1)

    async def main() -> float:
        async with contenders.load("handwritten").verification(lm) as serve:
            loop = asyncio.get_running_loop()
            start = loop.time()
            await serve(question)
            return loop.time() - start

    assert run(main()) == pytest.approx(workload.critical_path(lm, question), abs=1e-9)


def test_an_unknown_contender_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="no contender named 'spark'; there are handwritten, alto"):
        contenders.load("spark")


def test_a_wrong_fanout_is_refused() -> None:
    with pytest.raises(AssertionError, match="gave 2 results"):
        probe.check_fanout([4, 3], 2)
