"""Simulated engines on virtual time: what readers get, when, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from enum import Enum
from typing import Any, Literal

import pytest

from alto.annotations import Stream
from alto.core.calls import Call, Delta, Usage
from alto.core.texts import Line, Paragraph, Sentence
from alto.engines.protocol import Engine, EngineSpec, Replica
from alto.engines.sim_replica import Answer, SimReplica
from alto.engines.simulated import Faults, Lengths, Simulated
from alto.engines.synthesis import SchemaText, seeded
from alto.engines.tokens import render, tokenize
from alto.errors import ConfigError, EngineError
from alto.testing.loop import run

TEXT = "Penicillin was found in 1928. Fleming saw it first! 漢字 and naïve_names too."


def ask(content: Any = "Who found penicillin?", **fields: Any) -> Call:
    return Call(messages=[{"role": "user", "content": content}], **fields)


def one_replica(**settings: Any) -> SimReplica:
    settings.setdefault("respond", lambda call: TEXT)
    return Simulated(**settings).open_replicas("chat")[0]


async def read(source: Engine | Replica, call: Call) -> list[Delta]:
    return [delta async for delta in source.stream(call)]


async def timed(source: Replica, call: Call) -> list[tuple[float, Delta]]:
    loop = asyncio.get_running_loop()
    return [(loop.time(), delta) async for delta in source.stream(call)]


def say(spec: Simulated, call: Call) -> str:
    return "".join(run(read(spec.open("chat"), call)))


# ---------------------------------------------------------------------- text, tokens and usage


def test_it_is_an_engine_and_its_parts_are_replicas() -> None:
    async def main() -> None:
        spec = Simulated(replicas=3)
        assert isinstance(spec, EngineSpec)
        engine = spec.open("chat")
        assert isinstance(engine, Engine)
        replicas = spec.open_replicas("chat")
        assert [replica.name for replica in replicas] == ["chat/0", "chat/1", "chat/2"]
        assert all(isinstance(replica, Replica) for replica in replicas)
        await engine.aclose()

    run(main())


def test_each_token_is_a_delta_and_the_last_has_the_reason_and_the_usage() -> None:
    deltas = run(read(one_replica(), ask()))
    tokens = tokenize(TEXT)
    assert [str(delta) for delta in deltas] == tokens
    assert [delta.finish_reason for delta in deltas] == [None] * (len(tokens) - 1) + ["stop"]
    prompt = len(render(ask().messages))
    assert deltas[-1].usage == Usage(prompt, len(tokens), cached_tokens=0, calls=1)


def test_the_first_token_comes_with_the_prompt_and_the_others_a_step_each() -> None:
    # c0 + c_low * T + c_kv * K + c_attn * A in ms for the 8B on an H100, no host time.
    times = [at for at, _ in run(timed(one_replica(), ask("word " * 200)))]
    prompt = len(render(ask("word " * 200).messages))
    first = 6.716 + 0.00682 * prompt + 6.795e-7 * prompt**2 / 2
    second = 6.716 + 0.00682 + 0.001533 + 4.372e-5 * (prompt + 1)
    assert times[0] * 1e3 == pytest.approx(first)
    assert (times[1] - times[0]) * 1e3 == pytest.approx(second)


def test_boundaries_wake_the_reader_there_and_at_the_same_times() -> None:
    ends = [at + 1 for at, sign in enumerate(TEXT) if sign in ".!"]
    fine = run(timed(one_replica(), ask()))
    coarse = run(timed(one_replica(), ask(boundaries=lambda text: ends)))
    assert "".join(delta for _, delta in coarse) == TEXT
    assert len(coarse) == len(ends) == 3  # the last is the end
    written = ""
    when = {}
    for at, delta in fine:
        written += delta
        when[len(written)] = at
    length = 0
    for at, delta in coarse:
        length += len(delta)
        assert at == pytest.approx(when[length])
        assert length in ends


def test_a_slow_reader_misses_nothing() -> None:
    async def main() -> str:
        text = ""
        async for delta in one_replica().stream(ask()):
            text += delta
            await asyncio.sleep(0.02)  # about three tokens
        return text

    assert run(main()) == TEXT


def test_max_tokens_cuts_off_and_a_stop_string_ends_before_itself() -> None:
    cut = run(read(one_replica(), ask(max_tokens=4)))
    assert "".join(cut) == "".join(tokenize(TEXT)[:4])
    assert cut[-1].finish_reason == "length"
    assert cut[-1].usage is not None
    assert cut[-1].usage.completion_tokens == 4
    exact = run(read(one_replica(), ask(max_tokens=len(tokenize(TEXT)))))
    assert exact[-1].finish_reason == "stop"
    stopped = run(read(one_replica(), ask(stop=("saw", "1928"))))
    assert "".join(stopped) == "Penicillin was found in "
    assert stopped[-1].finish_reason == "stop"
    nothing = run(read(one_replica(), ask(stop=("Pen",))))
    assert "".join(nothing) == ""
    assert nothing[-1].usage is not None
    assert nothing[-1].usage.completion_tokens == 0


def test_reasoning_comes_first_and_apart() -> None:
    replica = one_replica(respond=lambda call: Answer("Yes, indeed.", "Let me see now."))
    deltas = run(read(replica, ask()))
    assert "".join(deltas) == "Yes, indeed."
    assert "".join(delta.reasoning for delta in deltas) == "Let me see now."
    assert all(not (delta and delta.reasoning) for delta in deltas)
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.reasoning_tokens == len(tokenize("Let me see now."))
    assert usage.completion_tokens == usage.reasoning_tokens + len(tokenize("Yes, indeed."))


def test_a_repeated_prompt_is_found_in_the_cache_in_whole_blocks() -> None:
    async def main() -> list[Usage | None]:
        replica = one_replica()
        long = "word " * 100
        usages = [(await read(replica, ask(long + end)))[-1].usage for end in ("one", "two")]
        assert replica.prefix_hit_rate == replica.measures.cache_hits / (2 * 109)
        return usages

    first, second = run(main())
    assert first is not None
    assert second is not None
    assert (first.prompt_tokens, first.cached_tokens) == (109, 0)
    assert second.cached_tokens == 96  # of 103 equal tokens, six blocks of 16


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    async def main() -> None:
        for spec in (Simulated(respond=lambda call: TEXT), Simulated(seed=3)):
            whole = "".join(await read(spec.open("chat"), ask()))
            begun = whole[: len(whole) // 2]
            call = ask(extra={"continue_final_message": True})
            call.messages.append({"role": "assistant", "content": begun})
            assert begun + "".join(await read(spec.open("chat"), call)) == whole

    run(main())


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "a", TEXT, "x" * 3000, "日本語" * 400, "e\u0301 🙂\u200d 1,234.5"]
)
@pytest.mark.parametrize("piece", [1, 3, 7])
def test_tokens_joined_are_the_text(text: str, piece: int) -> None:
    tokens = tokenize(text, piece)
    assert "".join(tokens) == text
    assert "" not in tokens


def test_every_character_is_in_some_token() -> None:
    for low in range(0, 0x11000, 0x400):
        text = "".join(map(chr, range(low, low + 0x400)))
        assert "".join(tokenize(text)) == text


def test_messages_with_parts_and_tools_are_counted() -> None:
    parts = [
        {"type": "text", "text": "two words"},
        {"type": "image_url", "image_url": {"url": "u"}},
    ]
    assert len(render(ask(parts).messages)) == 8 + 2 + 576
    assert len(render(ask("x").messages, [{"type": "function"}])) > len(render(ask("x").messages))


# ---------------------------------------------------------------------- slots, ends and failures


def test_leaving_a_stream_frees_its_slot_at_once() -> None:
    async def main() -> None:
        replica = one_replica(max_num_seqs=1, respond=lambda call: TEXT * 50)
        leaver = replica.stream(ask())
        await anext(leaver)
        waiter = asyncio.create_task(read(replica, ask()))
        await asyncio.sleep(0)
        assert (replica.running, replica.waiting) == (1, 1)
        await leaver.aclose()
        assert (replica.running, replica.waiting) == (0, 1)
        assert replica.kv_usage == 0
        assert "".join(await waiter) == TEXT * 50
        await replica.idle()
        assert (replica.running, replica.measures.cancelled) == (0, 1)

    run(main())


def test_a_cancelled_reader_frees_its_slot_at_once() -> None:
    async def main() -> None:
        replica = one_replica()
        reader = asyncio.create_task(read(replica, ask()))
        await asyncio.sleep(0.001)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert (replica.running, replica.waiting, replica.kv_usage) == (0, 0, 0)

    run(main())


def test_closing_fails_the_calls_under_way() -> None:
    async def main() -> None:
        replica = one_replica()
        reader = asyncio.create_task(read(replica, ask()))
        await asyncio.sleep(0.001)
        await replica.aclose()
        with pytest.raises(EngineError, match="was closed while it answered"):
            await reader
        with pytest.raises(EngineError, match="is closed"):
            await read(replica, ask())

    run(main())


def many(least: int, items: Any = None) -> dict[str, Any]:
    """The schema of a list of at least so many."""
    return {"type": "array", "items": items or {"type": "integer"}, "minItems": least}


def failing(call: Call) -> str:
    raise KeyError("no such answer")


@pytest.mark.parametrize(
    ("settings", "call", "says"),
    [
        ({"respond": failing}, ask(stage="verify"), "KeyError: 'no such answer'.*stage 'verify'"),
        ({"respond": lambda call: 7}, ask(), "respond\\(\\) returned int"),
        ({}, ask(max_tokens=0), "max_tokens is 0, expected at least 1"),
        ({"kv_tokens": 64}, ask("word " * 100), "KV blocks, the server has 4"),
        ({"respond": None}, ask(schema={"type": "tuple"}), "type 'tuple'"),
        ({"respond": None}, ask(schema={"$ref": "#/$defs/A"}), "points at nothing"),
        ({"respond": None}, ask(schema={"$ref": "#"}), "leads back to itself"),
        ({"respond": None}, ask(schema=many(10**6)), "minItems.*demand more than 500000 char"),
        ({"respond": None}, ask(schema=many(10**12), max_tokens=9), "demand more than 500000"),
        ({"respond": None}, ask(schema=many(1000, many(1000))), "demand more than 500000"),
        (
            {"respond": None},
            ask(schema={"type": "object", "properties": {"a": {"minLength": 10**9}}}),
            "demand more than 500000",
        ),
        ({"respond": None}, ask(schema=many(1, {"$ref": "#"})), "go 100 levels deep"),
    ],
)
def test_what_cannot_be_answered_is_an_engine_error(
    settings: dict[str, Any], call: Call, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        run(read(one_replica(**settings), call))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"profile": "llama-3-8b_h100"}, "did you mean 'llama-3-8b_h100_tp1'"),
        ({"replicas": 0}, "replicas is 0"),
        ({"prefill_chunk": 100}, "at least max_num_seqs"),
        ({"speed": [1.0, 2.0]}, "one for each replica"),
        ({"speed": 0}, "positive"),
        ({"kv_tokens": 8}, "kv_tokens is 8, expected a whole number, 16 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Simulated(**settings)


def test_replicas_may_differ_in_speed() -> None:
    async def main() -> None:
        slow, quick = Simulated(
            replicas=2, speed=(1.0, 2.0), respond=lambda call: TEXT
        ).open_replicas("x")
        loop = asyncio.get_running_loop()
        await read(slow, ask())
        took = loop.time()
        await read(quick, ask())
        assert loop.time() - took == pytest.approx(took / 2)

    run(main())


def test_a_batch_shares_the_steps() -> None:
    # Sixteen at once end at the time of the last, not sixteen times as late.
    async def main() -> None:
        replica = one_replica()
        loop = asyncio.get_running_loop()
        await read(replica, ask("first"))
        alone = loop.time()
        await asyncio.gather(*(read(replica, ask(f"question {at}")) for at in range(16)))
        assert loop.time() - alone < 1.1 * alone
        assert replica.measures.succeeded == 17

    run(main())


async def fates(faults: Faults, seed: int) -> list[str]:
    replica = Simulated(respond=lambda call: TEXT, faults=faults, seed=seed).open_replicas("x")[0]
    loop = asyncio.get_running_loop()
    seen = []
    for _ in range(60):
        began, text = loop.time(), ""
        try:
            async for delta in replica.stream(ask()):
                text += delta
            seen.append("stalled" if loop.time() - began > 5 else "whole")
        except EngineError as error:
            seen.append("broken" if text else f"refused {error.status}")
        assert text == TEXT if seen[-1] in ("whole", "stalled") else TEXT.startswith(text)
    await replica.idle()
    assert (replica.running, replica.waiting, replica.kv_usage) == (0, 0, 0)
    return seen


def test_faults_are_drawn_by_the_seed_and_leave_nothing() -> None:
    faults = Faults(refuse=0.2, break_off=0.2, stall=0.2)
    seen = run(fates(faults, 1))
    assert set(seen) == {"whole", "stalled", "broken", "refused 503"}
    assert run(fates(faults, 1)) == seen != run(fates(faults, 2))
    assert set(run(fates(Faults(), 1))) == {"whole"}


def test_a_text_that_breaks_off_is_an_error_where_resuming_is_off() -> None:
    faults = {"break_off": 1.0, "deltas_max": 3}
    for resume in (True, False):
        spec = Simulated(
            respond=lambda call: "one two three four five six", faults=faults, resume=resume
        )
        if resume:
            assert say(spec, ask()) == "one two three four five six"
        else:
            with pytest.raises(EngineError, match="broke off in mid-answer"):
                say(spec, ask())


def test_a_silent_server_is_hedged_where_that_is_said() -> None:
    async def hedged(hedge_s: float | None) -> int:
        # So slow that the first token is long in coming.
        spec = Simulated(respond=lambda call: "hi", replicas=2, speed=0.001, hedge_s=hedge_s)
        engine = spec.open("chat")
        assert "".join([delta async for delta in engine.stream(ask())]) == "hi"
        await engine.aclose()
        return engine.totals().hedged

    assert [run(hedged(after)) for after in (None, 1.0)] == [0, 1]


@pytest.mark.parametrize(
    "wrong", [{"refuse": -0.1}, {"stall": 0.6, "refuse": 0.6}, {"stall_s": -1}]
)
def test_faults_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"(?i)faults"):
        Simulated(faults=wrong)


# ---------------------------------------------------------------------- made-up text


class Mood(Enum):
    GLAD = "glad"
    SAD = "sad"


CLAIMS = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Claim"}}},
    "$defs": {
        "Claim": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "score": {"type": "number", "minimum": 0, "maximum": 1},
                "kind": {"enum": ["a", "b"]},
                "about": {"anyOf": [{"$ref": "#/$defs/Claim"}, {"type": "null"}]},
            },
            "required": ["text"],
        }
    },
}


def test_plain_text_has_the_sentences_and_words_that_were_asked_for() -> None:
    spec = Simulated(lengths=Lengths(sentences=3, words=5))
    text = say(spec, ask())
    assert text.count(".") == 3
    assert len(text.split()) == 15
    assert say(spec, ask(returns=Stream[Line])).count("\n") == 2
    assert say(spec, ask(returns=Stream[Paragraph])).count("\n\n") == 2
    assert say(spec, ask(returns=Stream[Sentence])).count(". ") == 2


def test_lengths_may_differ_by_stage_and_be_functions() -> None:
    spec = Simulated(
        lengths={
            "long": Lengths(sentences=9),
            "*": Lengths(sentences=lambda rng: rng.choice([2]), words=(3, 3)),
        }
    )
    assert say(spec, ask(stage="long")).count(".") == 9
    assert len(say(spec, ask(stage="other")).split()) == 6


def test_lengths_may_be_plain_tables() -> None:
    alike = Simulated(lengths={"sentences": 2, "words": [4, 4]})  # type: ignore[dict-item]
    assert alike.lengths == Lengths(sentences=2, words=[4, 4])
    by_stage = Simulated(lengths={"a": {"sentences": 2}})  # type: ignore[dict-item]
    assert by_stage.lengths == {"a": Lengths(sentences=2)}
    with pytest.raises(ConfigError, match="'sentence' is unknown, expected any of sentences"):
        Simulated(lengths={"a": {"sentence": 2}})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"lengths\['a'\]\) is 3, expected a table of keys"):
        Simulated(lengths={"a": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("returns", "allowed"),
    [
        (Literal["SUPPORTED", "REFUTED"], {"SUPPORTED", "REFUTED"}),
        (Mood, {"glad", "sad"}),
        (bool, {"true", "false"}),
        (int, {str(number) for number in range(101)}),
    ],
)
def test_a_choice_is_one_of_its_labels(returns: Any, allowed: set[str]) -> None:
    said = {say(Simulated(seed=seed), ask(returns=returns)) for seed in range(6)}
    assert said <= allowed
    assert len(said) > 1


def test_json_follows_the_schema_and_the_counts() -> None:
    for seed in range(20):
        spec = Simulated(seed=seed, lengths=Lengths(items=(2, 3), string_words=2))
        items = json.loads(say(spec, ask(schema=CLAIMS)))["items"]
        assert 2 <= len(items) <= 3
        for item in items:
            assert len(item["text"].split()) == 2
            assert 0 <= item["score"] <= 1
            assert item["kind"] in ("a", "b")


def test_a_struct_is_made_up_from_its_annotation_alone() -> None:
    from dataclasses import dataclass

    @dataclass
    class Point:
        x: int
        label: str

    assert set(json.loads(say(Simulated(), ask(returns=Point)))) == {"x", "label"}
    many = json.loads(say(Simulated(), ask(returns=Stream[Point])))
    (items,) = many.values() if isinstance(many, dict) else (many,)
    assert all(set(item) == {"x", "label"} for item in items)


def test_json_is_kept_short_enough_to_be_whole() -> None:
    spec = Simulated(lengths=Lengths(items=40))
    deltas = run(read(spec.open("chat"), ask(schema=CLAIMS, max_tokens=200)))
    json.loads("".join(deltas))
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize("kind", [Sentence, Line, Paragraph])
def test_items_are_kept_few_enough_to_be_whole(kind: Any) -> None:
    spec = Simulated(lengths=Lengths(sentences=40))
    deltas = run(read(spec.open("chat"), ask(returns=Stream[kind], max_tokens=100)))
    assert "".join(deltas).endswith(".")
    assert deltas[-1].finish_reason == "stop"


def test_text_that_is_taken_as_it_comes_is_cut_off_as_an_engine_does() -> None:
    spec = Simulated(lengths=Lengths(sentences=40))
    deltas = run(read(spec.open("chat"), ask(returns=str, max_tokens=100)))
    assert deltas[-1].finish_reason == "length"


def test_bounds_formats_and_tuples_are_followed() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 10, "exclusiveMaximum": 12},
            "five": {"type": "integer", "multipleOf": 5, "maximum": 30},
            "below": {"type": "number", "maximum": -4},
            "day": {"type": "string", "format": "date"},
            "short": {"type": "string", "maxLength": 3},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
            "few": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 5, "maxItems": 5},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "both": {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {}}}]},
        },
    }
    for seed in range(10):
        value = json.loads(SchemaText(schema, Lengths(), seeded(ask(), seed)).text())
        assert value["n"] in (10, 11)
        assert value["five"] % 5 == 0
        assert value["below"] <= -4
        assert len(value["day"]) == 10
        assert len(value["short"]) <= 3
        assert [type(each) for each in value["pair"]] == [int, bool]
        assert len(value["few"]) == 5
        assert all(isinstance(each, int) for each in value["map"].values())
        assert set(value["both"]) == {"a", "b"}


def test_a_schema_without_end_ends() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}, "all": {"type": "array"}}}
    endless["properties"]["all"]["items"] = {"$ref": "#"}  # type: ignore[index]
    json.loads(say(Simulated(lengths=Lengths(items=2)), ask(schema=endless)))


def test_made_up_text_depends_on_the_call_and_the_seed_alone() -> None:
    base = say(Simulated(), ask(stage="a", path=(1,)))
    assert say(Simulated(), ask(stage="a", path=(1,), request="r2", attempt=2)) == base
    others = [
        say(Simulated(seed=1), ask(stage="a", path=(1,))),
        say(Simulated(), ask(stage="b", path=(1,))),
        say(Simulated(), ask(stage="a", path=(2,))),
        say(Simulated(), ask("Else?", stage="a", path=(1,))),
        say(Simulated(), ask(stage="a", path=(1,), seed=5)),
    ]
    assert len({base, *others}) == 6


PROGRAM = """
import asyncio
from alto.core.calls import Call
from alto.engines.simulated import Simulated
from alto.testing.loop import run

async def one(replica, number):
    await asyncio.sleep(number * 0.003)
    out = ""
    call = Call(messages=[{"role": "user", "content": f"q {number % 7} " * 30}], path=(number,))
    async for delta in replica.stream(call):
        out += delta
    return number, out, asyncio.get_running_loop().time(), delta.usage.cached_tokens

async def main():
    replica = Simulated(kv_tokens=1600, seed=4).open_replicas("chat")[0]
    return await asyncio.gather(*(one(replica, number) for number in range(40)))

print(run(main()))
"""


def test_a_run_is_the_same_whatever_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_streams_are_async_generators() -> None:
    async def main() -> None:
        stream = one_replica().stream(ask())
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()

    run(main())


def test_a_schema_that_recurs_in_many_places_is_soon_done() -> None:
    wide = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}}
    made = SchemaText(wide, Lengths(), seeded(ask(), 0))
    json.loads(made.text())
    assert 10_000 < made._values < 20_000
