"""What texts that broke off for good have cost is in the usage of their request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from leaks import on_virtual_time, quiet, watched

import alto
from alto import Call, Delta, Usage, lm, pipeline, stage
from alto.engines.pool import Pool


class BreaksOnce:
    """A server that breaks off after three words, the first time."""

    name = "r0"

    def __init__(self) -> None:
        self.broke = False

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        for word in ("a ", "b ", "c "):
            await asyncio.sleep(0.1)
            yield Delta(word)
        if not self.broke:
            self.broke = True
            raise alto.EngineError("it broke off", engine="chat")
        yield Delta("d", finish_reason="stop", usage=Usage(10, 4, calls=1))

    async def aclose(self) -> None:
        pass


class Spec:
    def open(self, name: str) -> Pool:
        return Pool(name, [BreaksOnce()], resume=False)


@lm(engine="chat", retries=1, backoff=0)
def says(x: str) -> str:
    return x


@stage
async def agent(x: str) -> str:
    engine = alto.engine("chat")
    try:
        return await engine.complete(x)
    except alto.EngineError:
        return await engine.complete(x)


@pytest.mark.parametrize("subject", [says, agent])
def test_the_usage_of_a_request_has_what_was_written_in_vain(subject: Any) -> None:
    @pipeline
    def p(x: str) -> Any:
        return subject(x)

    async def main() -> Usage:
        async with watched(alto.Config(engines={"chat": Spec()})) as runtime:
            request = runtime.start(p, "count")
            assert await request.result() == "a b c d"
            await quiet(runtime)
            return request.usage

    usage = on_virtual_time(main)
    assert (usage.calls, usage.completion_tokens) == (2, 3 + 4)
    assert usage.prompt_tokens > 10
