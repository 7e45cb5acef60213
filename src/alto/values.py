"""Any item as JSON, as bytes, and as a size.

`to_jsonable` is for people and HTTP, `encode` for comparing the items of two attempts, `size_of`
for buffer limits. They take whatever a stage may return; what msgspec does not know goes through
one hook: pydantic models by their fields, subclasses of `str` and numbers as what they are.

Always true:
    V1  `encode` gives equal bytes for equal values, whatever the order of dicts and sets and
        whatever PYTHONHASHSEED. Different bytes only say "maybe different", which costs a re-run
    V2  `size_of` looks at no more than `SIZE_VISITS_MAX` values, however large the item is

Nothing here imports pydantic: a model is known by what it carries.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

SIZE_VISITS_MAX = 256
"""How many values `size_of` looks at; beyond it the rest is taken to be like the part seen."""

SIZERS_MAX = 4096
"""Of how many types the fields are remembered."""

SIZE_DEPTH_MAX = 8
"""How deep `size_of` looks; what lies deeper counts as one word."""

_PLAIN: tuple[Any, ...] = (int, float, bytes, dict, list, tuple, set, frozenset)
_TEXTS = (str, bytes, bytearray)
_COLLECTIONS = (list, tuple, set, frozenset)
_WORD = 8
_REFUSALS = (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError)
_read = msgspec.json.Decoder().decode
_OPAQUE = b"\xc1"
"""Marks pickled bytes: the one byte that no MessagePack value begins with."""


def to_jsonable(value: Any) -> Any:
    """The value as dicts, lists, strings, numbers and None.

    What has no JSON form (a connection, an array) is shown as its `repr`.
    """
    if type(value) in (str, int, float, bool, type(None)):
        return value
    try:
        return _read(msgspec.json.encode(value, enc_hook=_for_json))
    except _REFUSALS:
        pass
    try:
        # Numbers of more than 64 bits, and halves of surrogate pairs, have no encoding there.
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_for_json)
    except _REFUSALS:
        return repr(value)


def encode(value: Any) -> bytes:
    """The value as bytes in one canonical form (MessagePack with sorted keys).

    An object that has no fields msgspec or pydantic knows is pickled, and one that cannot be
    pickled is its `repr`; then two equal objects may still give different bytes.
    """
    try:
        return msgspec.msgpack.encode(value, enc_hook=_for_bytes, order="deterministic")
    except _REFUSALS:
        return _OPAQUE + _pickled(value)


def same(a: Any, b: Any) -> bool:
    """Whether two attempts gave the same item: equal as they are encoded."""
    if a is b:
        return True
    if type(a) is type(b) and isinstance(a, str | int | bytes):
        return bool(a == b)
    return encode(a) == encode(b)


def size_of(value: Any) -> int:
    """About how many bytes the value holds. Cheap before exact: a string is its length."""
    # Asked of every item: as by `_size`, sooner where the value is, or holds, mere text.
    if isinstance(value, str):
        return len(value)
    kind: Any = type(value)
    if kind is list:
        return _size_of_list(value)
    if isinstance(value, (int, float)):
        return _WORD
    names = _text_names(kind)
    if not names:
        return _size_of_any(value)
    size = _WORD
    for name in names:
        held = getattr(value, name, None)
        if type(held) is not str:
            return _size_of_any(value)
        size += len(held)
    return size


@lru_cache(SIZERS_MAX)
def _text_names(kind: type) -> tuple[str, ...]:
    """The fields of a type, where all of them may be text and nothing else gives its size."""
    if issubclass(kind, (*_TEXTS, *_COLLECTIONS, dict)):
        return ()
    names = _fields(kind) or ()
    if len(names) >= SIZE_VISITS_MAX or hasattr(kind, "nbytes") or "nbytes" in names:
        return ()
    return names


def _size_of_list(value: list[Any]) -> int:
    if len(value) >= SIZE_VISITS_MAX:
        return _size_of_any(value)
    size = _WORD
    for held in value:
        if type(held) is not str:
            return _size_of_any(value)
        size += len(held)
    return size


def _size_of_any(value: Any) -> int:
    return _size(value, SIZE_DEPTH_MAX, [SIZE_VISITS_MAX])


def _for_json(value: Any) -> Any:
    dump: Callable[..., Any] | None = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    plain = _plain(value)
    return repr(value) if plain is None else plain


def _for_bytes(value: Any) -> Any:
    if hasattr(value, "model_fields_set"):
        # Not `model_dump`: it would lose which subclass a field holds, and costs more.
        return [type(value).__qualname__, value.__dict__, getattr(value, "model_extra", None)]
    plain = _plain(value)
    return _pickled(value) if plain is None else plain


def _plain(value: Any) -> Any:
    """A subclass of a plain type as that type, else None."""
    if isinstance(value, str):
        return str.__str__(value)
    for kind in _PLAIN:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return dict(value)
    return None


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:
        # Anything may be raised by a class's own `__reduce__`.
        return repr(value).encode(errors="backslashreplace")


def _size(value: Any, depth: int, visits: list[int]) -> int:
    visits[0] -= 1
    kind = type(value)
    if kind is str:
        return len(value)
    if kind is not list and kind is not tuple and kind is not dict:  # what is none of the above
        if isinstance(value, (str, bytes, bytearray)):
            return len(value)
        if value is None or isinstance(value, (int, float)):
            return _WORD
        held = getattr(value, "nbytes", None)
        if isinstance(held, int):
            return held
    children = _children(value)
    count = len(children)
    if not count or not depth:
        return _WORD
    seen = 0
    size = 0
    for child in islice(children, max(visits[0], 1)):
        kind = type(child)
        if kind is str:  # the usual kinds, without a call
            visits[0] -= 1
            size += len(child)
        elif kind is int or kind is float:
            visits[0] -= 1
            size += _WORD
        else:
            size += _size(child, depth - 1, visits)
        seen += 1
        if visits[0] <= 0:
            break
    return _WORD + size * count // seen


def _children(value: Any) -> Collection[Any]:
    """What the value holds; keys of a dict are left out."""
    kind = type(value)
    if kind is dict:
        return value.values()  # type: ignore[no-any-return]
    if isinstance(value, _COLLECTIONS):
        return value
    fields = _fields(kind)
    if fields is not None:
        return [getattr(value, field, None) for field in fields]
    if isinstance(value, Mapping):
        return value.values()
    return tuple(getattr(value, "__dict__", {}).values())


def _fields(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass or of a msgspec struct; None for any other type."""
    found: Iterable[str] | None = getattr(kind, "__dataclass_fields__", None)
    if found is None and not issubclass(kind, Mapping):
        found = getattr(kind, "__struct_fields__", None)
    return None if found is None else tuple(found)
