"""The reference has every public name, each once, and says what the code says now."""

from __future__ import annotations

from collections import Counter

from pages import ROOT
from test_facts import tool

import alto
import alto.simulation
import alto.testing

REFERENCE = tool("reference")


def names(module: str) -> list[str]:
    return [name for of in REFERENCE.GROUPS.values() for name in of.get(module, [])]


def test_every_public_name_is_there_once() -> None:
    assert Counter(names("alto")) == Counter(alto.__all__)
    assert Counter(names("alto.simulation")) == Counter(alto.simulation.__all__)
    assert Counter(names("alto.testing")) == Counter(alto.testing.__all__)


def test_every_name_is_explained() -> None:
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    for section in page.split("\n### ")[1:]:
        heading, _, rest = section.partition("\n")
        said = [line for line in rest.split("```\n")[-1].splitlines() if line.strip()]
        assert said, f"{heading} has no docstring"


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert page == REFERENCE.reference(), "run python tools/reference.py"
