"""LlamaIndex Workflows: a class of steps that take and return events.

A step that returns a list fans out and a step that takes a list gathers: that is the fan-out here.
A list is given on when it is whole, so where items should move on while their producer still
writes, `ctx.send_event` sends each; how many will come is then kept in the run's state. In the
verification request both ways cost the same CPU when measured, and the second answers sooner.

`num_workers` bounds what one step runs at a time: 4 if nothing is said, which would throttle LM
calls here, so steps that wait are given more than they need.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from ..workload import (
    ScheduledLM,
    answer_prompt,
    extract_prompt,
    search,
    tally,
    verify_prompt,
)
from . import Fanout, Serve
from .handwritten import lines, sentences

WORKERS = 64
"""Invocations of one step at a time: above what any request here has."""


class Item(Event):
    index: int
    value: int


class One(Item):
    """Made by the source."""


class Two(Item):
    """Made by the first stage."""


class Three(Item):
    """Made by the second."""


class Done(Item):
    """Made by the third."""


class FanoutFlow(Workflow):
    @step
    async def source(self, ev: StartEvent) -> list[One]:
        return [One(index=number, value=number) for number in range(ev.n)]

    @step(num_workers=WORKERS)
    async def one(self, ev: One) -> Two:
        return Two(index=ev.index, value=ev.value + 1)

    @step(num_workers=WORKERS)
    async def two(self, ev: Two) -> Three:
        return Three(index=ev.index, value=ev.value + 1)

    @step(num_workers=WORKERS)
    async def three(self, ev: Three) -> Done:
        return Done(index=ev.index, value=ev.value + 1)

    @step
    async def gather(self, ev: list[Done]) -> StopEvent:
        return StopEvent(result=[done.value for done in sorted(ev, key=lambda done: done.index)])


@asynccontextmanager
async def fanout() -> AsyncIterator[Fanout]:
    flow = FanoutFlow(timeout=None)

    async def run(n: int) -> list[int]:
        result: list[int] = await flow.run(n=n)
        return result

    yield run


class SentenceEvent(Event):
    text: str


class ClaimEvent(Event):
    text: str


class EvidenceEvent(Event):
    claim: str
    evidence: list[str]


class VerdictEvent(Event):
    label: str


class WrittenEvent(Event):
    """One sentence has been read through; `claims` verdicts will come of it."""

    claims: int


class FactcheckFlow(Workflow):
    def __init__(self, lm: ScheduledLM) -> None:
        super().__init__(timeout=None)
        self.lm = lm

    @step(num_workers=WORKERS)
    async def answer(self, ctx: Context, ev: StartEvent) -> SentenceEvent | None:
        count = 0
        async for sentence in sentences(self.lm.stream(answer_prompt(ev.question))):
            ctx.send_event(SentenceEvent(text=sentence))
            count += 1
        await ctx.store.set("sentences", count)
        return None

    @step(num_workers=WORKERS)
    async def extract(self, ctx: Context, ev: SentenceEvent) -> ClaimEvent | WrittenEvent:
        count = 0
        async for line in lines(self.lm.stream(extract_prompt(ev.text))):
            ctx.send_event(ClaimEvent(text=json.loads(line)["text"]))
            count += 1
        return WrittenEvent(claims=count)

    @step(num_workers=WORKERS)
    async def search(self, ev: ClaimEvent) -> EvidenceEvent:
        return EvidenceEvent(claim=ev.text, evidence=await search(ev.text))

    @step(num_workers=WORKERS)
    async def verify(self, ev: EvidenceEvent) -> VerdictEvent:
        prompt = verify_prompt(ev.claim, ev.evidence)
        return VerdictEvent(label="".join([delta async for delta in self.lm.stream(prompt)]))

    @step(num_workers=1)
    async def gather(self, ctx: Context, ev: WrittenEvent | VerdictEvent) -> StopEvent | None:
        # How many verdicts there will be is known only when every sentence has been read; until
        # then they are kept in the run's state, as events may come in any order.
        labels = await ctx.store.get("labels", default=[])
        written = await ctx.store.get("written", default=[])
        if isinstance(ev, VerdictEvent):
            labels = [*labels, ev.label]
            await ctx.store.set("labels", labels)
        else:
            written = [*written, ev.claims]
            await ctx.store.set("written", written)
        count = await ctx.store.get("sentences", default=None)
        if count is None or len(written) < count or len(labels) < sum(written):
            return None
        return StopEvent(result=tally(labels))


@asynccontextmanager
async def verification(lm: ScheduledLM) -> AsyncIterator[Serve]:
    flow = FactcheckFlow(lm)

    async def serve(question: str) -> dict[str, int]:
        result: dict[str, int] = await flow.run(question=question)
        return result

    yield serve
