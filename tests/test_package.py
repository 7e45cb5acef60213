"""The package as a whole: what importing it loads, what it exports, how its source is kept."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alto

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "alto").rglob("*.py"))

HEAVY = {
    "aiohttp", "bm25s", "click", "httpx", "numpy", "openai", "prometheus_client", "ray", "rich",
    "starlette", "uvicorn",
}  # fmt: skip


def test_importing_alto_loads_no_network_server_or_cluster_library() -> None:
    program = f"import alto, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "[]\n"


def test_public_names_are_these() -> None:
    assert sorted(alto.__all__) == [
        "AltoError", "AsCompleted", "Call", "Config", "ConfigError", "Current", "DeadlineExceeded",
        "Default", "Delta", "EngineError", "EngineHandle", "Event", "Flow", "GraphError", "LM",
        "Limits", "Line", "OpenAI", "OrchestratorLost", "Overloaded", "Paragraph", "ParseError",
        "Pipeline", "Ranked", "Recorded", "Request", "Runtime", "Sentence", "Simulated", "Stage",
        "StageConfig", "StageError", "Stream", "Usage", "current", "either", "engine", "lm",
        "merge", "pipeline", "run", "stage",
    ]  # fmt: skip
    for name in alto.__all__:
        assert getattr(alto, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = alto.nothing


def test_every_error_is_an_alto_error() -> None:
    for name in alto.__all__:
        value = getattr(alto, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, alto.AltoError)
    assert issubclass(alto.DeadlineExceeded, TimeoutError)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_source_file_says_what_it_is_for_and_stays_one_idea(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file begins with what it is for"
    assert text.count("\n") <= 600, "past 600 lines a second idea has moved in"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 70, f"{node.name} has {length} lines: longer than a screen"
        if isinstance(node, ast.ImportFrom):
            assert not (node.level == 0 and (node.module or "").split(".")[0] == "alto"), (
                "inside the package imports are relative"
            )
