"""How the tests of `alto.OpenAI` call a server. Limits are for hangs, not for speed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import pytest

from alto.core.calls import Call, Delta
from alto.engines.openai import OpenAI, OpenAIReplica
from alto.errors import EngineError

T = TypeVar("T")
TEST_LIMIT_S = 30.0
KEY = "sk-very-secret"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test on a real loop and look that nothing of it is left."""

    async def checked() -> T:
        async with asyncio.timeout(TEST_LIMIT_S):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"
        return result

    return asyncio.run(checked())


@asynccontextmanager
async def replica_of(url: str, **options: Any) -> AsyncIterator[OpenAIReplica]:
    """One replica, without a pool around it."""
    spec = OpenAI(**{"url": url, "model": "m", "api_key": KEY, **options})
    replica = spec.replicas("chat")[0]
    try:
        yield replica
    finally:
        await replica.aclose()


def ask(prompt: str = "Hi", **more: Any) -> Call:
    return Call(messages=[{"role": "user", "content": prompt}], **more)


async def read(replica: OpenAIReplica, call: Call | None = None) -> list[Delta]:
    async with aclosing(replica.stream(call or ask())) as stream:
        return [delta async for delta in stream]


async def failure_of(replica: OpenAIReplica, call: Call | None = None) -> EngineError:
    """The error that a call ends with; it never shows the key."""
    with pytest.raises(EngineError) as caught:
        await read(replica, call)
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in str(error)
        assert KEY not in repr(error)
        error = error.__cause__ or error.__context__
    return caught.value
