"""Every form that a stage may have, inside a pipeline and called directly."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, Generic, NewType, TypedDict, TypeVar

import pytest

import alto
from alto import AsCompleted, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually

T = TypeVar("T")

PATIENCE_S = 20.0
"""Longer than any thread here takes to end; a test that needs it fails."""


@stage
def plain(x: int) -> int:
    return x + 1


@stage
async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@stage
def generator(x: int) -> Iterator[int]:
    yield x
    yield x + 1


@stage
async def async_generator(x: int) -> AsyncIterator[int]:
    yield x
    yield x + 1


@stage
def full_generator(x: int) -> Generator[int, None, None]:
    yield x
    yield x + 1


@stage
async def full_async_generator(x: int) -> AsyncGenerator[int, None]:
    yield x
    yield x + 1


@stage
def listed(x: int) -> Stream[int]:
    return [x, x + 1]  # type: ignore[return-value]


@stage
async def awaited_list(x: int) -> Stream[int]:
    return Stream.of(x, x + 1)


@stage
class Adder:
    def __init__(self, by: int = 1) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return x + self.by


@stage
class AsyncAdder:
    async def __call__(self, x: int) -> int:
        return x + 1


@stage
class Counter:
    def __call__(self, x: int) -> Iterator[int]:
        yield x
        yield x + 1


@stage
class AsyncCounter:
    async def __call__(self, x: int) -> AsyncIterator[int]:
        yield x
        yield x + 1


ONE = [plain, coroutine, Adder, AsyncAdder]
MANY = [
    generator,
    async_generator,
    full_generator,
    full_async_generator,
    listed,
    awaited_list,
    Counter,
    AsyncCounter,
]


def call(flow: Any, *args: Any, **kwargs: Any) -> Any:
    """A request on a real loop, with real threads; afterwards no thread of it runs."""
    result = alto.run(flow, *args, **kwargs)
    for thread in threading.enumerate():
        if thread.name.startswith("alto-"):
            thread.join(PATIENCE_S)  # its code has ended, but the thread may not yet be gone
            assert not thread.is_alive(), thread
    return result


@pytest.mark.parametrize("form", ONE, ids=lambda s: s.name)
def test_one_item_in_one_item_out(form: Any) -> None:
    @pipeline
    def p(x: int):
        return form(x)

    assert call(p, 4) == 5


@pytest.mark.parametrize("form", MANY, ids=lambda s: s.name)
def test_one_item_in_many_out(form: Any) -> None:
    @pipeline
    def p(x: int):
        return plain(form(x))

    assert call(p, 4) == [5, 6]


@stage
def sum_of(numbers: Stream[int]) -> int:
    return sum(numbers)


@stage
async def sum_of_async(numbers: Stream[int]) -> int:
    return sum([n async for n in numbers])


@stage
async def sum_as_completed(numbers: AsCompleted[int]) -> int:
    return sum([n async for n in numbers])


@stage
def sum_of_list(numbers: list[int]) -> int:
    return sum(numbers)


@stage
def sum_of_iterator(numbers: Iterator[int]) -> int:
    return sum(numbers)


@stage
async def sum_of_async_iterator(numbers: AsyncIterator[int]) -> int:
    return sum([n async for n in numbers])


@stage
def sum_of_tuple(numbers: tuple[int, ...]) -> int:
    return sum(numbers)


@stage
class SumOf:
    def __call__(self, numbers: Stream[int]) -> int:
        return sum(numbers)


@pytest.mark.parametrize(
    "form",
    [
        sum_of,
        sum_of_async,
        sum_as_completed,
        sum_of_list,
        sum_of_iterator,
        sum_of_async_iterator,
        sum_of_tuple,
        SumOf,
    ],
    ids=lambda s: s.name,
)
def test_many_in_one_out(form: Any) -> None:
    @pipeline
    def p(x: int):
        return form(plain(generator(x)))

    assert call(p, 4) == 11


def test_called_outside_a_pipeline_a_stage_is_its_function() -> None:
    assert plain(4) == 5
    assert asyncio.run(coroutine(4)) == 5
    assert list(generator(4)) == [4, 5]
    assert Adder(by=3)(4) == 7
    assert sum_of(Stream.of(1, 2, 3)) == 6
    assert asyncio.run(sum_of_async(Stream.of(1, 2, 3))) == 6
    assert sum_of_list([1, 2]) == 3
    assert (plain.name, plain.__doc__, plain.__wrapped__) == ("plain", None, plain.function)


def test_constants_and_defaults_are_arguments() -> None:
    @stage
    async def scale(x: int, by: int, plus: int = 0, *, minus: int = 0) -> int:
        return x * by + plus - minus

    @pipeline
    def p(x: int, y: int = 5):
        return {
            "constant": scale(x, 3),
            "default": scale(x, by=y),
            "all": scale(x, 2, 10, minus=1),
        }

    assert call(p, 2) == {"constant": 6, "default": 10, "all": 13}
    assert call(p, 2, y=7)["default"] == 14


def test_positional_only_parameters() -> None:
    @stage
    def less(a: int, b: int, /) -> int:
        return a - b

    @pipeline
    def p(x: int, y: int, /):
        return less(x, y)

    assert call(p, 9, 2) == 7


def test_a_stage_without_item_arguments_runs_once() -> None:
    @stage
    async def config() -> dict[str, int]:
        return {"limit": 3}

    @stage
    async def under(x: int, limits: dict[str, int]) -> bool:
        return x < limits["limit"]

    @pipeline
    def p(x: int):
        return under(async_generator(x), config())

    assert call(p, 2) == [True, False]


def test_a_stage_used_twice_has_two_names() -> None:
    names: list[str] = []

    @stage
    async def step(x: int) -> int:
        names.append(alto.current().stage)
        return x + 1

    @pipeline
    def p(x: int):
        return step(step(x))

    assert call(p, 1) == 3
    assert names == ["step", "step#2"]


def test_a_flow_used_by_many_consumers() -> None:
    @pipeline
    def p(x: int):
        items = async_generator(x)
        return {
            "items": items,
            "more": coroutine(items),
            "sum": sum_of_async(items),
            "list": sum_of_list(items),
            "completed": sum_as_completed(items),
        }

    assert call(p, 4) == {"items": [4, 5], "more": [5, 6], "sum": 9, "list": 9, "completed": 9}


def test_a_pipeline_may_be_nothing_but_wires() -> None:
    @pipeline
    def p(x: int, y: Stream[int]):
        return {"x": x, "y": y}

    assert call(p, 1, [2, 3]) == {"x": 1, "y": [2, 3]}


def test_a_stream_parameter_takes_anything_that_can_be_iterated() -> None:
    @pipeline
    def p(xs: Stream[int]):
        return {"each": coroutine(xs), "sum": sum_of_async(xs)}

    async def ticks() -> AsyncIterator[int]:
        for x in range(3):
            await asyncio.sleep(1)
            yield x

    assert call(p, [1, 2]) == {"each": [2, 3], "sum": 3}
    assert call(p, (x for x in ())) == {"each": [], "sum": 0}
    assert call(p, Stream.of(5)) == {"each": [6], "sum": 5}

    async def main() -> Any:
        async with alto.Runtime() as runtime:
            return await runtime.call(p, ticks())

    assert run_virtually(main()) == {"each": [1, 2, 3], "sum": 3}


# ---------------------------------------------------------------- how types may be written


def test_names_that_are_defined_after_the_stage() -> None:
    @stage
    async def later(x: int) -> Later:
        return Later(x)

    @stage
    async def take(later: Later) -> int:
        return later.x

    class Later:
        def __init__(self, x: int) -> None:
            self.x = x

    @pipeline
    def p(x: int):
        return take(later(x))

    assert call(p, 3) == 3


def test_local_classes_typed_dicts_new_types_and_aliases() -> None:
    class Local(TypedDict):
        x: int

    UserId = NewType("UserId", int)
    Locals = list[Local]

    @stage
    async def one(x: int) -> UserId:
        return UserId(x)

    @stage
    async def two(x: int) -> Locals:
        return [{"x": x}]

    @stage
    async def three(rows: list[dict[str, Any]]) -> int:
        return int(rows[0]["x"])

    @pipeline
    def p(x: int):
        return three(two(one(x)))

    assert call(p, 3) == 3


def test_generic_classes_and_type_variables() -> None:
    class Box(Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

    @stage
    async def box(x: int) -> Box[int]:
        return Box(x)

    @stage
    async def first(box: Box[T]) -> T:
        return box.value

    @pipeline
    def p(x: int):
        return plain(first(box(x)))

    assert call(p, 3) == 4


def test_partial_functions_methods_and_callable_objects() -> None:
    async def power(x: int, exponent: int) -> int:
        return int(x**exponent)

    class Offset:
        def __init__(self, by: int) -> None:
            self.by = by

        async def __call__(self, x: int) -> int:
            return x + self.by

        def minus(self, x: int) -> int:
            return x - self.by

    square = stage(name="square")(functools.partial(power, exponent=2))
    add = stage(name="add")(Offset(10))
    subtract = stage(Offset(1).minus)

    @pipeline
    def p(x: int):
        return subtract(add(square(x)))

    assert call(p, 3) == 18


def test_a_where_narrows_a_union() -> None:
    @stage
    async def lookup(x: int) -> AsyncIterator[int | str | None]:
        yield x
        yield None
        yield "unknown"

    @pipeline
    def p(x: int):
        found = lookup(x)
        return {
            "numbers": plain(found.where(lambda value: isinstance(value, int))),
            "known": found.where(lambda value: value is not None),
        }

    assert call(p, 3) == {"numbers": [4], "known": [3, "unknown"]}


def test_either_has_the_types_of_its_arguments() -> None:
    @stage
    async def word(x: int) -> str:
        return "big"

    @stage
    async def show(x: int | str) -> str:
        return f"<{x}>"

    @pipeline
    def p(x: int):
        items = async_generator(x)
        big = word(items.where(lambda n: n > 4))
        return show(alto.either(big, items))

    assert call(p, 4) == ["<4>", "<big>"]


def test_none_is_a_value() -> None:
    @stage
    async def nothing(x: int) -> None:
        return None

    @stage
    async def show(x: None) -> str:
        return repr(x)

    @pipeline
    def p(x: int):
        none = nothing(async_generator(x))
        return {"none": none, "shown": show(none)}

    assert call(p, 1) == {"none": [None, None], "shown": ["None", "None"]}


def test_class_instances_are_made_once_and_closed() -> None:
    made: list[str] = []

    @stage
    class Model:
        def __init__(self, size: str = "small") -> None:
            made.append(size)

        def __call__(self, x: int) -> int:
            return x

        def close(self) -> None:
            made.append("closed")

    @pipeline
    def p(x: int):
        return Model(generator(x))

    async def main() -> list[Any]:
        config = alto.Config(stages={"Model": alto.StageConfig(init={"size": "big"})})
        async with alto.Runtime(config) as runtime:
            return [await runtime.call(p, x) for x in range(3)]

    assert asyncio.run(main()) == [[0, 1], [1, 2], [2, 3]]
    assert made == ["big", "closed"]


def test_what_init_raises_is_the_cause() -> None:
    @stage
    class Model:
        def __init__(self, size: str = "small") -> None:
            raise FileNotFoundError(f"no {size} model")

        def __call__(self, x: int) -> int:
            return x

    @pipeline(name="p")
    def p(x: int):
        return Model(x)

    with pytest.raises(alto.StageError) as caught:
        call(p, 1)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert str(caught.value) == (
        "pipeline p, stage Model at the request failed in its only attempt: making an instance "
        "with init {} raised FileNotFoundError: no small model. Init arguments come from "
        "[stages.Model.init]."
    )


def test_current_tells_where_a_stage_runs() -> None:
    seen: list[Any] = []

    @stage(timeout=5.0, retries=1, backoff=0)
    async def look(x: int) -> int:
        here = alto.current()
        seen.append((here.stage, here.path, here.attempt, here.remaining))
        here.emit("progress", here.attempt)
        if here.attempt == 1:
            await asyncio.sleep(1)
            raise ValueError("once more")
        return x

    @pipeline
    def p(x: int):
        return look(async_generator(x))

    async def main() -> tuple[str, list[alto.Event]]:
        async with alto.Runtime() as runtime:
            request = runtime.start(p, 1, timeout=3.0)
            return request.id, [event async for event in request.events()]

    request_id, events = run_virtually(main())
    assert request_id
    assert seen == [
        ("look", (0,), 1, 3.0),
        ("look", (1,), 1, 3.0),
        ("look", (0,), 2, 2.0),
        ("look", (1,), 2, 2.0),
    ]
    progress = [(e.output, e.path, e.value) for e in events if e.progress]
    assert progress == [
        ("progress", (0,), 1),
        ("progress", (1,), 1),
        ("progress", (0,), 2),
        ("progress", (1,), 2),
    ]
    assert [(e.path, e.value) for e in events if not e.progress] == [((0,), 1), ((1,), 2)]


def test_current_outside_a_stage() -> None:
    with pytest.raises(RuntimeError, match="called outside a stage"):
        alto.current()


def test_current_works_in_threads() -> None:
    @stage
    def look(x: int) -> Iterator[str]:
        here = alto.current()
        here.emit("progress", x)
        yield f"{here.stage} {here.path}"

    @pipeline
    def p(x: int):
        return look(x)

    assert call(p, 1) == ["look ()"]
