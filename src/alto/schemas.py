"""Types as JSON schemas, and JSON text as values of those types.

Structs are pydantic models, msgspec structs, dataclasses and TypedDicts, and whatever is made of
them and of plain types. msgspec knows all but the first; where a type holds anything of pydantic's,
pydantic takes the whole type. It is imported then and not before: a class is known to be pydantic's
by the module that made it.

Always true:
    T1  what `decode` gives is a value of the type; everything else is a `ParseError` with the text
    T2  `schema_of` describes JSON that `decode` takes

Schemas are as strict as guided decoding wants them: an object lists all its names as required and
allows no others, there are no defaults, and the root is no reference.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from .core.cut import shorten
from .errors import GraphError, ParseError

Schema = dict[str, Any]

_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
_MODULES = re.compile(r"\b(?:\w+\.)+(?=\w)")
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_REFUSALS = (ValueError, msgspec.MsgspecError, RecursionError)
_NAMED = ("properties", "$defs", "patternProperties")


def plain_type(tp: Any) -> Any:
    """The type behind `Annotated`, `NewType` and `type` aliases."""
    while True:
        if get_origin(tp) is Annotated:
            tp = get_args(tp)[0]
        elif hasattr(tp, "__supertype__"):
            tp = tp.__supertype__
        elif type(tp).__name__ == "TypeAliasType":
            tp = tp.__value__
        else:
            return tp


def is_union(tp: Any) -> bool:
    """`A | B` or `Union[A, B]`."""
    return get_origin(tp) in (Union, types.UnionType)


def is_choice(tp: Any) -> bool:
    """LM text is read as one of these by its label or number, not as JSON."""
    tp = plain_type(tp)
    if is_union(tp):
        return all(part is type(None) or is_choice(part) for part in get_args(tp))
    if get_origin(tp) is Literal:
        return True
    return tp in (bool, int, float) or (isinstance(tp, type) and issubclass(tp, enum.Enum))


def is_struct(tp: Any) -> bool:
    """A class with named fields: pydantic, msgspec, dataclass, TypedDict."""
    tp = plain_type(tp)
    tp = get_origin(tp) or tp
    return isinstance(tp, type) and (
        issubclass(tp, msgspec.Struct)
        or dataclasses.is_dataclass(tp)
        or typing.is_typeddict(tp)
        or _is_pydantic(tp)
    )


def schema_of(tp: Any) -> Schema:
    """The JSON schema of a type. A type that has none is a `GraphError`."""
    return _codec(tp).schema()


def decode(tp: Any, text: str | bytes) -> Any:
    """The value that the JSON of an LM says, else a `ParseError`."""
    try:
        return read(tp, text)
    except NotJson as error:
        raise ParseError(
            f"{error}. Show the form in the prompt, or use an engine with guided decoding.",
            text=error.text,
        ) from error.__cause__


def decoder_of(tp: Any) -> Callable[[str], Any]:
    """`decode` for one type, which is looked at here, once."""
    read_strictly = _codec(tp).decode

    def decoded(text: str) -> Any:
        try:
            return read_strictly(text)
        except _REFUSALS:
            return decode(tp, text)  # which forgives, or says what is wrong

    return decoded


class NotJson(ValueError):
    """`text` is not JSON for a type; the message says why, without a full stop."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def read(tp: Any, text: str | bytes) -> Any:
    """The value that the JSON says. Trailing commas and raw line breaks in strings are forgiven."""
    codec = _codec(tp)
    try:
        # msgspec takes no subclass of `str`.
        return codec.decode(str.__str__(text) if isinstance(text, str) else text)
    except _REFUSALS:
        written = text if isinstance(text, str) else text.decode(errors="replace")
    try:
        return codec.convert(parse(written))
    except _REFUSALS as error:
        raise NotJson(
            f"Expected JSON for {name_of(tp)}, got {shorten(written)}: {_reason(error)}", written
        ) from error


def parse(text: str) -> Any:
    """The plain JSON value of the text, forgiving what `decode` forgives, else a `ValueError`."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_TRAILING_COMMA.sub(lambda found: found[1] or "", text), strict=False)


def name_of(tp: Any) -> str:
    """The type as a user would write it."""
    if isinstance(tp, type) and not get_args(tp):
        return tp.__name__
    return _MODULES.sub("", str(tp))


@dataclasses.dataclass(frozen=True, slots=True)
class _Codec:
    """What one of the two libraries makes of a type. `convert` takes plain JSON values."""

    decode: Callable[[str | bytes], Any]
    convert: Callable[[Any], Any]
    schema: Callable[[], Schema]


def _codec(tp: Any) -> _Codec:
    try:
        return _cached_codec(tp)
    except TypeError:
        # Metadata of `Annotated` need not be hashable.
        return _new_codec(tp)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _new_codec(tp: Any) -> _Codec:
    try:
        made_by_pydantic = any(_is_pydantic(part) for part in _parts(tp, []))
        return _by_pydantic(tp) if made_by_pydantic else _by_msgspec(tp)
    except (TypeError, NameError, AttributeError, RuntimeError) as error:
        raise GraphError(
            f"{name_of(tp)} cannot be read from JSON: {_first_line(error)}. Expected a pydantic "
            "model, a msgspec.Struct, a dataclass, a TypedDict, a Literal, an Enum, a number, bool "
            "or string, or a list, dict or union of these."
        ) from error


_cached_codec = lru_cache(maxsize=1024)(_new_codec)


def _by_msgspec(tp: Any) -> _Codec:
    decoder = msgspec.json.Decoder(tp, dec_hook=_subclass)

    def schema() -> Schema:
        made = _strict(msgspec.json.schema(tp, schema_hook=_subclass_schema))
        return _in_order(made, [part for part in _parts(tp, []) if typing.is_typeddict(part)])

    def convert(value: Any) -> Any:
        return msgspec.convert(value, tp, dec_hook=_subclass)

    schema()
    return _Codec(decoder.decode, convert, schema)


def _by_pydantic(tp: Any) -> _Codec:
    from pydantic import PydanticUserError, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(tp)
        adapter.json_schema()
    except (PydanticUserError, PydanticSchemaGenerationError) as error:
        raise TypeError(str(error)) from error

    def schema() -> Schema:
        return _strict(adapter.json_schema())

    return _Codec(adapter.validate_json, adapter.validate_python, schema)


def _subclass(tp: Any, value: Any) -> Any:
    """A subclass of a plain type, such as `Sentence`, as a field of a struct."""
    for plain in (str, int, float):
        if issubclass(tp, plain) and isinstance(value, plain):
            return tp(value)
    raise NotImplementedError(f"{tp!r} has no JSON form")


def _subclass_schema(tp: Any) -> Schema:
    for plain in (str, int, float):
        if isinstance(tp, type) and issubclass(tp, plain):
            return {"type": _JSON_TYPES[plain]}
    raise TypeError(f"{tp!r} has no JSON form")


def _parts(tp: Any, seen: list[Any]) -> Iterator[Any]:
    """The type and all types that it is made of, with their metadata."""
    if any(part is tp for part in seen):
        return
    seen.append(tp)
    yield tp
    if type(tp).__name__ == "TypeAliasType":
        yield from _parts(tp.__value__, seen)
    for part in get_args(tp) if get_origin(tp) is not Literal else ():
        yield from _parts(part, seen)
    owner = get_origin(tp) or tp
    if isinstance(owner, type) and is_struct(owner) and not _is_pydantic(owner):
        for part in typing.get_type_hints(owner, include_extras=True).values():
            yield from _parts(part, seen)


def _is_pydantic(part: Any) -> bool:
    modules = (type(part).__module__, getattr(part, "__module__", None))
    return hasattr(part, "__pydantic_validator__") or any(
        str(module).split(".")[0] in ("pydantic", "annotated_types") for module in modules
    )


def _strict(schema: Schema) -> Schema:
    """The schema as guided decoding wants it; the root stands by itself."""
    strict: Schema = _strictly(schema)
    reference = strict.get("$ref")
    if reference is None:
        return strict
    defs = strict["$defs"]
    root = dict(defs[reference.rsplit("/", 1)[-1]])
    used = json.dumps(defs).count('"$ref"') > 0
    return {**root, "$defs": defs} if used else root


def _in_order(schema: Schema, kinds: list[Any]) -> Schema:
    """msgspec sorts the names of a TypedDict, but models write them in the order they are told:
    with "reason" declared before "verdict" they must stay so."""
    orders = {kind.__name__: list(typing.get_type_hints(kind)) for kind in kinds}
    for each in [schema, *schema.get("$defs", {}).values()]:
        order = orders.get(each.get("title", ""), ())
        properties = each.get("properties", {})
        if order and set(order) == set(properties):
            each["properties"] = {name: properties[name] for name in order}
            each["required"] = list(order)
    return schema


def _strictly(node: Any) -> Any:
    if isinstance(node, list):
        return [_strictly(part) for part in node]
    if not isinstance(node, dict):
        return node
    strict: Schema = {}
    for key, value in node.items():
        if key in _NAMED:
            strict[key] = {name: _strictly(part) for name, part in value.items()}
        elif key in ("enum", "const", "examples"):
            strict[key] = value
        elif key not in ("default", "discriminator"):
            strict["anyOf" if key == "oneOf" else key] = _strictly(value)
    if "properties" in strict:
        strict["required"] = list(strict["properties"])
        strict["additionalProperties"] = False
    labels = strict.get("enum")
    if labels and "type" not in strict and len({type(label) for label in labels}) == 1:
        strict["type"] = _JSON_TYPES[type(labels[0])]
    return strict


def _reason(error: BaseException) -> str:
    """What a library says is wrong, without the text and links it repeats."""
    errors: Callable[..., Any] | None = getattr(error, "errors", None)
    if errors is None:
        return str(error).rstrip(".")
    found = errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in found)
