"""Embedding and reranking by real servers, with the tiny model: numbers of a random model, but real
HTTP, real limits and real refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from contract import Check, Live, Subject, name_of
from contract import run as hold
from encode_contract import number_checks_of
from llama_server import LlamaServer
from real_calls import busy, run

import alto
from alto import Stream
from alto.engines.openai import OpenAI
from alto.engines.pool import Pool
from alto.errors import EngineError

pytestmark = pytest.mark.engines

EMBEDS = ("--embeddings", "--pooling", "last")
FIRST_TOKEN = ("--embeddings", "--pooling", "cls")  # this way a text must fit into one step
RERANKS = ("--reranking",)


@pytest.fixture(scope="module")
def embedders() -> Iterator[list[LlamaServer]]:
    with LlamaServer(options=EMBEDS) as first, LlamaServer(options=EMBEDS) as second:
        yield [first, second]


@pytest.fixture(scope="module")
def rerankers() -> Iterator[list[LlamaServer]]:
    with LlamaServer(options=RERANKS) as server:
        yield [server]


@asynccontextmanager
async def pool_of(*servers: LlamaServer, **options: Any) -> AsyncIterator[Pool]:
    pool = OpenAI([server.url for server in servers], "tiny", **options).open("embed")
    try:
        yield pool
    finally:
        await pool.aclose()


def over(servers: list[LlamaServer], *features: str) -> Subject:
    @asynccontextmanager
    async def live() -> AsyncIterator[Live]:
        async def working() -> int:
            return sum(await asyncio.gather(*map(busy, servers)))

        async with pool_of(*servers) as pool:
            yield Live(pool, working)

    return Subject(
        name="openai over llama-server",
        opened=live,
        real_time=True,
        supports=frozenset({"usage", *features}),
    )


@pytest.mark.parametrize("check", number_checks_of(over([], "embed")), ids=name_of)
def test_real_servers_embed(check: Check, embedders: list[LlamaServer]) -> None:
    hold(over(embedders, "embed"), check)


@pytest.mark.parametrize("check", number_checks_of(over([], "rerank")), ids=name_of)
def test_a_real_server_reranks(check: Check, rerankers: list[LlamaServer]) -> None:
    hold(over(rerankers, "rerank"), check)


@pytest.mark.parametrize("options", [EMBEDS, FIRST_TOKEN], ids=["status 400", "status 500"])
def test_a_text_too_long_fails_alone(options: tuple[str, ...]) -> None:
    async def main(server: LlamaServer) -> None:
        async with pool_of(server) as pool:
            texts = ["one", "two", "barolo " * 6000, "three"]
            found = await asyncio.gather(*map(pool.embed, texts), return_exceptions=True)
            assert [len(each) for each in found if isinstance(each, list)] == [192] * 3
            assert isinstance(found[2], EngineError)
            assert not found[2].retryable
            [load] = pool.load().values()
            assert load.healthy

    with LlamaServer(options=options) as server:
        run(main(server))


def test_base64_says_the_same(embedders: list[LlamaServer]) -> None:
    async def main() -> None:
        async with pool_of(*embedders) as pool:
            plain = await pool.embed("hello there")
            encoded = await pool.embed("hello there", encoding_format="base64")
            assert encoded == pytest.approx(plain, abs=1e-3)

    run(main())


def test_a_server_that_dies_is_done_without(embedders: list[LlamaServer]) -> None:
    async def main(doomed: LlamaServer) -> None:
        async with pool_of(embedders[0], doomed, embed_batch=4, policy="round-robin") as pool:
            texts = [f"text number {n}" for n in range(200)]
            work = asyncio.ensure_future(pool.embed(texts))
            await pool.embed("both are at work")
            doomed.kill()
            assert len(await work) == 200

    with LlamaServer(options=EMBEDS) as doomed:
        run(main(doomed))


def test_a_server_that_does_not_rerank_says_so(embedders: list[LlamaServer]) -> None:
    async def main() -> None:
        async with pool_of(embedders[0]) as pool:
            with pytest.raises(EngineError, match="does not support reranking"):
                await pool.rerank("which?", ["a", "b"])

    run(main())


@alto.stage
def words(text: str) -> Stream[str]:
    yield from text.split()


@alto.stage
async def best(word: str) -> int:
    vector = await alto.engine("embed").embed(word)
    [first] = await alto.engine("rank").rerank(word, ["a", word, "b"], top_n=1)
    return len(vector) + first.index * 0


def test_a_pipeline_embeds_and_reranks(
    embedders: list[LlamaServer], rerankers: list[LlamaServer]
) -> None:
    @alto.pipeline
    def p(text: str):
        return best(words(text))

    config = alto.Config(
        engines={
            "embed": OpenAI([server.url for server in embedders], "tiny"),
            "rank": OpenAI([server.url for server in rerankers], "tiny"),
        }
    )

    async def main() -> None:
        async with alto.Runtime(config) as runtime:
            request = runtime.start(p, "one two three four")
            assert await request.result() == [192] * 4
            assert request.usage.calls == 8
            assert request.usage.prompt_tokens > 8

    run(main())
