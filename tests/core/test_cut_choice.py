"""One label or number out of what a model says around it."""

from __future__ import annotations

from typing import Any

import pytest
from cuts import everywhere

from alto.core import choice as module
from alto.core.choice import (
    Choice,
    Labels,
    Read,
    read_bare_float,
    read_bare_int,
    read_bool,
    read_float,
    read_int,
)
from alto.errors import ParseError

VERDICT = Labels([(label, label) for label in ("SUPPORTED", "REFUTED", "NOT SUPPORTED", "UNKNOWN")])
GRADE = Labels([(label, label) for label in ("A", "A-", "A+", "B")])
CHINESE = Labels([("支持", 1), ("反对", 2), ("不支持", 3)])


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (VERDICT, "SUPPORTED", "SUPPORTED"),
        (VERDICT, " supported\n", "SUPPORTED"),
        (VERDICT, '"Supported."', "SUPPORTED"),
        (VERDICT, "**SUPPORTED**", "SUPPORTED"),
        (VERDICT, "“refuted”!", "REFUTED"),
        (VERDICT, "not_supported", "NOT SUPPORTED"),
        (VERDICT, "Not-Supported", "NOT SUPPORTED"),
        (VERDICT, "The verdict is: REFUTED, because it rains.", "REFUTED"),
        (VERDICT, "It is not supported.", "NOT SUPPORTED"),
        (VERDICT, '```json\n{"value": "UNKNOWN"}\n```', "UNKNOWN"),
        (VERDICT, "REFUTED. I say it again: refuted", "REFUTED"),
        (GRADE, "A+", "A+"),
        (GRADE, "a-", "A-"),
        (GRADE, "Grade: A-.", "A-"),
        (GRADE, "(B)", "B"),
        (CHINESE, "支持", 1),
        (CHINESE, "我不支持这个说法。", 3),
        (CHINESE, "结论：反对。", 2),
        (read_bool, "Yes.", True),
        (read_bool, "No, it is false", False),
        (read_bool, '{"value": true}', True),
        (read_int, "5", 5),
        (read_int, " -5\n", -5),
        (read_int, "−5", -5),
        (read_int, "The score is 1,000.", 1000),
        (read_int, "3.0", 3),
        (read_int, "GPT4 says 7", 7),
        (read_int, "**85%**", 85),
        (read_int, "99999999999999999999", 99999999999999999999),
        (read_float, "x = .5", 0.5),
        (read_float, "0.75.", 0.75),
        (read_float, "1e-3", 0.001),
        (read_float, "7", 7.0),
        (read_bare_int, '"42",', 42),
        (read_bare_int, "**7**.", 7),
        (read_bare_float, " -0.5 ", -0.5),
    ],
)
def test_a_choice_is_read(read: Read[Any], text: str, value: Any) -> None:
    items, settled, error = everywhere(lambda: Choice(read), text)
    assert error is None
    assert items == [value]
    assert type(items[0]) is type(value)
    assert settled == len(text)


@pytest.mark.parametrize(
    ("read", "text", "got"),
    [
        (VERDICT, "", "none"),
        (VERDICT, "I cannot say.", "none"),
        (VERDICT, "unsupported", "none"),
        (VERDICT, "supported or refuted", "several"),
        (GRADE, "A good answer is B", "several"),
        (read_bool, "nothing", "none"),
        (read_bool, "yes and no", "several"),
        (read_int, "no number", "none"),
        (read_int, "3.5", "a fraction"),
        (read_int, "7/10", "several"),
        (read_int, "1-5", "several"),
        (read_int, "v1.2.3", "none"),
        (read_int, "9" * 5000, "a fraction"),
        (read_float, "between 1 and 2", "several"),
        (read_float, "12.5x", "none"),
        (read_bare_int, "Here are 3", "other text"),
        (read_bare_float, "about 0.5", "other text"),
    ],
)
def test_nothing_is_guessed(read: Read[Any], text: str, got: str) -> None:
    items, settled, error = everywhere(lambda: Choice(read), text)
    assert (items, settled) == ([], 0)
    assert error is not None
    assert f"got {got} in " in error
    assert error.startswith("Expected ")


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (VERDICT, "SUPPORTED", "SUPPORTED"),
        (VERDICT, "REFUTED, since the", "REFUTED"),
        (read_bool, "Yes", True),
        (read_int, "It is 5, becau", 5),
        (VERDICT, "NOT", None),
        (VERDICT, "", None),
        (GRADE, "A", None),
        (read_int, "It is 5", None),
        (read_float, "0.7 or", 0.7),
    ],
)
def test_cut_off_by_length_it_counts_if_it_could_not_become_another(
    read: Read[Any], text: str, value: Any
) -> None:
    items, _, error = everywhere(lambda: Choice(read), text, truncated=True)
    assert items == ([] if value is None else [value])
    assert (error is None) == (value is not None)


def test_an_exact_label_wins_over_its_other_cases() -> None:
    read = Labels([("a", 1), ("A", 2)])
    assert (read("a"), read("A")) == (1, 2)
    assert read(" a. ") == 1, "the first of equals"


def test_a_choice_of_a_million_characters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_CHARS_MAX", 10)
    cutter = Choice(read_bool)
    cutter.feed("y" * 11)
    assert isinstance(cutter.error, ParseError)
    assert cutter.feed("yes") == []
    assert cutter.finish() == []
