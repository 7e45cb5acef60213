"""alto.OpenAI against real servers: what a mock answers as we imagine, these do as they do.

llama-server closes a connection after each streamed answer without saying so, has a queue of its
own, sends several tokens in one chunk, and can be made to write broken UTF-8.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from llama_server import LlamaServer
from real_calls import LONG, Replicas, busy, call, opened, read, run, until_busy

from alto.errors import EngineError

pytestmark = pytest.mark.engines


def test_usage_counts_what_was_asked_for(replicas: Replicas) -> None:
    async def main() -> None:
        async with opened(*replicas) as engine:
            for tokens in (1, 17, 200):
                deltas = await read(engine.stream(call(tokens=tokens)))
                last = deltas[-1]
                assert last.finish_reason == "length"
                assert last.usage is not None
                assert last.usage.completion_tokens == tokens
                assert last.usage.prompt_tokens > 0
                assert [d for d in deltas[:-1] if d.finish_reason or d.usage] == []

    run(main())


def test_a_prompt_seen_before_is_told_as_cached(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine:
            text = " ".join(f"barolo{n}" for n in range(200))
            first = (await read(engine.stream(call(text, tokens=1))))[-1].usage
            again = (await read(engine.stream(call(text, tokens=1))))[-1].usage
            assert first is not None
            assert again is not None
            assert again.prompt_tokens == first.prompt_tokens
            assert first.cached_tokens < again.cached_tokens <= again.prompt_tokens

    run(main())


@pytest.mark.parametrize("clients", [1, 8])
def test_connections_closed_behind_our_back_lose_no_call(replicas: Replicas, clients: int) -> None:
    """A pooled client that trusts keep-alive fails about half of these."""
    calls = 100 if clients == 1 else 200

    async def main() -> None:
        async with opened(*replicas) as engine:
            left = iter(range(calls))
            answers: list[int] = []

            async def client() -> None:
                for number in left:
                    deltas = await read(engine.stream(call(f"Number {number}", tokens=8)))
                    assert deltas[-1].usage is not None
                    answers.append(deltas[-1].usage.completion_tokens)

            await asyncio.gather(*(client() for _ in range(clients)))
            assert answers == [8] * calls

    run(main())


def test_more_calls_than_slots_all_finish(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine:
            everyone = await asyncio.gather(
                *(read(engine.stream(call(f"{n}", tokens=40))) for n in range(4 * doomed.slots))
            )
            assert [deltas[-1].finish_reason for deltas in everyone] == ["length"] * len(everyone)

    run(main())


def test_closing_the_stream_frees_the_slot(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine:
            stream = engine.stream(call(tokens=LONG))
            async with aclosing(stream):
                for _ in range(3):
                    await anext(stream)
                assert await busy(doomed) == 1
            await until_busy(doomed, 0)

    run(main())


def test_cancelling_the_reader_frees_the_slot(doomed: LlamaServer) -> None:
    async def main() -> None:
        async with opened(doomed) as engine:
            readers = [
                asyncio.create_task(read(engine.stream(call(f"{n}", tokens=LONG))))
                for n in range(doomed.slots + 2)  # two of them wait in the server's own queue
            ]

            await until_busy(doomed, doomed.slots)
            for reader in readers:
                reader.cancel()
            ended = await asyncio.gather(*readers, return_exceptions=True)
            assert {type(end) for end in ended} == {asyncio.CancelledError}
            await until_busy(doomed, 0)
            await read(engine.stream(call()))

    run(main())


FIRST_BYTE_ID = 6  # the model's vocabulary: six specials, then the 256 bytes in order
SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["SUPPORTED", "REFUTED", "UNKNOWN"]},
        "certain": {"type": "boolean"},
        "words": {
            "type": "array",
            "items": {"type": "string", "maxLength": 12},
            "minItems": 2,
            "maxItems": 3,
        },
    },
    "required": ["verdict", "certain", "words"],
    "additionalProperties": False,
}


def test_a_schema_holds_even_for_random_weights(replicas: Replicas) -> None:
    async def main() -> None:
        async with opened(*replicas) as engine:
            for seed in range(10):
                asked = call(tokens=400, exact=False, schema=SCHEMA, schema_name="V", seed=seed)
                deltas = await read(engine.stream(asked))
                value = json.loads("".join(deltas))
                assert deltas[-1].finish_reason == "stop"
                assert set(value) == {"verdict", "certain", "words"}
                assert value["verdict"] in ("SUPPORTED", "REFUTED", "UNKNOWN")
                assert isinstance(value["certain"], bool)
                assert 2 <= len(value["words"]) <= 3

    run(main())


def test_broken_utf8_neither_stops_nor_spoils_a_stream(replicas: Replicas) -> None:
    """Half of the tokens here are single bytes that begin or continue a longer character."""

    async def main() -> None:
        async with opened(*replicas) as engine:
            bias = {str(token): 13 for token in range(FIRST_BYTE_ID + 0x80, FIRST_BYTE_ID + 0x100)}
            asked = call(tokens=300)
            asked.extra = {**asked.extra, "logit_bias": bias}
            deltas = await read(engine.stream(asked))
            text = "".join(deltas)
            assert "\N{REPLACEMENT CHARACTER}" in text
            assert text.count(" ") > 50
            assert deltas[-1].usage is not None
            assert deltas[-1].usage.completion_tokens == 300

    run(main())


def test_a_prompt_longer_than_the_context_is_refused_for_good(replicas: Replicas) -> None:
    async def main() -> None:
        async with opened(*replicas) as engine:
            with pytest.raises(EngineError) as refused:
                await read(engine.stream(call("barolo " * 6000)))
            assert refused.value.status == 400
            assert not refused.value.retryable

    run(main())
