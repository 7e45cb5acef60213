"""Calls that stages make by themselves, from the loop and from threads."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from leaks import PATIENCE_S, on_real_loop, on_virtual_time, quiet, watched

import alto
from alto import Call, Delta, Usage, pipeline, stage
from alto.runtime.current import running
from alto.runtime.free_calls import EngineHandle


class Words:
    """An engine that writes the prompt back word by word; at "wait" it waits, at "break" it
    breaks."""

    name = "chat"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.open_calls = 0

    def open(self, name: str) -> Words:
        return self

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.calls.append(call)
        self.open_calls += 1
        try:
            for word in call.messages[-1]["content"].split():
                if word == "wait":
                    await asyncio.sleep(3600)
                if word == "break":
                    raise alto.EngineError("it broke off", engine="chat")
                yield Delta(f"{word} ")
            yield Delta("", finish_reason="stop", usage=Usage(completion_tokens=2, calls=1))
        finally:
            self.open_calls -= 1

    async def aclose(self) -> None:
        assert self.open_calls == 0, "a call is left open"


def one_stage(subject: Any) -> Any:
    @pipeline
    def p(x: str):
        return subject(x)

    return p


def call(subject: Any, prompt: str, **options: Any) -> tuple[Any, Words]:
    engine = Words()

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            try:
                request = runtime.start(one_stage(subject), prompt, **options)
                result = await request.result()
                assert request.usage.calls in (0, 1)
                return result
            finally:
                await quiet(runtime)

    return on_real_loop(main), engine


@stage
def blocking(x: str) -> list[str]:
    return [delta.text for delta in EngineHandle("chat").stream(x, max_tokens=7, top_k=3)]


def test_a_blocking_stage_reads_deltas_with_for() -> None:
    result, engine = call(blocking, "a b c")
    assert result == ["a ", "b ", "c ", ""]
    [made] = engine.calls
    assert (made.stage, made.path, made.attempt, made.max_tokens) == ("blocking", (), 1, 7)
    assert made.extra == {"top_k": 3}


def test_extra_fields_may_be_given_as_such() -> None:
    @stage
    async def asks(x: str) -> str:
        return await EngineHandle("chat").complete(x, top_k=3, extra={"min_p": 0.1})

    _, engine = call(asks, "a b c")
    [made] = engine.calls
    assert made.extra == {"top_k": 3, "min_p": 0.1}


def test_an_async_stage_reads_them_with_async_for() -> None:
    @stage
    async def reads(x: str) -> list[str]:
        whole = await EngineHandle("chat").complete(x)
        return [whole, *[delta.text async for delta in EngineHandle("chat").stream(x)]]

    engine = Words()

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(one_stage(reads), "a b")

    assert on_virtual_time(main) == ["a b ", "a ", "b ", ""]


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (3, {}, r"engine\('chat'\): messages is 3, expected a text, or a list of chat messages"),
        ([{"content": "x"}], {}, r"messages is \[\{'content': 'x'\}\], expected a text"),
        ("x", {"max_tokens": "7"}, "max_tokens is '7', expected a whole number, 1 or more."),
        ("x", {"tools": ["search"]}, r"tools is \['search'\], expected a list of tools, each a"),
    ],
)
def test_a_mistake_in_a_call_is_told(messages: Any, options: dict[str, Any], message: str) -> None:
    @stage
    async def asks(x: str) -> str:
        return await EngineHandle("chat").complete(messages, **options)

    with pytest.raises(alto.StageError, match=message) as raised:
        call(asks, "x")
    assert isinstance(raised.value.__cause__, alto.EngineError)


def test_an_error_of_the_engine_crosses_to_the_thread() -> None:
    @stage
    def reads(x: str) -> str:
        seen = []
        try:
            seen.extend(EngineHandle("chat").stream(x))
        except alto.EngineError as error:
            seen.append(str(error))
        return "".join(seen)

    assert call(reads, "a break")[0] == "a it broke off"


@pytest.mark.parametrize("options", [{}, {"token_budget": 1000}])
def test_a_loop_that_is_left_early_ends_the_call_at_once(options: dict[str, Any]) -> None:
    engine = Words()
    left: list[int] = []

    @stage
    async def agent(x: str) -> str:
        async for delta in EngineHandle("chat").stream(x):
            said = delta.text
            break
        for _ in range(10):  # it goes on with something else
            await asyncio.sleep(0)
        left.append(engine.open_calls)
        return said

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(one_stage(agent), "a b c", **options)

    gc.disable()  # which would do it some time
    try:
        assert on_virtual_time(main) == "a "
    finally:
        gc.enable()
    assert left == [0]


def test_a_thread_that_leaves_early_ends_the_call() -> None:
    @stage
    def reads(x: str) -> str:
        for delta in EngineHandle("chat").stream(x):
            return delta
        return ""

    result, engine = call(reads, "a b wait")
    assert result == "a "
    assert engine.open_calls == 0


def test_a_deadline_unwinds_the_thread_and_ends_the_call() -> None:
    unwound = threading.Event()

    @stage
    def reads(x: str) -> str:
        try:
            return "".join(EngineHandle("chat").stream(x))
        finally:
            unwound.set()

    with pytest.raises(alto.DeadlineExceeded):
        call(reads, "a wait", timeout=0.1)
    assert unwound.wait(PATIENCE_S)


def test_for_on_the_loop_is_told() -> None:
    @stage
    async def reads(x: str) -> str:
        return "".join(list(EngineHandle("chat").stream(x)))

    with pytest.raises(alto.StageError, match="read with 'async for'"):
        call(reads, "a")


def test_outside_a_stage_is_told() -> None:
    with pytest.raises(RuntimeError, match="outside a stage"):
        EngineHandle("chat").stream("a")


def test_a_stage_that_calls_again_and_again_holds_none_of_the_calls_that_are_over() -> None:
    held: list[int] = []

    @stage
    def again_and_again(x: str) -> int:
        for _ in range(20):
            list(EngineHandle("chat").stream(x))
        here = running.get()
        assert here is not None
        held.extend(map(len, here.run.aside.on_stop.values()))
        return 0

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": Words()})) as runtime:
            await runtime.call(one_stage(again_and_again), "a b")
            await quiet(runtime)

    on_real_loop(main)
    assert held == [0]
