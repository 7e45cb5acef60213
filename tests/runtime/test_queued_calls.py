"""Paused LM streams that take up the replicas which the call needs that their reader waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import alto
from alto import Call, Stream, lm, pipeline, stage
from alto.core.calls import Delta
from alto.core.replicas import Limits as PoolLimits
from alto.engines.pool import Pool
from alto.testing import run

PLACES = 3
WORDS = 40


class Replica:
    """Writes at once, a word a token, and `title` in one; remembers how many calls it had at most."""

    name = "r0"

    def __init__(self) -> None:
        self.running = self.most = 0

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            prompt = call.messages[-1]["content"]
            for _ in range(1 if prompt.startswith("title") else WORDS):
                await asyncio.sleep(0.01)
                yield Delta("word ")
            yield Delta(finish_reason="stop")
        finally:
            self.running -= 1

    async def aclose(self) -> None: ...


class Few:
    """An engine of one replica with few places."""

    def __init__(self) -> None:
        self.replica = Replica()

    def open(self, name: str) -> Pool:
        few = PoolLimits(sequences_start=PLACES, sequences_max=PLACES)
        return Pool(name, [self.replica], limits=few)


@stage
async def parts(n: int) -> Stream[int]:
    for k in range(n):
        yield k


@stage
async def slowly(k: int) -> int:
    await asyncio.sleep(5.0)
    return k


@lm(engine="chat", returns=Stream[str])
def story(k: int) -> str:
    return f"story {k}"


@stage
async def told(k: int) -> Stream[str]:
    async for delta in alto.engine("chat").stream(f"story {k}"):
        if delta:
            yield str(delta)


@lm(engine="chat")
def title(k: int) -> str:
    return f"title {k}"


@stage
async def free_title(k: int) -> str:
    return await alto.engine("chat").complete(f"title {k}")


@stage
async def page(n: int, titles: Stream[str], stories: Stream[str]) -> tuple[int, int]:
    first = [each async for each in titles]
    return len(first), len([each async for each in stories])


@pipeline
def stages(n: int) -> Any:
    each = parts(n)
    return page(n, title(slowly(each)), story(each))


@pipeline
def free_calls(n: int) -> Any:
    each = parts(n)
    return page(n, free_title(slowly(each)), told(each))


@pytest.mark.parametrize("book", [stages, free_calls], ids=["stages", "free calls"])
@pytest.mark.parametrize("stories", [1, PLACES, 3 * PLACES])
@pytest.mark.parametrize("streamed", [False, True])
def test_readers_get_the_call_they_wait_for(book: Any, stories: int, streamed: bool) -> None:
    engine = Few()
    config = alto.Config(engines={"chat": engine}, limits=alto.Limits(scope_items=4))

    async def main() -> Any:
        async with alto.Runtime(config) as runtime:
            if not streamed:
                return await runtime.call(book, stories)
            return [event.value async for event in runtime.stream(book, stories)][-1]

    assert run(main()) == (stories, stories * WORDS)
    assert engine.replica.most <= PLACES


def test_requests_whose_calls_wait_for_each_others_places_come_to_an_end() -> None:
    engine = Few()
    config = alto.Config(engines={"chat": engine}, limits=alto.Limits(scope_items=4))

    async def main() -> Any:
        async with alto.Runtime(config) as runtime:
            calls = [runtime.call(stages, 2) for _ in range(6)]
            return await asyncio.gather(*calls)

    assert run(main()) == [(2, 2 * WORDS)] * 6


def test_a_wait_for_replicas_that_others_keep_busy_lets_no_other_producer_run_ahead() -> None:
    ahead = most = 0

    @stage
    async def many(n: int) -> Stream[int]:
        nonlocal ahead, most
        for k in range(n):
            ahead += 1
            most = max(most, ahead)
            yield k

    @stage
    async def count(n: int, titles: Stream[str]) -> int:
        nonlocal ahead
        total = 0
        async for _ in titles:
            ahead -= 1
            total += 1
        return total

    @pipeline
    def long(n: int) -> Any:
        return count(n, title(many(n)))

    config = alto.Config(engines={"chat": Few()}, limits=alto.Limits(scope_items=8))

    async def main() -> Any:
        async with alto.Runtime(config) as runtime:
            others = [asyncio.create_task(runtime.call(stages, 2)) for _ in range(4)]
            try:
                return await runtime.call(long, 400)
            finally:
                await asyncio.gather(*others)

    assert run(main()) == 400
    assert most <= 8 + 2
