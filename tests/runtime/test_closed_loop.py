"""A thread that outlives its attempt may ask the loop for something when that has made its last
turn: what it asks is accepted, and never done. The thread must end all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from leaks import PATIENCE_S, alto_threads, no_threads

import alto
from alto import Stream, pipeline, stage
from alto.core.execution import State
from alto.runtime import threads
from alto.runtime.free_calls import EngineHandle
from alto.runtime.replies import Reply


class Outlives:
    """A thread in a blocking stage: it is inside, and goes on when it is let."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.let = threading.Event()

    def wait(self) -> None:
        self.inside.set()
        assert self.let.wait(PATIENCE_S)


@stage
async def one(x: str) -> AsyncIterator[str]:
    yield x
    await asyncio.Event().wait()


def reads_a_stream(thread: Outlives) -> Any:
    @stage(timeout=0.1)
    def reads(items: Stream[str]) -> str:
        for _ in items:
            thread.wait()
        return ""

    return lambda x: reads(one(x))


def reads_deltas(thread: Outlives) -> Any:
    @stage(timeout=0.1)
    def reads(x: str) -> str:
        thread.wait()
        return "".join(EngineHandle("chat").stream(x))

    return reads


def waits_for_an_answer(thread: Outlives) -> Any:
    @stage(timeout=0.1)
    def waits(x: str) -> int:
        thread.wait()
        return len(EngineHandle("chat").embed(x).result())

    return waits


@pytest.mark.parametrize("make", [reads_a_stream, reads_deltas, waits_for_an_answer])
def test_what_a_thread_asks_of_a_loop_that_turns_no_more_ends_when_it_is_closed(
    make: Callable[[Outlives], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    thread = Outlives()
    inner = make(thread)

    @pipeline
    def p(x: str):
        return inner(x)

    async def main() -> None:
        engines = {"chat": alto.Simulated()}
        async with alto.Runtime(alto.Config(engines=engines)) as runtime:
            with pytest.raises(alto.StageError, match=r"took longer than timeout=0\.1"):
                await runtime.call(p, "x")
        assert thread.inside.is_set()

    loop = asyncio.new_event_loop()
    asked = threading.Event()
    post = loop.call_soon_threadsafe

    def seen(*args: Any, **options: Any) -> asyncio.Handle:
        handle = post(*args, **options)
        asked.set()
        return handle

    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
        assert alto_threads()
        monkeypatch.setattr(loop, "call_soon_threadsafe", seen)
        thread.let.set()
        assert asked.wait(PATIENCE_S)
    finally:
        loop.close()
    no_threads()


def test_an_answer_that_is_under_way_when_the_loop_is_closed_is_left_to_its_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    begun = threading.Event()
    closed_in: list[threading.Thread] = []
    raised: list[BaseException] = []

    async def asking() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed_in.append(threading.current_thread())

    loop = asyncio.new_event_loop()
    aside = SimpleNamespace(on_stop={})
    run: Any = SimpleNamespace(loop=loop, thread=None, set_aside=lambda: aside)
    invocation: Any = Mock(state=State.RUNNING)
    reply = Reply("it", run, invocation, asking())

    def waits() -> None:
        try:
            reply.result()
        except BaseException as error:
            raised.append(error)

    async def until_begun() -> None:
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)

    thread = threading.Thread(target=waits, daemon=True)
    thread.start()
    loop.run_until_complete(until_begun())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    thread.join(PATIENCE_S)
    assert [type(error) for error in raised] == [threads.Stopped]
    assert closed_in == []
