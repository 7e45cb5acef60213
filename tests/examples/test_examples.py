"""The examples that a reader copies: their graphs, and a run of each on virtual time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import alto
from alto.cli.subject import load
from alto.simulation import Trace, simulate

EXAMPLES = Path(__file__).parents[2] / "examples"


def answer(call: alto.Call) -> str:
    """Short texts of the form that each stage asks for."""
    texts = {
        "answer": "Tea is a drink. It comes from China.",
        "extract": '[{"text": "a claim"}]',
        "ask": '[{"text": "tea"}, {"text": "china"}]',
        "search_query": "tea",
        "summarize": "one fact\nanother fact",
        "generate": "Tea is a drink.",
        "split": '[{"text": "tea is a drink"}, {"text": "tea is blue"}]',
        "draft": "A draft.",
        "refine": "A reply.",
    }
    if call.stage == "verify" and "SUPPORTS" in call.messages[0]["content"]:
        return "REFUTES" if "blue" in call.messages[0]["content"] else "SUPPORTS"
    if call.stage == "verify":
        return '{"reasoning": "so it says", "factual": true}'
    return texts[call.stage]


def outputs(name: str, given: str) -> Any:
    target = load(f"{EXAMPLES / name}.py:{name}")
    config = alto.Config(engines={"chat": alto.Simulated(respond=answer)})
    report = simulate(target, [given], arrivals=Trace([0.0]), duration=1.0, config=config)
    assert report.errors == []
    return report.requests[0].outputs


def test_factcheck_has_a_verdict_for_each_claim() -> None:
    found = outputs("factcheck", "What is tea?")
    assert found["sentences"] == ["Tea is a drink.", "It comes from China."]
    assert len(found["claims"]) == len(found["verdicts"]) == 2
    assert (found["report"].claims, found["report"].false) == (2, [])


def test_wikichat_joins_its_branches_in_order_and_drops_what_is_not_supported() -> None:
    found = outputs("wikichat", "What is tea?")
    assert found["facts"] == ["one fact", "another fact", "tea is a drink"]
    assert "".join(found["reply"]) == "A reply."


@pytest.mark.parametrize("name", ["factcheck", "wikichat"])
def test_an_example_explains_itself(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--engine" in shown.stdout
