"""`@lm` functions that read streams, and generators that yield their prompt in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from leaks import no_threads, nothing_held, on_real_loop, on_virtual_time, watched

import alto
from alto import AsCompleted, Call, Delta, Sentence, Stream, Usage, lm, pipeline, stage

Main = Callable[[Callable[[], Any]], Any]


@dataclass
class Echo:
    """An engine that answers at once with `answer(call)`, and keeps what it was asked."""

    answer: Callable[[Call], str] = lambda call: "One. Two."
    pause_s: float = 0.0
    prompts: list[Any] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    open_calls: int = 0
    name: str = "echo"

    def open(self, name: str) -> Echo:
        return self

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.prompts.append(list(call.messages))
        self.arguments.append(dict(call.arguments))
        self.asked_at.append(asyncio.get_running_loop().time())
        self.open_calls += 1
        try:
            await asyncio.sleep(self.pause_s)
            yield Delta(self.answer(call), finish_reason="stop", usage=Usage(10, 5, calls=1))
        finally:
            self.open_calls -= 1

    async def aclose(self) -> None:
        assert self.open_calls == 0


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@stage
async def search(question: str) -> AsyncIterator[str]:
    for found in ("tea", "cup", "pot"):
        await asyncio.sleep(0.01)
        yield found


def prompts_of(
    answer: Any, on: Main = on_virtual_time, engine: Echo | None = None
) -> tuple[Any, Echo]:
    """The result of an LM stage that gathers what `search` finds, and its engine."""
    engine = engine or Echo()

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, search(question))

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(asking, "What?")

    return on(main), engine


# ---------------------------------------------------------------------- the forms


@lm(engine="chat", returns=Stream[Sentence])
async def yields_async(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
    yield question
    async for found in evidence:
        yield f" {found}"


@lm(engine="chat", returns=Stream[Sentence])
def yields_blocking(question: str, evidence: Stream[str]) -> Iterator[str]:
    yield question
    for found in evidence:
        yield f" {found}"


@lm(engine="chat", returns=Stream[Sentence])
def yields_of_list(question: str, evidence: list[str]) -> Iterator[str]:
    yield question
    for found in evidence:
        yield f" {found}"


@lm(engine="chat", returns=Stream[Sentence])
async def yields_as_completed(question: str, evidence: AsCompleted[str]) -> AsyncIterator[str]:
    yield question
    async for found in evidence:
        yield f" {found}"


@lm(engine="chat", returns=Stream[Sentence])
async def returns_async(question: str, evidence: Stream[str]) -> str:
    return " ".join([question, *[found async for found in evidence]])


@lm(engine="chat", returns=Stream[Sentence])
def returns_blocking(question: str, evidence: Stream[str]) -> str:
    return " ".join([question, *evidence])


@lm(engine="chat", returns=Stream[Sentence])
def returns_of_list(question: str, evidence: list[str], /) -> str:
    return " ".join([question, *evidence])


FORMS = [
    yields_async,
    yields_blocking,
    yields_of_list,
    yields_as_completed,
    returns_async,
    returns_blocking,
    returns_of_list,
]


@pytest.mark.parametrize("on", [on_virtual_time, on_real_loop])
@pytest.mark.parametrize("answer", FORMS, ids=lambda form: form.name)
def test_every_form_gives_the_same_prompt(answer: Any, on: Main) -> None:
    result, engine = prompts_of(answer, on)
    assert result == ["One.", "Two."]
    assert engine.prompts == [user("What? tea cup pot")]
    # What a stream brought is told to the engine like any other argument.
    assert engine.arguments == [{"question": "What?", "evidence": ["tea", "cup", "pot"]}]
    no_threads()


def test_strings_join_and_messages_stand_alone() -> None:
    system = {"role": "system", "content": "Be brief."}
    example = {"role": "assistant", "content": "Yes."}

    @lm(engine="chat", returns=str)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[Any]:
        yield system
        yield question
        yield "\n"
        yield example
        async for found in evidence:
            yield found

    result, engine = prompts_of(answer)
    assert result == "One. Two."
    assert engine.prompts == [[system, *user("What?\n"), example, *user("teacuppot")]]


def test_the_annotation_says_how_the_text_is_read_not_what_is_yielded() -> None:
    @lm(engine="chat")
    async def verdict(question: str, evidence: Stream[str]) -> Literal["YES", "NO"]:  # type: ignore[misc]
        yield question
        async for found in evidence:
            yield found

    result, engine = prompts_of(verdict, engine=Echo(lambda call: "yes"))
    assert result == "YES"
    assert engine.prompts == [user("What?teacuppot")]


def test_each_item_of_a_fan_out_has_a_prompt_of_its_own() -> None:
    @stage
    async def split(text: str) -> AsyncIterator[str]:
        for word in text.split():
            yield word

    @stage
    async def spell(word: str) -> AsyncIterator[str]:
        for letter in word:
            await asyncio.sleep(1)
            yield letter

    @lm(engine="chat", returns=str)
    async def read(word: str, letters: Stream[str]) -> AsyncIterator[str]:
        yield f"{word}:"
        async for letter in letters:
            yield letter

    @pipeline
    def reading(text: str) -> Any:
        words = split(text)
        return read(words, spell(words))

    engine = Echo(lambda call: str(call.messages[0]["content"]))

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(reading, "an ox")

    assert on_virtual_time(main) == ["an:an", "ox:ox"]
    assert engine.asked_at == [2.0, 2.0]


# ---------------------------------------------------------------------- a session like any other


def test_a_prompt_that_is_complete_early_stops_what_it_does_not_read() -> None:
    stopped: list[str] = []

    @stage
    async def endless(question: str) -> AsyncIterator[int]:
        try:
            for k in range(10**6):
                await asyncio.sleep(1)
                yield k
        finally:
            stopped.append(f"at {asyncio.get_running_loop().time():g}")

    @lm(engine="chat", returns=str)
    async def answer(question: str, evidence: Stream[int]) -> AsyncIterator[str]:
        async for found in evidence:
            yield str(found)
            if found == 2:
                return

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, endless(question))

    engine = Echo(pause_s=100)  # the LM writes long after the prompt was complete

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(asking, "What?")

    assert on_virtual_time(main) == "One. Two."
    assert engine.prompts == [user("012")]
    assert stopped == ["at 3"]


def test_a_failing_generator_is_retried_from_the_first_item() -> None:
    attempts: list[list[str]] = []

    @lm(engine="chat", returns=str, retries=2, backoff=0)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        seen: list[str] = []
        attempts.append(seen)
        async for found in evidence:
            seen.append(found)
            yield found
            if len(attempts) < 3 and len(seen) == len(attempts):
                raise ConnectionError("not now")

    result, engine = prompts_of(answer)
    assert result == "One. Two."
    assert attempts == [["tea"], ["tea", "cup"], ["tea", "cup", "pot"]]
    assert engine.prompts == [user("teacuppot")]


def test_text_that_does_not_parse_is_asked_for_again_with_the_prompt_as_it_was_read() -> None:
    @lm(engine="chat", returns=Literal["YES", "NO"])
    async def verdict(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        async for found in evidence:
            yield found

    engine = Echo(lambda call: "perhaps" if len(call.messages) == 1 else "NO")
    result, engine = prompts_of(verdict, engine=engine)
    assert result == "NO"
    assert [len(prompt) for prompt in engine.prompts] == [1, 3]
    assert engine.prompts[1][0] == user("teacuppot")[0]


def test_a_prompt_is_written_again_when_an_item_that_it_has_read_changes() -> None:
    attempts = 0

    @stage(retries=1, backoff=0)
    async def unsure(question: str) -> AsyncIterator[str]:
        nonlocal attempts
        attempts += 1
        yield "same"
        yield "old" if attempts == 1 else "new"
        await asyncio.sleep(1)
        if attempts == 1:
            raise ConnectionError("broke off")

    @lm(engine="chat", returns=str)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        async for found in evidence:
            yield f"{found} "

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, unsure(question))

    engine = Echo()

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(asking, "What?")

    assert on_virtual_time(main) == "One. Two."
    assert engine.prompts == [user("same new ")]


@pytest.mark.parametrize("answer", [yields_async, yields_blocking], ids=lambda form: form.name)
def test_a_cancelled_request_leaves_nothing_of_a_prompt_that_waits(answer: Any) -> None:
    @stage
    async def never(question: str) -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, never(question))

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": Echo()})) as runtime:
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(asking, "What?", timeout=0.05)
            nothing_held(runtime)

    on_real_loop(main)


def test_waiting_for_parts_does_not_count_against_the_timeout_of_an_attempt() -> None:
    @stage
    async def slow(question: str) -> AsyncIterator[str]:
        for word in ("a", "b"):
            await asyncio.sleep(10)
            yield word

    @lm(engine="chat", returns=str, timeout=5)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        async for found in evidence:
            yield found

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, slow(question))

    engine = Echo(pause_s=4)

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(asking, "What?")

    assert on_virtual_time(main) == "One. Two."
    engine.pause_s = 6
    with pytest.raises(alto.StageError, match="took longer than timeout=5 s"):
        on_virtual_time(main)


def test_stage_by_stage_a_prompt_is_written_when_everything_before_it_is_complete() -> None:
    @pipeline
    def asking(question: str) -> Any:
        return yields_async(question, search(question))

    engine = Echo()

    async def main() -> Any:
        async with watched(alto.Config(engines={"chat": engine}), barrier=True) as runtime:
            return await runtime.call(asking, "What?")

    assert on_virtual_time(main) == ["One.", "Two."]
    assert engine.prompts == [user("What? tea cup pot")]


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["text", 7],
            "stage answer: its generator yielded int '7', expected a part of the prompt: a string, "
            "or a chat message (a dict with role and content). The LM's text is not among them: "
            "the return annotation, or returns=, says how it is read.",
        ),
        (
            [],
            "stage answer: its generator yielded nothing, expected the parts of the prompt: "
            "strings or chat messages.",
        ),
    ],
)
def test_a_part_of_another_kind_is_an_error(parts: list[Any], message: str) -> None:
    @lm(engine="chat", returns=str, retries=3)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[Any]:
        for part in parts:
            yield part

    with pytest.raises(alto.StageError) as caught:
        prompts_of(answer)
    assert str(caught.value.__cause__) == message
    assert caught.value.attempts == 1
