"""JSON objects that are read at once: where they end, and their first name."""

from __future__ import annotations

import json

import pytest

from alto.core.json_flat import FIRST_NAME_CHARS_MAX, first_name_of, flat_end_of

LONGEST = "n" * FIRST_NAME_CHARS_MAX


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a": 1}', "a"),
        ('{"": 1}', ""),
        ('{ \n"a" : 1}', "a"),
        ('{"a": "b", "c": 1}', "a"),
        ('{"a b{": 1}', "a b{"),
        (f'{{"{LONGEST}": 1}}', LONGEST),
        (f'{{"{LONGEST}n": 1}}', None),
        ('{"a\nb": 1}', None),
        (r'{"a\\": 1}', None),
        (r'{"a\"": 1}', None),
        ('{"a" 1}', None),
        ('{"a", "b": 1}', None),
        ("{}", None),
        ("{a: 1}", None),
    ],
)
def test_the_first_name_is_a_short_plain_string_with_a_colon_behind(
    text: str, name: str | None
) -> None:
    assert flat_end_of("x" + text + "x", 1) == len(text) + 1
    assert first_name_of("x" + text + "x", 1) == name


@pytest.mark.parametrize("value", ["}", "{", "]", '"', '"}', "\\", "\\}", "a\n}"])
def test_brackets_in_strings_end_nothing(value: str) -> None:
    written = json.dumps({"a": value, "b": 1})
    assert flat_end_of(written + "}", 0) == len(written)
    assert [flat_end_of(written[:at], 0) for at in range(1, len(written))] == [0] * (
        len(written) - 1
    )


@pytest.mark.parametrize("text", ['{"a": {}}', '{"a": [1]}', '{"a": 1', '{"a": "}', "{]}"])
def test_what_holds_others_or_is_not_all_there_has_no_end(text: str) -> None:
    assert flat_end_of(text, 0) == 0
