"""`alto` in a benchmark is what an installation on this machine gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import measure


def built(monkeypatch: pytest.MonkeyPatch, lacking: str | None) -> None:
    monkeypatch.setattr(measure.native, "missing", lambda: lacking)
    monkeypatch.setattr(measure.native, "built", lambda: Path("compiled"))


def test_with_a_compiler_it_is_the_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    built(monkeypatch, None)
    assert measure.package_for(["requests", "alto", "200"]) == "compiled"
    assert measure.package_for(["requests", "alto-interpreted", "200"]) == str(measure.ROOT / "src")
    assert measure.package_for(["requests", "handwritten", "200"]) is None
    assert measure.form() == "compiled"


def test_without_one_it_is_plain_python_and_the_report_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built(monkeypatch, "a C compiler: no cc on PATH")
    assert measure.package_for(["requests", "alto", "200"]) == str(measure.ROOT / "src")
    assert measure.form() == "interpreted: this machine lacks a C compiler: no cc on PATH"
