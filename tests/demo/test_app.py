"""The whole demo on virtual time: production pipeline, runtime and engine, no real waiting."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from rich.console import Console

from alto.core.calls import Call
from alto.demo import app
from alto.demo.app import BARRIER, STREAMING, Plan, demo, list_questions, plan, run_quietly
from alto.demo.data import questions, recorded_text
from alto.demo.factcheck import STAGES
from alto.demo.timeline import Run
from alto.engines.openai import OpenAI
from alto.engines.recorded import Recorded
from alto.errors import AltoError, ConfigError, EngineError
from alto.testing.loop import run

EVERY_QUESTION = pytest.mark.parametrize("question", questions(), ids=lambda q: q.id)


def shown(*, terminal: bool = False, **arguments: Any) -> str:
    """What the demo prints."""
    console = Console(
        file=io.StringIO(),
        width=100,
        height=30,
        force_terminal=terminal,
        _environ={"TERM": "xterm"},
    )
    assert run(demo(console=console, **arguments)) == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@EVERY_QUESTION
def test_every_claim_of_the_record_gets_its_recorded_verdict(question: Any) -> None:
    lines = [json.loads(line) for line in shown(question=question.text, as_json=True).splitlines()]
    for title in (STREAMING, BARRIER):
        events = [line for line in lines if line.get("run") == title]
        claims = {
            tuple(line["path"]): line["value"]["text"]
            for line in events
            if line["output"] == "claims"
        }
        verdicts = {
            tuple(line["path"]): line["value"]["label"]
            for line in events
            if line["output"] == "verdicts"
        }
        assert [(claims[path], verdicts[path]) for path in sorted(claims)] == [
            (claim.text, claim.label) for claim in question.claims
        ]
    moments = lines[-1]
    assert moments[STREAMING]["verdicts"] == moments[BARRIER]["verdicts"]
    assert moments[STREAMING]["first_verdict"] <= moments[BARRIER]["first_verdict"]


def spans(title: str) -> Run:
    return run(run_quietly(plan(), title))


def ends(found: Run, stage: str) -> list[float]:
    return found.ends_of(stage)


def test_streaming_judges_a_claim_before_the_answer_is_written() -> None:
    found = spans(STREAMING)
    assert {span.stage for span in found.spans} == set(STAGES)
    assert ends(found, "verify")[0] < ends(found, "answer")[0]


def test_behind_a_barrier_no_stage_begins_before_the_one_before_has_ended() -> None:
    found = spans(BARRIER)
    assert len(found.spans) == len(spans(STREAMING).spans)
    for before, after in (("answer", "extract"), ("extract", "search"), ("search", "verify")):
        starts = [span.start for span in found.spans if span.stage == after]
        assert min(starts) >= ends(found, before)[-1]


def test_without_a_terminal_it_prints_lines_and_then_the_comparison() -> None:
    text = shown()
    assert "\x1b" not in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == questions()[0].text
    assert lines[1].startswith("recorded answers of ChatGPT, at the speed of ")
    assert sum("  verdict " in line for line in lines) == 9
    assert "9 claims: 5 SUPPORTED, 4 REFUTED" in lines
    assert any(line.startswith("first verdict") and line.endswith("times sooner") for line in lines)
    assert "were recorded" in text
    assert "--engine URL --model NAME" in text


def test_on_a_terminal_the_tree_stays_and_the_cursor_comes_back() -> None:
    text = shown(terminal=True)
    assert text.endswith("alto demo --engine URL --model NAME QUESTION\n")
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    assert "California grows" not in text


def test_without_a_barrier_nothing_is_compared() -> None:
    text = shown(barrier=False)
    assert BARRIER not in text
    assert "times sooner" not in text


def test_json_is_an_object_a_line_and_ends_with_the_moments() -> None:
    first, *_, last = map(json.loads, shown(question="1", as_json=True).splitlines())
    assert first["run"] == STREAMING
    assert (first["output"], first["path"]) == ("sentences", [0])
    assert last["question"] == questions()[0].text
    assert last[BARRIER]["verdicts"] == {"REFUTED": 4, "SUPPORTED": 5}


def test_a_question_that_nobody_recorded_ends_before_anything_is_shown() -> None:
    with pytest.raises(EngineError, match="alto demo --list"):
        shown(question="Who discovered penicillin?")


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(AltoError, match="abacus"):
        shown(profile="abacus")


def test_a_live_engine_may_be_asked_anything() -> None:
    chosen = plan("Who discovered penicillin?", "http://localhost:8000/v1", "tiny")
    assert isinstance(chosen.engine, OpenAI)
    assert chosen.question == "Who discovered penicillin?"
    assert chosen.notice == "tiny at http://localhost:8000/v1"
    assert plan("2", "http://localhost:8000/v1", "tiny").question == questions()[1].text
    assert plan(None, "http://localhost:8000/v1", "tiny").question == questions()[0].text


def test_a_live_engine_is_woken_before_the_clock_starts() -> None:
    asked: list[str] = []

    def respond(call: Call) -> str:
        asked.append(call.stage)
        return recorded_text(call.stage, call.arguments) if call.stage else "Yes."

    chosen = Plan(questions()[0].text, Recorded(fallback=respond), "a live one", live=True)
    found = run(run_quietly(chosen, STREAMING))
    assert asked[:2] == ["", "answer"]
    assert found.spans[-1].stage == "tally"
    assert {span.stage for span in found.spans} == set(STAGES)
    assert min(span.start for span in found.spans) == 0.0


def test_a_live_engine_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="--model NAME"):
        plan("Who?", "http://localhost:8000/v1")


def test_an_interrupted_demo_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "demo", interrupted)
    assert app.main() == 130


def test_a_cancelled_demo_gives_the_cursor_back() -> None:
    console = Console(
        file=io.StringIO(), width=100, height=30, force_terminal=True, _environ={"TERM": "xterm"}
    )

    async def main() -> None:
        task = asyncio.create_task(demo(console=console))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_the_recorded_questions_are_listed() -> None:
    console = Console(file=io.StringIO(), width=120)
    list_questions(console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == len(questions())
    assert lines[0].split() == ["1", *questions()[0].text.split(), "9", "claims"]
