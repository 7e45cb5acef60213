"""How requests end when the end comes from an unusual side; and a mix of everything, by seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from leaks import nothing_held, on_real_loop, on_virtual_time, quiet, watched

import alto
from alto import Call, Delta, Sentence, Stream, lm, pipeline, stage
from alto.cli import form
from alto.core.execution import Execution
from alto.runtime.driver import Run


class Scripted:
    """An engine that writes what `write(call)` gives, a word at a time."""

    name = "chat"

    def __init__(self, write: Callable[[Call], AsyncGenerator[str, None]]) -> None:
        self.write = write
        self.open_calls = 0

    def open(self, name: str) -> Scripted:
        return self

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.open_calls += 1
        try:
            async for word in self.write(call):
                yield Delta(word)
            yield Delta("", finish_reason="stop")
        finally:
            self.open_calls -= 1

    async def aclose(self) -> None:
        assert self.open_calls == 0


@pytest.mark.parametrize("on_error", ["fail", "drop"])
def test_an_engine_that_sees_the_deadline_first_does_not_change_what_the_caller_gets(
    on_error: str,
) -> None:
    async def write(call: Call) -> AsyncGenerator[str, None]:
        assert call.deadline is not None
        await asyncio.sleep(call.deadline - asyncio.get_running_loop().time())
        if call.deadline:
            raise alto.DeadlineExceeded("engine chat: no time left")
        yield ""

    @lm(engine="chat", on_error=on_error, retries=2)
    def answer(x: int) -> str:
        return f"{x}?"

    @pipeline
    def p(x: int):
        return answer(x)

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": Scripted(write)})) as runtime:
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(p, 1, timeout=2)

    on_virtual_time(main)


BREAKS = {
    "what a stage has given": (Execution, "done"),
    "what is asked for by a session": (Execution, "pull"),
    "timers": (Execution, "tick"),
    "the start of work": (Run, "_spawn"),
}
if form() == "interpreted":  # what compiled code calls of itself cannot be replaced
    BREAKS["the core and its end"] = (Execution, "_drain")
    BREAKS["the arguments"] = (Execution, "arguments")
    BREAKS["what the core asks for"] = (Run, "pump")
    BREAKS["the end"] = (Run, "_finish")


@pytest.mark.parametrize("form", ["async", "blocking", "batch"])
@pytest.mark.parametrize("begun", [False, True], ids=["at first", "under way"])
@pytest.mark.parametrize("where", BREAKS)
def test_an_error_in_the_runtime_itself_reaches_the_caller(
    form: str, where: str, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, whatever part breaks, and whatever the stages are."""

    @stage
    async def numbers(x: int) -> AsyncGenerator[int, None]:
        for k in range(x):
            await asyncio.sleep(0.01)
            yield k

    @stage(timeout=0.05, retries=1, backoff=0.001)
    async def plain(x: int) -> int:
        await asyncio.sleep(0 if x != 2 or alto.current().attempt > 1 else 1)
        return x

    @stage
    def blocking(x: int) -> int:
        return x

    @stage(batch=2, max_wait=0.001)
    async def batch(x: list[int]) -> list[int]:
        return x

    @stage
    async def total(items: Stream[int]) -> int:
        return sum([item async for item in items])

    @stage
    def total_in_a_thread(items: Stream[int]) -> int:
        return sum(items)

    subject = {"async": plain, "blocking": blocking, "batch": batch}[form]

    @pipeline
    def p(x: int):
        done = subject(plain(numbers(x)))
        return {"a": total(done), "b": total_in_a_thread(done)}

    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("a bug of ours")

    async def main() -> None:
        async with alto.Runtime() as runtime:
            with monkeypatch.context() as patch:
                if not begun:
                    patch.setattr(*BREAKS[where], broken)
                request = runtime.start(p, 5)
                if begun:
                    await asyncio.sleep(0.025)
                    patch.setattr(*BREAKS[where], broken)
                error: BaseException | None = None
                try:
                    await request.result()
                except (ArithmeticError, alto.StageError) as raised:
                    error = raised
                assert "a bug of ours" in str(error) or (where == "timers" and error is None)

    on_real_loop(main)


# ------------------------------------------------------------------------ everything at once


async def words(call: Call) -> AsyncGenerator[str, None]:
    text = "yes" if call.stage == "verify" else "A first one. A second one. A third. And a last."
    for number, word in enumerate(text.split()):
        if number % 3 == 0:
            await asyncio.sleep(0)
        yield f"{word} "


@lm(engine="chat")
def answer(question: str) -> Stream[Sentence]:
    return question


@lm(engine="chat")
def verify(sentence: Sentence, evidence: list[str]) -> bool:
    return f"{sentence} {evidence}"


@stage(max_concurrency=4)
class Search:
    def __call__(self, sentence: Sentence) -> list[str]:
        return [str(sentence)[:5]]


@stage(instances=2)
class Parts:
    def __call__(self, sentence: Sentence) -> Iterator[str]:
        for k in range(3):
            yield f"{sentence}{k}"


@stage(max_concurrency=2)
def tally(question: str, verdicts: Stream[bool]) -> int:
    return sum(verdicts)


@stage(max_concurrency=1)
async def count(items: Stream[str]) -> int:
    return len([item async for item in items])


@stage(batch=8, max_wait=0.001)
def lengths(items: list[str]) -> list[int]:
    return [len(item) for item in items]


@stage
def first(items: Stream[int]) -> int:
    return next(iter(items))


@pipeline
def everything(question: str):
    sentences = answer(question)
    verdicts = verify(sentences, Search(sentences))
    parts = Parts(sentences)
    return {
        "verdicts": verdicts,
        "true": tally(question, verdicts),
        "parts": count(parts),
        "first": first(lengths(parts)),
    }


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once_on_a_real_loop(seed: int) -> None:
    """No wake-up is lost, no place, thread, task or call left, whoever leaves at whatever time."""
    rng = random.Random(seed)
    engine = Scripted(words)
    config = alto.Config(
        engines={"chat": engine}, limits=alto.Limits(scope_items=rng.choice([1, 2, 64]))
    )

    async def one(runtime: alto.Runtime, number: int) -> None:
        way = rng.random()
        if way < 0.15:
            request = runtime.start(everything, f"{number}?")
            await asyncio.sleep(rng.random() * 0.02)
            request.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # unless it was over before
                await request.result()
        elif way < 0.3:
            async for _ in runtime.stream(everything, f"{number}?"):
                if rng.random() < 0.3:
                    break
        else:
            found = await runtime.call(everything, f"{number}?")
            assert found == {"verdicts": [True] * 4, "true": 4, "parts": 12, "first": 13}

    async def main() -> None:
        async with alto.Runtime(config) as runtime:
            for _ in range(5):
                await asyncio.gather(*(one(runtime, number) for number in range(12)))
            await quiet(runtime)
            nothing_held(runtime)

    on_real_loop(main)
