"""The critical path is a limit: nothing is sooner, and streaming by hand comes close to it."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks.contenders import handwritten
from benchmarks.critical import Alone, EngineLM, alone, critical_path, respond

from alto import Simulated
from alto.testing.loop import run
from benchmarks import workload

SPEC = Simulated(replicas=16, respond=respond, prefix_caching=False)


async def by_hand(question: str) -> float:
    engine = SPEC.open("chat")
    start = asyncio.get_running_loop().time()
    await handwritten.factcheck(EngineLM(engine), question)
    took = asyncio.get_running_loop().time() - start
    await engine.aclose()
    return took


def test_a_character_is_there_with_the_piece_that_brings_it() -> None:
    played = Alone("One. Two.", ends=(3, 5, 9), times=(0.1, 0.2, 0.3))
    assert [played.at(count) for count in (1, 3, 4, 5, 6, 9)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_a_call_played_alone_writes_its_whole_text_in_time_order() -> None:
    prompt = workload.answer_prompt("What is known about matter 1?")
    played = run(alone(SPEC, prompt))
    assert played.text == workload.respond(prompt)
    assert list(played.times) == sorted(played.times)
    assert played.times[0] > 0


@pytest.mark.parametrize("question", workload.questions(5))
def test_streaming_by_hand_is_at_the_limit_and_never_below(question: str) -> None:
    limit = run(critical_path(SPEC, question, workload.SEARCH_S))
    assert limit.first < limit.last
    took = run(by_hand(question))
    # By hand a claim is cut at its line's end, one piece after its object closes.
    assert limit.last <= took <= limit.last * 1.02
    strict = run(critical_path(SPEC, question, workload.SEARCH_S, known_at_stop=True))
    assert strict.first <= limit.first
    assert strict.last <= limit.last
