"""The tool that makes the demo's data: what it keeps of the source, and that bytes do not drift."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "make_demo_data.py"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo_data", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def annotated(**changes: Any) -> dict[str, Any]:
    entry = {
        "text": "A grows most.",
        "label": False,
        "sentence": 0,
        "evidence": ["p1", "p2", "p1"],
        "stance": ["refute", "irrelevant", "irrelevant"],
        "revised": " B grows most. ",
    }
    return entry | changes


@pytest.mark.parametrize(
    ("entry", "label", "correction"),
    [
        (annotated(), "REFUTED", "B grows most."),
        (annotated(revised="A  grows most."), "REFUTED", ""),
        (annotated(revised=None), "REFUTED", ""),
        (annotated(label=True), "SUPPORTED", ""),
        (annotated(label=None), "UNKNOWN", ""),
    ],
)
def test_a_claim_keeps_its_verdict_and_a_correction_that_says_something(
    entry: dict[str, Any], label: str, correction: str
) -> None:
    assert tool().claim(entry) == {
        "text": "A grows most.",
        "label": label,
        "correction": correction,
        "stances": {"p1": "refute", "p2": "irrelevant"},
    }


def test_claims_stand_under_their_sentence() -> None:
    record = {
        "id": "q1",
        "prompt": " Who? ",
        "response": "A. \nB.",
        "response_model": "ChatGPT",
        "sentences": [{"text": "A. "}, {"text": "B."}],
        "claims": [annotated(sentence=1), annotated(sentence=0), annotated(sentence=1)],
    }
    made = tool().question(record)
    assert [len(sentence["claims"]) for sentence in made["sentences"]] == [1, 2]
    assert (made["question"], made["answer"], made["model"]) == ("Who?", "A. \nB.", "ChatGPT")


def test_recall_is_measured_on_claims_that_have_something_to_find() -> None:
    found = annotated()
    nothing = annotated(stance=["irrelevant"] * 3)
    assert tool().claims([{"claims": [found, nothing]}]) == [
        {"text": "A grows most.", "relevant": ["p1"]}
    ]


def test_the_same_entries_give_the_same_bytes(tmp_path: Path) -> None:
    made = tool()
    paths = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"
    for path in paths:
        made.write(path, [{"text": "Valparaíso"}])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert made.rows(paths[0]) == [{"text": "Valparaíso"}]


def test_without_a_source_it_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool().main([]) == 2
    assert "SOURCE is a folder" in capsys.readouterr().err
