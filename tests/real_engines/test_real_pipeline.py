"""Whole pipelines against real servers: nested fan-out, guided JSON, choices, loss and cancelling.

What the model writes is nonsense, so nothing here looks at the words; only at what must be true
of any answer: shapes, ancestry, labels, and that nothing is left running.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Literal

import pytest
from llama_server import LlamaServer
from pydantic import BaseModel
from real_calls import Replicas, busiest, run, until_busy

import alto
from alto import Sentence, Stream, lm, pipeline, stage

pytestmark = pytest.mark.engines

LABELS = {"SUPPORTED", "REFUTED", "UNKNOWN"}


class Claim(BaseModel):
    text: str


@lm(engine="chat", max_tokens=1000, returns=Stream[Sentence])
def answer(question: str) -> str:
    return f"Answer in a few sentences.\nQuestion: {question}"


@lm(engine="chat", max_tokens=2000, returns=Stream[Claim])
def extract(sentence: Sentence) -> str:
    return f"List the factual claims.\nText: {sentence}"


@stage
async def search(claim: Claim) -> list[str]:
    return [claim.text, claim.text.upper()]


@lm(engine="chat", max_tokens=100, returns=Literal["SUPPORTED", "REFUTED", "UNKNOWN"])
def verify(claim: Claim, evidence: list[str]) -> str:
    return f"Evidence: {evidence}\nClaim: {claim.text}\nVerdict:"


@stage
def tally(question: str, verdicts: Stream[str]) -> int:
    return sum(1 for _ in verdicts)


@pipeline
def factcheck(question: str) -> Any:
    sentences = answer(question)
    claims = extract(sentences)
    verdicts = verify(claims, search(claims))
    count = tally(question, verdicts)
    return {"sentences": sentences, "claims": claims, "verdicts": verdicts, "count": count}


def configured(*servers: LlamaServer) -> alto.Config:
    urls = [server.url for server in servers]
    return alto.Config(engines={"chat": alto.OpenAI(urls=urls, model="tiny")})


def check(result: dict[str, Any]) -> None:
    assert len(result["verdicts"]) == len(result["claims"]) == result["count"]
    assert set(result["verdicts"]) <= LABELS


def test_a_pipeline_runs(replicas: Replicas) -> None:
    check(alto.run(factcheck, "Who discovered penicillin?", config=configured(*replicas)))


def test_every_item_comes_after_the_one_that_it_came_from(replicas: Replicas) -> None:
    async def main() -> None:
        async with alto.Runtime(configured(*replicas)) as runtime:
            seen: dict[str, list[tuple[int, ...]]] = {}
            async with aclosing(runtime.stream(factcheck, "Why is the sky blue?")) as events:
                async for event in events:
                    if event.output in ("claims", "verdicts"):
                        assert event.path[:1] in seen["sentences"]
                    if event.output == "verdicts":
                        assert event.path in seen["claims"]
                    seen.setdefault(event.output, []).append(event.path)
            assert sorted(seen.get("claims", [])) == sorted(seen.get("verdicts", []))

    run(main())


def test_more_requests_than_slots_all_finish(replicas: Replicas) -> None:
    async def main() -> None:
        async with alto.Runtime(configured(*replicas)) as runtime:
            questions = [f"What is {number}?" for number in range(12)]
            for result in await asyncio.gather(*(runtime.call(factcheck, q) for q in questions)):
                check(result)
            for server in replicas:
                await until_busy(server, 0)

    run(main())


def test_cancelling_requests_frees_every_slot(replicas: Replicas) -> None:
    async def main() -> None:
        async with alto.Runtime(configured(*replicas)) as runtime:
            requests = [runtime.start(factcheck, f"What is {number}?") for number in range(12)]
            await busiest(*replicas)
            for request in requests:
                request.cancel()
            for server in replicas:
                await until_busy(server, 0)

    run(main())


def test_losing_a_server_loses_no_request(doomed: LlamaServer, other: LlamaServer) -> None:
    async def main() -> None:
        async with alto.Runtime(configured(doomed, other)) as runtime:
            questions = [f"What is {number}?" for number in range(8)]
            calls = [asyncio.create_task(runtime.call(factcheck, q)) for q in questions]
            await asyncio.to_thread((await busiest(doomed, other)).kill)
            for result in await asyncio.gather(*calls):
                check(result)

    run(main())
