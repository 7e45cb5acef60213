"""What is over is free at once, not when some garbage collection comes by."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest
from leaks import on_virtual_time, watched

from alto import Stream, pipeline, stage
from alto.pipeline import Pipeline


class Thing:
    """An item whose end can be seen."""


made: list[weakref.ref[Thing]] = []


@stage
async def things(count: int) -> AsyncIterator[Thing]:
    for _ in range(count):
        thing = Thing()
        made.append(weakref.ref(thing))
        yield thing
        del thing


@stage
async def parts(thing: Thing) -> AsyncIterator[Thing]:
    async for part in things.function(2):
        yield part
        del part


@stage
async def look(part: Thing) -> int:
    return 1


@stage
async def total(looks: list[int]) -> int:
    return sum(looks)


@pipeline
def looked(count: int) -> int:
    return total(look(parts(things(count))))  # type: ignore[arg-type, return-value]


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_items_go_with_their_request() -> None:
    async def main() -> None:
        async with watched() as runtime:
            made.clear()
            assert await runtime.call(looked, 10) == 20
            left = [ref for ref in made if ref() is not None]
            assert len(made) == 30
            assert not left, f"{len(left)} of 30 items are left for the garbage collector"

    on_virtual_time(main)


@stage
async def read(looks: Stream[int]) -> int:
    return sum([look async for look in looks])


@stage(batch=4)
async def look_at_some(part: list[Thing]) -> list[int]:
    return [1] * len(part)


@pipeline
def read_as_they_come(count: int) -> int:
    return read(look(parts(things(count))))  # type: ignore[arg-type, return-value]


@pipeline
def looked_in_batches(count: int) -> int:
    return total(look_at_some(parts(things(count))))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("target", [looked, read_as_they_come, looked_in_batches])
@pytest.mark.usefixtures("no_collection")
def test_a_request_leaves_no_circles(target: Pipeline[..., int]) -> None:
    async def main() -> None:
        async with watched() as runtime:
            await runtime.call(target, 3)
            gc.collect()
            for _ in range(5):
                assert await runtime.call(target, 3) == 6
            assert gc.collect() == 0, "of what was part of a circle"

    on_virtual_time(main)
