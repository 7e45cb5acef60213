"""Embeddings and reranking by the served simulated engine: the stock client, raw HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from alto.engines.sim_encode import hashed, overlap
from alto.engines.sim_server import Server, start
from alto.engines.simulated import Simulated

DOCUMENTS = ["Bread is baked.", "Penicillin was discovered by Fleming.", "The Nile is long."]


def served(use: Callable[[Server], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with await start(Simulated(**{"speed": 200.0, **settings})) as server:
            await use(server)

    asyncio.run(main())


def client_of(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)


async def post(server: Server, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(server.url + path, json=body)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_stock_client_gets_vectors(replicas: int) -> None:
    async def use(server: Server) -> None:
        async with client_of(server) as client:
            texts = ["Hello there", "Grüße 😀"]
            answer = await client.embeddings.create(model="sim", input=texts)  # as base64
            assert [item.index for item in answer.data] == [0, 1]
            for item, text in zip(answer.data, texts, strict=True):
                assert item.embedding == pytest.approx(hashed(text, 256), abs=1e-6)
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5
            one = await client.embeddings.create(
                model="sim", input="Hello there", encoding_format="float", dimensions=8
            )
            assert len(one.data[0].embedding) == 8
        assert sum(replica.measures.embedded for replica in server.replicas) == 3

    served(use, replicas=replicas)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "input is missing"),
        ({"input": []}, r"input is \[\]"),
        ({"input": [1, 2]}, r"input\[0\] is 1, expected a string: token ids"),
        ({"input": "a", "dimensions": 0}, "dimensions is 0"),
        ({"input": "a", "dimensions": 257}, "257 dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format is 'hex'"),
        ({"input": "word " * 500}, "KV blocks"),
    ],
)
def test_what_cannot_be_embedded_is_refused(body: Any, told: str) -> None:
    async def use(server: Server) -> None:
        async with client_of(server) as client:
            with pytest.raises(openai.BadRequestError, match=told):
                await client.post("/embeddings", body={"model": "sim", **body}, cast_to=object)
            with pytest.raises(openai.NotFoundError, match="'gpt' does not exist"):
                await client.embeddings.create(model="gpt", input="a")

    served(use, kv_tokens=400)


@pytest.mark.parametrize("path", ["/rerank", "/../rerank"])
def test_documents_are_ranked(path: str) -> None:
    async def use(server: Server) -> None:
        query = "Who discovered penicillin?"
        asked = {"model": "sim", "query": query, "documents": DOCUMENTS, "top_n": 2}
        answer = (await post(server, path, asked)).json()
        best, _ = answer["results"]
        assert best == {
            "index": 1,
            "document": {"text": DOCUMENTS[1]},
            "relevance_score": overlap(query, DOCUMENTS[1]),
        }
        assert answer["usage"]["total_tokens"] > 20
        whole = (await post(server, path, {"query": query, "documents": DOCUMENTS})).json()
        assert sorted(each["index"] for each in whole["results"]) == [0, 1, 2]

    served(use)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"documents": ["a"]}, "query is missing"),
        ({"query": "q", "documents": "a"}, "documents is 'a'"),
        ({"query": "q", "documents": [{"text": "a"}]}, "documents[0] is {'text': 'a'}"),
        ({"query": "q", "documents": ["a"], "top_n": -1}, "top_n is -1"),
        ([], "expected a JSON object"),
    ],
)
def test_what_cannot_be_ranked_is_refused(body: Any, told: str) -> None:
    async def use(server: Server) -> None:
        answer = await post(server, "/rerank", body)
        assert answer.status_code == 400
        assert told in answer.json()["error"]["message"]

    served(use)


def test_a_client_that_leaves_frees_the_server() -> None:
    async def use(server: Server) -> None:
        [replica] = server.replicas
        body = {"model": "sim", "input": ["word " * 200] * 50}
        task = asyncio.create_task(post(server, "/embeddings", body))
        while not replica.running:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(10):
            await replica.idle()
        assert replica.measures.embedded == 0

    served(use, speed=0.01)
