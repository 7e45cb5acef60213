"""What every engine that embeds and reranks does, beside the rest of the contract.

embed    it embeds; near in meaning is near by the cosine only with `meaning`
rerank   it reranks
meaning  texts with words in common are near, and a document with the query's words is first
"""

from __future__ import annotations

import asyncio
import math
from operator import mul
from typing import cast

import pytest
from contract import CHECKS, Check, Live, Subject, answer, ask, needs, until_idle

from alto.core.encode import Vectors
from alto.engines.encodes import Encodes
from alto.errors import DeadlineExceeded, EngineError

TEXTS = [
    "The cat sat on the mat.",
    "Grüße — 日本語 😀",
    "a cat on a mat",
    "x" * 300,
    "\n\t \\ \" '",
]


def encodes(live: Live) -> Encodes:
    assert isinstance(live.engine, Encodes)
    return live.engine


def same(one: list[float], other: list[float]) -> bool:
    """Servers that batch round a little otherwise from batch to batch."""
    return one == pytest.approx(other, abs=1e-3)


@needs("embed")
async def a_text_has_a_vector_of_finite_numbers(live: Live, subject: Subject) -> None:
    vector = await encodes(live).embed("Hello")
    assert len(vector) > 1
    assert all(isinstance(each, float) and math.isfinite(each) for each in vector)


@needs("embed")
async def texts_have_vectors_in_their_order(live: Live, subject: Subject) -> None:
    alone = [await encodes(live).embed(text) for text in TEXTS]
    together = await encodes(live).embed(TEXTS)
    assert isinstance(together, Vectors)
    assert all(map(same, together, alone))
    backwards = await encodes(live).embed(TEXTS[::-1])
    assert all(map(same, backwards, alone[::-1]))
    assert not same(alone[0], alone[1])


@needs("embed")
async def many_callers_get_their_own(live: Live, subject: Subject) -> None:
    texts = [f"this is text number {n}" for n in range(150)]
    several = await encodes(live).embed(texts)
    assert len(several) == 150
    each = await asyncio.gather(*(encodes(live).embed(text) for text in texts[:40]))
    assert all(map(same, each, several))


@needs("embed")
async def no_texts_have_no_vectors(live: Live, subject: Subject) -> None:
    assert await encodes(live).embed([]) == []


@needs("embed", "usage")
async def embedding_counts_what_was_read(live: Live, subject: Subject) -> None:
    short = (await encodes(live).embed(["Hello"])).usage
    long = (await encodes(live).embed(["Hello " * 50, "Hello"])).usage
    assert long.prompt_tokens > short.prompt_tokens > 0
    assert (short.calls, short.completion_tokens) == (1, 0)


@needs("embed", "meaning")
async def like_texts_are_near(live: Live, subject: Subject) -> None:
    cat, _, mat, other, _ = await encodes(live).embed(TEXTS)
    assert sum(map(mul, cat, mat)) > sum(map(mul, cat, other))
    assert sum(map(mul, cat, cat)) == pytest.approx(1, abs=1e-3)


@needs("embed")
async def cancelled_callers_leave_the_engine_well(live: Live, subject: Subject) -> None:
    for pause in (0, 0, 0.001, 0.003, 0.01):
        tasks = [asyncio.ensure_future(encodes(live).embed(["word " * 60] * 5)) for _ in range(4)]
        await asyncio.sleep(pause)
        for task in tasks[1:]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], Vectors)
    await until_idle(live)


@needs("embed")
async def a_deadline_that_has_passed_ends_an_embedding(live: Live, subject: Subject) -> None:
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await encodes(live).embed(TEXTS, deadline=now)
    with pytest.raises(DeadlineExceeded):
        while True:
            await encodes(live).embed(["word " * 60] * 20, deadline=now + 0.05)
    await until_idle(live)


@needs("embed")
async def a_closed_engine_embeds_nothing(live: Live, subject: Subject) -> None:
    await encodes(live).embed("Hello")
    waiting = asyncio.ensure_future(encodes(live).embed(["word " * 60] * 60))
    await asyncio.sleep(0)
    await live.engine.aclose()
    with pytest.raises(EngineError):
        await waiting
    with pytest.raises(EngineError):
        await encodes(live).embed("Hello")


@needs("rerank")
async def documents_come_best_first(live: Live, subject: Subject) -> None:
    documents = [f"document {n} {'x' * n}" for n in range(30)]
    ranking = await encodes(live).rerank("which document?", documents)
    assert sorted(each.index for each in ranking) == list(range(30))
    assert [each.document for each in ranking] == [documents[each.index] for each in ranking]
    scores = [each.score for each in ranking]
    assert scores == sorted(scores, reverse=True)
    best = await encodes(live).rerank("which document?", documents, top_n=3)
    assert [each.score for each in best] == pytest.approx(scores[:3], abs=1e-2)


@needs("rerank")
async def no_documents_have_no_ranking(live: Live, subject: Subject) -> None:
    assert await encodes(live).rerank("which?", []) == []


@needs("rerank", "meaning")
async def the_document_with_the_words_is_first(live: Live, subject: Subject) -> None:
    documents = ["Bread is baked.", "Penicillin was discovered by Fleming.", "The Nile is long."]
    ranking = await encodes(live).rerank("Who discovered penicillin?", documents, top_n=1)
    assert [(each.index, each.document) for each in ranking] == [(1, documents[1])]


@needs("rerank", "usage")
async def reranking_counts_what_was_read(live: Live, subject: Subject) -> None:
    one = (await encodes(live).rerank("which?", ["one"])).usage
    ten = (await encodes(live).rerank("which?", ["one"] * 10)).usage
    assert ten.prompt_tokens > one.prompt_tokens > 0
    assert ten.calls == 1


@needs("embed", "echo")
async def texts_and_vectors_are_asked_for_side_by_side(live: Live, subject: Subject) -> None:
    deltas, vectors = await asyncio.gather(
        answer(live, ask("Say: hello")), encodes(live).embed(TEXTS)
    )
    assert "".join(cast("list[str]", deltas)) == "hello"
    assert len(vectors) == len(TEXTS)


def number_checks_of(subject: Subject) -> list[Check]:
    """Of the checks that apply, those about embedding and reranking: for servers that do no more."""
    return [
        check
        for features, check in CHECKS
        if features <= subject.supports and features & {"embed", "rerank"}
    ]
