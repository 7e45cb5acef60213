"""Recorded answers: how they are found, what a miss says, and that they take time."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alto.core.calls import Call, Delta
from alto.engines.protocol import VectorEngine
from alto.engines.recorded import Recorded, Recorder
from alto.engines.simulated import Answer, Simulated
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


async def read(spec: Recorded, call: Call) -> list[Delta]:
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
