"""JSON items out of whatever a model writes around them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cuts import Result, cut, error_of, everywhere, given_after
from hypothesis import given, settings
from hypothesis import strategies as st

from alto.core import json_cut as module
from alto.core.json_cut import ARRAY, SCALAR, JsonItems, JsonWhole

FIELDS = frozenset({"text", "tags"})


def claims() -> JsonItems:
    return JsonItems(fields=FIELDS)


def items_of(text: str) -> list[Any]:
    items, _, error = everywhere(claims, text)
    assert error is None
    return [json.loads(item) for item in items]


A, B = {"text": "a"}, {"text": "b"}

FORMS = [
    '[{"text":"a"},{"text":"b"}]',
    '{"items": [{"text":"a"}, {"text":"b"}]}',
    '{"claims": [{"text":"a"}, {"text":"b"}], "count": 2}',
    '{"why": "two, [I] {think}", "scores": [1, 2], "n": 2, "all": [{"text":"a"},{"text":"b"}]}',
    '{"meta": {"a": [{"text": "no"}]}, "none": [], "claims": [{"text":"a"},{"text":"b"}]}',
    '{"text":"a"}\n{"text":"b"}\n',
    '{"text":"a"}, {"text":"b"}',
    '```json\n[\n  {"text": "a"},\n  {"text": "b"}\n]\n```',
    'Set {a, b}, see [1], [x]:\n```\n{"text":"a"}\n{"text":"b"}\n```\nHope {this} helps [2].',
    '[{"text":"a"},{"text":"b"},]',
    '[{"text":"a"} {"text":"b"}]',
    '[[{"text":"a"}],[{"text":"b"}]]',
    '[{"text":"a"}]\n\n[{"text":"b"}]',
    'The word {"text"} and {"a b"}, { "x", {} and [] then [{"text":"a"},{"text":"b"}]',
    '- [ ] to do\n- [x] done\n[{"text":"a"},{"text":"b"}]',
    'He said {" and\nthen [{"text":"a"},{"text":"b"}]',
]


@pytest.mark.parametrize("text", FORMS)
def test_every_form_holds_the_same_items(text: str) -> None:
    assert items_of(text) == [A, B]


@pytest.mark.parametrize(
    "item",
    [
        {"text": 'a "quoted" \\ brace } ] { ['},
        {"text": "line\nbreak\ttab \u00e9 \U0001f600 ”"},
        {"text": "\\", "tags": [{"text": "x"}, [], {}, [[{"a": []}]]]},
        {"tags": [{"text": "x"}], "text": "first field is an array of objects"},
        {"text": ""},
    ],
)
def test_brackets_in_strings_and_nesting_do_not_end_an_item(item: dict[str, Any]) -> None:
    written = json.dumps(item, ensure_ascii=False)
    for before, after in (("", ""), ("[", "]"), ('{"items": [', "]}"), ("Prose: ", ".")):
        assert items_of(before + written + after) == [item]


@pytest.mark.parametrize(
    "text", ["[]", " [ ] ", '{"items": []}', "{}", "```json\n[]\n```", "None: []"]
)
def test_an_empty_array_has_no_items_and_is_no_error(text: str) -> None:
    assert everywhere(claims, text) == ([], 0, None)


def test_an_item_comes_with_its_last_bracket() -> None:
    text = '[{"text":"a"} , {"text":"b"} ]'
    assert given_after(claims, text) == [(13, '{"text":"a"}'), (28, '{"text":"b"}')]
    text = '{"items":[{"text":"a"}]}'
    assert given_after(claims, text) == [(22, '{"text":"a"}')]
    assert given_after(claims, '{"text":"a"}') == [(12, '{"text":"a"}')]


def test_settled_is_the_end_of_the_last_item() -> None:
    text = 'x [{"text":"a"}, {"text":"b"'
    _, settled, error = everywhere(claims, text)
    assert text[:settled] == 'x [{"text":"a"}'
    assert error is not None
    rest = ', {"text":"b"}]'
    assert len(cut(claims, [text[:settled], rest])[0]) == 2, "the text can go on from there"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the text has none"),
        ("There are no claims.", "the text has none"),
        ("- [ ] find some\n- [x] look", "the text has none"),
        ("There are none in text[] or in map{}.", "the text has none"),
        ('[{"text":"a"}', "to close"),
        ('[{"text":', "to close"),
        ('{"items": [', "to close"),
        ('{"text": [1}', "'}'"),
        ('[{"text":"a"}}', "'}'"),
    ],
)
def test_text_without_json_and_open_json_are_errors(text: str, expected: str) -> None:
    message = error_of(claims, text)
    assert expected in message
    assert "Expected" in message


def test_items_before_an_error_stand() -> None:
    items, _, error = everywhere(claims, '[{"text":"a"},{"text":"b"}}')
    assert len(items) == 2
    assert error is not None


def test_json_in_prose_that_never_closes_is_prose_if_it_never_was_json() -> None:
    assert items_of('{"text":"a"} and [ then') == [A]
    assert items_of('{"text":"a"} and {"quoted') == [A]
    assert items_of('{"text":"a"} and {"quoted" ') == [A]


class TestCutOffByLength:
    def test_complete_items_stand(self) -> None:
        items, _, error = everywhere(claims, '[{"text":"a"},{"te', truncated=True)
        assert len(items) == 1
        assert error is not None
        assert "cut off" in error

    def test_lines_could_have_gone_on(self) -> None:
        assert everywhere(claims, '{"text":"a"}\n', truncated=True)[2] is not None

    def test_a_closed_array_could_not(self) -> None:
        assert everywhere(claims, '[{"text":"a"}] The rem', truncated=True)[2] is None
        assert everywhere(claims, '{"items":[{"text":"a"}]}', truncated=True)[2] is None


class TestWithoutKnownFields:
    def test_the_first_value_tells_a_wrapper_from_an_item(self) -> None:
        items, _, _ = everywhere(JsonItems, '{"all":[{"b":1}]} {"a":["x"],"c":3} {"a":1,"b":[{}]}')
        assert items == ['{"b":1}', '{"a":["x"],"c":3}', '{"a":1,"b":[{}]}']

    def test_an_empty_array_in_first_place_is_a_field(self) -> None:
        assert everywhere(JsonItems, '{"a":[],"b":2}')[0] == ['{"a":[],"b":2}']

    def test_the_name_of_the_schema_is_a_wrapper_anywhere(self) -> None:
        assert everywhere(JsonItems, '{"why":"x","items":[{"z":1}]}')[0] == ['{"z":1}']


class TestOtherItems:
    def test_scalars(self) -> None:
        def new() -> JsonItems:
            return JsonItems(starts=SCALAR)

        text = 'x: [1, -2.5e3,true, "a,]\\"" ,null,]'
        assert everywhere(new, text)[0] == ["1", "-2.5e3", "true", '"a,]\\""', "null"]
        assert everywhere(new, '{"items":[1,2]}')[0] == ["1", "2"]
        assert given_after(new, "[12, 3]") == [(4, "12"), (7, "3")]

    def test_arrays_as_lines_or_in_an_array(self) -> None:
        def new() -> JsonItems:
            return JsonItems(starts=ARRAY)

        assert everywhere(new, "[1,2]\n[[3]]")[0] == ["[1,2]", "[3]"]
        assert everywhere(new, "[[1,2],[],[3]]")[0] == ["[1,2]", "[]", "[3]"]


class TestWhole:
    @pytest.mark.parametrize(
        ("starts", "text", "value"),
        [
            ("{", 'x {"a":[1,{"b":2}]} y {"c":1}', '{"a":[1,{"b":2}]}'),
            ("{", '```json\n{"a": 1}\n```', '{"a": 1}'),
            ("{", "{}", "{}"),
            ("{", '[{"a":1}]', '{"a":1}'),
            ("{[", "[]", "[]"),
            ("{[", 'see [x] [1,"]",{"q":[]}] [2]', '[1,"]",{"q":[]}]'),
        ],
    )
    def test_the_first_value_is_given_when_it_closes(
        self, starts: str, text: str, value: str
    ) -> None:
        def new() -> JsonWhole:
            return JsonWhole(starts=starts)

        assert everywhere(new, text)[0] == [value]
        assert everywhere(new, text, truncated=True)[2] is None
        assert given_after(new, text)[0][0] == text.index(value) + len(value)

    def test_none_is_an_error(self) -> None:
        assert "a JSON value" in error_of(JsonWhole, "I cannot.")
        assert "to close" in error_of(JsonWhole, '{"a": [')
        assert "cut off" in error_of(JsonWhole, '{"a":', truncated=True)


class TestLimits:
    def test_depth(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "DEPTH_MAX", 5)
        assert everywhere(claims, '[{"text":[[[1]]]}]')[2] is None
        assert "nesting 5 of at most 5" in error_of(claims, '[{"text":[[[[1]]]]}]')
        assert "nesting" in error_of(claims, '[{"text":1},[[[[[{"text":1}')

    def test_length_of_an_item_and_of_prose(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "OPEN_CHARS_MAX", 20)
        assert cut(claims, '[{"text":"aaaa"}]')[2] is None
        for text in ('[{"text":"' + "a" * 20, "prose " * 5):
            cutter = claims()
            for char in text:
                cutter.feed(char)
            assert cutter.error is not None
            assert "20 characters" in str(cutter.error)
            assert cutter.finish() == []

    def test_a_long_wrapper_is_not_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "OPEN_CHARS_MAX", 20)
        text = '{"items":[' + '{"text":"a"},' * 50 + "]}"
        assert len(cut(claims, text)[0]) == 50


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.builds(lambda text, tags: {"text": text, "tags": tags}, st.text(), values)
prose = st.text(st.characters(exclude_characters='{["'), max_size=20) | st.just("a {b} [c] ")


@st.composite
def pieces(draw: st.DrawFn) -> tuple[list[str], list[Any]]:
    """A text with random items in a random form, cut at random, and the items."""
    items = draw(st.lists(objects, max_size=4))
    indent = draw(st.sampled_from([None, 1]))
    ascii_only = draw(st.booleans())
    written = [json.dumps(item, indent=indent, ensure_ascii=ascii_only) for item in items]
    comma = draw(st.sampled_from([",", " , ", ",\n"]))
    last = draw(st.sampled_from(["", ","])) if items else ""
    array = "[" + comma.join(written) + last + "]"
    form = draw(st.sampled_from(["array", "wrapper", "lines"])) if items else "array"
    body = {
        "array": array,
        "wrapper": '{"note": "x", "claims": ' + array + ', "n": [1]}',
        "lines": "\n".join(written),
    }[form]
    fence = draw(st.sampled_from([("", ""), ("```json\n", "\n```"), ("```\n", "```")]))
    text = draw(prose) + "\n" + fence[0] + body + fence[1] + draw(prose)
    ends = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)], items


@settings(deadline=None)
@given(pieces())
def test_random_items_come_back_from_random_forms_and_pieces(
    drawn: tuple[list[str], list[Any]],
) -> None:
    parts, items = drawn
    result: Result = cut(claims, parts)
    assert [json.loads(item) for item in result[0]] == items
    assert result[2] is None
    assert result == cut(claims, "".join(parts))


@settings(deadline=None)
@given(st.text(st.sampled_from('{}[]":,\\ \n1atext'), max_size=40), st.integers(0, 40))
def test_any_text_is_read_the_same_in_two_pieces(text: str, at: int) -> None:
    assert cut(claims, [text[:at], text[at:]]) == cut(claims, [text])
    assert cut(claims, text) == cut(claims, [text])


tokens = st.sampled_from(['{"text": ', '{"x": "}"}', '"text": "a"', *'{}[]":,\\ \n1'])


@settings(deadline=None)
@given(st.lists(tokens, max_size=14).map("".join))
def test_an_object_that_comes_at_once_is_read_as_one_that_comes_in_letters(text: str) -> None:
    everywhere(claims, text)
