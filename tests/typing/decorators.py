"""What a strict type checker says about pipelines. Checked by mypy, never run.

Every `type: ignore` names an error that must be reported: mypy is told to warn of unused ones.
"""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from alto import LM, AsCompleted, Pipeline, Sentence, Stage, Stream, lm, pipeline, stage


@stage
async def words(text: str) -> AsyncIterator[str]:
    yield text


@stage(instances=2, retries=1, timeout="5s", on_error="drop")
def length(word: str) -> int:
    return len(word)


@stage
class Model:
    def __init__(self, size: int = 1) -> None:
        self.size = size

    def __call__(self, text: str) -> int:
        return self.size


@lm(engine="chat", max_tokens=10, returns=Stream[Sentence])
def answer(question: str) -> str:
    return question


@lm(engine="chat", returns=Stream[Sentence])
async def growing(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
    yield question
    async for found in evidence:
        yield found


@stage
async def total(numbers: Stream[int], late: AsCompleted[int]) -> int:
    return sum([n async for n in numbers]) + sum(late)


def a_stage_keeps_the_type_of_its_function() -> None:
    assert_type(length.function("word"), int)
    assert_type(answer.function("question"), str)
    length.function(3)  # type: ignore[arg-type]
    # While a pipeline is recorded a call takes and gives placeholders, so it is not narrowed.
    assert_type(length("word"), Any)


def options_are_checked() -> None:
    stage(retires=1)  # type: ignore[call-overload]
    stage(instances="two")  # type: ignore[call-overload]
    stage(max_tokens=3)  # type: ignore[call-overload]
    lm(batch=3)  # type: ignore[call-overload]


def decorators_make_stages_and_pipelines() -> None:
    made: Stage[[str], int] = length
    asked: LM[[str], str] = answer
    wired: Pipeline[[str], object] = shout
    assert made
    assert asked
    assert wired


@pipeline
def shout(text: str) -> object:
    return length(text)


async def streams_are_typed(numbers: Stream[int]) -> None:
    async for number in numbers:
        assert_type(number, int)
    for number in numbers:
        assert_type(number, int)
    assert_type(Stream.of(1, 2), Stream[int])
    late: AsCompleted[int] = numbers  # type: ignore[assignment]
    early: Stream[int] = late
    assert early
