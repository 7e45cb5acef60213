"""The end of an LM's text: what completes only there, and what is left of an answer without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import alto
from alto import Delta, Sentence, Stream, lm, pipeline, stage
from alto.errors import StageError
from alto.testing.loop import run


class Scripted:
    """Gives one answer after the other, in these pieces and with nothing behind them."""

    name = "e"

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    def open(self, name: str) -> Scripted:
        return self

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        for piece in self.answers.pop(0):
            yield Delta(piece)

    async def aclose(self) -> None:
        """Nothing to close."""


@lm(engine="chat", returns=Stream[Sentence])
def sentences(topic: str) -> str:
    return topic


@stage
async def slowly(sentence: Sentence) -> str:
    await asyncio.sleep(1.0)
    return str(sentence)


@pipeline
def read_slowly(topic: str) -> Any:
    return slowly(sentences(topic))


@lm(engine="chat", returns=int, retries=0)
def number(topic: str) -> str:
    return topic


@pipeline
def counted(topic: str) -> Any:
    return number(topic)


def answer(asked: Any, engine: Scripted, **more: Any) -> Any:
    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine}, **more)) as runtime:
            return await runtime.start(asked, "say it").result()

    return run(main())


@pytest.mark.parametrize("count", range(1, 12))
def test_what_is_kept_back_to_the_end_waits_for_a_slow_reader_too(count: int) -> None:
    """A `<` may begin thinking, so with it the sentence before is kept; its end makes two of it."""
    written = [f"S{number}." for number in range(count)]
    engine = Scripted([*(sentence + " " for sentence in written), "End. <"])
    given = answer(read_slowly, engine, limits=alto.Limits(scope_items=4))
    assert given == [*written, "End.", "<"]


def test_an_answer_without_a_piece_is_read_by_itself() -> None:
    with pytest.raises(StageError, match="''"):
        answer(counted, Scripted(["nonsense {"], []))
    assert answer(counted, Scripted([], ["7"])) == 7
