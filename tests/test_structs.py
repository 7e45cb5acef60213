"""What a return annotation promises: schema, reading, and items as JSON, bytes and sizes."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import subprocess
import sys
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alto.core.texts import Line, Paragraph, Sentence
from alto.errors import GraphError, ParseError
from alto.structs import (
    decode,
    encode,
    is_choice,
    is_struct,
    reader_for,
    schema_of,
    size_of,
    to_jsonable,
)
from alto.values import SIZE_VISITS_MAX


class Model(pydantic.BaseModel):
    text: str
    score: float = 0.5
    tags: list[str] = []


class Struct(msgspec.Struct):
    text: str
    score: float = 0.5
    tags: list[str] = []


@dataclasses.dataclass
class Data:
    text: str
    score: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)


class Typed(TypedDict):
    text: str
    score: NotRequired[float]
    tags: NotRequired[list[str]]


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    inner: list[Model] = pydantic.Field(alias="Inner")


@dataclasses.dataclass
class Mixed:
    model: Model
    sentence: Sentence


class Items(msgspec.Struct):
    items: list[Struct]


class Verdict(enum.Enum):
    SUPPORTED = "supported"
    REFUTED = "refuted"


class Level(enum.Enum):
    LOW = enum.auto()
    HIGH = enum.auto()


STRUCTS = [Model, Struct, Data, Typed]
Name = NewType("Name", str)


def plain(item: Any) -> Any:
    return {key: value for key, value in to_jsonable(item).items() if key in ("text", "score")}


def read(tp: Any, text: str, *, stream: bool = False, truncated: bool = False) -> Any:
    """Read text fed character by character; raise what is wrong with it."""
    cutter = reader_for(tp, stream).new()
    items = [item for char in text for item in cutter.feed(char)] + cutter.finish(truncated)
    if cutter.error is not None:
        raise cutter.error
    return items if stream else items[0]


class TestKinds:
    def test_structs_have_named_fields(self) -> None:
        assert all(map(is_struct, [*STRUCTS, Annotated[Model, "note"]]))
        assert not any(map(is_struct, [str, int, list[Model], dict, Verdict, Literal["a"], Any]))

    def test_choices_are_read_by_label(self) -> None:
        choices = [Literal["a"], Verdict, bool, int, float, int | None, Literal["a"] | None]
        assert all(map(is_choice, choices))
        assert not any(map(is_choice, [str, Model, list[int], dict, Any, int | Model]))


class TestSchema:
    @pytest.mark.parametrize("tp", STRUCTS)
    def test_objects_are_strict_and_the_root_is_no_reference(self, tp: Any) -> None:
        schema = schema_of(tp)
        assert schema["type"] == "object"
        assert list(schema["properties"]) == ["text", "score", "tags"]
        assert schema["required"] == ["text", "score", "tags"]
        assert schema["additionalProperties"] is False
        assert '"default"' not in json.dumps(schema)

    def test_what_recurs_is_a_reference(self) -> None:
        schema = schema_of(Tree)
        assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
        assert schema["$defs"]["Tree"]["additionalProperties"] is False

    def test_labels_have_a_type(self) -> None:
        assert schema_of(Literal["a", "b"]) == {"type": "string", "enum": ["a", "b"]}
        assert schema_of(Literal[2, 1]) == {"type": "integer", "enum": [1, 2]}
        assert schema_of(bool) == {"type": "boolean"}

    def test_a_property_may_be_called_default(self) -> None:
        class Odd(TypedDict):
            default: int
            enum: str

        assert schema_of(Odd)["required"] == ["default", "enum"]

    def test_metadata_is_kept(self) -> None:
        tp = Annotated[int, msgspec.Meta(ge=1, le=5)]
        assert schema_of(tp) == {"type": "integer", "minimum": 1, "maximum": 5}
        tp = Annotated[int, pydantic.Field(ge=1, le=5)]
        assert schema_of(tp) == {"type": "integer", "minimum": 1, "maximum": 5}

    @pytest.mark.parametrize("tp", [object, subprocess.Popen, list["Nowhere"]])  # type: ignore[name-defined]  # noqa: F821
    def test_a_type_without_json_is_the_mistake_of_who_declared_it(self, tp: Any) -> None:
        with pytest.raises(GraphError, match=r"cannot be read from JSON.*Expected"):
            schema_of(tp)


class TestDecode:
    @pytest.mark.parametrize("tp", STRUCTS)
    def test_values_have_their_type(self, tp: Any) -> None:
        value = decode(tp, '{"text": "é", "score": 1}')
        assert isinstance(value, dict if tp is Typed else tp)
        assert plain(value) == {"text": "é", "score": 1}
        assert decode(list[tp], b'[{"text":"a"}]')[0] == decode(tp, '{"text":"a"}')

    @pytest.mark.parametrize("tp", STRUCTS)
    def test_trailing_commas_and_line_breaks_in_strings_are_forgiven(self, tp: Any) -> None:
        value = decode(tp, '{"text": "a,]\n\\"b,}", "tags": ["x", ],}')
        assert plain(value)["text"] == 'a,]\n"b,}'

    @pytest.mark.parametrize("tp", STRUCTS)
    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"text": 1}', '{"score": 1}', "{'text': 'a'}"]
    )
    def test_all_else_is_an_error_that_shows_the_text(self, tp: Any, text: str) -> None:
        with pytest.raises(ParseError) as caught:
            decode(tp, text)
        assert caught.value.text == text
        assert repr(text) in str(caught.value)
        assert tp.__name__ in str(caught.value)
        assert "https://" not in str(caught.value)

    def test_deep_nesting_is_an_error(self) -> None:
        with pytest.raises(ParseError):
            decode(Tree, '{"name":"a","children":[' * 100_000)

    def test_pydantic_takes_what_holds_anything_of_its_own(self) -> None:
        value = decode(list[Model] | None, '[{"text":"a"}]')
        assert value == [Model(text="a")]
        with pytest.raises(ParseError, match="score"):
            decode(dict[str, Model], '{"a": {"text":"a","score":"much"}}')

    def test_subclasses_of_str_are_fields_too(self) -> None:
        class Holder(msgspec.Struct):
            sentence: Sentence

        value = decode(Holder, '{"sentence": "One."}')
        assert type(value.sentence) is Sentence
        assert schema_of(Holder)["properties"]["sentence"]["type"] == "string"

    def test_they_are_fields_of_pydantic_models(self) -> None:
        class Finding(pydantic.BaseModel):
            sentence: Sentence

        value = decode(Finding, '{"sentence": "One."}')
        assert type(value.sentence) is Sentence
        assert type(Finding(sentence=Sentence("a")).sentence) is Sentence
        assert to_jsonable(value) == {"sentence": "One."}
        assert schema_of(Finding)["properties"]["sentence"]["type"] == "string"
        mixed = decode(Mixed, '{"model": {"text": "a"}, "sentence": "One."}')
        assert mixed == Mixed(Model(text="a"), Sentence("One."))


class TestText:
    def test_str_is_the_whole_text_or_deltas(self) -> None:
        assert read(str, " a b ") == " a b "
        assert read(str, "ab", stream=True) == ["a", "b"]
        assert reader_for(str).schema is None
        assert read(Name, " a ") == " a "

    @pytest.mark.parametrize(
        ("kind", "items"),
        [
            (Sentence, ["One.", "Two.", "Three."]),
            (Line, ["One. Two.", "Three."]),
            (Paragraph, ["One. Two.", "Three."]),
        ],
    )
    def test_text_is_cut_by_kind(self, kind: Any, items: list[str]) -> None:
        found = read(kind, "One. Two.\n\nThree.\n", stream=True)
        assert found == items
        assert {type(item) for item in found} == {kind}
        assert reader_for(kind, True).schema is None

    def test_one_sentence_is_the_text_trimmed(self) -> None:
        value = read(Sentence, " One. \n")
        assert (value, type(value)) == ("One.", Sentence)

    def test_text_cannot_be_cut_into_any_string_type(self) -> None:
        class Title(str):
            pass

        with pytest.raises(GraphError, match=r"Stream\[Title\].*Expected Stream\[str\]"):
            reader_for(Title, True)


class TestChoice:
    @pytest.mark.parametrize(
        ("tp", "text", "value"),
        [
            (Literal["YES", "NO"], "**Yes.**", "YES"),
            (Literal[1, 2, 3], "The level is 2.", 2),
            (Literal["a", None], "null", None),
            (Literal["x"] | None, "None", None),
            (Verdict, '"supported"', Verdict.SUPPORTED),
            (Verdict, "REFUTED", Verdict.REFUTED),
            (Level, "high", Level.HIGH),
            (Level, "1", Level.LOW),
            (bool, "Yes, it is.", True),
            (int, "42 ", 42),
            (float, "It is 0.5.", 0.5),
            (int | None, "none", None),
            (int | None, "about 5", 5),
            (Annotated[Literal["a", "b"], "note"], "B", "b"),
            (Literal["low"] | int, "low", "low"),
        ],
    )
    def test_one(self, tp: Any, text: str, value: Any) -> None:
        found = read(tp, text)
        assert found == value
        assert type(found) is type(value)

    def test_schemas_are_bare_labels(self) -> None:
        assert reader_for(Literal["a", "b"]).schema == {"type": "string", "enum": ["a", "b"]}
        assert reader_for(Verdict).schema == {"type": "string", "enum": ["supported", "refuted"]}
        assert reader_for(Level).schema == {"enum": ["LOW", "HIGH", 1, 2]}
        assert reader_for(int).schema == {"type": "integer"}

    def test_none_or_several_is_an_error(self) -> None:
        for text in ("", "perhaps", "YES or NO"):
            with pytest.raises(ParseError, match="Expected one of YES, NO"):
                read(Literal["YES", "NO"], text)

    def test_a_stream_of_choices(self) -> None:
        assert read(Literal["YES", "NO"], "1. yes\n2. No.\n", stream=True) == ["YES", "NO"]
        assert read(Verdict, '["supported","refuted"]', stream=True) == list(Verdict)
        assert read(int, "Here are 2:\n- 1\n- 2", stream=True) == [1, 2]
        assert read(float, '{"items":[1, 0.5]}', stream=True) == [1.0, 0.5]
        assert read(bool, "No idea why, but:\nyes\nno", stream=True) == [True, False]
        schema = reader_for(bool, True).schema
        assert schema is not None
        assert schema["properties"]["items"] == {"type": "array", "items": {"type": "boolean"}}


class TestJson:
    @pytest.mark.parametrize("tp", STRUCTS)
    @pytest.mark.parametrize(
        "text",
        [
            '[{"text":"a"},{"text":"b"}]',
            '{"items":[{"text":"a"},{"text":"b"}]}',
            '{"claims":[{"text":"a"},{"text":"b"}]}',
            '{"text":"a"}\n{"text":"b"}',
            'Sure:\n```json\n[{"text":"a"},{"text":"b"},]\n```\nDone {now}.',
        ],
    )
    def test_a_stream_of_structs(self, tp: Any, text: str) -> None:
        assert [plain(item)["text"] for item in read(tp, text, stream=True)] == ["a", "b"]

    @pytest.mark.parametrize("tp", STRUCTS)
    def test_one_struct(self, tp: Any) -> None:
        text = 'Here: ```json\n{"text": "a", "tags": ["}"]}\n``` Bye {x}'
        assert plain(read(tp, text))["text"] == "a"
        assert plain(read(tp, text, truncated=True))["text"] == "a", "it was closed"
        assert reader_for(tp).schema == schema_of(tp)

    def test_a_field_with_objects_is_no_wrapper(self) -> None:
        text = '{"Inner":[{"text":"a"}]}\n{"inner":[{"text":"b"}]}'
        assert [item.inner[0].text for item in read(Aliased, text, stream=True)] == ["a", "b"]

    def test_the_wrapper_has_a_name_that_no_field_has(self) -> None:
        schema = reader_for(Items, True).schema
        assert schema is not None
        assert list(schema["properties"]) == ["values"]
        text = '{"values":[{"items":[{"text":"a"}]}]}'
        assert read(Items, text, stream=True) == [Items([Struct("a")])]
        assert read(Items, text[10:-1], stream=True) == [Items([Struct("a")])]

    @pytest.mark.parametrize(
        ("tp", "text", "value"),
        [
            (list[Struct], '[{"text":"a"}]', [Struct("a")]),
            (list[Struct], 'see [1]: {"items":[{"text":"a"}]}', [Struct("a")]),
            (list[Model], '```json\n{"claims": [{"text":"a"}], "n": 1}\n```', [Model(text="a")]),
            (list[int], "[1, 2,]", [1, 2]),
            (Struct | None, "null", None),
            (Struct | None, '{"value": null}', None),
            (Struct | None, '{"value": {"text":"a"}}', Struct("a")),
            (Struct | None, 'It is {"text":"a"}.', Struct("a")),
            (dict, '{"a": 1}', {"a": 1}),
            (dict[str, Struct], '{"a": {"text":"a"}}', {"a": Struct("a")}),
            (tuple[int, str], '[1, "a"]', (1, "a")),
            (Any, "3", 3),
        ],
    )
    def test_one_value_of_another_type(self, tp: Any, text: str, value: Any) -> None:
        assert read(tp, text) == value

    @pytest.mark.parametrize(
        ("tp", "text", "items"),
        [
            (list[int], "[[1],[2,3]]", [[1], [2, 3]]),
            (list[int], "[1]\n[2,3]", [[1], [2, 3]]),
            (int | Struct, '[1, {"text":"a"}]', [1, Struct("a")]),
            (dict[str, int], '[{"a":1},{"b":2}]', [{"a": 1}, {"b": 2}]),
            (Any, '[1, "a", [2], {"b": null}]', [1, "a", [2], {"b": None}]),
        ],
    )
    def test_a_stream_of_other_types(self, tp: Any, text: str, items: list[Any]) -> None:
        assert read(tp, text, stream=True) == items

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("tp", [*STRUCTS, list[Struct], Model | None, Tree, dict[str, int]])
    def test_a_schema_with_an_object_at_the_root(self, tp: Any, stream: bool) -> None:
        schema = reader_for(tp, stream).schema
        assert schema is not None
        assert schema["type"] == "object"
        for reference in json.dumps(schema).split('"#/$defs/')[1:]:
            assert reference.split('"')[0] in schema["$defs"]

    def test_items_before_one_that_does_not_decode_stand(self) -> None:
        cutter = reader_for(Struct, True).new()
        text = '[{"text":"a"},{"text":1},{"text":"c"}]'
        assert cutter.feed(text) == [Struct("a")]
        assert cutter.error is not None
        assert str(cutter.error).startswith("Item 2: Expected JSON for Struct, got '{\"text\":1}'")
        assert text[: cutter.settled] == '[{"text":"a"}'
        assert (cutter.feed("x"), cutter.finish()) == ([], [])

    def test_a_stream_goes_on_after_its_last_item(self) -> None:
        reader = reader_for(Struct, True)
        cutter = reader.new()
        text = '[{"text":"a"},{"text":"b"},{"te'
        given = cutter.feed(text) + cutter.finish(truncated=True)
        assert len(given) == 2
        assert cutter.error is not None
        resumed = reader.cutter_after(len(given))
        assert resumed.feed(text[: cutter.settled]) == []
        assert resumed.feed(',{"text":"c"}]') == [Struct("c")]
        assert resumed.finish() == []
        assert resumed.error is None
        anew = reader.cutter_after(2)
        assert anew.feed('[{"text":"a"},{"text":"b"},{"text":"c"}]') == [Struct("c")]

    def test_what_is_expected_is_said_in_words(self) -> None:
        assert reader_for(Struct, True).expected == "a JSON array of Struct with text, score, tags"
        assert reader_for(Struct).expected == "JSON for Struct with text, score, tags"
        assert reader_for(Literal["a", "b"]).expected == "one of a, b"

    def test_struct_and_model_do_not_mix(self) -> None:
        class Both(msgspec.Struct):
            model: Model

        with pytest.raises(GraphError, match="Both"):
            reader_for(Both)


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


class TestValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            (Sentence("a"), "a"),
            ({"a": Sentence("b"), 1: (2, 3)}, {"a": "b", "1": [2, 3]}),
            (Model(text="a", tags=["b"]), {"text": "a", "score": 0.5, "tags": ["b"]}),
            ([Data("a")], [{"text": "a", "score": 0.5, "tags": []}]),
            (Struct("a"), {"text": "a", "score": 0.5, "tags": []}),
            ({"m": Mixed(Model(text="a"), Sentence("s"))}, None),
            (Verdict.REFUTED, "refuted"),
            ({1}, [1]),
            (datetime.date(2020, 1, 2), "2020-01-02"),
            (ValueError("a"), "ValueError('a')"),
        ],
    )
    def test_to_jsonable(self, value: Any, expected: Any) -> None:
        found = to_jsonable(value)
        json.dumps(found)
        if expected is not None:
            assert found == expected

    def test_cycles_and_odd_objects_are_shown(self) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        assert isinstance(to_jsonable(cycle), str)
        assert "Opaque object" in to_jsonable({"a": Opaque(1)})["a"]
        assert encode(cycle)
        assert size_of(cycle) < 1000

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"a": 1, "b": {2, 1}}, {"b": {1, 2}, "a": 1}),
            (Model(text="a"), Model(text="a", score=0.5)),
            (Mixed(Model(text="a"), Sentence("s")), Mixed(Model(text="a"), Sentence("s"))),
            (Sentence("a"), "a"),
            (2**100, 2**100),
            ({"x": Opaque([1])}, {"x": Opaque([1])}),
            ("\ud800", "\ud800"),
        ],
    )
    def test_equal_values_have_equal_bytes(self, one: Any, other: Any) -> None:
        assert encode(one) == encode(other)

    def test_different_values_have_different_bytes(self) -> None:
        values: list[Any] = [None, 0, 1, 1.5, True, False, "", "1", b"1", [1], {"a": 1}, {"a": "1"}]
        values += [Model(text="a"), Model(text="b"), Struct("a"), Struct("b"), Opaque(1), Opaque(2)]
        values += [float("nan"), 2**70, 2**71, Verdict.REFUTED]
        assert len({encode(value) for value in values}) == len(values)

    def test_what_cannot_be_pickled_has_bytes(self) -> None:
        assert encode(lambda: None)
        assert encode([Opaque(lambda: None)])

    def test_the_size_is_about_the_bytes_held(self) -> None:
        assert size_of("abc") == 3
        assert size_of(b"abcd") == 4
        assert size_of(5) < 50
        assert 1000 <= size_of({"a": "x" * 1000}) < 1100
        for value in (Model(text="x" * 1000), Struct("x" * 1000), Data("x" * 1000)):
            assert 1000 <= size_of(value) < 1200
        assert 1000 <= size_of(Opaque("x" * 1000)) < 1100
        assert size_of(memoryview(bytes(1000))) == 1000

    def test_the_size_of_much_is_estimated_from_a_part(self) -> None:
        looked: list[int] = []

        class Counted(str):
            def __len__(self) -> int:
                looked.append(1)
                return super().__len__()

        size = size_of([[Counted("x" * 10)] * 100] * 1000)
        assert len(looked) <= SIZE_VISITS_MAX
        assert 0.5e6 < size < 3e6


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(nested)
def test_any_value_has_json_bytes_and_a_size(value: Any) -> None:
    json.dumps(to_jsonable(value))
    assert encode(value) == encode(value)
    assert size_of(value) >= 0


def test_bytes_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from alto.values import encode\n"
        "print(encode({'s': {'a', 'b', 'c', 'd'}, 'f': frozenset(['x', 'y', 'z'])}).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_pydantic_is_not_imported_for_other_types() -> None:
    code = (
        "import sys, dataclasses\n"
        "from alto.structs import reader_for, encode, to_jsonable, size_of\n"
        "@dataclasses.dataclass\n"
        "class Data:\n    text: str\n"
        'item = reader_for(Data, True).new().feed(\'[{"text":"a"}]\')[0]\n'
        "encode(item), to_jsonable(item), size_of(item)\n"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
