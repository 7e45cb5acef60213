"""A token budget for a request: from the parameter to what its calls may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import alto
from alto import Default, StageError, Stream, lm, pipeline, stage
from alto.testing.loop import run
from alto.testing.loop import run as run_virtual

WORDS = "one two three four five six seven eight nine ten"


@stage
async def split(text: str) -> Stream[str]:
    for word in text.split():
        yield word


@lm(engine="chat", max_tokens=20)
def spell(word: str) -> str:
    return f"Spell: {word}"


@lm(engine="chat", max_tokens=20, retries=3, on_error="drop")
def spell_if_you_can(word: str) -> str:
    return f"Spell: {word}"


@lm(engine=["chat", "chat"], max_tokens=20, on_error=Default("?"))
def spell_or_not(word: str) -> str:
    return f"Spell: {word}"


@pipeline
def spelling(text: str):  # type: ignore[no-untyped-def]
    return spell(split(text))


@pipeline
def dropping(text: str):  # type: ignore[no-untyped-def]
    return spell_if_you_can(split(text))


@pipeline
def defaulting(text: str):  # type: ignore[no-untyped-def]
    return spell_or_not(split(text))


def config(calls: list[str] | None = None, **more: Any) -> alto.Config:
    def respond(call: alto.Call) -> str:
        if calls is not None:
            calls.append(call.stage)
        return "a b c d e"

    return alto.Config(engines={"chat": alto.Simulated(respond=respond)}, **more)


def spent(target: Any, tokens: int | None, **more: Any) -> tuple[Any, alto.Usage]:
    """What came of a request: its result or its error, and its usage."""

    async def main() -> tuple[Any, alto.Usage]:
        async with alto.Runtime(config(**more)) as runtime:
            request = runtime.start(target, WORDS, token_budget=tokens)
            try:
                result = await request.result()
            except StageError as error:
                result = error
            return result, request.usage

    return run_virtual(main())


def test_a_budget_that_suffices_changes_nothing() -> None:
    result, usage = spent(spelling, None)
    assert result == ["a b c d e"] * 10
    assert spent(spelling, 100_000) == (result, usage)
    assert spent(spelling, usage.total_tokens * 2) == (result, usage)


def test_when_it_is_spent_further_calls_are_refused_with_one_clear_error() -> None:
    calls: list[str] = []
    error, _ = spent(spelling, 70, calls=calls)
    assert isinstance(error, StageError)
    assert error.stage == "spell"
    assert isinstance(error.__cause__, StageError)
    for word in ("stage spell at (", "token budget", "of 70 tokens", "token_budget", "on_error"):
        assert word in str(error.__cause__)
    assert 1 <= len(calls) < 10


def test_a_refusal_is_never_retried_and_on_error_holds_as_for_other_failures() -> None:
    calls: list[str] = []
    result, usage = spent(dropping, 100, calls=calls)
    assert 1 <= len(result) == len(calls) < 10
    assert usage.total_tokens <= 100
    result, usage = spent(defaulting, 100)
    assert len(result) == 10
    assert 0 < result.count("?") < 10
    assert usage.total_tokens <= 100


def test_a_call_may_write_no_more_than_is_left() -> None:
    @lm(engine="chat")
    def essay(topic: str) -> str:
        return topic

    @pipeline
    def writing(topic: str) -> Any:
        return essay(topic)

    engines = {"chat": alto.Simulated(respond=lambda call: "word " * 500)}

    async def main() -> tuple[str, alto.Usage]:
        async with alto.Runtime(alto.Config(engines=engines)) as runtime:
            request = runtime.start(writing, "Cats", token_budget=60)
            return await request.result(), request.usage

    text, usage = run(main())
    assert 1 < len(text.split()) <= 60
    assert usage.total_tokens <= 60 + 10  # the prompt is estimated


def test_calls_side_by_side_do_not_each_write_what_is_left() -> None:
    @lm(engine="chat", on_error="drop")
    def explain(word: str) -> str:
        return f"Explain: {word}"

    @pipeline
    def explaining(text: str) -> Any:
        return explain(split(text))

    respond = {word: "and so on " * (20 + 90 * (at % 3)) for at, word in enumerate(WORDS.split())}
    engine = alto.Simulated(respond=lambda call: respond[call.arguments["word"]])

    async def main() -> alto.Usage:
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            request = runtime.start(explaining, WORDS, token_budget=1000)
            assert len(await request.result()) >= 4
            return request.usage

    assert 800 < run(main()).total_tokens < 1100


@lm(engine="chat", max_tokens=20)
def judge(word: str) -> bool:
    return f"Is it a word: {word}"


@pipeline
def judging(text: str):  # type: ignore[no-untyped-def]
    return judge(text)


@pytest.mark.parametrize("tokens", [None, 1000])
def test_what_cannot_be_read_is_asked_again_elsewhere_with_a_budget_too(tokens: int | None) -> None:
    avoided: list[str] = []

    def respond(call: alto.Call) -> str:
        avoided.append(call.avoid)
        return "yes" if call.avoid else "who knows"

    async def main() -> Any:
        engine = alto.Simulated(respond=respond, replicas=2)
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            return await runtime.call(judging, "tea", token_budget=tokens)

    assert run_virtual(main()) is True
    assert avoided[0] == ""
    assert avoided[1].startswith("chat/")


def test_free_calls_count_and_a_stage_can_see_what_is_left() -> None:
    seen: list[int | None] = []

    @stage(retries=2)
    async def agent(question: str) -> int:
        for turn in range(100):
            seen.append(alto.current().tokens_left)
            await alto.engine("chat").complete(f"{question} {turn}", max_tokens=10)
        return 0

    @pipeline
    def asking(question: str) -> Any:
        return agent(question)

    with pytest.raises(StageError) as raised:
        alto.run(asking, "?", config=config(), token_budget=200)
    assert isinstance(raised.value.__cause__, StageError)
    assert "stage agent" in str(raised.value.__cause__)
    assert raised.value.attempts == 1
    left = [tokens for tokens in seen if tokens is not None]
    assert left[0] == 200
    assert left == sorted(left, reverse=True)
    assert 3 <= len(left) < 20


def test_free_calls_in_blocking_stages_count_too() -> None:
    @stage
    def agent(question: str) -> str:
        return "".join(alto.engine("chat").stream(question, max_tokens=10))

    @pipeline
    def asking(question: str) -> Any:
        return agent(question)

    assert alto.run(asking, "?", config=config(), token_budget=200) == "a b c d e"
    with pytest.raises(StageError, match="token budget"):
        alto.run(asking, "? " * 100, config=config(), token_budget=20)


def test_without_a_budget_nothing_is_counted() -> None:
    @stage
    async def look(text: str) -> bool:
        return alto.current().tokens_left is None

    @pipeline
    def looking(text: str) -> Any:
        return look(text)

    assert alto.run(looking, "?")


def test_the_configuration_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "alto.toml"
    path.write_text("token_budget = 70\n")
    assert alto.Config.load(path).token_budget == 70
    error, _ = spent(spelling, None, token_budget=70)
    assert isinstance(error, StageError)
    result, _ = spent(spelling, 10_000, token_budget=70)
    assert len(result) == 10


@pytest.mark.parametrize("wrong", [0, -5, 1.5, True, "many"])
def test_a_wrong_budget_is_named(wrong: Any) -> None:
    with pytest.raises(alto.ConfigError, match=r"token_budget is .*expected a whole number"):
        alto.run(spelling, "x", config=config(), token_budget=wrong)
