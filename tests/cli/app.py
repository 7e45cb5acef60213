"""The pipeline that the command-line tests run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

import alto
from alto import Sentence, Stream, lm, pipeline, stage


class Claim(BaseModel):
    text: str


@lm(engine="chat", returns=Stream[Sentence])
def answer(question: str) -> str:
    return f"Question: {question}"


@lm(engine="chat", returns=Stream[Claim])
def extract(sentence: Sentence) -> str:
    return f"Sentence: {sentence}"


@stage
def search(claim: Claim) -> list[str]:
    return [claim.text.upper()]


@stage
async def count(evidence: Stream[list[str]]) -> int:
    return len([found async for found in evidence])


@pipeline
def check(question: str) -> dict[str, Any]:
    claims = extract(answer(question))
    return {"claims": claims, "count": count(search(claims))}


@stage
async def numbers(upto: int) -> Stream[int]:
    for number in range(upto):
        yield number


@stage
async def double(number: int, factor: int) -> int:
    alto.current().emit("doubling", number)
    return number * factor


@stage
def show(claims: list[Claim], name: str | None, colour: Literal["red", "blue"]) -> str:
    return f"{claims} {name!r} {colour}"


@pipeline
def colours(claims: list[Claim], name: str | None, colour: Literal["red", "blue"]) -> Any:
    return show(claims, name, colour)


@pipeline
def each(given: Stream[int]) -> Any:
    return double(given, 2)


@pipeline
def doubles(upto: int, factor: int = 2) -> Any:
    return double(numbers(upto), factor)


@stage
async def refuse(upto: int) -> int:
    raise ValueError(f"{upto} is too many")


@pipeline
def refusing(upto: int) -> Any:
    return refuse(upto)


@stage
async def wait_for_ever(upto: int) -> int:
    import asyncio

    print("waiting", flush=True)
    await asyncio.Event().wait()
    return upto


@pipeline
def endless(upto: int) -> Any:
    return wait_for_ever(upto)


@stage
async def in_a_thread(upto: int) -> int:
    import asyncio

    return await asyncio.to_thread(int, upto)


@pipeline
def threaded(upto: int) -> Any:
    return in_a_thread(upto)


not_a_pipeline = 7


@stage
async def nearest(question: str) -> str:
    engine = alto.engine("embed")
    await engine.embed([question, "a document"])
    [best] = await engine.rerank(question, ["something else", question, "nothing"], top_n=1)
    return best.document


@pipeline
def retrieval(question: str) -> Any:
    return nearest(question)
