"""An LM stage whose replica breaks off is answered by the next one from there: the items are those
of the whole text, and the next one is told all that was written, thinking included."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

import alto
from alto import Delta, Sentence, Stream, Usage, lm, pipeline
from alto.engines.pool import Pool
from alto.engines.protocol import Take
from alto.errors import EngineError
from alto.testing.loop import run

PIECES = [
    "",
    "<thi",
    "nk>Well. Two",
    " of them.</think>",
    "The first. Th",
    "e second",
    ". A third.",
]


class Streaming:
    """Writes the pieces from where it is asked to, but breaks off once before piece `breaks_at`."""

    name = "r0"

    def __init__(self, breaks_at: int) -> None:
        self.breaks_at: int | None = breaks_at
        self.told: list[str] = []

    def open(self, name: str) -> Pool:
        return Pool(name, [self])

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        written = call.messages[-1]["content"] if len(call.messages) > 1 else ""
        self.told.append(written)
        rest = next(n for n in range(8) if len("".join(PIECES[:n])) >= len(written))
        for number, piece in enumerate(PIECES[rest:], rest):
            if number == self.breaks_at:
                self.breaks_at = None
                raise EngineError("hung up")
            yield Delta(piece)
        yield Delta(finish_reason="stop", usage=Usage(10, 5, calls=1))

    async def aclose(self) -> None:
        """Nothing to close."""


class Pushing(Streaming):
    """Hands its pieces on itself."""

    async def read(self, call: alto.Call, take: Take) -> None:
        async with aclosing(self.stream(call)) as deltas:
            async for delta in deltas:
                going = take(delta)
                if going is not True and (going is False or not await going):
                    return


@lm(engine="chat", returns=Stream[Sentence])
def sentences(topic: str) -> str:
    return topic


@lm(engine="chat", returns=str)
def text(topic: str) -> str:
    return topic


@pipeline
def cut(topic: str) -> Any:
    return sentences(topic)


@pipeline
def whole(topic: str) -> Any:
    return text(topic)


@pytest.mark.parametrize("kind", [Streaming, Pushing])
@pytest.mark.parametrize("breaks_at", range(len(PIECES)))
def test_the_rest_is_asked_for_with_all_that_was_written(
    kind: type[Streaming], breaks_at: int
) -> None:
    async def main() -> None:
        for asked, answer in (
            (cut, ["The first.", "The second.", "A third."]),
            (whole, "The first. The second. A third."),
        ):
            server = kind(breaks_at)
            async with alto.Runtime(alto.Config(engines={"chat": server})) as runtime:
                request = runtime.start(asked, "say it")
                assert await request.result() == answer
                assert list(request.reasoning.values()) == ["Well. Two of them."]
            assert server.told == ["", "".join(PIECES[:breaks_at])]

    run(main())
