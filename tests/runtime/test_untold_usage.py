"""What calls cost that no server told of is in the usage of their request, by estimate: texts whose
reader left, tries that lost a race, and servers that tell nothing. A token budget agrees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from leaks import on_virtual_time, quiet, watched

import alto
from alto import Call, Delta, Line, Stream, Usage, lm, pipeline, stage
from alto.engines.pool import Pool
from alto.engines.sim_faults import Faults

LINES = [f"line number {n:02}\n" for n in range(20)]
QUESTION = "count the lines, one by one, " * 10
PROMPT_TOKENS = 80
"""About what the question has."""


class Server:
    """Writes a line every tenth of a second, and tells `usage` at the end."""

    def __init__(self, name: str, usage: Usage | None, first_s: float = 0.1) -> None:
        self.name = name
        self.usage = usage
        self.first_s = first_s

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        await asyncio.sleep(self.first_s)
        for line in LINES:
            yield Delta(line)
            await asyncio.sleep(0.1)
        yield Delta(finish_reason="stop", usage=self.usage)

    async def aclose(self) -> None:
        """Nothing to close."""


class Servers:
    def __init__(self, *servers: Server, hedge_s: float | None = None) -> None:
        self.servers = servers
        self.hedge_s = hedge_s

    def open(self, name: str) -> Pool:
        return Pool(name, self.servers, policy="round-robin", hedge_s=self.hedge_s)


@lm(engine="chat")
def lines(x: str) -> Stream[Line]:
    return x


@lm(engine="chat")
def text(x: str) -> str:
    return x


@stage
async def first_two(items: Stream[str]) -> list[str]:
    found: list[str] = []
    async for item in items:
        found.append(item)
        if len(found) == 2:
            break
    return found


@stage
async def agent(x: str) -> str:
    found = ""
    stream = alto.engine("chat").stream(x)
    async for delta in stream:
        found += delta
        if found.count("\n") == 2:
            break
    await stream.aclose()
    return found


@pipeline
def left_by_a_consumer(x: str) -> Any:
    return first_two(lines(x))


@pipeline
def left_by_an_agent(x: str) -> Any:
    return agent(x)


@pipeline
def whole(x: str) -> Any:
    return text(x)


def used(
    subject: Any, engine: Servers, budget: int | None, cancel_after: float | None = None
) -> Usage:
    """The usage of one request; the books of its budget must agree with it."""

    async def main() -> Usage:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            request = runtime.start(subject, QUESTION, token_budget=budget)
            if cancel_after is not None:
                await asyncio.sleep(cancel_after)
                request.cancel()
            await asyncio.gather(request.result(), return_exceptions=True)
            await quiet(runtime)
            if budget is not None:
                books = request._run.budget
                assert books is not None
                assert (books.spent, books.held) == (request.usage.total_tokens, 0)
            return request.usage

    return on_virtual_time(main)


TOLD = Usage(90, 100, calls=1)
budgets = pytest.mark.parametrize("budget", [None, 10_000])


@budgets
@pytest.mark.parametrize("subject", [left_by_a_consumer, left_by_an_agent])
def test_a_text_that_its_reader_left_counts_as_far_as_it_was_written(
    subject: Any, budget: int | None
) -> None:
    usage = used(subject, Servers(Server("r0", TOLD)), budget)
    assert usage.calls == 1
    assert usage.prompt_tokens == pytest.approx(PROMPT_TOKENS, rel=0.2)
    assert 5 <= usage.completion_tokens <= 20  # two lines or three


@budgets
def test_a_text_whose_request_was_cancelled_counts_too(budget: int | None) -> None:
    usage = used(whole, Servers(Server("r0", TOLD)), budget, cancel_after=1.05)
    assert usage.calls == 1
    assert 30 <= usage.completion_tokens <= 60  # ten lines


@budgets
def test_a_call_that_was_left_before_its_first_token_costs_nothing(budget: int | None) -> None:
    assert used(whole, Servers(Server("r0", TOLD)), budget, cancel_after=0.05) == Usage()


@budgets
@pytest.mark.parametrize("slow_s", [60.0, 1.1])
def test_a_try_that_lost_a_race_counts_as_a_prompt(slow_s: float, budget: int | None) -> None:
    slow, quick = Server("r0", TOLD, first_s=slow_s), Server("r1", TOLD)
    usage = used(whole, Servers(slow, quick, hedge_s=1.0), budget)
    assert usage.calls == 2
    assert usage.prompt_tokens == pytest.approx(TOLD.prompt_tokens + PROMPT_TOKENS, rel=0.1)
    assert TOLD.completion_tokens <= usage.completion_tokens <= TOLD.completion_tokens + 10


@budgets
@pytest.mark.parametrize("told", [None, Usage(), Usage(calls=1)])
def test_a_server_that_tells_nothing_is_counted_by_estimate(
    told: Usage | None, budget: int | None
) -> None:
    usage = used(whole, Servers(Server("r0", told)), budget)
    assert usage.prompt_tokens == pytest.approx(PROMPT_TOKENS, rel=0.2)
    assert usage.completion_tokens == pytest.approx(80, rel=0.2)
    assert usage.calls == (0 if told == Usage() else 1)


def test_what_a_budget_cuts_off_agrees_with_it() -> None:
    usage = used(whole, Servers(Server("r0", TOLD)), 100)
    assert usage.calls == 1
    assert 10 <= usage.completion_tokens <= 100


def test_what_a_server_told_is_believed() -> None:
    assert used(whole, Servers(Server("r0", TOLD)), 10_000) == TOLD


@dataclass(frozen=True)
class Faulty:
    """Simulated servers that refuse, stall and break off, behind a pool that hedges."""

    seed: int

    def open(self, name: str) -> Pool:
        faults = Faults(refuse=0.05, break_off=0.2, stall=0.1, stall_s=1.0)
        spec = alto.Simulated(replicas=3, seed=self.seed, faults=faults)
        hedge_s = 0.3 if self.seed % 2 else None
        return Pool(name, spec.open_replicas(name), hedge_s=hedge_s, seed=self.seed)


@lm(engine="chat", max_tokens=60, on_error="drop", retries=2)
def told(x: str) -> Stream[Line]:
    return x


@pipeline
def mixed(x: str) -> Any:
    return {"all": told(x), "two": first_two(lines(x)), "agent": agent(x)}


@pytest.mark.parametrize("seed", range(6))
def test_usage_and_budget_agree_whatever_happens(seed: int) -> None:
    async def main() -> None:
        luck = Random(seed)
        config = alto.Config(engines={"chat": Faulty(seed)})
        async with watched(config) as runtime:

            async def one(number: int) -> int:
                budget, timeout = luck.choice([150, 400, 5000]), luck.choice([None, 0.4, 2.0])
                request = runtime.start(
                    mixed, f"{QUESTION} {number}", token_budget=budget, timeout=timeout
                )
                if number % 3 == 0:
                    await asyncio.sleep(luck.random())
                    request.cancel()
                await asyncio.gather(request.result(), return_exceptions=True)
                await asyncio.sleep(5.0)  # what a cancelled agent reads is closed later
                books = request._run.budget
                assert books is not None
                assert (books.spent, books.held) == (request.usage.total_tokens, 0)
                return books.spent

            assert sum(await asyncio.gather(*map(one, range(12)))) > 1000
            await quiet(runtime)

    on_virtual_time(main)
