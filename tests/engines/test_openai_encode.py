"""Embedding and reranking over HTTP, by servers that are right, odd or hostile."""

from __future__ import annotations

import asyncio
import base64
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hostile import Connection, Hostile, Request, Script, serving
from openai_calls import KEY, run

from alto.core.encode import BadAnswer
from alto.core.replicas import Limits
from alto.engines.openai import OpenAI
from alto.engines.pool import Pool
from alto.errors import AltoError, ConfigError, DeadlineExceeded, EngineError

USAGE = {"prompt_tokens": 7, "total_tokens": 7}


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97)]


def answered(request: Request, **more: Any) -> dict[str, Any]:
    """The right answer to an embedding request."""
    data = [
        {"object": "embedding", "index": at, "embedding": vector(text)}
        for at, text in enumerate(request.body["input"])
    ]
    return {"object": "list", "data": data, "model": "m", "usage": USAGE, **more}


def scored(request: Request) -> dict[str, Any]:
    """The right answer to a rerank request: the longest document first."""
    documents = request.body["documents"]
    order = sorted(range(len(documents)), key=lambda at: -len(documents[at]))
    results = [{"index": at, "relevance_score": len(documents[at]) / 100} for at in order]
    return {"results": results[: request.body.get("top_n")], "usage": USAGE}


Answering = Callable[[Request], "tuple[int, Any]"]


def giving(answering: Answering, *headers: str) -> Script:
    """Answer each request with the status and the body that the function gives."""

    async def script(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            await connection.json(*answering(request), headers)

    return script


@asynccontextmanager
async def pool_of(*servers: Hostile, **options: Any) -> AsyncIterator[Pool]:
    urls = [server.url for server in servers]
    spec = OpenAI(**{"urls": urls, "model": "m", "api_key": KEY, "embed_max_wait": 0, **options})
    replicas = spec.replicas("embed", busy_tries=1)
    limits = Limits(retry_s=0.001, open_s=0.01, dark_s=0.05)
    pool = Pool("embed", replicas, policy=spec.policy, limits=limits, batches=spec)
    try:
        yield pool
    finally:
        await pool.aclose()


def with_server(
    script: Script, main: Callable[[Pool, Hostile], Awaitable[Any]], **options: Any
) -> Any:
    async def body() -> Any:
        async with serving(script) as server, pool_of(server, **options) as pool:
            return await main(pool, server)

    return run(body())


def failure(script: Script, ask: Callable[[Pool], Coroutine[Any, Any, Any]]) -> AltoError:
    """What a call fails with; the key is nowhere in it."""

    async def main(pool: Pool, server: Hostile) -> AltoError:
        with pytest.raises(AltoError) as caught:
            await ask(pool)
        error: BaseException | None = caught.value
        while error is not None:
            assert KEY not in str(error)
            error = error.__cause__ or error.__context__
        return caught.value

    found: AltoError = with_server(script, main)
    return found


# ---- embeddings


def test_a_request_has_the_texts_and_the_options() -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        vectors = await pool.embed(["a", "bb"], dimensions=2, model="other", input_type="query")
        assert list(vectors) == [vector("a"), vector("bb")]
        assert vectors.usage.prompt_tokens == 7
        [request] = server.requests
        assert request.line.startswith("POST /v1/embeddings HTTP")
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["accept"] == "application/json"
        assert request.body == {
            "model": "other",
            "input": ["a", "bb"],
            "dimensions": 2,
            "input_type": "query",
            "truncate": True,
        }

    with_server(giving(lambda request: (200, answered(request))), main, extra={"truncate": True})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": "x"}, "embed: input is 'x'; ALTO writes this field"),
        ({"extra": {"input": ["x"]}}, "embed: input is .*; ALTO writes this field"),
        ({"extra": 3}, "embed: extra is 3, expected a dict"),
        ({"model": 5}, "embed: model is 5, expected a model's name"),
    ],
)
def test_an_option_cannot_change_the_texts(wrong: dict[str, Any], message: str) -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        with pytest.raises(ValueError, match=message):
            await pool.embed(["a"], **wrong)
        with pytest.raises(ValueError, match=r"rerank: texts is .*; ALTO writes this field"):
            await pool.rerank("q", ["a"], texts=["b"])
        assert server.requests == []

    with_server(giving(lambda request: (200, answered(request))), main)


def test_callers_share_a_request() -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        texts = [f"text {n}" for n in range(30)]
        found = await asyncio.gather(*map(pool.embed, texts))
        assert found == [vector(text) for text in texts]
        assert len(server.requests) == 1

    with_server(giving(lambda request: (200, answered(request))), main)


@pytest.mark.parametrize("where", ["/v1", "/v1/embeddings", "/v1/"])
def test_a_url_may_end_at_the_endpoint(where: str) -> None:
    assert OpenAI(url=f"http://host:1{where}", model="m").urls == ("http://host:1/v1",)
    assert OpenAI(url="http://host:1/v1/rerank", model="m").urls == ("http://host:1/v1",)


def encoded(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def test_base64_and_any_order_are_read() -> None:
    def odd(request: Request) -> tuple[int, Any]:
        answer = answered(request)
        for item in answer["data"]:
            item["embedding"] = encoded(item["embedding"])
        answer["data"].reverse()
        return 200, answer

    async def main(pool: Pool, server: Hostile) -> None:
        assert list(await pool.embed(["a", "bb", "c"])) == [vector("a"), vector("bb"), vector("c")]

    with_server(giving(odd), main)


def test_an_answer_without_indexes_or_usage_is_read() -> None:
    def bare(request: Request) -> tuple[int, Any]:
        return 200, {"data": [{"embedding": [1, 2]} for _ in request.body["input"]]}

    async def main(pool: Pool, server: Hostile) -> None:
        vectors = await pool.embed(["a", "b"])
        assert list(vectors) == [[1.0, 2.0]] * 2
        assert (vectors.usage.calls, vectors.usage.prompt_tokens) == (1, 0)

    with_server(giving(bare), main)


def items(*embeddings: Any, **more: Any) -> dict[str, Any]:
    data = [{"index": at, "embedding": each} for at, each in enumerate(embeddings)]
    return {"data": data, "usage": USAGE, **more}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (items([1.0]), "1 vectors came for 2 texts"),
        (items([1.0], [2.0], [3.0]), "3 vectors came for 2 texts"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, r"indexes of the vectors are \[0, 0\]"),
        ({"data": [{"index": n, "embedding": [1.0]} for n in (1, 2)]}, r"\[1, 2\], expected each"),
        (items([1.0], [1.0, 2.0]), r"vectors have \[1, 2\] numbers"),
        (items([], []), r"vectors have \[0\] numbers"),
        (items([1.0], [None]), "not of the form expected"),
        (items([1.0], "no base64!"), "vector 1 is no list and no base64"),
        (items([1.0], "YWJj"), "vector 1 is no list and no base64"),
        (items([1.0], encoded([float("nan")])), "vector 1 has numbers that are not finite"),
        (b'{"data": [{"embedding": [1.0]}, {"embedding": [NaN]}]}', "not JSON"),
        (b'{"data": [{"embedding": [1.0]}, {"embed', "not JSON"),
        (b"<html>It works!</html>", "not JSON.*It works!"),
        (b"", "not JSON"),
        ({"object": "list"}, "no 'data'"),
        ({"choices": []}, "no 'data'"),
        ({"error": {"message": "out of memory"}}, "in place of an answer: out of memory"),
        ({"error": "out of memory", "data": "?"}, "in place of an answer: out of memory"),
        ([1.0], "not of the form expected"),
    ],
)
def test_nonsense_is_an_error_and_another_server_is_asked(body: Any, told: str) -> None:
    async def main() -> None:
        async with (
            serving(giving(lambda request: (200, body))) as bad,
            serving(giving(lambda request: (200, answered(request)))) as good,
            pool_of(bad, good, policy="round-robin") as pool,
        ):
            assert list(await pool.embed(["a", "b"])) == [vector("a"), vector("b")]
            [said] = [load.last_error for load in pool.load().values() if load.last_error]
            assert re.search(told, said), said

    run(main())


def test_nonsense_without_end_is_an_error() -> None:
    nonsense = giving(lambda request: (200, items([1.0], [None])))
    error = failure(nonsense, lambda pool: pool.embed(["a", "b"]))
    assert isinstance(error, EngineError)
    assert "not of the form expected" in str(error)


def test_a_server_that_reads_only_the_first_text_is_given_one_at_a_time() -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        assert list(await pool.embed(["a", "b"])) == [[1.0]] * 2

    with_server(giving(lambda request: (200, items([1.0]))), main)


def test_a_server_that_cannot_shorten_vectors_is_told() -> None:
    error = failure(
        giving(lambda request: (200, answered(request))),
        lambda pool: pool.embed(["a", "b"], dimensions=7),
    )
    assert "2 numbers where 7 were asked for" in str(error)
    assert "leave dimensions out" in str(error)


def test_one_text_with_no_vector_does_not_fail_its_neighbours() -> None:
    def nan(request: Request) -> tuple[int, Any]:
        answer = answered(request)
        for item, text in zip(answer["data"], request.body["input"], strict=True):
            if text == "bad":
                item["embedding"] = encoded([float("nan")] * 2)
        return 200, answer

    async def main() -> None:
        async with (
            serving(giving(nan)) as one,
            serving(giving(nan)) as two,
            pool_of(one, two) as pool,
        ):
            good, bad, fine = await asyncio.gather(
                *map(pool.embed, ("good", "bad", "fine")), return_exceptions=True
            )
        assert (good, fine) == (vector("good"), vector("fine"))
        assert isinstance(bad, EngineError)
        assert isinstance(bad.__cause__, EngineError)
        assert isinstance(bad.__cause__.__cause__, BadAnswer)

    run(main())


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "This model's maximum context length is 512 tokens"),
        (413, "Input validation error"),
        (422, "Input validation error: `inputs` must have less than 512 tokens"),
        (500, "input is too large to process. increase the physical batch size"),
    ],
)
def test_one_text_that_is_refused_does_not_fail_its_neighbours(status: int, message: str) -> None:
    def refusing(request: Request) -> tuple[int, Any]:
        if "bad" in request.body["input"]:
            return status, {"error": {"message": message}}
        return 200, answered(request)

    async def main(pool: Pool, server: Hostile) -> None:
        texts = [f"text {n}" for n in range(9)]
        whole = asyncio.ensure_future(pool.embed(["fine", "bad"]))
        assert list(await pool.embed(texts)) == [vector(text) for text in texts]
        with pytest.raises(EngineError, match=r"text 2 of 2 \('bad'\).*") as caught:
            await whole
        assert message.split(":")[0] in str(caught.value)
        assert not caught.value.retryable
        [load] = pool.load().values()
        assert load.healthy
        assert not load.last_error

    with_server(giving(refusing), main)


def test_a_server_with_a_smaller_limit_is_asked_for_less() -> None:
    def limited(request: Request) -> tuple[int, Any]:
        if len(request.body["input"]) > 32:
            told = "batch size 64 > maximum allowed batch size 32"
            return 422, {"error": told, "error_type": "Validation"}
        return 200, answered(request)

    async def main(pool: Pool, server: Hostile) -> None:
        texts = [f"text {n}" for n in range(128)]
        assert list(await pool.embed(texts)) == [vector(text) for text in texts]
        server.requests.clear()
        assert list(await pool.embed(texts)) == [vector(text) for text in texts]
        assert [len(request.body["input"]) for request in server.requests] == [32] * 4

    with_server(giving(limited), main)


def test_a_busy_server_is_asked_again_when_it_said() -> None:
    turns = iter([429, 503])

    def busy(request: Request) -> tuple[int, Any]:
        status = next(turns, None)
        return (200, answered(request)) if status is None else (status, {"error": "too many"})

    async def main(pool: Pool, server: Hostile) -> None:
        assert await pool.embed("a") == vector("a")
        assert len(server.requests) == 3

    with_server(giving(busy, "retry-after-ms: 20"), main)


def test_a_reset_connection_is_tried_again() -> None:
    resets = iter([True, True])

    async def script(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            if next(resets, False):
                connection.reset()
                return
            await connection.json(200, answered(request))

    async def main(pool: Pool, server: Hostile) -> None:
        assert await pool.embed("a") == vector("a")

    with_server(script, main)


def test_an_answer_cut_short_is_no_answer() -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
                b'{"data": [{"embedding": [1.0]}]}'
            )
            return

    error = failure(script, lambda pool: pool.embed("a"))
    assert "after 32 bytes of the answer" in str(error)


def test_a_stalled_answer_and_a_deadline() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
        await connection.left()

    async def main(pool: Pool, server: Hostile) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceeded):
            await pool.embed("a", deadline=loop.time() + 0.1)
        with pytest.raises(DeadlineExceeded):
            await pool.rerank("a", ["b"], deadline=loop.time() + 0.1)
        pool.check()

    with_server(script, main)

    async def silent(pool: Pool, server: Hostile) -> None:
        with pytest.raises(EngineError, match=r"not a byte for 0\.05 s"):
            await pool.embed("a")

    with_server(script, silent, stall_timeout=0.05)


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "set api_key"), (404, "is model 'm' served there"), (405, "/v1")]
)
def test_a_refusal_says_what_to_mend(status: int, mend: str) -> None:
    error = failure(
        giving(lambda request: (status, {"detail": f"no, {KEY}"})),
        lambda pool: pool.embed(["a", "b"]),
    )
    assert isinstance(error, EngineError)
    assert error.status == status
    assert mend in str(error)
    assert "an embedding request: no, [api key]" in str(error)


def test_options_that_are_no_json_are_told() -> None:
    error = failure(
        giving(lambda request: (200, answered(request))),
        lambda pool: pool.embed("a", thing=object()),
    )
    assert "cannot be written as JSON" in str(error)


def test_batch_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="OpenAI: embed_batch is 0, expected"):
        OpenAI(url="http://host/v1", model="m", embed_batch=0)


# ---- reranking


def test_a_rerank_request_and_its_ranking() -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        ranking = await pool.rerank("which?", ["aa", "bbbb", "c"], top_n=2, user="me")
        assert [(each.index, each.score, each.document) for each in ranking] == [
            (1, 0.04, "bbbb"),
            (0, 0.02, "aa"),
        ]
        assert ranking.usage.prompt_tokens == 7
        [request] = server.requests
        assert request.line.startswith("POST /v1/rerank HTTP")
        assert request.body == {
            "model": "m",
            "query": "which?",
            "documents": ["aa", "bbbb", "c"],
            "top_n": 2,
            "user": "me",
        }

    with_server(giving(lambda request: (200, scored(request))), main)


def test_long_lists_are_sent_in_parts_and_merged() -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        documents = ["x" * (n * 7 % 50) for n in range(50)]
        ranking = await pool.rerank("which?", documents, top_n=5)
        assert [len(each.document) for each in ranking] == [49, 48, 47, 46, 45]
        assert (
            sorted(len(request.body["documents"]) for request in server.requests) == [8] + [14] * 3
        )
        assert ranking.usage.prompt_tokens == 28

    with_server(giving(lambda request: (200, scored(request))), main, rerank_batch=14)


def test_too_many_documents_are_sent_in_halves() -> None:
    def limited(request: Request) -> tuple[int, Any]:
        if len(request.body["documents"]) > 3:
            return 413, {"error": "too many"}
        return 200, scored(request)

    async def main(pool: Pool, server: Hostile) -> None:
        ranking = await pool.rerank("which?", ["x" * n for n in range(10)])
        assert [each.index for each in ranking] == list(range(9, -1, -1))

    with_server(giving(limited), main)


@pytest.mark.parametrize("base", ["/v1", ""])
def test_a_server_that_takes_texts_is_recognised(base: str) -> None:
    """text-embeddings-inference has another path and other names, and a bare list for an answer."""

    def tei(request: Request) -> tuple[int, Any]:
        if not request.line.startswith("POST /rerank "):
            return 404, b""
        if "texts" not in request.body:
            return 422, b"Failed to deserialize the JSON body: missing field `texts` at line 1"
        texts = request.body["texts"]
        return 200, [{"index": at, "score": len(texts[at]) / 100} for at in range(len(texts))][::-1]

    async def main() -> None:
        async with serving(giving(tei)) as server:
            server.url = server.url.removesuffix("/v1") + base
            async with pool_of(server) as pool:
                for _ in range(2):
                    ranking = await pool.rerank("which?", ["aa", "b"], top_n=1, truncate=True)
                    assert [(each.index, each.score) for each in ranking] == [(0, 0.02)]
                assert len(server.requests) == 3
                assert server.requests[-1].body == {
                    "query": "which?",
                    "texts": ["aa", "b"],
                    "truncate": True,
                }

    run(main())


def test_a_server_without_reranking_is_told_once() -> None:
    error = failure(
        giving(lambda request: (404, {"detail": "Not Found"})), lambda pool: pool.rerank("q", ["a"])
    )
    assert "answered 404 to a rerank request" in str(error)


def results(*found: Any) -> dict[str, Any]:
    return {"results": [{"index": at, "relevance_score": score} for at, score in found]}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (results((0, 0.5)), "1 scores came for 2 documents"),
        (results((0, 0.5), (0, 0.6)), "index 0 stands among the scores"),
        (results((0, 0.5), (2, 0.6)), "index 2 stands among"),
        (results((0, 0.5), (-1, 0.6)), "index -1 stands among"),
        (results((0, 0.5), (1, None)), "the score of document 1 is None"),
        (results((0, 0.5), (1, "high")), "not of the form expected"),
        (b'{"results": [{"index": 0, "score": NaN}]}', "not JSON"),
        ({"data": None}, "no 'results'"),
        ({"error": {"code": 500, "message": "oops"}}, "in place of an answer: oops"),
    ],
)
def test_nonsense_for_scores_is_an_error(body: Any, told: str) -> None:
    error = failure(
        giving(lambda request: (200, body)), lambda pool: pool.rerank("which?", ["a", "b"])
    )
    assert told in str(error)


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {"total_tokens": 7}},
        {"usage": {"prompt_tokens": 7}},
        {"meta": {"tokens": {"input_tokens": 7}}},
    ],
)
def test_usage_is_read_in_every_spelling(told: dict[str, Any]) -> None:
    async def main(pool: Pool, server: Hostile) -> None:
        ranking = await pool.rerank("q", ["a"])
        assert (ranking.usage.prompt_tokens, ranking.usage.calls) == (7, 1)

    with_server(giving(lambda request: (200, {**results((0, 0.5)), **told})), main)
