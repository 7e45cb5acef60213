"""Which type fits where, as tables."""

from __future__ import annotations

import collections.abc as cabc
import enum
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Generic, Literal, NewType, Optional, Protocol, TypedDict, TypeVar

import pytest
from typing_extensions import TypeAliasType

from alto.annotations import (
    AsCompleted,
    Stream,
    assignable,
    constant_fits,
    narrowable,
    shape_of,
    stream_element,
    type_name,
)
from alto.core.graph import Mode

T = TypeVar("T")
Number = TypeVar("Number", int, float)
Text = TypeVar("Text", bound=str)


class Animal:
    pass


class Dog(Animal):
    pass


class Box(Generic[T]):
    pass


class Colour(enum.Enum):
    RED = 1


class Speaks(Protocol):
    def speak(self) -> str: ...


class Row(TypedDict):
    x: int


class Wider(TypedDict):
    x: int
    y: str


class Other(TypedDict):
    x: str


Maybe = Optional[int]  # noqa: UP045 - as it is still written
UserId = NewType("UserId", int)
Numbers = TypeAliasType("Numbers", list[int])
Many = TypeAliasType("Many", Stream[T], type_params=(T,))

FITS = [
    (int, int),
    (bool, int),
    (int, float),
    (bool, float),
    (float, complex),
    (Dog, Animal),
    (int, object),
    (int, Any),
    (Any, int),
    (None, None),
    (type(None), Maybe),
    (int, Maybe),
    (int, int | str),
    (int | str, str | int | None),
    (bool | int, int),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", "b"], Literal["b"] | Literal["a"]),
    (Literal["a", 1], str | int),
    (Literal[Colour.RED], Colour),
    (list[int], list[int]),
    (list[int], list),
    (list, list[int]),
    (list[bool], list[int]),
    (list[int], cabc.Sequence[int]),
    (list[int], cabc.Iterable[float]),
    (list[int], list[Any]),
    (list[Any], list[int]),
    (dict[str, int], cabc.Mapping[str, object]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], cabc.Sequence[int]),
    (tuple[int, str], cabc.Sequence[int | str]),
    (set[int], cabc.Set[int]),
    (Row, Row),
    (Wider, Row),
    (Row, dict[str, Any]),
    (Row, cabc.Mapping[str, object]),
    (UserId, int),
    (UserId, UserId),
    (list[UserId], list[int]),
    (Numbers, list[int]),
    (list[int], Numbers),
    (Annotated[int, "unit"], int),
    (int, Annotated[int, "unit"]),
    (int, T),
    (T, int),
    (int, Number),
    (str, Text),
    (Box[int], Box[int]),
    (Box[int], Box[T]),
    (Box, Box[int]),
    (Dog, Speaks),
    (type[Dog], type[Animal]),
    (cabc.Callable[[int], str], cabc.Callable[..., str]),
    (typing.List[int], list[int]),  # noqa: UP006
]

DOES_NOT_FIT = [
    (int, str),
    (float, int),
    (str, bytes),
    (Animal, Dog),
    (None, int),
    (int, None),
    (Maybe, int),
    (int | str, int),
    (object, int),
    (str, Literal["a"]),
    (Literal["a", "b"], Literal["a"]),
    (Literal[True], Literal[1]),
    (Literal[1], str),
    (list[str], list[int]),
    (list[int], set[int]),
    (list[int], int),
    (int, list[int]),
    (str, cabc.Sequence[str]),
    (str, cabc.Iterable),
    (bytes, cabc.Sequence[int]),
    (str, list),
    (dict[str, int], dict[str, str]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, str], tuple[int]),
    (tuple[int, str], cabc.Sequence[int]),
    (Row, Wider),
    (Row, Other),
    (dict, Row),
    (int, UserId),
    (list[int], list[UserId]),
    (str, Number),
    (int, Text),
    (Box[int], Box[str]),
    (type[Animal], type[Dog]),
    (Stream[int], int),
]


def named(pair: tuple[Any, Any]) -> str:
    return f"{type_name(pair[0])} to {type_name(pair[1])}"


@pytest.mark.parametrize("pair", FITS, ids=named)
def test_fits(pair: tuple[Any, Any]) -> None:
    assert assignable(*pair)


@pytest.mark.parametrize("pair", DOES_NOT_FIT, ids=named)
def test_does_not_fit(pair: tuple[Any, Any]) -> None:
    assert not assignable(*pair)


@pytest.mark.parametrize(
    ("annotation", "mode", "element"),
    [
        (Stream[int], Mode.ORDERED, int),
        (Stream, Mode.ORDERED, Any),
        (AsyncIterator[int], Mode.ORDERED, int),
        (cabc.AsyncIterable[int], Mode.ORDERED, int),
        (Iterator[int], Mode.ORDERED, int),
        (cabc.Generator[int, None, None], Mode.ORDERED, int),
        (cabc.AsyncGenerator[int, None], Mode.ORDERED, int),
        (AsCompleted[int], Mode.COMPLETED, int),
        (AsCompleted, Mode.COMPLETED, Any),
        (list[int], Mode.LIST, int),
        (list, Mode.LIST, Any),
        (cabc.Sequence[int], Mode.LIST, int),
        (cabc.Iterable[int], Mode.LIST, int),
        (tuple[int, ...], Mode.LIST, int),
        (tuple[int, int], None, None),
        (set[int], None, None),
        (dict[str, int], None, None),
        (int, None, None),
        (str, None, None),
        (Any, None, None),
        (Annotated[Stream[int], "all of them"], Mode.ORDERED, int),
        (Many[int], Mode.ORDERED, int),
        (Numbers, Mode.LIST, int),
    ],
    ids=str,
)
def test_what_a_parameter_gathers(annotation: Any, mode: Mode | None, element: Any) -> None:
    shape = shape_of(annotation)
    assert (shape.mode, shape.element) == (mode, element)


@pytest.mark.parametrize(
    ("annotation", "element"),
    [
        (Stream[int], int),
        (Many[str], str),
        (Iterator[list[int]], list[int]),
        (list[int], None),
        (int, None),
        (cabc.Iterable[int], None),
    ],
    ids=str,
)
def test_what_opens_a_level(annotation: Any, element: Any) -> None:
    assert stream_element(annotation) == element


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (3, int, True),
        (3, float, True),
        (3, str, False),
        (3, UserId, True),
        (None, int, False),
        (None, int | None, True),
        ("a", Literal["a"], True),
        ("b", Literal["a"], False),
        (True, Literal[1], False),
        ([1], list[int], True),
        ({"x": 1}, Row, True),
        ({"x": 1}, dict[str, int], True),
        (Dog(), Animal, True),
        (Dog, type[Animal], True),
        (len, cabc.Callable[[str], int], True),
        (lambda x: x, cabc.Callable[..., Any], True),
        (Stream.of(1), Stream[int], True),
        (Stream.of(1), AsyncIterator[int], True),
        ([1], Stream[int], False),
        (Colour.RED, Colour, True),
        (3, Any, True),
        (3, T, True),
    ],
    ids=str,
)
def test_constants(value: Any, annotation: Any, fits: bool) -> None:
    assert constant_fits(value, annotation) is fits


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (int | None, int, True),
        (int | str, bytes, False),
        (Animal, Dog, True),
        (object, Dog, True),
        (int, str, False),
        (Literal["a", "b"], Literal["a"], True),
        (Literal["a", "b"], Literal["c"], False),
    ],
    ids=str,
)
def test_what_a_predicate_may_have_picked_out(source: Any, target: Any, fits: bool) -> None:
    assert narrowable(source, target) is fits


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "int"),
        (None, "None"),
        (Maybe, "int | None"),
        (int | str, "int | str"),
        (list[int], "list[int]"),
        (Stream[Dog], "Stream[Dog]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Any, "Any"),
        (UserId, "UserId"),
        (Annotated[int, "unit"], "int"),
        (cabc.Callable[[int], str], "Callable[[int], str]"),
        (cabc.Callable[..., str], "Callable[..., str]"),
        (T, "T"),
        (Box[int], "Box[int]"),
    ],
    ids=str,
)
def test_types_are_shown_as_they_are_written(annotation: Any, name: str) -> None:
    assert type_name(annotation) == name
