"""What a pool learns from a real server's own pages, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest
from llama_server import LlamaServer
from real_calls import LONG, PROMPT_LIMIT_S, call, opened, read, run

from alto.engines.pool import Pool

pytestmark = pytest.mark.engines

TEMPLATE = "the rules are many and each of them counts. " * 60


async def until_known(pool: Pool, slots: int) -> None:
    """Wait until each server that is at work has said how many slots it has."""
    async with asyncio.timeout(PROMPT_LIMIT_S):
        while any(load.slots != slots for load in pool.load().values()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


def test_the_slots_are_learned_and_a_template_is_read_once_by_calls_side_by_side(
    doomed: LlamaServer, other: LlamaServer
) -> None:
    """Six calls at once with one template, on two servers with three slots each: they take turns
    where it is known, while each of the six slots could have read it. (Who has waited for longer
    than reading takes does read it.)"""

    async def main() -> None:
        async with opened(doomed, other, metrics_interval=0.05) as engine:
            assert isinstance(engine, Pool)
            long = [asyncio.create_task(read(engine.stream(call(tokens=LONG)))) for _ in range(2)]
            await until_known(engine, doomed.slots)
            for task in long:
                task.cancel()
            await asyncio.gather(*long, return_exceptions=True)
            await read(engine.stream(call(TEMPLATE + "first")))
            answers = await asyncio.gather(
                *(read(engine.stream(call(f"{TEMPLATE}{number}"))) for number in range(6))
            )
            usages = [answer[-1].usage for answer in answers]
            assert all(usage is not None for usage in usages)
            found = [usage.cached_tokens / usage.prompt_tokens for usage in usages if usage]
            assert sum(part > 0.9 for part in found) >= 3  # one at least, if nobody waited
            assert {load.sequences_limit for load in engine.load().values()} == {doomed.slots}

    run(main())
