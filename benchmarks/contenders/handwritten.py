"""By hand on asyncio: the limit that every framework is compared with.

One task per item, results gathered in order. The verification request streams as well as it can:
a sentence is on its way to the claims as soon as its full stop is read, a claim to the search as
soon as its line is complete. It does nothing else: no ancestry, no retries, no deadlines, no flow
control, no accounts. Each of those is what a framework's cost above this buys.
"""

from __future__ import annotations

import json
from asyncio import Task, TaskGroup
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ..workload import (
    LM,
    ScheduledLM,
    answer_prompt,
    extract_prompt,
    search,
    tally,
    verify_prompt,
)
from . import Fanout, Serve

Search = Callable[[str], Awaitable[list[str]]]


async def source(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def one(value: int) -> int:
    return value + 1


async def two(value: int) -> int:
    return value + 1


async def three(value: int) -> int:
    return value + 1


async def chain(value: int) -> int:
    return await three(await two(await one(value)))


async def run(n: int) -> list[int]:
    async with TaskGroup() as group:
        tasks = [group.create_task(chain(value)) async for value in source(n)]
    return [task.result() for task in tasks]


@asynccontextmanager
async def fanout() -> AsyncIterator[Fanout]:
    yield run


async def sentences(deltas: AsyncIterable[str]) -> AsyncIterator[str]:
    """Cut a growing text where a full stop is followed by white space, and at its end."""
    text = ""
    async for delta in deltas:
        text += delta
        while (stop := text.find(". ")) >= 0:
            yield text[: stop + 1]
            text = text[stop + 2 :]
    if text:
        yield text


async def lines(deltas: AsyncIterable[str]) -> AsyncIterator[str]:
    """Cut a growing text at line ends."""
    text = ""
    async for delta in deltas:
        text += delta
        while (stop := text.find("\n")) >= 0:
            yield text[:stop]
            text = text[stop + 1 :]
    if text:
        yield text


async def judge(lm: LM, find: Search, claim: str) -> str:
    evidence = await find(claim)
    return "".join([delta async for delta in lm.stream(verify_prompt(claim, evidence))]).strip()


async def check(lm: LM, find: Search, sentence: str) -> list[str]:
    """The verdicts on one sentence, each started as soon as its claim is written."""
    async with TaskGroup() as group:
        tasks: list[Task[str]] = []
        async for line in lines(lm.stream(extract_prompt(sentence))):
            tasks.append(group.create_task(judge(lm, find, json.loads(line)["text"])))
    return [task.result() for task in tasks]


async def factcheck(lm: LM, question: str, find: Search = search) -> dict[str, int]:
    """One verification request, streamed as far as texts allow."""
    async with TaskGroup() as group:
        tasks: list[Task[list[str]]] = []
        async for sentence in sentences(lm.stream(answer_prompt(question))):
            tasks.append(group.create_task(check(lm, find, sentence)))
    return tally([verdict for task in tasks for verdict in task.result()])


@asynccontextmanager
async def verification(lm: ScheduledLM) -> AsyncIterator[Serve]:
    async def serve(question: str) -> dict[str, int]:
        return await factcheck(lm, question)

    yield serve
