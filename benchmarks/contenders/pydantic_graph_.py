"""pydantic-graph in its builder form: steps, `map()` to fan out, a join to gather.

It is the one of the frameworks here whose graphs can pass items on while their producer still
runs: a `stream` step mapped over. So the verification request streams, as far as its own reading
of the LM text allows. Joins gather in order of completion; the fan-out carries an index to sort by.
"""

# mypy does not follow the library's type variables (it is checked with pyright upstream).
# mypy: disable-error-code="call-overload, type-arg, attr-defined, var-annotated"

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from pydantic_graph import Graph, GraphBuilder, StepContext
from pydantic_graph.join import reduce_list_append

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

Item = tuple[int, int]
"""An item's index, to sort by, and its value."""


def build_fanout() -> Graph[None, None, int, list[Item]]:
    g = GraphBuilder(input_type=int, output_type=list[Item])

    @g.stream
    async def source(ctx: StepContext[None, None, int]) -> AsyncIterable[Item]:
        for number in range(ctx.inputs):
            yield number, number

    @g.step
    async def one(ctx: StepContext[None, None, Item]) -> Item:
        index, value = ctx.inputs
        return index, value + 1

    @g.step
    async def two(ctx: StepContext[None, None, Item]) -> Item:
        index, value = ctx.inputs
        return index, value + 1

    @g.step
    async def three(ctx: StepContext[None, None, Item]) -> Item:
        index, value = ctx.inputs
        return index, value + 1

    gather = g.join(reduce_list_append, initial_factory=list[Item])
    g.add(
        g.edge_from(g.start_node).to(source),
        g.edge_from(source).map().to(one),
        g.edge_from(one).to(two),
        g.edge_from(two).to(three),
        g.edge_from(three).to(gather),
        g.edge_from(gather).to(g.end_node),
    )
    return g.build()


@asynccontextmanager
async def fanout() -> AsyncIterator[Fanout]:
    graph = build_fanout()

    async def run(n: int) -> list[int]:
        return [value for _, value in sorted(await graph.run(inputs=n))]

    yield run


def build_factcheck() -> Graph[None, ScheduledLM, str, dict[str, int]]:
    g = GraphBuilder(deps_type=ScheduledLM, input_type=str, output_type=dict[str, int])

    @g.stream
    async def answer(ctx: StepContext[None, ScheduledLM, str]) -> AsyncIterable[str]:
        async for sentence in sentences(ctx.deps.stream(answer_prompt(ctx.inputs))):
            yield sentence

    @g.stream
    async def extract(ctx: StepContext[None, ScheduledLM, str]) -> AsyncIterable[str]:
        async for line in lines(ctx.deps.stream(extract_prompt(ctx.inputs))):
            yield json.loads(line)["text"]

    @g.step
    async def find(ctx: StepContext[None, ScheduledLM, str]) -> tuple[str, list[str]]:
        return ctx.inputs, await search(ctx.inputs)

    @g.step
    async def verify(ctx: StepContext[None, ScheduledLM, tuple[str, list[str]]]) -> str:
        claim, evidence = ctx.inputs
        prompt = verify_prompt(claim, evidence)
        return "".join([delta async for delta in ctx.deps.stream(prompt)]).strip()

    @g.step
    async def count(ctx: StepContext[None, ScheduledLM, list[str]]) -> dict[str, int]:
        return tally(ctx.inputs)

    gather = g.join(reduce_list_append, initial_factory=list[str])
    g.add(
        g.edge_from(g.start_node).to(answer),
        g.edge_from(answer).map().to(extract),
        g.edge_from(extract).map().to(find),
        g.edge_from(find).to(verify),
        g.edge_from(verify).to(gather),
        g.edge_from(gather).to(count),
        g.edge_from(count).to(g.end_node),
    )
    return g.build()


@asynccontextmanager
async def verification(lm: ScheduledLM) -> AsyncIterator[Serve]:
    graph = build_factcheck()

    async def serve(question: str) -> dict[str, int]:
        return await graph.run(inputs=question, deps=lm)

    yield serve
