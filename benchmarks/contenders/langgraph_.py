"""LangGraph in its map-reduce form: a state graph, `Send` for each item, a reducer that gathers.

A graph runs in supersteps: the nodes of one step all finish before any of the next begins. So a
node cannot pass on items while it still writes, and the verification request takes whole LM texts.
Of the three ways to write three nodes per item (a `Send` from node to node by `Command`, a
subgraph per item, conditional edges) the first was the cheapest when measured; it is used here.
"""

from __future__ import annotations

import json
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from ..workload import (
    ScheduledLM,
    answer_prompt,
    extract_prompt,
    search,
    tally,
    verify_prompt,
)
from . import Fanout, Serve
from .handwritten import sentences


class Fan(TypedDict):
    n: int
    results: Annotated[list[tuple[int, int]], operator.add]


class Item(TypedDict):
    index: int
    value: int


async def each(state: Fan) -> list[Send]:
    return [Send("one", Item(index=number, value=number)) for number in range(state["n"])]


async def source(state: Fan) -> dict[str, Any]:
    return {}


async def one(state: Item) -> Command[Any]:
    return Command(goto=Send("two", Item(index=state["index"], value=state["value"] + 1)))


async def two(state: Item) -> Command[Any]:
    return Command(goto=Send("three", Item(index=state["index"], value=state["value"] + 1)))


async def three(state: Item) -> dict[str, Any]:
    return {"results": [(state["index"], state["value"] + 1)]}


@asynccontextmanager
async def fanout() -> AsyncIterator[Fanout]:
    builder = StateGraph(Fan)
    builder.add_node("source", source)
    builder.add_node("one", one, input_schema=Item, destinations=("two",))
    builder.add_node("two", two, input_schema=Item, destinations=("three",))
    builder.add_node("three", three, input_schema=Item)
    builder.add_edge(START, "source")
    builder.add_conditional_edges("source", each, ["one"])
    builder.add_edge("three", END)
    graph = builder.compile()

    async def run(n: int) -> list[int]:
        state = await graph.ainvoke(Fan(n=n, results=[]))
        return [value for _, value in sorted(state["results"])]

    yield run


class Check(TypedDict):
    question: str
    sentences: list[str]
    verdicts: Annotated[list[str], operator.add]
    report: dict[str, int]


class SentenceState(TypedDict):
    sentence: str


class ClaimState(TypedDict):
    claim: str


class EvidenceState(TypedDict):
    claim: str
    evidence: list[str]


async def _whole(text: str) -> AsyncIterator[str]:
    yield text


def build_factcheck(lm: ScheduledLM) -> StateGraph[Check, None, Check, Check]:
    async def answer(state: Check) -> dict[str, Any]:
        text = await lm.complete(answer_prompt(state["question"]))
        return {"sentences": [sentence async for sentence in sentences(_whole(text))]}

    async def to_extract(state: Check) -> list[Send]:
        return [Send("extract", SentenceState(sentence=text)) for text in state["sentences"]]

    async def extract(state: SentenceState) -> Command[Any]:
        text = await lm.complete(extract_prompt(state["sentence"]))
        claims = [json.loads(line)["text"] for line in text.splitlines()]
        return Command(goto=[Send("find", ClaimState(claim=claim)) for claim in claims])

    async def find(state: ClaimState) -> Command[Any]:
        evidence = await search(state["claim"])
        found = EvidenceState(claim=state["claim"], evidence=evidence)
        return Command(goto=Send("verify", found))

    async def verify(state: EvidenceState) -> dict[str, Any]:
        text = await lm.complete(verify_prompt(state["claim"], state["evidence"]))
        return {"verdicts": [text.strip()]}

    async def count(state: Check) -> dict[str, Any]:
        return {"report": tally(state["verdicts"])}

    builder = StateGraph(Check)
    builder.add_node("answer", answer)
    builder.add_node("extract", extract, input_schema=SentenceState, destinations=("find",))
    builder.add_node("find", find, input_schema=ClaimState, destinations=("verify",))
    builder.add_node("verify", verify, input_schema=EvidenceState)
    builder.add_node("count", count)
    builder.add_edge(START, "answer")
    builder.add_conditional_edges("answer", to_extract, ["extract"])
    builder.add_edge("verify", "count")
    builder.add_edge("count", END)
    return builder


@asynccontextmanager
async def verification(lm: ScheduledLM) -> AsyncIterator[Serve]:
    graph = build_factcheck(lm).compile()

    async def serve(question: str) -> dict[str, int]:
        start = Check(question=question, sentences=[], verdicts=[], report={})
        state = await graph.ainvoke(start)
        report: dict[str, int] = state["report"]
        return report

    yield serve
