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


def test_every_limit_of_a_request_is_on_the_page() -> None:
    assert {field.name for field in fields(alto.Limits)} <= LIMITS.keys()


def test_the_pictures_are_those_that_the_code_draws() -> None:
    drawn = tool("make_pictures").pictures()
    drawn["timeline.svg"] = tool("make_timeline").picture()
    stale = [name for name, text in drawn.items() if text != (IMAGES / name).read_text("utf-8")]
    assert stale == [], "python tools/make_pictures.py; python tools/make_timeline.py"


def test_the_times_on_the_page_of_the_demo_are_those_in_the_picture() -> None:
    picture = (IMAGES / "timeline.svg").read_text("utf-8")
    page = " ".join((ROOT / "docs" / "howto" / "demo.md").read_text("utf-8").split())
    streaming, _, barrier = picture.partition("A barrier after each stage")
    shown = [*re.findall(r"verdicts? (\d\.\d\d)", streaming)]
    between = re.search(r"verdicts (\d\.\d\d) to (\d\.\d\d) s", barrier)
    assert between is not None
    assert f"first verdict after {shown[0]} s instead of {between[1]} s" in page
    assert f"last verdict after {shown[1]} s instead of {between[2]} s" in page
