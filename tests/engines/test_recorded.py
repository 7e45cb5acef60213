"""Recorded answers: how they are found, what a miss says, and that they take time."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alto.core.calls import Call, Delta
from alto.engines.pool import Pool
from alto.engines.protocol import Engine, VectorEngine
from alto.engines.recorded import Recorded, Recorder
from alto.engines.simulated import Answer, Simulated
from alto.engines.tool_calls import whole_calls
from alto.errors import ConfigError, EngineError
from alto.testing.loop import run


@dataclass
class Claim:
    text: str


ENTRIES: list[dict[str, Any]] = [
    {"stage": "verify", "arguments": {"claim": {"text": "Water is wet."}}, "text": "SUPPORTED"},
    {
        "stage": "verify",
        "arguments": {"claim": {"text": "Water is wet."}, "evidence": ["Deserts are dry."]},
        "text": "UNKNOWN",
    },
    {"stage": "answer", "prompt": "Who?", "text": "Fleming.", "reasoning": "Hm."},
    {"prompt": "Anyone?", "text": "No one."},
]


def ask(stage: str = "", prompt: str = "", **arguments: Any) -> Call:
    messages = [{"role": "user", "content": prompt}]
    return Call(messages=messages, stage=stage, arguments=arguments)


async def read(spec: Recorded | Simulated, call: Call) -> list[Delta]:
    engine = spec.open("demo")
    try:
        return [delta async for delta in engine.stream(call)]
    finally:
        await engine.aclose()


def say(spec: Recorded, call: Call) -> str:
    return "".join(run(read(spec, call)))


def test_a_call_is_found_by_its_stage_and_arguments() -> None:
    spec = Recorded(entries=ENTRIES)
    assert say(spec, ask("verify", claim=Claim("Water is wet."))) == "SUPPORTED"
    assert say(spec, ask("verify", claim={"text": "Water is wet."})) == "SUPPORTED"


def test_arguments_that_an_entry_does_not_name_are_not_compared() -> None:
    spec = Recorded(entries=ENTRIES)
    claim = Claim("Water is wet.")
    assert say(spec, ask("verify", claim=claim, evidence=["Rain falls."])) == "SUPPORTED"
    assert say(spec, ask("verify", claim=claim, evidence=["Deserts are dry."])) == "UNKNOWN"


def test_a_call_is_found_by_its_prompt() -> None:
    spec = Recorded(entries=ENTRIES)
    deltas = run(read(spec, ask("answer", "Who?", question="Who?")))
    assert "".join(deltas) == "Fleming."
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    assert say(spec, ask("other", "Anyone?")) == "No one."
    assert say(spec, ask("", "Who?")) == "Fleming."  # another program names no stage


def test_the_later_of_two_entries_stands() -> None:
    assert (
        say(Recorded(entries=[*ENTRIES, {"prompt": "Anyone?", "text": "Me."}]), ask("", "Anyone?"))
        == "Me."
    )


def test_an_answer_takes_the_time_of_the_profile() -> None:
    async def main() -> float:
        await read(Recorded(entries=ENTRIES), ask("", "Anyone?"))
        return asyncio.get_running_loop().time()

    assert 0.015 < run(main()) < 0.03  # three tokens of about 7 ms


def test_a_miss_shows_what_was_asked_and_the_nearest() -> None:
    with pytest.raises(EngineError) as caught:
        say(Recorded(entries=ENTRIES), ask("verify", claim=Claim("Water is dry.")))
    message = str(caught.value)
    assert "engine demo has no recorded answer for stage 'verify'" in message
    assert '{"claim": {"text": "Water is dry."}}' in message
    assert 'nearest recorded is {"claim": {"text": "Water is wet."}}' in message
    assert "fallback=" in message
    assert not caught.value.retryable


def test_a_miss_in_an_empty_stage_says_so() -> None:
    with pytest.raises(EngineError, match="nothing is recorded"):
        say(Recorded(entries=ENTRIES[:1]), ask("draft", "Write."))


def test_a_fallback_answers_what_is_not_recorded() -> None:
    spec = Recorded(entries=ENTRIES, fallback=lambda call: Answer(call.stage.upper(), "hm"))
    assert say(spec, ask("draft", "Write.")) == "DRAFT"
    assert say(spec, ask("", "Anyone?")) == "No one."


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.jsonl.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    entry = {"stage": "verify", "arguments": {"claim": Claim("Ünïcode 漢字")}, "text": "YES"}
    assert Recorded.write(path, [*ENTRIES, entry]) == 5
    first = path.read_bytes()
    Recorded.write(path, [*ENTRIES, entry])
    assert path.read_bytes() == first
    assert say(Recorded(path=path), ask("verify", claim=Claim("Ünïcode 漢字"))) == "YES"
    assert say(Recorded(path=str(path)), ask("", "Anyone?")) == "No one."


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: the entry is list, expected an object"),
        (json.dumps({"prompt": "x"}), '"text" None, expected the answer as a string'),
        (json.dumps({"text": "x"}), 'neither "arguments" .* nor "prompt"'),
        (json.dumps({"text": "x", "arguments": [1]}), '"arguments" \\[1\\], expected an object'),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(ENTRIES[3]) + "\n" + line + "\n", "utf-8")
    with pytest.raises(ConfigError, match=says):
        say(Recorded(path=path), ask("", "Anyone?"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the recording .*missing\.jsonl"):
        say(Recorded(path=tmp_path / "missing.jsonl"), ask("", "x"))
    broken = bytearray(gzip.compress(b"{}\n" * 100))
    broken[12] ^= 0xFF
    for data in (b"plain", bytes(broken)):
        (tmp_path / "not.gz").write_bytes(data)
        with pytest.raises(ConfigError, match="compressed if its name ends in"):
            say(Recorded(path=tmp_path / "not.gz"), ask("", "x"))


def test_a_recording_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to answer with"):
        Recorded()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"path": 5}, "Recorded: path is 5, expected the name of a file"),
        ({"path": ""}, "Recorded: path is '', expected the name of a file"),
        ({"entries": 5}, "Recorded: entries is 5, expected a list of dicts"),
        ({"entries": ENTRIES[0]}, "Recorded: entries is {'stage'.*, expected a list of dicts"),
        ({"entries": ENTRIES, "fallback": "x"}, "Recorded: fallback is 'x', expected a function"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Recorded(**wrong)


def test_a_recorder_says_early_that_it_cannot_write(tmp_path: Path) -> None:
    engine = Simulated()
    with pytest.raises(ConfigError, match="path is 5, expected the name of a file"):
        Recorder(engine, 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="engine is 'chat', expected an engine to listen to"):
        Recorder("chat", "calls.jsonl")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="whose folder is not there"):
        Recorder(engine, tmp_path / "gone" / "calls.jsonl").open("chat")


def test_a_mark_of_its_encoding_is_no_part_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(ENTRIES[3]), "utf-8-sig")
    assert say(Recorded(path=path), ask("", "Anyone?")) == "No one."


@pytest.mark.parametrize("name", ["live.jsonl", "live.jsonl.gz"])
def test_what_another_engine_answers_can_be_recorded(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    claims = [Claim("One."), Claim("Two.")]

    async def record() -> list[str]:
        live = Simulated(
            respond=lambda call: Answer(f"It says {call.arguments['claim'].text}", "h")
        )
        engine = Recorder(live, path).open("chat")
        texts = [
            "".join([delta async for delta in engine.stream(ask("verify", "p", claim=claim))])
            for claim in claims
        ]
        leaver = engine.stream(ask("verify", "p", claim=Claim("Three.")))
        await anext(leaver)
        await leaver.aclose()
        await engine.aclose()
        return texts

    texts = run(record())
    played = Recorded(path=path)
    assert [say(played, ask("verify", claim=claim)) for claim in claims] == texts
    with pytest.raises(EngineError, match="no recorded answer"):
        say(played, ask("verify", claim=Claim("Three.")))


def test_numbers_pass_a_recorder_and_are_made_up_anew(tmp_path: Path) -> None:
    path = tmp_path / "heard.jsonl"

    async def main() -> None:
        live = Simulated(embed=lambda text: [float(len(text))], embed_batch=2)
        engine: Any = Recorder(live, path).open("chat")
        assert isinstance(engine, VectorEngine)
        assert await engine.embed(["a", "bb", "ccc"]) == [[1.0], [2.0], [3.0]]
        assert [each.index for each in await engine.rerank("b", ["a", "b"], top_n=1)] == [1]
        await engine.aclose()
        with pytest.raises(EngineError):
            await engine.embed("a")
        assert not path.exists()
        recorded = Recorded(entries=ENTRIES, dimensions=16).open("chat")
        assert len(await recorded.embed("a")) == 16
        await recorded.aclose()

    run(main())


def weather(city: str, number: int) -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": f"call_{number}", "type": "function", "function": function}


class Fragments:
    """Calls two tools, in fragments as servers stream them; after their results it says so."""

    def open(self, name: str) -> Pool:
        return Pool(name, [self])

    name = "r0"

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        if call.messages[-1]["role"] == "tool":
            yield Delta("It rains.", finish_reason="stop")
            return
        yield Delta("Let me see.")
        for index, city in enumerate(["Oslo", "Rome"]):
            whole = weather(city, index)
            arguments = whole["function"]["arguments"]
            head = {**whole, "index": index, "function": {"name": "weather", "arguments": ""}}
            yield Delta(tool_calls=[head])
            for part in (arguments[:7], arguments[7:]):
                yield Delta(tool_calls=[{"index": index, "function": {"arguments": part}}])
        yield Delta(finish_reason="tool_calls")

    async def aclose(self) -> None:
        """Nothing to close."""


def test_calls_of_tools_are_recorded_and_given_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.jsonl"
    tools = [{"type": "function", "function": {"name": "weather"}}]

    async def talk(engine: Engine) -> list[Any]:
        heard: list[Any] = []
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Where does it rain?"}]
        for _ in range(2):
            call = Call(messages=list(messages), tools=tools)
            deltas = [delta async for delta in engine.stream(call)]
            calls = whole_calls(deltas)
            heard.append(("".join(deltas), calls, deltas[-1].finish_reason))
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            messages.append({"role": "tool", "tool_call_id": "call_0", "content": "rain"})
        await engine.aclose()
        return heard

    heard = run(talk(Recorder(Fragments(), path).open("chat")))
    calls = [weather("Oslo", 0), weather("Rome", 1)]
    assert heard == [("Let me see.", calls, "tool_calls"), ("It rains.", [], "stop")]
    assert run(talk(Recorded(path=path).open("chat"))) == heard


def test_a_call_of_a_tool_takes_the_time_of_its_tokens_and_may_be_cut_off() -> None:
    entry = {"prompt": "Rain?", "text": "", "tool_calls": [weather("Oslo " * 100, 0)]}
    whole = run(read(Recorded(entries=[entry]), ask("", "Rain?")))
    assert whole[-1].usage is not None
    assert whole[-1].usage.completion_tokens > 100
    cut = ask("", "Rain?")
    cut.max_tokens = 20
    (*_, last) = run(read(Recorded(entries=[entry]), cut))
    assert (list(last.tool_calls), last.finish_reason) == ([], "length")
    assert last.usage is not None
    assert last.usage.completion_tokens == 20


@pytest.mark.parametrize("wrong", ["weather", [{"name": "weather"}], [{"function": {"name": "w"}}]])
def test_what_is_no_call_of_a_tool_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r'has "tool_calls" .*expected a list of calls'):
        Recorded(entries=[{"prompt": "x", "text": "", "tool_calls": wrong}]).open("chat")
    answer = Answer("", tool_calls=wrong)
    with pytest.raises(EngineError, match="expected each with a function that has a name"):
        run(read(Simulated(respond=lambda call: answer), ask()))


@pytest.mark.parametrize(
    "fragments",
    [
        [[weather("Oslo", 0)], [weather("Rome", 1)]],  # whole, and without an index
        [[weather("Oslo", 0), weather("Rome", 1)]],
    ],
)
def test_whole_calls_without_an_index_are_told_apart(fragments: list[Any]) -> None:
    deltas = [Delta(tool_calls=each) for each in fragments]
    assert whole_calls(deltas) == [weather("Oslo", 0), weather("Rome", 1)]
