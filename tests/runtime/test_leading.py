"""Calls that lead to what a request shows first, from the pipeline to the choice of a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import pytest
from leaks import on_virtual_time, watched

import alto
from alto import Delta, Line, Stream, lm, pipeline, stage
from alto.core.calls import Call
from alto.core.path import Path
from alto.core.pool import CallPool
from alto.core.pool_events import Submitted
from alto.core.prefix import Prompt
from alto.core.scheduling import CallId, Facts, learn_nothing


@lm(engine="chat", returns=Stream[Line])
def write(topic: str) -> str:
    return topic


@lm(engine="chat")
def judge(line: Line) -> str:
    return line


@lm(engine="chat")
def plan(topic: str) -> str:
    return topic


@lm(engine="chat", returns=Stream[Line])
def search(line: Line) -> str:
    return line


@lm(engine="chat")
def look(line: Line) -> str:
    return line


@lm(engine="chat")
def weigh(line: Line, found: list[str]) -> str:
    return line


@lm(engine="chat")
def total(lines: list[str]) -> str:
    return "total"


@stage
async def passed_on(lines: Stream[str]) -> Stream[str]:
    return Stream.of(*[line async for line in lines])


@stage
async def joined(lines: Stream[str]) -> str:
    return " ".join([line async for line in lines])


@pipeline
def chain(topic: str) -> Any:
    return judge(write(topic))


@pipeline
def two(topic: str) -> Any:
    """What takes more steps is not what is seen first, though it is named first."""
    verdicts = judge(write(topic))
    return {"sum": total(verdicts), "plan": plan(topic)}


@pipeline
def late(topic: str) -> Any:
    """The only output waits for all verdicts alike."""
    return total(judge(write(topic)))


@pipeline
def reread(topic: str) -> Any:
    return passed_on(judge(write(topic)))


@pipeline
def read_up(topic: str) -> Any:
    return joined(judge(write(topic)))


@pipeline
def nested(topic: str) -> Any:
    """Each verdict waits for one search, and for all that it finds."""
    lines = write(topic)
    return weigh(lines, look(search(lines)))


@pytest.mark.parametrize(
    ("given", "leading"),
    [
        (chain, {"write", "judge"}),
        (two, {"plan"}),
        (late, {"total", "write"}),
        (reread, {"write", "judge", "passed_on"}),
        (read_up, {"joined", "write"}),
        (nested, {"write", "search", "weigh"}),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_which_stages_lead_to_what_is_seen_first(given: Any, leading: set[str]) -> None:
    graph = given.graph.compile()
    assert {use.name for use in graph.uses if use.index in graph.leading} == leading


class Slow:
    """Writes a line a second, four to each answer, and remembers who asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path, bool]] = []

    def open(self, name: str) -> Slow:
        return self

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.calls.append((call.stage, call.path, call.leads))
        for line in ("one\n", "two\n", "three\n", "four\n"):
            await asyncio.sleep(1.0)
            yield Delta(line)
        yield Delta("", finish_reason="stop")

    async def aclose(self) -> None:
        pass


def test_the_first_call_of_each_stage_leads_until_something_is_shown() -> None:
    engine = Slow()

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            await runtime.start(chain, "tea").result()

    on_virtual_time(main)
    assert engine.calls == [
        ("write", (), True),
        ("judge", (0,), True),
        ("judge", (1,), False),
        ("judge", (2,), False),
        ("judge", (3,), False),
    ]


@pipeline
def shown(topic: str) -> Any:
    lines = write(topic)
    return {"lines": lines, "verdicts": judge(lines)}


def test_nothing_leads_once_an_item_is_shown_or_where_none_is() -> None:
    engine = Slow()

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            await runtime.start(shown, "tea").result()
            assert [leads for *_, leads in engine.calls] == [True] + [False] * 4
            engine.calls.clear()
            await runtime.call(chain, "tea")  # which shows nothing before the end
            assert not any(leads for *_, leads in engine.calls)

    on_virtual_time(main)


class Weights:
    """A policy that remembers what it was told calls weigh."""

    uses_prefix = False

    def __init__(self) -> None:
        self.seen: list[float] = []

    def choose(self, candidates: Any, facts: Facts, now: float, random: Random) -> int:
        self.seen.append(facts.weight)
        return 0

    observe = learn_nothing


def test_a_call_that_leads_weighs_as_much_as_one_alone() -> None:
    policy = Weights()
    pool = CallPool("chat", ["one", "two"], policy=policy, random=Random(1))
    for number, leads in enumerate([False, False, False, True, False, True]):
        call = Submitted(CallId(number), Prompt((), 400), request="tea", leads=leads)
        pool.handle(call, 0.0)
        pool.check()
    assert policy.seen == pytest.approx([1.0, 2**-0.5, 3**-0.5, 1.0, 5**-0.5, 1.0])
