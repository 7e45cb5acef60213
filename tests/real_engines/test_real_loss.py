"""Servers that die under a call: killed by their pid, as a crash or the kernel would.

What must hold: the caller learns of it at once, or, where another replica is left, never.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from llama_server import LlamaServer
from real_calls import LONG, PROMPT_LIMIT_S, busiest, call, opened, read, run

from alto.core.calls import Delta
from alto.errors import EngineError

pytestmark = pytest.mark.engines


def test_a_server_that_dies_in_mid_answer_is_an_error_at_once(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine, aclosing(engine.stream(call(tokens=LONG))) as stream:
            for _ in range(3):
                await anext(stream)
            await asyncio.to_thread(doomed.kill)
            with pytest.raises(EngineError) as broken:
                async with asyncio.timeout(PROMPT_LIMIT_S):
                    async for delta in stream:
                        assert delta.finish_reason is None
            assert broken.value.retryable

    run(main())


def test_a_server_that_freezes_in_mid_answer_is_an_error_in_time(doomed: LlamaServer) -> None:
    """Its connections stay open and silent, new ones too: only the client's own clock can tell."""

    async def main() -> None:
        async with (
            opened(doomed, stall_timeout=0.5, first_chunk_timeout=0.5) as engine,
            aclosing(engine.stream(call(tokens=LONG))) as stream,
        ):
            for _ in range(3):
                await anext(stream)
            doomed.freeze()
            with pytest.raises(EngineError) as silent:
                async with asyncio.timeout(PROMPT_LIMIT_S):
                    async for delta in stream:
                        assert delta.finish_reason is None
            assert silent.value.retryable
        doomed.thaw()
        async with opened(doomed) as engine:
            await read(engine.stream(call()))

    run(main())


def test_a_server_that_comes_back_is_used_again(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine:
            await read(engine.stream(call()))
            await asyncio.to_thread(doomed.kill)
            with pytest.raises(EngineError) as refused:
                await read(engine.stream(call()))
            assert refused.value.retryable
            await asyncio.to_thread(doomed.start)
            deltas = await read(engine.stream(call()))
            assert deltas[-1].finish_reason == "length"

    run(main())


@pytest.mark.parametrize("open_end", [True, False], ids=["asked to", "by itself"])
def test_a_text_that_breaks_off_goes_on_elsewhere(
    doomed: LlamaServer, other: LlamaServer, open_end: bool
) -> None:
    """The second server is given the beginning, and must not be heard repeating it.

    Left to itself, llama-server goes on with an answer that it was given, but gives it back first.
    """

    async def main() -> None:
        async with (
            opened(doomed, other, continue_final_message=open_end) as engine,
            aclosing(engine.stream(call(tokens=LONG))) as stream,
        ):
            deltas: list[Delta] = []
            async for delta in stream:
                deltas.append(delta)
                if len(deltas) == 50:
                    await asyncio.to_thread((await busiest(doomed, other)).kill)
            assert deltas[-1].finish_reason == "length"
            assert [delta for delta in deltas[:-1] if delta.finish_reason] == []
            assert "".join(deltas).count("".join(deltas[:50])) == 1

    run(main())


def test_a_dead_server_costs_no_call_while_another_lives(
    doomed: LlamaServer, other: LlamaServer
) -> None:
    async def main() -> None:
        async with opened(doomed, other) as engine:
            await asyncio.gather(*(read(engine.stream(call(f"{n}"))) for n in range(6)))
            await asyncio.to_thread(doomed.kill)
            for number in range(20):
                deltas = await read(engine.stream(call(f"{number}")))
                assert deltas[-1].finish_reason == "length"

    run(main())
