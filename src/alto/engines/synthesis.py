"""Made-up answers that read as what a call asks for.

A JSON schema gives JSON that satisfies it, a choice gives one of its labels, and anything else
gives plain sentences, lines or paragraphs. How long and how many is drawn from `Lengths`. All
luck comes from a hash of the call and a seed, so a call is answered alike in any process.

Always true:
    Y1  equal seed, stage, path and messages give equal text
    Y2  text for a schema is JSON, and follows the schema's types, enums, counts and ranges
        (a `pattern` is not followed)
    Y3  a recursive schema ends: where it is deep (`DEPTH_MAX`) optional parts are left out
    Y4  a schema that demands more than any model would write, or never ends, is refused at once
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Literal, get_args, get_origin

from ..annotations import stream_element, strip
from ..core.calls import Call
from ..errors import ConfigError, EngineError

Count = int | Sequence[int] | Callable[[random.Random], int]
"""How many: a number, the two ends of a range (both included, all equally likely), or a function
of a seeded `random.Random`."""

DEPTH_MAX = 6
WIDE_MAX = 10_000
"""Of more values than this, those below `WIDE_DEPTH` count as deep: a wide schema recurs too."""
WIDE_DEPTH = 3
NESTED_MAX = 100
"""A schema whose required parts go deeper than this never ends, or nearly."""
DEMANDED_CHARS_MAX = 500_000
"""What a schema may demand (`minItems`, `minLength`): about what fills any model's context."""
_ITEM_CHARS = 16
"""An item that is demanded counts as so many."""

_TEXT = (
    "river light under seven quiet market stone early garden letter window north copper bridge "
    "winter signal open field paper harbour evening simple record valley music carbon island "
    "yellow engine public water circle morning forest history silver method distant table colour "
    "summer plain reason travel mountain season little village across ancient follow measure"
)
WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Distributions of what is made up."""

    sentences: Count = (3, 8)
    """Sentences (or lines, or paragraphs) of a plain answer."""
    words: Count = (8, 22)
    """Words of a sentence."""
    items: Count = (1, 4)
    """Elements of a JSON array."""
    string_words: Count = (4, 14)
    """Words of a string inside JSON."""

    def __post_init__(self) -> None:
        for each in fields(self):
            count = getattr(self, each.name)
            if not callable(count) and not _counts(count):
                raise ConfigError(
                    f"Lengths: {each.name} is {count!r}, expected a whole number, a pair of the "
                    "least and the most, or a function of a random."
                )

    def scaled(self, factor: float) -> Lengths:
        """The same distributions, each draw shrunk by the factor."""
        if factor == 1.0:
            return self

        def shrink(count: Count) -> Count:
            return lambda rng: int(draw(count, rng) * factor)

        return Lengths(
            sentences=shrink(self.sentences),
            words=shrink(self.words),
            items=shrink(self.items),
            string_words=shrink(self.string_words),
        )


def _counts(given: Any) -> bool:
    """Is it a number, or a pair of the least and the most?"""
    pair = given if isinstance(given, list | tuple) else (given, given)
    if len(pair) != 2 or any(isinstance(each, bool) or not isinstance(each, int) for each in pair):
        return False
    return bool(0 <= pair[0] <= pair[1])


def draw(count: Count, rng: random.Random) -> int:
    """One draw, never below 0."""
    if callable(count):
        drawn = count(rng)
    elif isinstance(count, int):
        drawn = count
    else:
        low, high = count
        drawn = rng.randint(low, high)
    return max(0, drawn)


def seeded(call: Call, seed: int) -> random.Random:
    """Luck that depends on the call and the seed and on nothing else."""
    identity = json.dumps(
        [seed, call.seed, call.stage, list(call.path), call.messages],
        sort_keys=True,
        default=lambda value: type(value).__name__,
    )
    digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def synthesize(
    call: Call,
    lengths: Lengths,
    seed: int,
    count_tokens: Callable[[str], int] = lambda text: len(text) // 4,
) -> str:
    """An answer to the call. What is read into items or a value is kept short enough for the call's
    `max_tokens`, if it can be: cut off it would not parse. Other text is not: an engine cuts it."""
    schema = _schema_of(call)
    element, _ = _element(call.returns)
    text = ""
    for factor in (1.0, 0.5, 0.25, 0.1, 0.0):
        scaled, rng = lengths.scaled(factor), seeded(call, seed)
        if schema is None:
            text = _plain(call.returns, scaled, rng)
        else:
            text = SchemaText(schema, scaled, rng).text()
        if call.max_tokens is None or (schema is None and element in (str, Any)):
            break
        if count_tokens(text) <= call.max_tokens:
            break
    return text


# ---------------------------------------------------------------------- plain text and choices


def _schema_of(call: Call) -> Mapping[str, Any] | None:
    if call.schema is not None:
        return call.schema
    element, stream = _element(call.returns)
    if _labels(element) is not None or element in (Any, None, type(None), int, float):
        return None
    if isinstance(element, type) and issubclass(element, str):
        return None
    from ..structs import reader_for

    return reader_for(element, stream).schema


def _element(returns: Any) -> tuple[Any, bool]:
    """What an answer holds, and whether it holds a stream of them."""
    element = stream_element(returns)
    return (strip(returns), False) if element is None else (strip(element), True)


def _labels(kind: Any) -> list[str] | None:
    """The labels of a choice, or None when the type is none."""
    if get_origin(kind) is Literal:
        return [str(label) for label in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    if kind is bool:
        return ["true", "false"]
    return None


def _plain(returns: Any, lengths: Lengths, rng: random.Random) -> str:
    element, stream = _element(returns)
    labels = _labels(element)
    if labels is not None or element in (int, float):
        many = max(1, draw(lengths.items, rng)) if stream else 1
        return "\n".join(_choice(element, labels, rng) for _ in range(many))
    joint = {"Line": "\n", "Paragraph": "\n\n"}.get(getattr(element, "__name__", ""), " ")
    many = max(1, draw(lengths.sentences, rng))
    return joint.join(_sentence(lengths, rng) for _ in range(many))


def _choice(kind: Any, labels: list[str] | None, rng: random.Random) -> str:
    if labels is not None:
        return rng.choice(labels)
    return str(rng.randint(0, 100)) if kind is int else f"{rng.uniform(0, 100):.2f}"


def _sentence(lengths: Lengths, rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(max(1, draw(lengths.words, rng)))]
    return " ".join(words).capitalize() + "."


# ---------------------------------------------------------------------- JSON by schema


class SchemaText:
    """One JSON text for one schema."""

    def __init__(self, schema: Mapping[str, Any], lengths: Lengths, rng: random.Random) -> None:
        self._root = schema
        self._lengths = lengths
        self._rng = rng
        self._demanded = 0
        self._values = 0

    def text(self) -> str:
        """JSON; a root that is a bare string (a label) stands without quotes, as a model writes
        it."""
        value = self._value(self._root, 0)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def _demand(self, chars: int) -> None:
        self._demanded += chars
        if self._demanded > DEMANDED_CHARS_MAX:
            raise _bad_schema(
                f"its minItems, minProperties and minLength demand more than {DEMANDED_CHARS_MAX} "
                f"characters (an item counts as {_ITEM_CHARS}); lower them"
            )

    def _is_deep(self, depth: int) -> bool:
        return depth > (WIDE_DEPTH if self._values > WIDE_MAX else DEPTH_MAX)

    def _value(self, schema: Any, depth: int) -> Any:
        self._values += 1
        if depth > NESTED_MAX:
            raise _bad_schema(f"its required parts go {NESTED_MAX} levels deep, and may never end")
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._rng.choice(list(schema["enum"]))
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self._value(self._one_of(options, depth), depth)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = "null" if self._is_deep(depth) and "null" in kind else self._rng.choice(kind)
        if kind is None:
            kind = self._kind_by_keywords(schema)
        writer = _WRITERS.get(kind)
        if writer is None:
            raise EngineError(
                f"a JSON schema asks for type {kind!r}, expected one of {', '.join(_WRITERS)}",
                status=400,
                retryable=False,
            )
        return writer(self, schema, depth)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """The schema without `$ref` and `allOf`; `true` is any string."""
        hops = 0
        while isinstance(schema, Mapping) and ("$ref" in schema or "allOf" in schema):
            hops += 1
            if hops > 64:
                raise _bad_schema(f"$ref {schema.get('$ref')!r} leads back to itself")
            rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
            parts = [self._target(schema["$ref"])] if "$ref" in schema else []
            for part in [*parts, *schema.get("allOf", ())]:
                rest = _merged(part, rest) if isinstance(part, Mapping) else rest
            schema = rest
        if not isinstance(schema, Mapping):
            return {"type": "string"}
        return schema

    def _target(self, ref: object) -> Any:
        target: Any = self._root
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise _bad_schema(f"$ref {ref!r} does not point into the schema itself (#/...)")
        for part in ref[1:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if key:
                if not isinstance(target, Mapping) or key not in target:
                    raise _bad_schema(f"$ref {ref!r} points at nothing")
                target = target[key]
        return target

    def _one_of(self, options: Sequence[Any], depth: int) -> Any:
        if self._is_deep(depth):
            plain = [each for each in options if self._resolved(each).get("type") not in _NESTED]
            options = plain or options
        return self._rng.choice(list(options))

    @staticmethod
    def _kind_by_keywords(schema: Mapping[str, Any]) -> str:
        if "properties" in schema or "additionalProperties" in schema:
            return "object"
        return "array" if "items" in schema or "prefixItems" in schema else "string"

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required = schema.get("required", ())
        value = {
            name: self._value(part, depth + 1)
            for name, part in properties.items()
            if not self._is_deep(depth) or name in required
        }
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping) and not self._is_deep(depth):
            for name in self._rng.sample(WORDS, min(len(WORDS), self._items(schema, depth))):
                value.setdefault(name, self._value(others, depth + 1))
        return value

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        fixed = [self._value(part, depth + 1) for part in schema.get("prefixItems", ())]
        items = schema.get("items", not fixed)
        if items is False:
            return fixed
        more = max(0, self._items(schema, depth) - len(fixed))
        rest = [self._value(items, depth + 1) for _ in range(more)]
        return fixed + (_distinct(rest) if schema.get("uniqueItems") else rest)

    def _items(self, schema: Mapping[str, Any], depth: int) -> int:
        low = schema.get("minItems", schema.get("minProperties", 0))
        high = schema.get("maxItems", schema.get("maxProperties"))
        self._demand(_ITEM_CHARS * low)
        drawn = 0 if self._is_deep(depth) else draw(self._lengths.items, self._rng)
        return int(max(low, drawn if high is None else min(drawn, high)))

    def _string(self, schema: Mapping[str, Any], depth: int) -> str:
        made = _FORMATS.get(schema.get("format", ""))
        if made is not None:
            return made(self._rng)
        self._demand(schema.get("minLength", 0))
        words = max(1, draw(self._lengths.string_words, self._rng))
        text = " ".join(self._rng.choice(WORDS) for _ in range(words)).capitalize()
        while len(text) < schema.get("minLength", 0):
            text += " " + self._rng.choice(WORDS)
        return text[: schema["maxLength"]] if "maxLength" in schema else text

    def _integer(self, schema: Mapping[str, Any], depth: int) -> int:
        low, high = _range(schema, 1)
        step = int(schema.get("multipleOf", 1)) or 1
        first, last = -(-int(low) // step), int(high) // step
        return self._rng.randint(first, max(first, last)) * step

    def _number(self, schema: Mapping[str, Any], depth: int) -> float:
        low, high = _range(schema, 1e-3)
        return min(high, max(low, round(self._rng.uniform(low, high), 3)))

    def _boolean(self, schema: Mapping[str, Any], depth: int) -> bool:
        return self._rng.random() < 0.5

    def _null(self, schema: Mapping[str, Any], depth: int) -> None:
        return None


_NESTED = ("object", "array")

_WRITERS: dict[str, Callable[[SchemaText, Mapping[str, Any], int], Any]] = {
    "object": SchemaText._object,
    "array": SchemaText._array,
    "string": SchemaText._string,
    "integer": SchemaText._integer,
    "number": SchemaText._number,
    "boolean": SchemaText._boolean,
    "null": SchemaText._null,
}

_FORMATS: dict[str, Callable[[random.Random], str]] = {
    "date": lambda rng: f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    "time": lambda rng: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00Z",
    "date-time": lambda rng: f"20{rng.randint(10, 29)}-0{rng.randint(1, 9)}-11T08:00:00Z",
    "email": lambda rng: f"{rng.choice(WORDS)}@example.com",
    "uri": lambda rng: f"https://example.com/{rng.choice(WORDS)}",
    "uuid": lambda rng: f"{rng.getrandbits(32):08x}-0000-4000-8000-{rng.getrandbits(48):012x}",
}


def _range(schema: Mapping[str, Any], gap: float) -> tuple[float, float]:
    """The two ends, both allowed."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + gap
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - gap
    if low is None:
        low = min(0, high) if high is not None else 0
    return low, high if high is not None else max(100, low + 100)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas that hold together; their properties and required names add up."""
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *other["required"]]
    return both


def _distinct(values: list[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(json.dumps(value, sort_keys=True), value)
    return list(seen.values())


def _bad_schema(problem: str) -> EngineError:
    return EngineError(
        f"cannot write text for the call's JSON schema: {problem}; mend the schema",
        status=400,
        retryable=False,
    )
