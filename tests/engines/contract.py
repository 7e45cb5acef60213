"""What every engine does: one suite, the same for simulated, recorded and real ones.

A test file describes its engine as a `Subject` and runs each check that applies to it:

    @pytest.mark.parametrize("check", checks_of(SUBJECT), ids=name_of)
    def test_contract(check: Check) -> None:
        run(SUBJECT, check)

`Subject.supports` says what the engine can do beyond the least. A check that needs more than that
is not among its checks:

    echo     the prompt `Say: X` is answered with exactly X
    long     `LONG` with `Subject.long_extra` is answered with far more than 30 tokens
    usage    prompt and completion tokens are counted
    cached   a long prompt seen before is told as cached
    schema   the answer to a call with a schema is JSON that follows it
    stop     stop strings end the text, and are no part of it
    refuses  `Subject.bad_call` is refused as the caller's mistake
    deadline the engine itself ends a call whose deadline comes
    busy     `Live.busy` says how many calls the server works on

Engines that embed and rerank have more to keep: `encode_contract.py`, which registers its checks
when it is imported.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from alto.core.calls import Call, Delta, Usage
from alto.engines.protocol import Engine
from alto.errors import DeadlineExceeded, EngineError
from alto.testing import loop as virtual

CHECK_LIMIT_S = 60.0  # for a whole check: against hanging, not for speed
PROMPT_LIMIT_S = 10.0  # for what must happen soon
LONG = "Write a long text."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}


@dataclass
class Live:
    """An open engine, and what its server works on."""

    engine: Engine
    busy: Callable[[], Awaitable[int]] | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An engine under test. `opened` gives it, and closes it and its servers afterwards."""

    name: str
    opened: Callable[[], AbstractAsyncContextManager[Live]]
    real_time: bool
    supports: frozenset[str] = frozenset()
    long_extra: Mapping[str, Any] = field(default_factory=dict)
    bad_call: Call | None = None


Check = Callable[[Live, Subject], Awaitable[None]]
CHECKS: list[tuple[frozenset[str], Check]] = []


def needs(*features: str) -> Callable[[Check], Check]:
    """Register a check for the engines that support all of these."""

    def register(check: Check) -> Check:
        CHECKS.append((frozenset(features), check))
        return check

    return register


def checks_of(subject: Subject) -> list[Check]:
    """The checks that apply to an engine."""
    return [check for features, check in CHECKS if features <= subject.supports]


def name_of(check: Check) -> str:
    """How a check is called in a list of tests."""
    return getattr(check, "__name__", repr(check))


def run(subject: Subject, check: Check) -> None:
    """Run one check on a fresh engine, and look that it leaves nothing behind."""

    async def main() -> None:
        before = asyncio.all_tasks()
        async with asyncio.timeout(CHECK_LIMIT_S if subject.real_time else None):
            async with subject.opened() as live:
                await check(live, subject)
        left = asyncio.all_tasks() - before
        assert not left, f"{subject.name} left tasks behind: {left}"

    if subject.real_time:
        asyncio.run(main())
    else:
        virtual.run(main())


# ---- calls


def ask(text: str, **more: Any) -> Call:
    return Call(messages=[{"role": "user", "content": text}], **{"max_tokens": 40, **more})


def long(subject: Subject, tokens: int, **more: Any) -> Call:
    return ask(LONG, max_tokens=tokens, extra=dict(subject.long_extra), **more)


async def read(stream: AsyncGenerator[Delta, None]) -> list[Delta]:
    async with aclosing(stream):
        return [delta async for delta in stream]


async def answer(live: Live, call: Call) -> list[Delta]:
    deltas = await read(live.engine.stream(call))
    assert deltas, "an answer has at least its last delta"
    return deltas


def spent(deltas: list[Delta]) -> Usage:
    usage = deltas[-1].usage
    assert usage is not None
    return usage


# ---- the least


@needs()
async def the_last_delta_and_no_other_says_why_and_what_it_cost(
    live: Live, subject: Subject
) -> None:
    *before, last = await answer(live, ask("Hello"))
    assert last.finish_reason in ("stop", "length")
    assert spent([last]).calls == 1
    assert [(d.finish_reason, d.usage) for d in before] == [(None, None)] * len(before)


@needs()
async def deltas_are_strings(live: Live, subject: Subject) -> None:
    deltas = await answer(live, ask("Hello"))
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(deltas) == "".join(delta.text for delta in deltas)


@needs()
async def an_engine_answers_again_and_again(live: Live, subject: Subject) -> None:
    for _ in range(5):
        assert (await answer(live, ask("Hello")))[-1].finish_reason


@needs()
async def calls_run_side_by_side(live: Live, subject: Subject) -> None:
    answers = await asyncio.gather(*(answer(live, ask(f"Number {n}")) for n in range(20)))
    assert all(deltas[-1].finish_reason for deltas in answers)


@needs()
async def an_empty_prompt_is_answered(live: Live, subject: Subject) -> None:
    assert (await answer(live, ask("")))[-1].finish_reason


@needs()
async def a_long_prompt_with_any_characters_is_answered(live: Live, subject: Subject) -> None:
    prompt = "Grüße, 日本語, 😀, \u200b, \t, \x7f, \\u0000, </s>, <|im_end|>. " * 20
    assert (await answer(live, ask(prompt)))[-1].finish_reason


@needs()
async def a_stream_that_is_not_started_is_nothing(live: Live, subject: Subject) -> None:
    await live.engine.stream(ask("Hello")).aclose()


@needs()
async def a_closed_engine_fails_by_name(live: Live, subject: Subject) -> None:
    await answer(live, ask("Hello"))
    await live.engine.aclose()
    with pytest.raises(EngineError):
        await answer(live, ask("Hello"))
    await live.engine.aclose()


# ---- text


@needs("echo")
async def the_deltas_joined_are_the_answer(live: Live, subject: Subject) -> None:
    for text in ("one", "One sentence, and another. Done!\n\n  End", "a" * 60):
        deltas = await answer(live, ask(f"Say: {text}"))
        assert "".join(deltas) == text
        assert deltas[-1].finish_reason == "stop"


@needs("echo")
async def any_character_comes_through(live: Live, subject: Subject) -> None:
    text = "Grüße — 日本語 😀👩‍👩‍👧 \u2028 \r\n \t \x7f \\ \" ' \ufffd"
    assert "".join(await answer(live, ask(f"Say: {text}", max_tokens=400))) == text


@needs("echo")
async def side_by_side_each_call_gets_its_own_answer(live: Live, subject: Subject) -> None:
    texts = [f"this is answer number {n}" for n in range(30)]
    answers = await asyncio.gather(*(answer(live, ask(f"Say: {text}")) for text in texts))
    assert ["".join(deltas) for deltas in answers] == texts


@needs("echo", "stop")
async def a_stop_string_ends_the_text_and_is_no_part_of_it(live: Live, subject: Subject) -> None:
    deltas = await answer(live, ask("Say: red, green, blue", stop=("blue", " green")))
    assert "".join(deltas) == "red,"
    assert deltas[-1].finish_reason == "stop"


@needs("long")
async def text_comes_while_it_is_written(live: Live, subject: Subject) -> None:
    deltas = await answer(live, long(subject, 30))
    assert len([delta for delta in deltas if delta]) > 1


@needs("long")
async def max_tokens_cuts_the_text_and_says_so(live: Live, subject: Subject) -> None:
    for tokens in (1, 2, 30):
        deltas = await answer(live, long(subject, tokens))
        assert deltas[-1].finish_reason == "length"
        if "usage" in subject.supports:
            assert spent(deltas).completion_tokens == tokens


@needs("schema")
async def an_answer_follows_its_schema(live: Live, subject: Subject) -> None:
    """Cut off by length it need not parse; a random model may write a string without end."""
    call = ask("Name and count, as JSON.", schema=SCHEMA, schema_name="Item", max_tokens=400)
    deltas = await answer(live, call)
    if deltas[-1].finish_reason == "stop":
        value = json.loads("".join(deltas))
        assert set(value) == {"name", "count"}
        assert isinstance(value["name"], str)
        assert isinstance(value["count"], int)


# ---- usage


@needs("usage")
async def usage_counts_and_adds_up(live: Live, subject: Subject) -> None:
    one = spent(await answer(live, ask("Hello there", max_tokens=5)))
    assert one.prompt_tokens > 0
    assert 0 < one.completion_tokens <= 5
    assert one.cached_tokens <= one.prompt_tokens
    more = spent(await answer(live, ask("Hello there " * 50, max_tokens=5)))
    assert more.prompt_tokens > one.prompt_tokens
    both = one + more
    assert both.calls == 2
    assert both.total_tokens == one.total_tokens + more.total_tokens


@needs("usage", "cached")
async def a_prompt_seen_before_is_told_as_cached(live: Live, subject: Subject) -> None:
    call = ask("What is in the box? " * 40, max_tokens=2)
    first = spent(await answer(live, call))
    again = spent(await answer(live, call))
    assert again.prompt_tokens == first.prompt_tokens
    assert first.cached_tokens < again.cached_tokens <= again.prompt_tokens


# ---- leaving


@needs("long")
async def closing_a_stream_in_the_middle_leaves_the_engine_well(
    live: Live, subject: Subject
) -> None:
    for _ in range(5):
        stream = live.engine.stream(long(subject, 2000))
        await anext(stream)
        await stream.aclose()
    assert (await answer(live, ask("Hello")))[-1].finish_reason
    await until_idle(live)


@needs("long")
async def cancelling_a_reader_frees_what_it_held(live: Live, subject: Subject) -> None:
    for after in (0, 1, 3):
        begun = asyncio.Event()

        async def reader(after: int, begun: asyncio.Event) -> None:
            async with aclosing(live.engine.stream(long(subject, 2000))) as stream:
                for _ in range(after):
                    await anext(stream)
                begun.set()
                await read(stream)

        task = asyncio.create_task(reader(after, begun))
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_idle(live)


@needs("long", "deadline")
async def a_deadline_ends_a_call(live: Live, subject: Subject) -> None:
    deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(DeadlineExceeded):
        while True:
            await answer(live, long(subject, 2000, deadline=deadline))
    await until_idle(live)


@needs("long")
async def closing_the_engine_ends_what_is_under_way(live: Live, subject: Subject) -> None:
    async def reader() -> None:
        begun.release()
        await answer(live, long(subject, 4000))

    begun = asyncio.Semaphore(0)
    readers = [asyncio.create_task(reader()) for _ in range(3)]
    for _ in readers:
        await begun.acquire()
    await asyncio.sleep(0)
    await live.engine.aclose()
    for outcome in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(outcome, EngineError), outcome


async def until_idle(live: Live) -> None:
    if live.busy is not None:
        async with asyncio.timeout(PROMPT_LIMIT_S):
            while await live.busy():  # noqa: ASYNC110 - another process: nothing to await
                await asyncio.sleep(0.01)


# ---- refusals


@needs("refuses")
async def a_mistake_of_the_caller_is_no_reason_to_try_again(live: Live, subject: Subject) -> None:
    assert subject.bad_call is not None
    with pytest.raises(EngineError) as caught:
        await answer(live, subject.bad_call)
    assert not caught.value.retryable
    assert str(caught.value)
    assert (await answer(live, ask("Hello")))[-1].finish_reason
