"""LM stages from prompt to items: every return annotation, retries, fallbacks, usage, reasoning."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

import alto
from alto import Delta, Line, Paragraph, Sentence, Stream, Usage, lm, pipeline, stage
from alto.testing.loop import run

Script = Callable[[alto.Call], "list[str | Delta | Exception]"]


@dataclass
class Scripted:
    """An engine that gives what the script says, a piece a second, and notes its calls."""

    script: Script
    calls: list[alto.Call] = field(default_factory=list)
    open_calls: int = 0
    name: str = "scripted"

    def open(self, name: str) -> Scripted:
        self.name = name
        return self

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        # the stage may ask again with the same object: keep what was asked now
        self.calls.append(
            alto.Call(messages=list(call.messages), max_tokens=call.max_tokens, extra=call.extra)
        )
        self.open_calls += 1
        try:
            for piece in self.script(call):
                await asyncio.sleep(1)
                if isinstance(piece, Exception):
                    raise piece
                yield piece if isinstance(piece, Delta) else Delta(piece)
                if isinstance(piece, Delta) and piece.finish_reason:
                    return
            yield Delta(finish_reason="stop", usage=Usage(10, 5, calls=1))
        finally:
            self.open_calls -= 1

    async def aclose(self) -> None:
        return None


def answered(text: str | list[str], returns: Any, **options: Any) -> tuple[Any, Scripted]:
    """The result of a one-stage pipeline whose LM answers with these pieces."""
    pieces = [text] if isinstance(text, str) else text
    engine = Scripted(lambda call: list(pieces))
    return asked(engine, returns, **options), engine


def asked(engine: Scripted, returns: Any, **options: Any) -> Any:
    @lm(engine="chat", returns=returns, **options)
    def speak(topic: str) -> str:
        return f"About {topic}"

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(speaking, "tea")

    result = run(main())
    assert engine.open_calls == 0
    return result


class Pydantic(BaseModel):
    text: str


class Struct(msgspec.Struct):
    text: str


@dataclass
class Data:
    text: str


class Typed(TypedDict):
    text: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


JSON = '{"text": "a } b"}'


@pytest.mark.parametrize(
    ("returns", "text", "value"),
    [
        (str, " all of it ", " all of it "),
        (Stream[str], ["a ", "b"], ["a ", "b"]),
        (Stream[Sentence], ["One is. Tw", "o was. "], ["One is.", "Two was."]),
        (Stream[Line], ["one\ntw", "o\n\nthree"], ["one", "two", "three"]),
        (Stream[Paragraph], "a\nb\n\n\nc", ["a\nb", "c"]),
        (Pydantic, f"Sure:\n```json\n{JSON}\n```", Pydantic(text="a } b")),
        (Struct, JSON, Struct("a } b")),
        (Data, JSON, Data("a } b")),
        (Typed, JSON, {"text": "a } b"}),
        (Stream[Pydantic], [f"[{JSON}, ", f"{JSON},]"], [Pydantic(text="a } b")] * 2),
        (Stream[Data], f"{JSON}\n{JSON}\n", [Data("a } b")] * 2),
        (Stream[Struct], f"Here you are:\n```\n[{JSON}]\n```\nDone.", [Struct("a } b")]),
        (Stream[Struct], "[]", []),
        (Literal["YES", "NO"], " yes.\n", "YES"),
        (Literal["YES", "NO"], "I think it is NO, sadly", "NO"),
        (Colour, "Blue", Colour.BLUE),
        (bool, "True", True),
        (int, "It is 42.", 42),
        (float, "0.5", 0.5),
    ],
)
def test_the_return_annotation_says_how_text_is_read(returns: Any, text: Any, value: Any) -> None:
    result, engine = answered(text, returns)
    assert result == value
    assert len(engine.calls) == 1


def test_each_item_is_out_with_the_chunk_that_completes_it() -> None:
    engine = Scripted(lambda call: ["[", JSON[:5], JSON[5:], ",", JSON, "]"])

    @lm(engine="chat", returns=Stream[Pydantic])
    def speak(topic: str) -> str:
        return topic

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> list[float]:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            loop = asyncio.get_running_loop()
            return [loop.time() async for _ in runtime.stream(speaking, "tea")]

    assert run(main()) == [3.0, 5.0]


def test_text_that_does_not_parse_is_asked_for_once_more() -> None:
    engine = Scripted(lambda call: ["perhaps"] if len(call.messages) == 1 else ["YES"])
    assert asked(engine, Literal["YES", "NO"]) == "YES"
    assert [len(call.messages) for call in engine.calls] == [1, 3]
    assert engine.calls[1].messages[1] == {"role": "assistant", "content": "perhaps"}


def test_then_it_is_an_error_that_shows_the_text() -> None:
    engine = Scripted(lambda call: ["perhaps"])
    with pytest.raises(alto.StageError, match="perhaps") as raised:
        asked(engine, Literal["YES", "NO"])
    assert isinstance(raised.value.__cause__, alto.ParseError)
    assert raised.value.__cause__.text == "perhaps"
    assert len(engine.calls) == 2


def test_a_stream_of_structs_goes_on_after_its_last_valid_item() -> None:
    def script(call: alto.Call) -> list[str | Delta | Exception]:
        if len(call.messages) == 1:
            return ['[{"text": "a"}, {"text": "b"}, {"text": 3}]']
        return ['[{"text": "c"}]']

    engine = Scripted(script)
    assert asked(engine, Stream[Struct]) == [Struct("a"), Struct("b"), Struct("c")]
    assert engine.calls[1].messages[1]["content"].startswith('[{"text": "a"}, {"text": "b"}')
    assert "3" not in engine.calls[1].messages[1]["content"]


def test_text_cut_off_by_length_keeps_its_complete_items_and_then_fails() -> None:
    engine = Scripted(
        lambda call: ['[{"text": "a"}, {"te', Delta(finish_reason="length", usage=Usage(1, 1))]
    )
    with pytest.raises(alto.StageError, match="cut off"):
        asked(engine, Stream[Struct])
    assert len(engine.calls) == 1
    assert asked(engine, Stream[Struct], on_error="drop") == [Struct("a")]


def test_the_next_engine_is_used_when_one_fails_before_its_first_word() -> None:
    broken = Scripted(lambda call: [alto.EngineError("is down")])
    backup = Scripted(lambda call: ["fine"])

    @lm(engine=["chat", "backup"], returns=str)
    def speak(topic: str) -> str:
        return topic

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> Any:
        config = alto.Config(engines={"chat": broken, "backup": backup})
        async with alto.Runtime(config) as runtime:
            return await runtime.call(speaking, "tea")

    assert run(main()) == "fine"
    assert (len(broken.calls), len(backup.calls)) == (1, 1)


def test_a_prompt_is_a_string_or_messages_and_images_go_along() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [image]}]
    engine = Scripted(lambda call: ["ok"])

    @lm(engine="chat", returns=str, max_tokens=7, extra={"top_k": 1})
    async def speak(topic: str) -> Any:
        return messages

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(speaking, "tea")

    assert run(main()) == "ok"
    assert engine.calls[0].messages == messages
    assert engine.calls[0].max_tokens == 7
    assert engine.calls[0].extra == {"top_k": 1}


def test_a_prompt_of_another_kind_is_an_error_that_says_what_is_expected() -> None:
    @lm(engine="chat", returns=str)
    def speak(topic: str) -> Any:
        return 7

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> Any:
        async with alto.Runtime(
            alto.Config(engines={"chat": Scripted(lambda call: ["ok"])})
        ) as runtime:
            return await runtime.call(speaking, "tea")

    with pytest.raises(alto.StageError, match="returned int '7', expected the prompt: a string"):
        run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_put_into_a_prompt_as_text_is_an_error_that_says_how_to_read_it(
    is_async: bool,
) -> None:
    @stage
    async def notes(count: int) -> AsyncGenerator[str, None]:
        for number in range(count):
            yield f"note {number}"

    if is_async:

        @lm(engine="chat")
        async def sums_up(notes: Stream[str]) -> str:
            return f"Sum up: {notes}"
    else:

        @lm(engine="chat")
        def sums_up(notes: Stream[str]) -> str:
            return f"Sum up: {notes}"

    @pipeline
    def summed(count: int) -> str:
        return sums_up(notes(count))  # type: ignore[arg-type, return-value]

    async def main() -> None:
        engine = Scripted(lambda call: ["Nothing."])
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            with pytest.raises(
                alto.StageError, match=r"Annotate the parameter as list\["
            ) as raised:
                await runtime.call(summed, 3)
        assert "sums_up" in str(raised.value)
        assert not engine.calls

    run(main())


def test_reasoning_is_kept_from_the_items_and_given_apart() -> None:
    engine = Scripted(
        lambda call: ["<thi", "nk>One. Two.</think>", Delta("", reasoning=" Three."), "Four. Five."]
    )

    @lm(engine="chat", returns=Stream[Sentence])
    def speak(topic: str) -> str:
        return topic

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            request = runtime.start(speaking, "tea")
            events = [event async for event in request.events()]
            return await request.result(), request.reasoning, events

    result, reasoning, events = run(main())
    assert result == ["Four.", "Five."]
    assert reasoning == {("speak", ()): "One. Two. Three."}
    thoughts = [event for event in events if event.progress]
    assert {(event.output, event.stage) for event in thoughts} == {("reasoning", "speak")}
    assert "".join(event.value for event in thoughts) == "One. Two. Three."


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_white_space_behind_a_thought_within_the_answer_stays_wherever_pieces_end(
    size: int,
) -> None:
    written = "One: <think>let me see</think>\n\ntwo"
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    engine = Scripted(lambda call: pieces)

    @lm(engine="chat", returns=str)
    def speak(topic: str) -> str:
        return topic

    @pipeline
    def speaking(topic: str) -> Any:
        return speak(topic)

    assert alto.run(speaking, "tea", config=alto.Config(engines={"chat": engine})) == "One: \n\ntwo"


def test_usage_is_on_the_request_and_on_its_events() -> None:
    engine = Scripted(lambda call: ["a\nb"] if call.stage == "outline" else ["text"])

    @lm(engine="chat", returns=Stream[Line])
    def outline(topic: str) -> str:
        return topic

    @lm(engine="chat", returns=str)
    def expand(line: Line) -> str:
        return line

    @pipeline
    def essay(topic: str) -> Any:
        return expand(outline(topic))

    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            request = runtime.start(essay, "tea")
            return [event async for event in request.events()], request.usage

    events, usage = run(main())
    assert usage == Usage(prompt_tokens=30, completion_tokens=15, calls=3)
    assert [event.usage.calls for event in events] == [2, 3]


def test_equal_text_cut_elsewhere_by_a_second_attempt_keeps_its_downstream_work() -> None:
    attempts: list[int] = []
    worked: list[str] = []

    def script(call: alto.Call) -> list[str | Delta | Exception]:
        attempts.append(call.attempt)
        if call.attempt == 1:
            return ["ab", "cd", alto.EngineError("broke off")]
        return ["a", "bc", "de", "f"]

    @lm(engine="chat", returns=Stream[str], retries=1, backoff=0)
    def speak(topic: str) -> str:
        return topic

    @stage
    async def work(piece: str) -> str:
        worked.append(piece)
        return piece.upper()

    @pipeline
    def speaking(topic: str) -> Any:
        return work(speak(topic))

    async def main() -> Any:
        config = alto.Config(engines={"chat": Scripted(script)})
        async with alto.Runtime(config) as runtime:
            events = [event async for event in runtime.stream(speaking, "tea")]
            return [(event.path, event.value, event.revised) for event in events]

    assert run(main()) == [
        ((0,), "AB", False),
        ((1,), "CD", False),
        ((2,), "E", False),
        ((3,), "F", False),
    ]
    assert attempts == [1, 2]
    assert worked == ["ab", "cd", "e", "f"]


def test_a_stage_calls_an_engine_by_hand_with_its_ancestry_and_its_cancellation() -> None:
    seen: list[alto.Call] = []
    engine = Scripted(lambda call: seen.append(call) or ["x"] * 50)  # type: ignore[func-returns-value]

    @stage
    async def agent(topic: str) -> str:
        text = ""
        async for delta in alto.engine("chat").stream(topic, max_tokens=3, stop="!", top_k=2):
            text += delta
        return text

    @pipeline
    def acting(topic: str) -> Any:
        return agent(topic)

    async def main() -> Any:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            request = runtime.start(acting, "tea")
            assert await request.result() == "x" * 50
            assert request.usage.calls == 1
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(acting, "tea", timeout=10)
            assert engine.open_calls == 0

    run(main())
    assert (seen[0].stage, seen[0].path, seen[0].max_tokens, seen[0].stop) == (
        "agent",
        (),
        3,
        ("!",),
    )
    assert seen[0].extra == {"top_k": 2}
    assert seen[1].deadline == 60.0


def test_an_engine_outside_a_stage_says_what_to_do() -> None:
    async def main() -> None:
        await alto.engine("chat").complete("hello")

    with pytest.raises(RuntimeError, match="called outside a stage"):
        run(main())


class Gives(Scripted):
    """Gives these pieces as they are."""

    def __init__(self, *pieces: Any) -> None:
        super().__init__(lambda call: [])
        self.pieces = pieces

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        for piece in self.pieces:
            yield piece


@lm(engine="chat")
def streamed(question: str) -> Stream[Sentence]:
    return question


@stage
async def called(question: str) -> str:
    return await alto.engine("chat").complete(question)


@pipeline
def by_an_lm_stage(question: str):
    return streamed(question)


@pipeline
def by_a_call_of_a_stage(question: str):
    return called(question)


def given(target: Any, budget: int | None, *pieces: Any) -> Any:
    """What comes of an engine that gives these pieces."""

    async def main() -> Any:
        config = alto.Config(engines={"chat": Gives(*pieces)})
        async with alto.Runtime(config) as runtime:
            return await runtime.call(target, "Why?", token_budget=budget)

    return run(main())


@pytest.mark.parametrize("budget", [None, 1000])
@pytest.mark.parametrize("target", [by_an_lm_stage, by_a_call_of_a_stage])
@pytest.mark.parametrize("piece", [b"bytes", None, 7])
def test_an_engine_that_gives_no_text_is_told_what_is_expected(
    target: Any, budget: int | None, piece: Any
) -> None:
    with pytest.raises(
        alto.StageError, match=r"stage (streamed|called) .* failed in its only attempt"
    ) as told:
        given(target, budget, Delta("One. "), piece)
    assert (
        f"engine 'chat' gave {piece!r} as a piece of text, expected an alto.Delta or a str. This is "
        "a fault of the engine's class, not of the call."
    ) in str(told.value)


@pytest.mark.parametrize("budget", [None, 1000])
def test_an_engine_may_give_strings(budget: int | None) -> None:
    assert given(by_an_lm_stage, budget, "One. ", "Two.") == ["One.", "Two."]
    assert given(by_a_call_of_a_stage, budget, "One. ", "Two.") == "One. Two."


def test_a_stopped_attempt_does_not_ask_again_when_its_engine_ends_the_text_instead_of_itself() -> (
    None
):
    class Ends(Scripted):
        async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
            self.calls.append(call)
            yield Delta("[1, ")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    @lm(engine="chat", timeout=1.0)
    def numbers(question: str) -> list[int]:
        return question

    @pipeline
    def p(question: str):
        return numbers(question)

    engine = Ends(lambda call: [])

    async def main() -> None:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            with pytest.raises(alto.StageError, match=r"took longer than timeout=1 s"):
                await runtime.call(p, "Why?")
            assert asyncio.get_running_loop().time() == 1.0

    run(main())
    assert len(engine.calls) == 1
