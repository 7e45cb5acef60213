"""What a signature says: `Stream`, `AsCompleted`, and which type fits where.

A parameter's annotation decides how a flow is handed over: if the produced type is assignable to
the parameter it is an item; else, if it is assignable to the element type of a `Stream`,
`AsCompleted` or `list`, it is gathered; else the pipeline is wrong.
"""

from __future__ import annotations

import collections.abc as cabc
import functools
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

    def __format__(self, spec: str) -> str:
        # A prompt would else have the name of an object in it, and the model make something up.
        raise TypeError(
            "a stream was put into a text, as in f'{items}', but its items may not be there yet. "
            "Annotate the parameter as list[...] to have all of them at once, or read the stream: "
            "`async for`, or `for` in a blocking stage. To show the object itself, write "
            "f'{items!r}'."
        )


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

    def __repr__(self) -> str:
        return f"Stream.of({', '.join(map(repr, self._items))})"


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
    """Without `Annotated` and without the names of type aliases."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(origin or annotation, "__value__"):
            annotation = _alias_value(origin or annotation, get_args(annotation))
        else:
            return annotation


def _alias_value(alias: Any, given: tuple[Any, ...]) -> Any:
    """What `type Alias[T] = ...` stands for, with `T` filled in."""
    value = alias.__value__
    wanted = getattr(value, "__parameters__", ())
    if not given or not wanted:
        return value
    meaning = dict(zip(alias.__type_params__, given, strict=False))
    return value[tuple(meaning.get(parameter, Any) for parameter in wanted)]


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

    An annotation that cannot be resolved becomes `Unresolved`: a name may be defined later.
    """
    target = annotated(function)
    globals_ = getattr(inspect.unwrap(target), "__globals__", None)
    if globals_ is None:
        globals_ = vars(sys.modules.get(getattr(target, "__module__", ""), typing))
    parameters = {p.__name__: p for p in getattr(target, "__type_params__", ())}
    names = {**(frame_locals or {}), **parameters}
    raw = getattr(target, "__annotations__", {})
    return {name: _resolve(annotation, globals_, names) for name, annotation in raw.items()}


def annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose signature counts: behind `functools.partial` and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def _resolve(annotation: Any, globals_: dict[str, Any], names: dict[str, Any]) -> Any:
    # One at a time, so that a name that means nothing spoils only its own annotation.
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globals_, names, include_extras=True)["it"]
    except Exception:
        # Whatever the text of an annotation does when it is evaluated.
        text = annotation if isinstance(annotation, str) else type_name(annotation)
        return Unresolved(text)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An annotation written as a name that means nothing where it stands."""

    text: str


def type_name(annotation: Any) -> str:
    """A type as its user wrote it, without module names."""
    annotation = strip(annotation)
    if isinstance(annotation, Unresolved):
        return annotation.text
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, list):  # the arguments of a Callable
        return "[" + ", ".join(map(type_name, annotation)) + "]"
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return "Literal[" + ", ".join(repr(value) for value in arguments) + "]"
    if origin is Union or origin is types.UnionType:
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is not None and arguments:
        inside = ", ".join("..." if a is Ellipsis else type_name(a) for a in arguments)
        return f"{getattr(origin, '__name__', str(origin))}[{inside}]"
    if annotation is None or annotation is type(None):
        return "None"
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


def assignable(source: Any, target: Any) -> bool:
    """Whether a value of type `source` may be given where `target` is expected.

    Containers are compared covariantly (a `list[bool]` fits `list[int]`): values flow one way.
    What cannot be decided at build time (a type variable, a protocol) is allowed.
    """
    source, target = strip(source), strip(target)
    if source is target or source is Any or target is Any or target is object:
        return True
    if isinstance(source, Unresolved) or isinstance(target, Unresolved):
        return True
    if isinstance(target, TypeVar):
        return _any_part(source, target.__bound__, target.__constraints__)
    if isinstance(source, TypeVar):
        return source.__bound__ is None or assignable(source.__bound__, target)
    s_origin, t_origin = get_origin(source), get_origin(target)
    if s_origin in (Union, types.UnionType):
        return all(assignable(part, target) for part in get_args(source))
    if s_origin is Literal and len(get_args(source)) > 1:
        return all(assignable(Literal[value], target) for value in get_args(source))
    if t_origin in (Union, types.UnionType):
        return any(assignable(source, part) for part in get_args(target))
    if s_origin is Literal:
        (value,) = get_args(source)
        if t_origin is Literal:
            return is_label(value, target)
        return assignable(type(value), target)
    if t_origin is Literal:
        return False
    if hasattr(source, "__supertype__"):
        return assignable(source.__supertype__, target)
    if hasattr(target, "__supertype__"):
        return False
    return _class_assignable(source, s_origin, target, t_origin)


def _any_part(source: Any, bound: Any, constraints: tuple[Any, ...]) -> bool:
    """Whether `source` can be what a type variable stands for."""
    if constraints:
        return any(assignable(source, kind) for kind in constraints)
    return bound is None or assignable(source, bound)


def is_label(value: Any, literal: Any) -> bool:
    """Whether `value` is one of a `Literal`'s labels. `True` is not the label `1`."""
    return any(value == label and type(value) is type(label) for label in get_args(literal))


def narrowable(source: Any, target: Any) -> bool:
    """Whether some values of type `source` fit `target`: what a predicate may have picked out."""
    source, target = strip(source), strip(target)
    if assignable(source, target) or assignable(target, source):
        return True
    if get_origin(source) in (Union, types.UnionType):
        return any(narrowable(part, target) for part in get_args(source))
    return False


def constant_fits(value: Any, annotation: Any) -> bool:
    """Whether a constant may be given to a parameter with this annotation."""
    plain = strip(annotation)
    origin = get_origin(plain)
    if origin in (Union, types.UnionType):
        return any(constant_fits(value, part) for part in get_args(plain))
    if origin is Literal:
        return is_label(value, plain)
    if hasattr(plain, "__supertype__"):
        return constant_fits(value, plain.__supertype__)
    if typing.is_typeddict(origin or plain):
        return isinstance(value, dict)
    if (origin or plain) in STREAMS and isinstance(value, Stream):
        return True
    return assignable(type(value), plain)


def _class_assignable(source: Any, s_origin: Any, target: Any, t_origin: Any) -> bool:
    s_class, t_class = s_origin or source, t_origin or target
    if s_class is None:
        s_class = type(None)
    if t_class is None:
        t_class = type(None)
    if not isinstance(s_class, type) or not isinstance(t_class, type):
        return True
    if typing.is_typeddict(t_class):
        return _fields_fit(s_class, t_class)
    if typing.is_typeddict(s_class):
        s_class = dict
    if t_class in (float, complex) and issubclass(s_class, int | float):
        return True
    if getattr(t_class, "_is_protocol", False):
        return True
    if issubclass(s_class, str | bytes) and t_class in LISTS:
        return False  # a string is a sequence of strings, but nobody means it that way
    if not issubclass(s_class, t_class):
        return False
    return _arguments_assignable(s_class, get_args(source), t_class, get_args(target))


def _fields_fit(source: type, target: type) -> bool:
    """Whether one TypedDict has all the fields of another. `issubclass` refuses to say."""
    if source is target or not typing.is_typeddict(source):
        return source is target
    given, wanted = hints_of(source, None), hints_of(target, None)
    return all(name in given and assignable(given[name], kind) for name, kind in wanted.items())


def _arguments_assignable(s_class: Any, given: Any, t_class: Any, wanted: Any) -> bool:
    if not wanted or not given:
        return True
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
