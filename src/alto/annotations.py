"""What a signature says: `Stream`, `AsCompleted`, and which type fits where.

A parameter's annotation decides how a flow is handed over (DESIGN: one rule for fan-out and fan-in):
if the produced type is assignable to the parameter it is an item; else, if it is assignable to the
element type of a `Stream`, `AsCompleted` or `list`, it is gathered; else the pipeline is wrong.
"""

from __future__ import annotations

import collections.abc as cabc
import inspect
import sys
import types
import typing
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from .core.graph import Mode

T = TypeVar("T")


class Stream(Generic[T]):
    """Items of type `T` in path order, each as soon as order allows.

    As a *return* annotation it opens a level: a fan-out. As a *parameter* it brings every
    descendant of the item that the invocation is for. Iterate it with `async for`, or with `for`
    in a blocking stage. `Stream.of(1, 2, 3)` makes one for a unit test.
    """

    @classmethod
    def of(cls, *items: T) -> Stream[T]:
        """A stream of these items, for calling a stage outside a pipeline."""
        return _Fixed(items)

    def __aiter__(self) -> AsyncIterator[T]:
        raise TypeError(f"{type(self).__name__} has no items: make one with Stream.of(...)")

    def __iter__(self) -> Iterator[T]:
        raise TypeError(f"{type(self).__name__} has no items: make one with Stream.of(...)")


class AsCompleted(Stream[T]):
    """Like `Stream`, in the order in which the items are finished. For parameters only."""


class _Fixed(Stream[T]):
    def __init__(self, items: Iterable[T]) -> None:
        self._items = tuple(items)

    async def __aiter__(self) -> AsyncIterator[T]:
        for item in self._items:
            yield item

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)


STREAMS: tuple[Any, ...] = (
    Stream,
    cabc.AsyncIterator,
    cabc.AsyncIterable,
    cabc.AsyncGenerator,
    cabc.Iterator,
    cabc.Generator,
)
LISTS: tuple[Any, ...] = (list, cabc.Sequence, cabc.Collection, cabc.Iterable)


@dataclass(frozen=True, slots=True)
class Shape:
    """A parameter's annotation read: what it takes as an item, and what it gathers if anything."""

    annotation: Any
    element: Any = None
    mode: Mode | None = None


def strip(annotation: Any) -> Any:
    """Without `Annotated`, `Required` and the names of type aliases."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__") and hasattr(annotation, "__type_params__"):
            annotation = annotation.__value__
        else:
            return annotation


def stream_element(annotation: Any) -> Any | None:
    """The `T` of `Stream[T]` (or an iterator or generator of `T`); None for anything else."""
    annotation = strip(annotation)
    origin = get_origin(annotation) or annotation
    if origin in STREAMS or origin is AsCompleted:
        arguments = get_args(annotation)
        return arguments[0] if arguments else Any
    return None


def shape_of(annotation: Any) -> Shape:
    """How a parameter with this annotation can take a flow."""
    plain = strip(annotation)
    origin = get_origin(plain) or plain
    arguments = get_args(plain)
    if origin is AsCompleted:
        return Shape(plain, arguments[0] if arguments else Any, Mode.COMPLETED)
    if origin in STREAMS:
        return Shape(plain, arguments[0] if arguments else Any, Mode.ORDERED)
    if origin in LISTS:
        return Shape(plain, arguments[0] if arguments else Any, Mode.LIST)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return Shape(plain, arguments[0], Mode.LIST)
    return Shape(plain)


def hints_of(function: Callable[..., Any], frame_locals: dict[str, Any] | None) -> dict[str, Any]:
    """The annotations of a function, resolved; names local to the definition are found too.

    An annotation that cannot be resolved stays the string it was.
    """
    names = dict(frame_locals or {})
    target: Any = function
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        target = type(function).__call__
    raw = dict(getattr(target, "__annotations__", {}))
    try:
        return typing.get_type_hints(target, localns=names or None, include_extras=True)
    except Exception:
        pass
    module = sys.modules.get(getattr(target, "__module__", ""), None)
    globals_ = {**(vars(module) if module else {}), **getattr(target, "__globals__", {})}
    resolved = {}
    for name, annotation in raw.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, globals_, names)
            except Exception:
                annotation = Unresolved(annotation)
        resolved[name] = type(None) if annotation is None else annotation
    return resolved


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An annotation written as a name that means nothing where it stands."""

    text: str


def type_name(annotation: Any) -> str:
    """A type as its user wrote it, without module names."""
    annotation = strip(annotation)
    if isinstance(annotation, Unresolved):
        return annotation.text
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return "Literal[" + ", ".join(repr(value) for value in arguments) + "]"
    if origin is Union or origin is types.UnionType:
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is not None and arguments:
        inside = ", ".join("..." if a is Ellipsis else type_name(a) for a in arguments)
        return f"{getattr(origin, '__name__', str(origin))}[{inside}]"
    if annotation is type(None):
        return "None"
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


def assignable(source: Any, target: Any) -> bool:
    """Whether a value of type `source` may be given where `target` is expected.

    Containers are compared covariantly (a `list[bool]` fits `list[int]`): values flow one way.
    What cannot be decided at build time (a type variable, an opaque generic) is allowed.
    """
    source, target = strip(source), strip(target)
    if source is target or source is Any or target is Any or target is object:
        return True
    if isinstance(source, Unresolved) or isinstance(target, Unresolved):
        return True
    if isinstance(target, TypeVar):
        return target.__bound__ is None or assignable(source, target.__bound__)
    if isinstance(source, TypeVar):
        return source.__bound__ is None or assignable(source.__bound__, target)
    s_origin, t_origin = get_origin(source), get_origin(target)
    if s_origin in (Union, types.UnionType):
        return all(assignable(part, target) for part in get_args(source))
    if t_origin in (Union, types.UnionType):
        return any(assignable(source, part) for part in get_args(target))
    if s_origin is Literal:
        if t_origin is Literal:
            return set(map(repr, get_args(source))) <= set(map(repr, get_args(target)))
        return all(assignable(type(value), target) for value in get_args(source))
    if t_origin is Literal:
        return False
    if hasattr(source, "__supertype__"):
        return assignable(source.__supertype__, target)
    if hasattr(target, "__supertype__"):
        return False
    return _class_assignable(source, s_origin, target, t_origin)


def _class_assignable(source: Any, s_origin: Any, target: Any, t_origin: Any) -> bool:
    s_class, t_class = s_origin or source, t_origin or target
    if s_class is None:
        s_class = type(None)
    if t_class is None:
        t_class = type(None)
    if not isinstance(s_class, type) or not isinstance(t_class, type):
        return True
    if typing.is_typeddict(t_class):
        return s_class is t_class
    if typing.is_typeddict(s_class):
        s_class = dict
    if t_class in (float, complex) and s_class in (int, float) and s_class is not bool:
        return True
    if getattr(t_class, "_is_protocol", False):
        return True
    if not issubclass(s_class, t_class):
        return False
    return _arguments_assignable(s_class, get_args(source), t_class, get_args(target))


def _arguments_assignable(s_class: Any, given: Any, t_class: Any, wanted: Any) -> bool:
    if not wanted:
        return True
    if not given:
        # a string is a sequence of strings, but nobody means it that way
        return not (issubclass(s_class, str | bytes) and t_class in LISTS)
    if s_class is tuple:
        if t_class is tuple:
            return _tuple_assignable(given, wanted)
        return all(assignable(a, wanted[0]) for a in given if a is not Ellipsis)
    if len(given) != len(wanted):
        return True
    return all(
        assignable(a, b)
        for a, b in zip(given, wanted, strict=True)
        if a is not Ellipsis and b is not Ellipsis
    )


def _tuple_assignable(given: Any, wanted: Any) -> bool:
    if len(wanted) == 2 and wanted[1] is Ellipsis:
        return all(assignable(a, wanted[0]) for a in given if a is not Ellipsis)
    if Ellipsis in given or len(given) != len(wanted):
        return False
    return all(assignable(a, b) for a, b in zip(given, wanted, strict=True))
