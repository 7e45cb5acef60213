"""How LM text becomes the items that a return annotation promises.

`reader_for(element, stream)` is decided once, while a stage is declared: which schema goes along as
guided decoding, and which cutter reads the text. Types are in `schemas`, items as JSON, bytes and
sizes in `values`; both are reached from here too, since whoever reads items needs them.

    element                         one                     a stream of them
    str                             the whole text          deltas
    Sentence, Line, Paragraph       the text, trimmed       cut as written
    Literal, Enum, bool, int, float a choice                elements or lines, a choice each
    struct                          the first JSON object   items of JSON
    list, dict, union, ...          JSON                    items of JSON

Always true:
    D1  an item that is given is a value of the element type
    D2  the cutter's `settled` is the end of the last item that was read, so the text up to there
        can be kept when the rest has to be asked for again
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from .core.choice import (
    Choice,
    Labels,
    Read,
    read_bare_float,
    read_bare_int,
    read_float,
    read_int,
)
from .core.cut import (
    After,
    Cutter,
    Deltas,
    Lines,
    Paragraphs,
    Whole,
)
from .core.json_cut import ARRAY, OBJECT, SCALAR, JsonItems, JsonWhole
from .core.scalar_cut import ScalarItems
from .core.sentences import Sentences
from .core.texts import Line, Paragraph, Sentence
from .errors import GraphError, ParseError
from .schemas import (
    Schema,
    decode,
    decoder_of,
    is_choice,
    is_struct,
    is_union,
    name_of,
    parse,
    plain_type,
    schema_of,
)
from .values import encode, size_of, to_jsonable

__all__ = [
    "Reader",
    "decode",
    "encode",
    "is_choice",
    "is_struct",
    "reader_for",
    "schema_of",
    "size_of",
    "to_jsonable",
]

T = TypeVar("T")

_WRAPPERS = ("items", "values", "elements", "results", "list_of_items")
_ANY = OBJECT + ARRAY + SCALAR
_STARTS = {
    "object": OBJECT,
    "array": ARRAY,
    "string": '"',
    "integer": "-0123456789",
    "number": "-0123456789",
    "boolean": "tf",
    "null": "n",
}


@dataclass(frozen=True, slots=True)
class Reader(Generic[T]):
    """How one stage's text is read."""

    expected: str
    """What the text should be, in a few words, for an error or for the model when asked again."""

    schema: Schema | None
    """What guided decoding should follow; None for free text. Streams and lists have an object
    around them, since some engines allow no other root. A choice is a bare string or number."""

    new: Callable[[], Cutter[T]]
    """A cutter for one text."""

    def cutter_after(self, count: int) -> Cutter[T]:
        """A cutter for a text that begins with `count` items which have been given already.

        After a `ParseError` in a stream, keep `text[:settled]`. If the engine can go on from it,
        feed that to the new cutter first and then what comes; else have the whole asked for again.
        """
        return After(self.new(), count) if count else self.new()


def reader_for(element: Any, stream: bool = False) -> Reader[Any]:
    """The reader for an annotation: `Stream[element]` or `element`. A `GraphError` if none can."""
    plain = plain_type(element)
    if isinstance(plain, type) and issubclass(plain, str) and not issubclass(plain, enum.Enum):
        return _text_reader(plain, stream)
    if is_choice(element):
        return _choice_reader(element, stream)
    return _json_stream_reader(element) if stream else _json_reader(element)


def _text_reader(kind: type[str], stream: bool) -> Reader[Any]:
    cutters: dict[type[str], Callable[[], Cutter[Any]]] = {
        str: Deltas,
        Sentence: Sentences,
        Line: Lines,
        Paragraph: Paragraphs,
    }
    if not stream:
        if kind is str:
            return Reader("text", None, Whole)

        def trimmed(text: str, truncated: bool = False) -> str:
            return kind(text.strip())

        return Reader("text", None, partial(Choice, trimmed))
    if kind not in cutters:
        raise GraphError(
            f"Stream[{kind.__name__}]: text cannot be cut into {kind.__name__}. Expected "
            "Stream[str], Stream[Sentence], Stream[Line] or Stream[Paragraph]."
        )
    return Reader("text", None, cutters[kind])


def _choice_reader(element: Any, stream: bool) -> Reader[Any]:
    expected, read, read_line = _readings(element)
    schema = _choice_schema(element)
    if not stream:
        return Reader(expected, schema, partial(Choice, read))
    return Reader(
        f"a JSON array, or lines, each {expected}",
        _wrapped("items", schema, many=True),
        partial(ScalarItems, read, read_line, expected=expected),
    )


def _readings(element: Any) -> tuple[str, Read[Any], Read[Any]]:
    """What a choice is, how a whole answer or an element of an array is read, and how a line is."""
    members = _members(element)
    labels = [label for member in members for label in _labels(member)]
    if float in members:
        return "a number", _either(labels, read_float), _either(labels, read_bare_float)
    if int in members:
        return "a whole number", _either(labels, read_int), _either(labels, read_bare_int)
    read = Labels(labels)
    # Talk is full of "no", so that a line with a bool must be the bare word.
    return read.expected, read, read.bare if bool in members else read


def _choice_schema(element: Any) -> Schema:
    """An Enum with values that are no strings may be given by its names too, as it is read."""
    plain = plain_type(element)
    if not isinstance(plain, type) or not issubclass(plain, enum.Enum):
        return schema_of(element)
    values = [member.value for member in plain]
    if all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": [str(value) for value in values]}
    names = [member.name for member in plain]
    return {"enum": names + [value for value in values if type(value) is int]}


def _either(labels: list[tuple[str, Any]], number: Read[Any]) -> Read[Any]:
    """One of the labels if that is all the text is, else a number."""
    if not labels:
        return number
    label = Labels(labels)

    def read(text: str, truncated: bool = False) -> Any:
        try:
            return label.bare(text)
        except ParseError:
            return number(text, truncated)

    return read


def _members(element: Any) -> list[Any]:
    """The types of a union, or the type itself."""
    plain = plain_type(element)
    return [plain_type(part) for part in get_args(plain)] if is_union(plain) else [plain]


def _labels(kind: Any) -> list[tuple[str, Any]]:
    """What stands for each value. None, and a bool, have several names."""
    if kind is type(None):
        return [("null", None), ("none", None)]
    if kind is bool:
        return [("yes", True), ("no", False), ("true", True), ("false", False)]
    if get_origin(kind) is Literal:
        return [label for value in get_args(kind) for label in _labels_of(value)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        values = [(str(member.value), member) for member in kind]
        taken = {label.casefold() for label, _ in values}
        names = [(member.name, member) for member in kind if member.name.casefold() not in taken]
        return values + names
    return []


def _labels_of(value: Any) -> list[tuple[str, Any]]:
    """The names of one value of a `Literal`."""
    if value is None or isinstance(value, bool):
        return [(label, named) for label, named in _labels(type(value)) if named is value]
    return [(str(value.value if isinstance(value, enum.Enum) else value), value)]


def _json_stream_reader(element: Any) -> Reader[Any]:
    schema = schema_of(element)
    names = _fields(schema)
    fields = None if names is None else frozenset(names)
    if fields is not None and isinstance(element, type):
        # A pydantic model may take its fields by their own names besides their aliases.
        fields |= frozenset(getattr(element, "model_fields", ()))
    wrapper = next(name for name in _WRAPPERS if fields is None or name not in fields)
    # Without the names of the parameters, which would be looked up for each text.
    new = partial(JsonItems, _starts(schema), fields, wrapper, decoder_of(element))
    expected = f"a JSON array of {name_of(element)}{_named(names)}"
    return Reader(expected, _wrapped(wrapper, schema, many=True), new)


def _json_reader(element: Any) -> Reader[Any]:
    schema = schema_of(element)
    starts = _starts(schema)
    root: Schema | None = schema
    if schema.get("type") != "object":
        wrapper = "items" if starts == ARRAY else "value"
        root = _wrapped(wrapper, schema) if schema else None
    name = f"JSON for {name_of(element)}{_named(_fields(schema))}"
    if starts == OBJECT:
        return Reader(name, root, partial(JsonWhole, decode=decoder_of(element)))

    def read(text: str, truncated: bool = False) -> Any:
        return _read_whole(element, text, truncated)

    return Reader(name, root, partial(Choice, read))


def _read_whole(element: Any, text: str, truncated: bool) -> Any:
    """A value that is no struct: bare, in a fence or prose, or alone in an object around it."""
    failed: ParseError | None = None
    if not truncated:
        try:
            return decode(element, text.strip())
        except ParseError as error:
            failed = error
    while True:
        cutter = JsonWhole(starts=OBJECT + ARRAY)
        found = cutter.feed(text) or cutter.finish(truncated)
        if not found:
            raise failed or cutter.error or ParseError(f"Nothing in {text!r}", text=text)
        for candidate in _unwrapped(found[0]):
            try:
                return decode(element, candidate)
            except ParseError as error:
                failed = error
        text = text[cutter.settled :]


def _unwrapped(written: str) -> Iterator[str]:
    """The JSON itself; and what it holds, if it is an object around one value or one array."""
    yield written
    try:
        value = parse(written)
    except ValueError:
        return
    if isinstance(value, dict):
        arrays = [member for member in value.values() if isinstance(member, list)]
        held = arrays if len(arrays) == 1 else list(value.values())
        if len(held) == 1:
            yield json.dumps(held[0])


def _wrapped(name: str, schema: Schema, *, many: bool = False) -> Schema:
    """The schema of an object with this one member: a value, or an array of them."""
    member = {key: value for key, value in schema.items() if key != "$defs"}
    root: Schema = {
        "type": "object",
        "properties": {name: {"type": "array", "items": member} if many else member},
        "required": [name],
        "additionalProperties": False,
    }
    return {**root, "$defs": schema["$defs"]} if "$defs" in schema else root


def _resolved(schema: Schema, root: Schema) -> list[Schema]:
    """The alternatives of a schema, without references."""
    if "$ref" in schema:
        return _resolved(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "anyOf" in schema:
        return [each for part in schema["anyOf"] for each in _resolved(part, root)]
    return [schema]


def _fields(schema: Schema) -> list[str] | None:
    """The names that an item has, if it is an object and they are known."""
    alternatives = [each for each in _resolved(schema, schema) if each.get("type") == "object"]
    if not alternatives or any("properties" not in each for each in alternatives):
        return None
    return list(dict.fromkeys(name for each in alternatives for name in each["properties"]))


def _named(fields: list[str] | None) -> str:
    return f" with {', '.join(fields)}" if fields else ""


def _starts(schema: Schema) -> str:
    """With which characters the JSON of a value may begin."""
    starts = ""
    for each in _resolved(schema, schema):
        kinds = {_kind(value) for value in each["enum"]} if "enum" in each else {each.get("type")}
        starts += "".join(sorted(_STARTS.get(str(kind), _ANY) for kind in kinds))
    return "".join(dict.fromkeys(starts))


def _kind(value: Any) -> str:
    return "string" if isinstance(value, str) else "null" if value is None else "integer"
