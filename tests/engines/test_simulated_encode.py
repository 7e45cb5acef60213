"""Embedding and reranking by simulated servers: numbers that make sense, at the profile's pace."""

from __future__ import annotations

import asyncio
from operator import mul
from typing import Any, TypeVar

import pytest

from alto.core.encode import EmbedCall
from alto.engines.profiles import profile
from alto.engines.sim_encode import hashed, overlap
from alto.engines.simulated import Simulated
from alto.errors import DeadlineExceeded, EngineError
from alto.testing.loop import run

T = TypeVar("T")
TOWER = "The Eiffel Tower is in Paris."
TOWERS = "Paris has the Eiffel Tower"
BREAD = "Bake the bread for an hour."


def near(one: list[float], other: list[float]) -> float:
    return sum(map(mul, one, other))


def with_engine(main: Any, **options: Any) -> Any:
    """Run `main(pool)` on virtual time."""

    async def body() -> Any:
        pool = Simulated(**options).open("embed")
        try:
            return await main(pool)
        finally:
            await pool.aclose()

    return run(body())


def test_vectors_have_length_one_and_like_texts_are_near() -> None:
    tower, towers, bread = (hashed(text, 256) for text in (TOWER, TOWERS, BREAD))
    assert near(tower, tower) == pytest.approx(1)
    assert near(tower, towers) > 0.6 > 0.3 > near(tower, bread)
    assert near(hashed("swimming", 256), hashed("swimmer", 256)) > 0.4
    assert near(hashed("", 8), hashed("", 8)) == pytest.approx(1)
    assert hashed("Grüße 😀", 64) == hashed("grüße 😀", 64)


def test_vectors_are_the_same_in_any_process() -> None:
    """A change of these numbers changes recorded benchmarks: say so in the change note."""
    found = [(at, round(value, 4)) for at, value in enumerate(hashed("alto", 16)) if value]
    assert found == EXPECTED


EXPECTED = [(3, 0.5), (5, 0.5), (6, 0.5), (14, 0.5)]


def test_scores_go_by_words_in_common() -> None:
    query = "where is the Eiffel Tower"
    assert overlap(query, TOWER) > overlap(query, BREAD) >= 0
    assert overlap(query, query) == pytest.approx(1)
    assert overlap("", "x") < 1


def test_own_functions_take_their_place() -> None:
    async def main(pool: Any) -> None:
        assert await pool.embed("abc") == [3.0, 1.0]
        assert [each.index for each in await pool.rerank("q", ["a", "ccc", "bb"])] == [1, 2, 0]

    with_engine(
        main, embed=lambda text: [len(text), 1], score=lambda query, document: len(document)
    )


def test_an_own_function_that_raises_is_told() -> None:
    async def main(pool: Any) -> None:
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            await pool.embed("abc")

    with_engine(main, embed=lambda text: [1 / 0])


def test_dimensions_shorten_vectors() -> None:
    async def main(pool: Any) -> None:
        whole, short = await pool.embed(TOWER), await pool.embed(TOWER, dimensions=32)
        assert (len(whole), len(short)) == (100, 32)
        assert near(short, short) == pytest.approx(1)
        scale = short[0] / whole[0] if whole[0] else 1
        assert short == pytest.approx([each * scale for each in whole[:32]])
        with pytest.raises(EngineError, match=r"101 dimensions.*have 100") as caught:
            await pool.embed(TOWER, dimensions=101)
        assert caught.value.status == 400

    with_engine(main, dimensions=100)


def seconds_for(texts: list[str], **options: Any) -> float:
    async def main(pool: Any) -> float:
        await pool.embed(texts)
        return asyncio.get_running_loop().time()

    return float(with_engine(main, embed_max_wait=0, embed_tokens=10**6, **options))


def test_time_is_what_the_profile_takes_to_read_the_texts() -> None:
    costs = profile(Simulated().profile).step_costs()
    tokens, pairs = 2 * 600, 2 * 600 * 300
    texts = [f"{word} " + " word" * 599 for word in ("one", "two")]
    assert seconds_for(texts) == pytest.approx(costs.step(tokens, 0, 0, pairs, 2), rel=0.01)


def test_texts_of_a_batch_are_read_together() -> None:
    texts = [f"text {n}" for n in range(32)]
    assert seconds_for(texts) < 2 * seconds_for(texts[:1])
    assert seconds_for(texts, embed_batch=1, max_num_seqs=1) > 20 * seconds_for(texts[:1])


def test_usage_counts_what_was_read_and_what_was_cached() -> None:
    async def main(pool: Any) -> None:
        text = "word " * 100
        first = (await pool.embed([text])).usage
        again = (await pool.embed([text])).usage
        assert first.prompt_tokens == again.prompt_tokens > 99
        assert first.cached_tokens == 0 < again.cached_tokens
        ranking = await pool.rerank("q", ["a", "b", "c"])
        assert (ranking.usage.prompt_tokens, ranking.usage.calls) == (3 * 5, 1)

    with_engine(main)


def test_a_text_too_long_for_the_server_fails_alone() -> None:
    async def main(pool: Any) -> None:
        long, short = await asyncio.gather(
            pool.embed("word " * 2000), pool.embed("short"), return_exceptions=True
        )
        assert isinstance(long, EngineError)
        assert long.status == 400
        assert short == hashed("short", 256)
        with pytest.raises(EngineError, match="KV blocks"):
            await pool.rerank("q", ["fine", "word " * 2000])
        assert [replica.running for replica in pool.replicas] == [0]

    with_engine(main, kv_tokens=1024)


def test_long_lists_of_documents_are_sent_in_parts() -> None:
    async def main(pool: Any) -> None:
        documents = [f"text {n}" for n in range(100)]
        ranking = await pool.rerank("which is text 42", documents, top_n=3)
        assert ranking[0].index == 42
        assert len(ranking) == 3
        whole = await pool.rerank("which is text 42", documents)
        assert sorted(each.index for each in whole) == list(range(100))
        assert list(whole[:3]) == list(ranking)

    with_engine(main, rerank_batch=7, replicas=2)


def test_cancelling_and_deadlines_free_the_server() -> None:
    async def main(pool: Any) -> None:
        loop = asyncio.get_running_loop()
        [replica] = pool.replicas
        texts = [f"{n} " + "word " * 1000 for n in range(20)]
        for work in (pool.embed(texts), pool.rerank("q", texts)):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0.02)
            assert replica.running + replica.waiting
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert (replica.running, replica.waiting) == (0, 0)
        for verb in (
            pool.embed(texts, deadline=loop.time() + 0.02),
            pool.rerank("q", texts, deadline=loop.time() + 0.04),
        ):
            with pytest.raises(DeadlineExceeded):
                await verb
            await asyncio.sleep(0)
            assert (replica.running, replica.waiting) == (0, 0)
        pool.check()

    with_engine(main)


@pytest.mark.parametrize("seed", range(5))
def test_faults_are_survived_where_another_try_helps(seed: int) -> None:
    async def main(pool: Any) -> int:
        texts = [f"text {n}" for n in range(200)]
        assert list(await pool.embed(texts)) == [hashed(text, 256) for text in texts]
        assert len(await pool.rerank("text 5", texts)) == 200
        return sum(replica.measures.embedded for replica in pool.replicas)

    faults = {"refuse": 0.05, "break_off": 0.05, "stall": 0.1, "stall_s": 1.0}
    embedded = with_engine(
        main, replicas=3, faults=faults, seed=seed, embed_batch=8, rerank_batch=8
    )
    assert embedded >= 200


def test_calls_for_numbers_and_for_text_share_a_server() -> None:
    async def main(pool: Any) -> None:
        [replica] = pool.replicas
        call = EmbedCall(inputs=["a", "b"])
        [answer] = [delta async for delta in replica.stream(call)]
        assert call.sealed
        assert (answer, answer.finish_reason, len(answer.vectors)) == ("", "stop", 2)
        assert (replica.measures.embedded, replica.measures.generation_tokens) == (2, 0)
        await replica.idle()

    with_engine(main)
