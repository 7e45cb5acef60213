"""A watched engine behaves as the engine behind it, and every call leaves a span."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from alto.core.calls import Call, Delta
from alto.demo.timeline import Span
from alto.demo.watch import Watch
from alto.engines.protocol import Engine
from alto.errors import EngineError
from alto.testing.loop import run


@dataclass
class Slow:
    """Says one word a second, then fails if asked to."""

    name: str = "slow"
    words: tuple[str, ...] = ("a", "b", "c")
    fails: bool = False
    closed: bool = False

    def open(self, name: str) -> Engine:
        self.name = name
        return self

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        for word in self.words:
            await asyncio.sleep(1.0)
            yield Delta(word)
        if self.fails:
            raise EngineError("broken off")

    async def aclose(self) -> None:
        self.closed = True


CALL = Call(messages=[], stage="verify", path=(1, 2))


def test_the_deltas_pass_and_the_call_leaves_a_span() -> None:
    async def main() -> None:
        watch, slow = Watch(), Slow()
        engine = watch.engine(slow).open("chat")
        await asyncio.sleep(5.0)
        watch.begin()
        assert [delta async for delta in engine.stream(CALL)] == ["a", "b", "c"]
        watch.note("search", (3,))
        await engine.aclose()
        assert slow.closed
        assert engine.name == "chat"
        assert watch.spans == [Span("verify", (1, 2), 0.0, 3.0), Span("search", (3,), 3.0, 3.0)]

    run(main())


def test_a_call_that_fails_or_is_left_has_a_span_up_to_its_end() -> None:
    async def main() -> None:
        watch = Watch()
        watch.begin()
        with pytest.raises(EngineError, match="broken off"):
            _ = [delta async for delta in watch.engine(Slow(fails=True)).open("chat").stream(CALL)]
        async with aclosing(watch.engine(Slow()).open("chat").stream(CALL)) as deltas:
            async for _ in deltas:
                break
        assert [(span.start, span.end) for span in watch.spans] == [(0.0, 3.0), (3.0, 4.0)]

    run(main())


def test_before_a_request_begins_its_clock_stands_at_nought() -> None:
    assert Watch().now() == 0.0
