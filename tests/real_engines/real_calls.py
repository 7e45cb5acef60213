"""How the tests here make calls and watch the servers. Limits are for hangs, not for speed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from llama_server import LlamaServer

from alto.core.calls import Call, Delta
from alto.engines.openai import OpenAI
from alto.engines.protocol import Engine

T = TypeVar("T")
Replicas = tuple[LlamaServer, LlamaServer]

TEST_LIMIT_S = 120.0  # for a whole test; far more than any of them needs
PROMPT_LIMIT_S = 10.0  # for what must happen soon
LONG = 3000  # tokens: seconds of writing, so a test can step in before the end


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine on a real loop, and give up rather than hang."""
    return asyncio.run(asyncio.wait_for(main, TEST_LIMIT_S))


@asynccontextmanager
async def opened(*servers: LlamaServer, **options: Any) -> AsyncIterator[Engine]:
    urls = [server.url for server in servers]
    engine = OpenAI(urls=urls, model="tiny", **options).open("chat")
    try:
        yield engine
    finally:
        await engine.aclose()


def call(
    text: str = "Say something.", *, tokens: int = 16, exact: bool = True, **more: Any
) -> Call:
    """A call for `tokens` tokens, exactly so many unless `exact` is false."""
    extra = {"ignore_eos": True} if exact else {}
    messages = [{"role": "user", "content": text}]
    return Call(messages=messages, max_tokens=tokens, extra=extra, **more)


async def read(stream: AsyncGenerator[Delta, None]) -> list[Delta]:
    async with aclosing(stream):
        return [delta async for delta in stream]


async def busy(server: LlamaServer) -> int:
    """How many of the server's slots are at work."""
    slots = json.loads(await asyncio.to_thread(server.get, "/slots"))
    return sum(slot["is_processing"] for slot in slots)


async def until_busy(server: LlamaServer, slots: int) -> None:
    """Look again and again until so many slots are at work; an error if that does not come."""
    async with asyncio.timeout(PROMPT_LIMIT_S):
        while await busy(server) != slots:  # noqa: ASYNC110 - another process: nothing to await
            await asyncio.sleep(0.02)


async def busiest(*servers: LlamaServer) -> LlamaServer:
    """The one with most slots at work, as soon as one is."""
    async with asyncio.timeout(PROMPT_LIMIT_S):
        while not any(counts := [await busy(server) for server in servers]):
            pass
    return servers[counts.index(max(counts))]
