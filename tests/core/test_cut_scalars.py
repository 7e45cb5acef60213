"""Streams of labels and numbers, in an array or one a line."""

from __future__ import annotations

import pytest
from cuts import Result, cut, error_of, everywhere, given_after

from alto.core import scalar_cut as module
from alto.core.choice import Labels, read_bare_int, read_int
from alto.core.scalar_cut import ScalarItems

LABELS = Labels([(label, label) for label in ("YES", "NO")])


def verdicts() -> ScalarItems[str]:
    return ScalarItems(LABELS, LABELS, expected="YES or NO")


def numbers() -> ScalarItems[int]:
    return ScalarItems(read_int, read_bare_int, expected="a whole number")


@pytest.mark.parametrize(
    "text",
    [
        "YES\nNO",
        "yes\n\nno\n",
        "1. YES\n2. **NO**\n",
        "- YES\n- No, it does not\n",
        "(1) YES\n(2) NO",
        "Here are the verdicts:\nYES\nNO\n\nHope this helps!",
        "Is it YES or NO?\nYES\nNO",
        "```\nYES\nNO\n```",
        '["YES", "NO"]',
        'Verdicts: ["yes",\n "no",\n]\nYES',
        '{"items": ["YES", "NO"]}',
        '```json\n["YES", "NO"]\n```',
    ],
)
def test_every_form_holds_the_same_items(text: str) -> None:
    items, _, error = everywhere(verdicts, text)
    assert (items, error) == (["YES", "NO"], None)


@pytest.mark.parametrize(
    "text",
    ["1\n2", "Here are 2 numbers:\n- 1\n- 2\nThese were 2.", "[1, 2]", '{"n": [1,2]}', '"1"\n"2",'],
)
def test_numbers(text: str) -> None:
    items, _, error = everywhere(numbers, text)
    assert (items, error) == ([1, 2], None)


def test_an_item_comes_with_what_shows_its_end() -> None:
    assert given_after(verdicts, "YES\nNO") == [(4, "YES"), (7, "NO")]
    assert given_after(numbers, "[12,3]") == [(4, 12), (6, 3)]


def test_a_line_between_two_items_that_holds_none_is_an_error() -> None:
    items, settled, error = everywhere(verdicts, "YES\nmaybe\nNO\nYES")
    assert (items, settled) == (["YES"], 4)
    assert error is not None
    assert "'maybe'" in error


def test_an_element_that_is_none_is_an_error() -> None:
    items, settled, error = everywhere(verdicts, '["YES", "maybe", "NO"]')
    assert (items, settled) == (["YES"], 6)
    assert error is not None
    assert '"maybe"' in error


@pytest.mark.parametrize("text", ["", "I cannot tell.", "maybe\nperhaps"])
def test_text_without_any_is_an_error(text: str) -> None:
    assert "Expected YES or NO" in error_of(verdicts, text)


def test_an_empty_array_is_none() -> None:
    assert everywhere(verdicts, "[]") == ([], 0, None)


def test_cut_off_by_length() -> None:
    def result(text: str) -> Result:
        return everywhere(verdicts, text, truncated=True)

    assert result("YES\nN")[0] == ["YES"]
    assert result("YES\nNO\n")[2] is not None, "there could have been more lines"
    assert result('["YES","N')[0] == ["YES"]
    assert result('["YES","N')[2] is not None
    assert result('["YES"] and')[2] is None


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_CHARS_MAX", 10)
    items, _, error = cut(verdicts, "YES\n" + "x" * 11)
    assert items == ["YES"]
    assert error is not None
    assert "10 characters" in error
