"""Numbers and pictures that the pages show are those of the code."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import fields
from types import ModuleType

import pytest
from pages import ROOT, read

import alto
from alto.core.replicas import Limits as PoolLimits
from alto.demo.factcheck import factcheck
from alto.drawing import as_mermaid

CONCEPTS = read(ROOT / "docs" / "concepts.md")
IMAGES = ROOT / "docs" / "images"
_ROW = re.compile(r"^\| `([\w.]+)` \| ([^|]+) \|", re.MULTILINE)
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


def tool(name: str) -> ModuleType:
    """A script of tools/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def number(text: str) -> float:
    amount, _, unit = text.strip().partition(" ")
    return float(amount) * _UNITS.get(unit, 1)


LIMITS = {name: number(value) for name, value in _ROW.findall(CONCEPTS.text) if value[0].isdigit()}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_what_the_page_says(name: str) -> None:
    module, _, constant = name.rpartition(".")
    found: object
    if module:
        found = getattr(importlib.import_module(f"alto.{module}"), constant)
    elif hasattr(alto.Limits(), name):
        found = getattr(alto.Limits(), name)
    else:
        found = getattr(PoolLimits(), name)
    assert found == LIMITS[name]


@pytest.mark.parametrize("limits", [alto.Limits, PoolLimits])
def test_every_limit_is_on_the_page(limits: type) -> None:
    assert {field.name for field in fields(limits)} <= LIMITS.keys()


def test_the_picture_of_the_rule_is_what_the_code_draws() -> None:
    for name, text in tool("make_pictures").pictures().items():
        assert text == (IMAGES / name).read_text("utf-8"), "run python tools/make_pictures.py"


def test_the_timeline_says_what_a_run_says() -> None:
    """Every word and number that is to be read. A bar may move by less than can be seen."""
    drawn, shown = tool("make_timeline").picture(), (IMAGES / "timeline.svg").read_text("utf-8")
    assert _labels(drawn) == _labels(shown), "run python tools/make_timeline.py"
    assert drawn.count("<rect") == shown.count("<rect")


def _labels(picture: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def test_the_graph_on_the_page_is_that_of_the_demo() -> None:
    (drawn,) = [block.text for block in CONCEPTS.blocks if block.language == "mermaid"]
    assert drawn == as_mermaid(factcheck.graph)


def test_the_times_on_the_page_of_the_demo_are_those_in_the_picture() -> None:
    picture = (IMAGES / "timeline.svg").read_text("utf-8")
    page = " ".join((ROOT / "docs" / "howto" / "demo.md").read_text("utf-8").split())
    streaming, _, barrier = picture.partition("A barrier after each stage")
    shown = [*re.findall(r"verdicts? (\d\.\d\d)", streaming)]
    between = re.search(r"verdicts (\d\.\d\d) to (\d\.\d\d) s", barrier)
    assert between is not None
    assert f"first verdict after {shown[0]} s instead of {between[1]} s" in page
    assert f"last verdict after {shown[1]} s instead of {between[2]} s" in page
