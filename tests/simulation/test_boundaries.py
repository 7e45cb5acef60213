"""Where a simulated engine may be silent."""

from __future__ import annotations

from typing import Any

import pytest

from alto import Line, Sentence
from alto.runtime.boundaries import Boundaries
from alto.structs import reader_for

TEXTS = [
    "",
    "One. Two is longer, e.g. this one by Dr. No. Three!\n\n- four\n- five",
    "x" * 100 + ". Y" + "y" * 200 + "? Z.",
    "a\nb\n\n" + "c" * 60 + "\nd",
    "他来了。我走了！" * 12,
]


@pytest.mark.parametrize("element", [Sentence, Line])
@pytest.mark.parametrize("text", TEXTS)
def test_boundaries_are_the_letters_that_complete_an_item(element: Any, text: str) -> None:
    reader = reader_for(element, stream=True)
    cutter = reader.new()
    letter_by_letter = tuple(at for at, letter in enumerate(text, 1) if cutter.feed(letter))
    assert Boundaries(reader, fans_out=True)(text) == letter_by_letter


def test_a_single_output_needs_nothing_but_its_end() -> None:
    assert Boundaries(reader_for(str), fans_out=False)("One. Two.") == ()
