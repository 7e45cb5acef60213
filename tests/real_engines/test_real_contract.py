"""The engines' contract, held by alto.OpenAI over two real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from contract import Check, Live, Subject, checks_of, name_of
from contract import run as hold
from llama_server import LlamaServer
from real_calls import Replicas, busy, call, opened

pytestmark = pytest.mark.engines


def over(servers: Sequence[LlamaServer]) -> Subject:
    """An engine with these servers as its replicas."""

    @asynccontextmanager
    async def live() -> AsyncIterator[Live]:
        async def working() -> int:
            return sum(await asyncio.gather(*map(busy, servers)))

        async with opened(*servers) as engine:
            yield Live(engine, working)

    return Subject(
        name="openai over llama-server",
        opened=live,
        real_time=True,
        supports=frozenset({"long", "usage", "cached", "schema", "refuses", "deadline", "busy"}),
        long_extra={"ignore_eos": True},
        bad_call=call("barolo " * 6000),
    )


@pytest.mark.parametrize("check", checks_of(over(())), ids=name_of)
def test_a_real_server_keeps_the_contract(check: Check, replicas: Replicas) -> None:
    hold(over(replicas), check)
